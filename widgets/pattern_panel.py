"""`PatternPanel`: what an image fires, neuron by neuron, beside the pattern of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any, Literal, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import figures, patterns
from workbench.data import ImageDataset
from workbench.figures.patterns import columns
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.patterns.mining import PatternQuality, Patterns, against, quality_of
from workbench.patterns.monitoring import Monitor, least_threshold
from workbench.patterns.recording import Recording, pattern_layers, watched
from workbench.steps import Step

from .form import Form
from .level_set_panel import ARROWS, figure, row
from .panel import Panel, guarded
from .pick_view import PickView
from .picker import Picker
from .trainer import GIVE, Trainer

HELD_OUT = 2000  # test images that patterns are judged on and the threshold is chosen on
FORM = ("delta", "kind", "false_alarms", "n_train", "switch")


class PatternPanelParameters(Parameters):
    """What `PatternPanel` does beside the data, the model and the image."""

    delta: float = Field(0.99, gt=0.5, le=1, description="share of a class's images that agree")
    kind: Literal["pattern", "hamming", "box"] = Field("pattern", description="kind of monitor")
    false_alarms: float = Field(0.05, ge=0, le=0.5, description="most of the held-out images")
    n_train: int = Field(5000, ge=10, le=10**6, description="training images to mine from")
    switch: Literal["as it is", "off", "on"] = Field("as it is", description="the neuron below")
    layer: str = Field("", description="layer of the neuron looked at; empty: the last")
    neuron: int = Field(-1, ge=-1, description="neuron looked at; -1: the one that fires most")


@dataclass(frozen=True, eq=False)
class PatternView:
    """What the panel shows: an image, what it fires, and how that fits the patterns.

    values: activations `(n,)` by layer. broken: neurons of each class's pattern, `(K,)`.
    score, threshold: of the monitor. top: images that fire the neuron looked at, and how
    much. held: its value where it is switched, and the logits then.
    """

    images: ImageDataset
    index: int
    model: Classifier
    logits: torch.Tensor
    label: int
    values: dict[str, torch.Tensor]
    patterns: Patterns | None = None
    quality: PatternQuality | None = None
    broken: torch.Tensor | None = None
    score: float = 0.0
    threshold: float = 0.0
    top: tuple[torch.Tensor, torch.Tensor] | None = None
    held: tuple[float, torch.Tensor] | None = None

    def summary(self) -> dict[str, Any]:
        """The patterns and how good they are, what the image breaks, the monitor."""
        told = {"index": self.index, "predicted": self.images.classes[self.label]}
        for part in (self.patterns, self.quality):
            told |= part.summary() if part is not None else {}
        return told | {"score": self.score, "threshold": self.threshold}


class PatternPanel(Panel[PatternPanelParameters, PatternView]):
    """See what an image fires, judge patterns and monitors, and switch a neuron.

    training: images of a data set that is not one of the table. The rest as in `ConceptPanel`.
    """

    Params = PatternPanelParameters
    title = "Pattern panel"

    def __init__(self, *args: Any, training: ImageDataset | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trainer = Trainer(self.selection, training)
        self.view = PickView()
        self.view.observe(guarded(self, self._picked), "picked")
        self._mined: tuple[Any, Patterns, Recording] | None = None
        self._watch: tuple[Any, Monitor] | None = None

    def check(self, params: PatternPanelParameters) -> None:
        """Check that there is such a layer of ReLUs."""
        layers = pattern_layers(self.selection.classifier(), None)
        if params.layer and params.layer not in layers:
            raise ValueError(f"layer: expected one of {', '.join(layers)}, got {params.layer!r}")

    # The work.

    def peek(self) -> Iterator[Step[PatternView]]:
        """The image, what the model says of it, and what it fires."""
        images, model = self.selection.images(), self.selection.classifier()
        index = min(self.selection.index, len(images) - 1)
        with watched(model, pattern_layers(model, None)) as ask, torch.no_grad():
            logits, outputs = ask(images.images[index : index + 1])
        values = {name: value[0].cpu() for name, value in outputs.items()}
        view = PatternView(images, index, model, logits[0].cpu(), int(logits.argmax()), values)
        yield Step(1, 1, "answered", view)

    def steps(self) -> Iterator[Step[PatternView]]:
        """The patterns, where they are not known yet; how good they are; monitor; neuron."""
        view, p = next(self.peek()).value, self.params
        assert view is not None
        key, test = (self.selection.dataset, view.model, p.n_train), view.images[:HELD_OUT]
        training = self.trainer.images()
        if training is None:
            raise ValueError(f"training: none of {self.selection.dataset!r} at hand; {GIVE}")
        x, training = view.images.images[view.index : view.index + 1], training[: p.n_train]
        if self._mined is None or self._mined[0] != key:
            for step in patterns.mine_steps(view.model, training, p.delta):
                yield Step(step.done, step.total, step.message, view)
            assert step.value is not None
            self._mined = (key, step.value, patterns.record(view.model, test))
        found, seen = self._mined[1].at(p.delta), self._mined[2]
        parts = [against(record.signs(), found.phases[n]) for n, record in seen.layers.items()]
        broken, own = torch.stack(parts).sum(0), found.violations(view.model, x)[0]
        quality = quality_of(broken == 0, test.labels, found.classes)
        if p.kind == "pattern":  # known from the counts: nothing is asked of the model again
            scores = broken.gather(1, seen.predicted[:, None])[:, 0].float()
            score, threshold = float(own[view.label]), least_threshold(scores, p.false_alarms)
        else:
            wanted = (key, p.kind, p.false_alarms)
            if self._watch is None or self._watch[0] != wanted:
                about: dict[str, Any] = {"kind": p.kind, "false_alarms": p.false_alarms}
                watch = patterns.monitor(view.model, training, test, **about)
                self._watch = (wanted, watch)
            watch = self._watch[1]
            score, threshold = float(watch.score(view.model, x)[0]), watch.threshold
        layer, k = self._neuron(view)
        top, held = patterns.top_images(view.model, test, layer, [k]), None
        if p.switch != "as it is":
            value = 0.0 if p.switch == "off" else float(seen.layers[layer].highest[k])
            held = value, patterns.switched(view.model, x, layer, {k: value})[0]
        view = replace(view, patterns=found, quality=quality, broken=own, score=score)
        yield Step(1, 1, "done", replace(view, threshold=threshold, top=top, held=held))

    def _neuron(self, view: PatternView) -> tuple[str, int]:
        """The neuron looked at."""
        layer, k = self.params.layer or list(view.values)[-1], self.params.neuron
        return layer, k if k >= 0 else int(view.values[layer].argmax())

    # The picture.

    def draw(self, result: PatternView) -> str:
        """The image, the patterns it breaks, the verdict; the neuron; a strip a layer."""
        view, found, (layer, k) = result, result.patterns, self._neuron(result)
        words = f"index {view.index}, taken for {view.images.classes[view.label]}"
        blocks = [figure(view.images.images[view.index], words)]
        below, strips = "<p>Press <b>Mine</b> for the patterns of the classes.</p>", ""
        if found is not None and view.quality is not None and view.broken is not None:
            table = figures.pattern_table(found, view.quality, view.broken, view.label)
            verdict = (
                f"{'▲ <b>Alarm</b>' if view.score > view.threshold else '● <b>No alarm</b>'}: the "
                f"{self.params.kind} monitor's distance is {view.score:.4g}; alarm above "
                f"{view.threshold:.4g}; {self.params.false_alarms:.1%} of the held-out at most."
            )
            blocks += [table.html, f'<p style="max-width:18em">{verdict}</p>']
            below = self._looked_at(view, found, layer, k)
        for at, value in view.values.items():
            phase = torch.zeros(len(value)) if found is None else found.phases[at][view.label]
            known = found is not None
            chosen = k if known and at == layer else None
            strips += figures.pattern_strip(value > 0, phase, at, chosen=chosen, pick=known).html
        body = f"{row(blocks)}{below}{figures.pattern_legend().html}{strips}"
        return f'<div style="font:13px/1.4 system-ui,sans-serif">{body}</div>'

    def _looked_at(self, view: PatternView, found: Patterns, layer: str, k: int) -> str:
        """The neuron chosen: the images that fire it most, and the logits with it switched."""
        assert view.top is not None
        images, asked = view.images, ("free", "on", "off")[found.phases[layer][view.label, k]]
        words = f"{layer}, neuron {k}: {view.values[layer][k]:.3g} here; the pattern asks: {asked}"
        tags = ""
        for i, fires in zip(*(part[0].tolist() for part in view.top), strict=True):
            alt = f"index {i}, {images.classes[int(images.labels[i])]}: {fires:.3g}"
            tags += figures.img_tag(images.images[i], alt, 48) + " " if fires > 0 else ""
        to, logits = view.held or (0.0, None)
        what = f"neuron at {to:.3g}"
        table = figures.logit_table(view.logits, logits, images.classes, what=what, n=4).html
        top = f"<p><b>{escape(words)}</b></p><p>fired most by<br>{tags or 'no test image'}</p>"
        return row([f"<div>{top}</div>", table])

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p, view = self.selection, self.params, self.result
        source = s.code("dataset")
        training = "my_training" if "#" in source else f"{source[:-1]}, 'train')"
        options = f"kind={p.kind!r}, delta={p.delta}, false_alarms={p.false_alarms}"
        lines = f"""from workbench import data, models, patterns

images = {source}
test, training = images[:{HELD_OUT}], {training}[:{p.n_train}]
model = {s.code("model")}
found = patterns.mine(model, training, {p.delta})
quality = patterns.quality(found, model, test)
watch = patterns.monitor(model, training, test, {options})"""
        if view is not None and view.patterns is not None:
            layer, k = self._neuron(view)
            lines += f"""
x = images.images[{view.index}:{view.index + 1}]
score = watch.score(model, x)
top = patterns.top_images(model, test, {layer!r}, [{k}])"""
            if view.held is not None:
                lines += (
                    f"\nlogits = patterns.switched(model, x, {layer!r}, {{{k}: {view.held[0]}}})"
                )
        return lines

    # The controls.

    def controls(self) -> ipw.Widget:
        """Data, model and image; the form; mine."""
        self.picker = Picker(self.selection, partial(guarded, self))
        self.form = Form(self.params, only=FORM)
        self.form.observe(guarded(self, self._form_changed))
        launch = ipw.Button(description="Mine", button_style="primary")
        launch.on_click(guarded(self, lambda _: self.start()))
        return ipw.HBox([ipw.VBox([self.picker.widget, launch]), self.form.widget])

    def _picked(self, change: Any) -> None:
        """A cell was clicked, or a key pressed on a strip."""
        event, view = change["new"], self.result
        layer, key = event.get("name", "").removeprefix("layer:"), event.get("key", "")
        assert view is not None
        n, (last, k) = len(view.values[layer]), self._neuron(view)
        wide, (right, up) = columns(n), ARROWS.get(key, (0, 0))
        if key:
            k = k + right - wide * up if layer == last else 0
        else:
            k = int(event["y"] * -(-n // wide)) * wide + min(int(event["x"] * wide), wide - 1)
        self.params = self.params.changed(layer=layer, neuron=max(0, min(n - 1, k)))
        self.start()

    def _form_changed(self, values: Parameters) -> None:
        chosen = cast("PatternPanelParameters", values).model_dump(include=set(FORM))
        # The slider counts in floats: 0.9450000000000001 of the images may be one too many.
        self.params = self.params.changed(**chosen | {"delta": round(chosen["delta"], 6)})
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed: patterns that are known are shown, none are mined."""
        if change["name"] != "index":
            self.params = self.params.changed(layer="", neuron=-1)
        if self.picker is not None:
            self.picker.sync()
        known = change["name"] == "index" and self.result and self.result.patterns
        self.start(None if known else self.peek())
