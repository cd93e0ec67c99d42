"""`PatternPanel`: what an image fires, neuron by neuron, beside the pattern of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import Any, Literal

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import data, figures, patterns
from workbench.data import ImageDataset
from workbench.detectors.base import least_threshold
from workbench.figures.patterns import columns
from workbench.models import outputs, unheard
from workbench.params import Parameters
from workbench.patterns.grouping import margins, unit
from workbench.patterns.mining import Patterns
from workbench.patterns.neurons import check_neurons
from workbench.patterns.recording import copied, rectifiers
from workbench.steps import Step

from .blocks import figure, live, row, section, slider, status
from .fired import PatternView, drawn, folded, looked_at
from .form import choose_from
from .labels import says
from .mined import Key, Mined
from .panel import Panel
from .pick_view import ARROWS
from .selection import GIVE
from .views import filled

HELD_OUT = 2000  # test images that patterns are judged on and the threshold is chosen on
LAST = "the last"
FORM = ("delta", "kind", "false_alarms", "n_train", "switch")


class PatternPanelParameters(Parameters):
    """What `PatternPanel` does beside the data, the model and the image."""

    delta: float = Field(
        0.99, gt=0.5, le=1, title="images that agree", description="share of a class's images"
    )
    kind: Literal["pattern", "hamming", "box"] = Field(
        "pattern", title="monitor", description="what the distance to the class is measured by"
    )
    false_alarms: float = Field(
        0.05, ge=0, le=0.5, title="false alarms", description="largest share of held-out images"
    )
    n_train: int = Field(
        5000, ge=10, le=10**6, title="training images", description="how many to mine from"
    )
    switch: Literal["as it is", "off", "on"] = Field(
        "as it is", title="switch the neuron", description="the one chosen in a strip below"
    )
    layer: str = Field("", description="layer of the neuron looked at; empty: the last")
    neuron: int = Field(-1, ge=-1, description="neuron looked at; -1: the one that fires most")


class PatternPanel(Panel[PatternPanelParameters, PatternView]):
    """See what an image fires, judge patterns and monitors, and switch a neuron.

    training: images of a data set that is not one of the table. The rest as in `ConceptPanel`.
    """

    Params = PatternPanelParameters
    title = "Pattern panel"
    follows = (*Panel.follows, "layer")
    only = FORM
    matter = ("delta", "kind", "switch")
    action = ("Mine", "Find the pattern of each class in training images")
    picks = True
    _mined: Mined | None = None

    def __init__(self, *args: Any, training: ImageDataset | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.selection.train_on(training)
        self.layers = slider(ipw.Dropdown, "layer", "Layer to draw and look into")
        self.listen(self.layers, self._show_layer)

    def check(self, params: PatternPanelParameters) -> None:
        """Check that there is such a layer of ReLUs."""
        layers = self._rectifiers() if params.layer else ()
        if params.layer not in ("", *layers):
            some = ", ".join(layers[-20:]) or "none"
            raise ValueError(f"layer: expected one of {some}, got {params.layer!r}")

    def unfit(self, model: str = "") -> str:
        """That the model has no ReLU, or hides its layers."""
        classifier = self.selection.classifier(model)
        if reason := unheard(classifier):
            return reason
        return "" if rectifiers(classifier) else f"{classifier.card.name} has no ReLU layer"

    def _rectifiers(self) -> tuple[str, ...]:
        model = self.selection.classifier()
        return () if unheard(model) else rectifiers(model)

    def peek(self) -> Iterator[Step[PatternView]]:
        """What the model says of the image and what it fires; the patterns that are known."""
        view = self._look()
        known = self._known()
        if known is not None and (self.params.kind == "pattern" or known.watch(self.params)):
            view = self._judged(view, known)
        yield Step(1, 1, "answered", view)

    def _look(self) -> PatternView:
        """What the model says of the image, and what it fires."""
        if not (layers := self._rectifiers()):  # nothing to look at, and maybe no way to look
            images, index, model, prediction = self.answer()
            logits, label = prediction.logits[0], int(prediction.label[0])
            offer = self.offer()
            return PatternView(images, index, model, logits, label, {}, {}, {}, offer=offer)
        (images, index), model = self.image(), self.selection.classifier()
        with outputs(model, layers, copied) as ask, torch.no_grad():
            logits, fired = ask(images.images[index : index + 1])
        shapes = {name: layer.shape for name, layer in model.layers().items()}
        values = {name: value[0].cpu() for name, value in fired.items()}
        on = {name: margins(v[None], shapes[name])[0] > 0 for name, v in values.items()}
        units = {name: unit(shapes[name]) for name in values}
        label = int(logits.argmax())
        view = PatternView(images, index, model, logits[0].cpu(), label, values, on, units)
        return replace(view, remark=self._missing())

    def _missing(self) -> str:
        """Why no pattern can be mined; empty where one can."""
        name, given = self.selection.origin, self.selection.trainings
        if name not in given and not (name in data.available() and data.present(name, "train")):
            return f"There are no training images of {name!r} at hand; {GIVE}."
        if name in given and not bool((given[name].labels >= 0).any()):
            return f"The training images of {name!r} have no labels: there is no class to mine."
        return ""

    def _judged(self, view: PatternView, mined: Mined) -> PatternView:
        """The patterns, what the image breaks of them, and the monitor's word."""
        p = self.params
        pattern, quality, scores = mined.judged(p.delta)
        values = {name: on[None] for name, on in view.on.items()}
        broken, watch = pattern.broken(values)[0], mined.watch(p)
        score, threshold = float(broken[view.label]), least_threshold(scores, p.false_alarms)
        if p.kind != "pattern" and watch is not None:
            score, threshold = float(watch.score(view.model, view.x)[0]), watch.threshold
        view = replace(view, patterns=pattern, quality=quality, broken=broken)
        return replace(view, score=score, threshold=threshold)

    def steps(self) -> Iterator[Step[PatternView]]:
        """The patterns, where they are not known yet; what `peek` tells; the neuron."""
        view, p = self.first(), self.params
        if not view.values:
            yield Step(1, 1, "no ReLU", view)
            return
        training = None if view.remark else self.selection.training()
        if training is None:
            why = f"The training images of {self.selection.origin!r} are of another shape."
            yield Step(1, 1, "no training images", replace(view, remark=view.remark or why))
            return
        mined = self._known()
        if mined is None:
            test = self.selection.images(self.selection.origin)[:HELD_OUT]  # without a drawing
            for step in Mined.steps(self._key(), p.delta, training[: p.n_train], test):
                yield Step(step.done, step.total, step.message, view)
            mined = self._mined = step.value
        assert mined is not None
        if p.kind != "pattern":
            yield from filled(view, "", mined.watching(p), prefix=f"{p.kind} monitor: ")
        view = self._judged(view, mined)
        yield Step(0, 1, "judged", view)
        layer, k = self._neuron(view)
        check_neurons(layer, [k], len(view.values[layer]))
        yield from filled(view, "", mined.strongest(layer))
        best, held = mined.top(layer), None
        if p.switch != "as it is":
            value = 0.0 if p.switch == "off" else float(mined.seen.layers[layer].highest[k])
            held = value, patterns.switched(view.model, view.x, layer, {k: value})[0]
        yield Step(1, 1, "done", replace(view, top=(best[0][[k]], best[1][[k]]), held=held))

    def _known(self) -> Mined | None:
        """The patterns that were mined, where they are of what is selected."""
        return self._mined if self._mined is not None and self._mined.key == self._key() else None

    def _key(self) -> Key:
        s = self.selection
        return s.classifier(), s.training(), s.images(s.origin), self.params.n_train

    def _neuron(self, view: PatternView) -> tuple[str, int]:
        """The neuron looked at."""
        layer, k = self.params.layer or list(view.values)[-1], self.params.neuron
        return layer, k if k >= 0 else int(view.values[layer].argmax())

    def draw(self, result: PatternView) -> str:
        """The image, the patterns it breaks, the verdict; the neuron; a strip a layer."""
        view, pattern = result, result.patterns
        words = says(view.images, view.index, view.model.classes[view.label])
        blocks = [figure(view.x[0], words)]
        if not view.values:
            return section(*blocks, view.offer)
        layer, k = self._neuron(view)
        said, below = "", live("Press <b>Mine</b> for the patterns of the classes.")
        if view.remark:
            below = f"<p>{escape(view.remark, quote=False)}</p>"
        if pattern is not None and view.quality is not None and view.broken is not None:
            table = figures.pattern_table(pattern, view.quality, view.broken, view.label)
            blocks.append(table.html)
            said = status(self._verdict(view, pattern))
            below = looked_at(view, pattern, layer, k) if view.top is not None else ""
        strips, rest = "", []
        shown, known = drawn(view, layer), pattern is not None
        for at, on in view.on.items():
            phase = torch.zeros(len(on)) if pattern is None else pattern.phases[at][view.label]
            about = {"unit": view.units[at], "chosen": k if known and at == layer else None}
            if at in shown:
                strips += figures.pattern_strip(on, phase, at, pick=known, **about).html
            else:
                rest.append(folded(at, on, phase, view.units[at]))
        if rest:
            heads = f"<summary>{len(rest)} more layers: one is drawn when picked</summary>"
            strips += f"<details>{heads}{''.join(rest)}</details>"
        return section(said, row(*blocks), below, figures.pattern_legend().html, strips)

    def tile(self, result: PatternView) -> tuple[str, str]:
        """What fires in the layer that is most divided, and how all fits the pattern."""
        label = result.model.classes[result.label]
        layer = min(result.on, key=lambda name: abs(float(result.on[name].float().mean()) - 0.5))
        on, wide = result.on[layer], min(32, len(result.on[layer]))
        cells = torch.full((-(-len(on) // wide), wide, 3), 0.85)
        cells.view(-1, 3)[: len(on)][on] = torch.tensor([0.0, 0.447, 0.698])
        picture = f'<div class="wb-cells">{figures.img_tag(cells.permute(2, 0, 1), "", 64)}</div>'
        words = f"{int(on.sum()):,} of {len(on):,} neurons of {escape(layer)} fire"
        if result.broken is None:
            return f"{on.float().mean():.0%} of {escape(layer)} fires", f"{words}{picture}"
        off = int(result.broken[result.label])
        fit = f"as class {label} fires" if off == 0 else f"{off:,} unlike class {label}"
        return fit, f"{words}{picture}"

    def monitor_tile(self, result: PatternView) -> tuple[str, str]:
        """The monitor's lamp."""
        if result.patterns is None:
            return "not asked yet", escape(result.remark) or "It learns the patterns first."
        if not result.patterns.total[result.label]:
            return "no pattern", self._verdict(result, result.patterns)
        lamp = "▲ alarm" if result.score > result.threshold else "● no alarm"
        rate = f"{self.params.false_alarms:.1%} of clean images alarm at most"
        words = f"distance {result.score:.3g}, alarm above {result.threshold:.3g}"
        return lamp, f"{words}<br>{rate}"

    def _verdict(self, view: PatternView, pattern: Patterns) -> str:
        """What the monitor says of the image."""
        if not pattern.total[view.label]:
            name = escape(view.model.classes[view.label])
            return f"There is no training image of class {name}, so it has no pattern."
        return (
            f"{'▲ <b>Alarm</b>' if view.score > view.threshold else '● <b>No alarm</b>'}: the "
            f"{self.params.kind} monitor's distance is {view.score:.3g}, the alarm starts above "
            f"{view.threshold:.3g}. At most {100 * self.params.false_alarms:.3g}% of held-out "
            "images give a false alarm."
        )

    def shown(self, result: PatternView) -> None:
        """List the layers, where they are not all drawn."""
        names = list(result.values)
        layer = self._neuron(result)[0] if names else ""
        many = len(drawn(result, layer)) < len(names)
        self.layers.layout.display = None if many else "none"
        if many:
            choose_from(self.layers, [(LAST, ""), *names], self.params.layer)

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p, view = self.selection, self.params, self.result
        held_out = "images" if s.dataset == s.origin else s.code("dataset", s.origin)
        options = f"kind={p.kind!r}, delta={p.delta}, false_alarms={p.false_alarms}"
        lines = [
            *self.code_head("from workbench import data, detectors, models, patterns"),
            f"test, training = {held_out}[:{HELD_OUT}], {s.code('training')}[:{p.n_train}]",
            f"mined = patterns.mine(model, training, {p.delta})",
            "quality = patterns.quality(mined, model, test)",
            f"watch = detectors.monitor(model, training, test, {options})",
        ]
        if view is not None and view.patterns is not None:
            layer, k = self._neuron(view)
            lines += [
                f"x = images.images[{view.index}:{view.index + 1}]",
                "score = watch.score(model, x)",
                f"top = patterns.top_images(model, test, {layer!r}, [{k}])",
            ]
            if view.held is not None:
                switched = f"{{{k}: {view.held[0]}}}"
                lines.append(f"logits = patterns.switched(model, x, {layer!r}, {switched})")
        return "\n".join(lines)

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form; a button to mine."""
        return ipw.Box([super().controls(), self.layers]).add_class("wb-first")

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A cell or a layer was clicked, or a key pressed on a strip."""
        view = self.result
        if what == "show":
            self._show_layer(which)
        if what != "layer" or view is None:
            return
        n, (last, k) = len(view.values[which]), self._neuron(view)
        wide, (right, up) = columns(n), ARROWS.get(event["key"], (0, 0))
        if event["key"]:
            k = k + right - wide * up if which == last else 0
        else:
            k = int(event["y"] * -(-n // wide)) * wide + min(int(event["x"] * wide), wide - 1)
        self.params = self.params.changed(layer=which, neuron=max(0, min(n - 1, k)))
        self.selection.layer = which
        self.start()

    def _show_layer(self, layer: str) -> None:
        """Draw a layer; nothing is mined for it."""
        self.params = self.params.changed(layer=layer, neuron=-1)
        self.selection.layer = layer
        self.start(None if self._known() is not None else self.peek())

    def taken(self, values: PatternPanelParameters) -> PatternPanelParameters:
        """The slider counts in floats: 0.9450000000000001 of the images may be one too many."""
        return values.changed(delta=round(values.delta, 6))

    def followed(self, change: Any) -> None:
        """The selection changed: patterns that are known are shown, none are mined."""
        if change["name"] in ("dataset", "model"):
            self.params = self.params.changed(layer="", neuron=-1)
        layer = self.selection.layer
        if change["name"] == "layer" and layer != self.params.layer:
            layer = layer if layer in self._rectifiers() else ""
            self.params = self.params.changed(layer=layer, neuron=-1)
        self.start(None if self._known() is not None else self.peek())
