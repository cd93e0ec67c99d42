"""`PatternPanel`: what an image fires, neuron by neuron, beside the pattern of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from workbench.patterns.neurons import check_neurons
from workbench.patterns.recording import Recording, rectifiers, watched
from workbench.steps import Step

from .form import Form
from .level_set_panel import ARROWS, figure, row
from .panel import Panel, guarded, section
from .pick_view import PickView
from .trainer import GIVE, Trainer

HELD_OUT = 2000  # test images that patterns are judged on and the threshold is chosen on
Key = tuple[str, Classifier, int]  # data, model, and how many training images
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
    score, threshold: of the monitor. remark: why there are none. top: images that fire the
    neuron looked at, and how much. held: its value where it is switched, and the logits then.
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
    remark: str = ""
    top: tuple[torch.Tensor, torch.Tensor] | None = None
    held: tuple[float, torch.Tensor] | None = None

    def summary(self) -> dict[str, Any]:
        """The patterns and how good they are, what the image breaks, the monitor."""
        told = {"index": self.index, "predicted": self.images.classes[self.label]}
        for part in (self.patterns, self.quality):
            told |= part.summary() if part is not None else {}
        return told | {"score": self.score, "threshold": self.threshold}


class Mined:
    """Patterns mined for `key` from `training`, and what was asked of them on `test` so far."""

    def __init__(
        self, key: Key, found: Patterns, seen: Recording, training: ImageDataset, test: ImageDataset
    ) -> None:
        self.key, self.found, self.seen, self.training, self.test = key, found, seen, training, test
        self._judged: tuple[Patterns, PatternQuality, torch.Tensor] | None = None
        self._tops: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._watch: tuple[dict[str, Any], Monitor] | None = None

    def judged(self, delta: float) -> tuple[Patterns, PatternQuality, torch.Tensor]:
        """The patterns at `delta`, how good they are, the scores of the test images `(N,)`."""
        judged = self._judged
        if judged is None or judged[0].delta != delta:
            found, layers = self.found.at(delta), self.seen.layers
            parts = [against(record.signs(), found.phases[n]) for n, record in layers.items()]
            broken = torch.stack(parts).sum(0)
            quality = quality_of(broken == 0, self.test.labels, found.classes)
            scores = broken.gather(1, self.seen.predicted[:, None])[:, 0].float()
            judged = self._judged = found, quality, scores
        return judged

    def watch(self, model: Classifier, p: PatternPanelParameters) -> Monitor:
        """The monitor asked for."""
        about: dict[str, Any] = {"kind": p.kind, "false_alarms": p.false_alarms}
        watch = self._watch
        if watch is None or watch[0] != about:
            made = patterns.monitor(model, self.training, self.test, **about)
            watch = self._watch = about, made
        return watch[1]

    def top(self, model: Classifier, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The images that fire each neuron of a layer most, and how much."""
        if layer not in self._tops:
            neurons = range(len(self.seen.layers[layer].mean))
            self._tops[layer] = patterns.top_images(model, self.test, layer, neurons)
        return self._tops[layer]


class PatternPanel(Panel[PatternPanelParameters, PatternView]):
    """See what an image fires, judge patterns and monitors, and switch a neuron.

    training: images of a data set that is not one of the table. The rest as in `ConceptPanel`.
    """

    Params = PatternPanelParameters
    title = "Pattern panel"
    follows = (*Panel.follows, "layer")

    def __init__(self, *args: Any, training: ImageDataset | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trainer = Trainer(self.selection, training)
        self.view = PickView()
        self.view.observe(guarded(self, self._picked), "picked")
        self._mined: Mined | None = None

    def check(self, params: PatternPanelParameters) -> None:
        """Check that there is such a layer of ReLUs."""
        layers = rectifiers(self.selection.classifier())
        if params.layer and params.layer not in layers:
            raise ValueError(f"layer: expected one of {', '.join(layers)}, got {params.layer!r}")

    def unfit(self, model: str = "") -> str:
        """That the model has no ReLU."""
        classifier = self.selection.classifier(model)
        return "" if rectifiers(classifier) else f"{classifier.card.name} has no ReLU layer"

    # The work.

    def peek(self) -> Iterator[Step[PatternView]]:
        """What the model says of the image and what it fires; the patterns that are known."""
        images, model = self.selection.images(), self.selection.classifier()
        index, p = min(self.selection.index, len(images) - 1), self.params
        x, layers = images.images[index : index + 1], rectifiers(model)
        with watched(model, layers) as ask, torch.no_grad():
            logits, outputs = ask(x)
        values = {name: value[0].cpu() for name, value in outputs.items()}
        view = PatternView(images, index, model, logits[0].cpu(), int(logits.argmax()), values)
        if self._mined is not None and self._mined.key == self._key():
            found, quality, scores = self._mined.judged(p.delta)
            broken = found.violations(model, x)[0]
            score, threshold = float(broken[view.label]), least_threshold(scores, p.false_alarms)
            if p.kind != "pattern":
                watch = self._mined.watch(model, p)
                score, threshold = float(watch.score(model, x)[0]), watch.threshold
            view = replace(view, patterns=found, quality=quality, broken=broken, score=score)
            view = replace(view, threshold=threshold)
        yield Step(1, 1, "answered", view)

    def steps(self) -> Iterator[Step[PatternView]]:
        """The patterns, where they are not known yet; what `peek` tells; the neuron."""
        view, p, key = next(self.peek()).value, self.params, self._key()
        assert view is not None
        if not view.values:
            yield Step(1, 1, "no ReLU", view)
            return
        model, training = view.model, self.selection.training()
        if training is None:
            missing = f"There are no training images of {self.selection.origin!r} at hand; {GIVE}."
            yield Step(1, 1, "no training images", replace(view, remark=missing))
            return
        if view.patterns is None:
            training = training[: p.n_train]
            test = self.selection.images(self.selection.origin)[:HELD_OUT]  # without a drawing
            for step in patterns.mine_steps(model, training, p.delta):
                yield Step(step.done, step.total, step.message, view)
            assert step.value is not None
            self._mined = Mined(key, step.value, patterns.record(model, test), training, test)
            view = next(self.peek()).value
            assert view is not None
        yield Step(0, 1, "judged", view)
        assert self._mined is not None
        layer, k = self._neuron(view)
        found, held = self._mined.top(model, layer), None
        check_neurons(layer, [k], len(view.values[layer]))
        if p.switch != "as it is":
            value = 0.0 if p.switch == "off" else float(self._mined.seen.layers[layer].highest[k])
            x = view.images.images[view.index : view.index + 1]
            held = value, patterns.switched(model, x, layer, {k: value})[0]
        yield Step(1, 1, "done", replace(view, top=(found[0][[k]], found[1][[k]]), held=held))

    def _key(self) -> Key:
        return self.selection.origin, self.selection.classifier(), self.params.n_train

    def _neuron(self, view: PatternView) -> tuple[str, int]:
        """The neuron looked at."""
        layer, k = self.params.layer or list(view.values)[-1], self.params.neuron
        return layer, k if k >= 0 else int(view.values[layer].argmax())

    # The picture.

    def draw(self, result: PatternView) -> str:
        """The image, the patterns it breaks, the verdict; the neuron; a strip a layer."""
        view, found = result, result.patterns
        words = f"index {view.index}, taken for {view.images.classes[view.label]}"
        blocks, strips = [figure(view.images.images[view.index], words)], ""
        if not view.values:
            return section(*blocks, self.offer())
        layer, k = self._neuron(view)
        below = view.remark or "Press <b>Mine</b> for the patterns of the classes."
        below = f"<p>{below}</p>"
        if found is not None and view.quality is not None and view.broken is not None:
            table = figures.pattern_table(found, view.quality, view.broken, view.label)
            verdict = (
                f"{'▲ <b>Alarm</b>' if view.score > view.threshold else '● <b>No alarm</b>'}: the "
                f"{self.params.kind} monitor's distance is {view.score:.4g}; alarm above "
                f"{view.threshold:.4g}; {self.params.false_alarms:.1%} of the held-out at most."
            )
            blocks += [table.html, f'<p style="max-width:18em">{verdict}</p>']
            below = self._looked_at(view, found, layer, k) if view.top is not None else ""
        for at, value in view.values.items():
            phase = torch.zeros(len(value)) if found is None else found.phases[at][view.label]
            known = found is not None
            chosen = k if known and at == layer else None
            strips += figures.pattern_strip(value > 0, phase, at, chosen=chosen, pick=known).html
        return section(row(blocks), below, figures.pattern_legend().html, strips)

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
        held_out = "images" if s.dataset == s.origin else s.code("dataset", s.origin)
        options = f"kind={p.kind!r}, delta={p.delta}, false_alarms={p.false_alarms}"
        lines = f"""from workbench import data, models, patterns

images = {s.code("dataset")}
test, training = {held_out}[:{HELD_OUT}], {s.code("training")}[:{p.n_train}]
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
        """The form; a button to mine."""
        self.form = Form(self.params, only=FORM)
        self.form.observe(guarded(self, self._form_changed))
        return ipw.VBox([self.form.widget, self.button("Mine", "Mine the patterns")])

    def _picked(self, change: Any) -> None:
        """A cell was clicked, or a key pressed on a strip."""
        event, view = change["new"], self.result
        if event.get("name", "").startswith("model:"):
            self.selection.model = event["name"].removeprefix("model:")
            return
        layer, key = event.get("name", "").removeprefix("layer:"), event.get("key", "")
        assert view is not None
        n, (last, k) = len(view.values[layer]), self._neuron(view)
        wide, (right, up) = columns(n), ARROWS.get(key, (0, 0))
        if key:
            k = k + right - wide * up if layer == last else 0
        else:
            k = int(event["y"] * -(-n // wide)) * wide + min(int(event["x"] * wide), wide - 1)
        self.params = self.params.changed(layer=layer, neuron=max(0, min(n - 1, k)))
        self.selection.layer = layer
        self.start()

    def _form_changed(self, values: Parameters) -> None:
        chosen = cast("PatternPanelParameters", values).model_dump(include=set(FORM))
        # The slider counts in floats: 0.9450000000000001 of the images may be one too many.
        self.params = self.params.changed(**chosen | {"delta": round(chosen["delta"], 6)})
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed: patterns that are known are shown, none are mined."""
        if change["name"] in ("dataset", "model"):
            self.params = self.params.changed(layer="", neuron=-1)
        layer = self.selection.layer
        if change["name"] == "layer" and layer != self.params.layer:
            known = layer in rectifiers(self.selection.classifier())
            self.params = self.params.changed(layer=layer if known else "", neuron=-1)
        known = self._mined is not None and self._mined.key == self._key()
        self.start(None if known else self.peek())
