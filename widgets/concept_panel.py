"""`ConceptPanel`: what a layer has learned to see, where it is, and what it counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal, cast

import ipywidgets as ipw
from pydantic import Field

from workbench import concepts
from workbench.concepts import Concepts, Importance
from workbench.data import ImageDataset
from workbench.figures import concept_rows, heat_overlay, logit_table
from workbench.models import Classifier, Layer
from workbench.params import Parameters
from workbench.steps import Step

from .form import Form
from .level_set_panel import figure, row
from .panel import Panel, guarded
from .pick_view import PickView

IMAGES = 500  # of the data set, that the crops come from
ASKED = 64  # images of the predicted class, on which importance is measured
FORM = ("layer", "method", "n_concepts", "n_crops", "seed")


class ConceptPanelParameters(Parameters):
    """What `ConceptPanel` does beside the data, the model and the image."""

    layer: str = Field("", description="layer to look into; empty: the last one with places")
    method: Literal["nmf", "semi-nmf", "kmeans", "pca", "sae"] = Field(
        "nmf", description="how activations are taken apart; NMF needs them at least 0"
    )
    n_concepts: int = Field(10, ge=2, le=50, description="how many concepts")
    n_crops: int = Field(1000, ge=50, le=10_000, description="random crops to find them on")
    chosen: int = Field(-1, ge=-1, description="concept looked at; -1: the most important")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the crops and of the search")


@dataclass(frozen=True, eq=False)
class ConceptView:
    """What the panel shows: an image, the concepts of a layer, what they count for its class.

    factors: what was done to concepts: 0 damped, 2 boosted.
    """

    images: ImageDataset
    index: int
    model: Classifier
    label: int
    found: Concepts | None = None
    importance: Importance | None = None
    remark: str = ""
    factors: dict[int, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The concepts, and which one matters most for the class predicted."""
        told: dict[str, Any] = {"index": self.index, "predicted": self.images.classes[self.label]}
        for part in (self.found, self.importance):
            told |= part.summary() if part is not None else {}
        return told


class ConceptPanel(Panel[ConceptPanelParameters, ConceptView]):
    """Find the concepts of a layer, see where they are, damp or boost one.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them.
        parameters: see `ConceptPanelParameters`.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = ConceptPanelParameters
    title = "Concept panel"
    follows = (*Panel.follows, "layer")

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.view = PickView()
        self.view.observe(guarded(self, self._picked), "picked")
        self._kept: tuple[Any, Concepts | None, str] = (None, None, "")

    def check(self, params: ConceptPanelParameters) -> None:
        """Check that there are such a layer and such a concept."""
        known = self._layers()
        if params.layer and params.layer not in known:
            self.selection.classifier().layer(params.layer)  # says which there are
            raise ValueError(
                f"layer: {params.layer!r} gives neither vectors nor maps; take one of "
                f"{', '.join(known)}"
            )
        if params.chosen >= params.n_concepts:
            raise ValueError(
                f"chosen: expected a concept below {params.n_concepts}, got {params.chosen}"
            )

    # The work.

    def _layers(self) -> dict[str, Layer]:
        """The layers that concepts can be found in."""
        layers = self.selection.classifier().layers()
        return {name: layer for name, layer in layers.items() if len(layer.shape) in (1, 2, 3)}

    def layer(self) -> str:
        """The layer looked into."""
        layers = self._layers()
        if self.params.layer:
            return self.params.layer
        return next((n for n in reversed(layers) if has_places(layers[n])), next(iter(layers)))

    def peek(self) -> Iterator[Step[ConceptView]]:
        """The image, and what the model says of it."""
        images = self.selection.images()
        index = min(self.selection.index, len(images) - 1)
        model = self.selection.classifier()
        label = int(model.predict(images.images[index : index + 1]).label[0])
        yield Step(1, 1, "answered", ConceptView(images, index, model, label))

    def steps(self) -> Iterator[Step[ConceptView]]:
        """The concepts, where they are not known yet; then what they count for the class."""
        view, p, layer = next(self.peek()).value, self.params, self.layer()
        assert view is not None
        key = (view.images, view.model, layer, *(getattr(p, name) for name in FORM[1:]))
        known, found, remark = self._kept
        if key != known:
            crop = 0.5 if has_places(self._layers()[layer]) else 1.0
            pictures = view.images.images[:IMAGES]
            work = concepts.extract.steps(
                *(view.model, pictures, layer), n_concepts=p.n_concepts, method=p.method,
                n_crops=p.n_crops, crop=crop, seed=p.seed,
            )  # fmt: skip
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for step in work:
                    found = step.value
                    yield Step(step.done, 2 * step.total, step.message, view)
            remark = " ".join(str(warning.message) for warning in said)
            self._kept = (key, found, remark)
        assert found is not None
        view = replace(view, found=found, remark=remark)
        said_of = view.model.predict(view.images.images[:IMAGES]).label
        same = view.images.images[:IMAGES][said_of == view.label][:ASKED]
        if not len(same):
            same = view.images.images[view.index : view.index + 1]
        for asked in concepts.importance.steps(found, view.model, same, view.label):
            view = replace(view, importance=asked.value)
            yield Step(asked.total + asked.done, 2 * asked.total, asked.message, view)

    # The picture.

    def draw(self, result: ConceptView) -> str:
        """The image, the concept chosen on it, the logits it is steered to; all concepts."""
        view, classes = result, result.images.classes
        x = view.images.images[view.index : view.index + 1]
        caption = f"index {view.index}, taken for {classes[view.label]}"
        style = '<div style="font:13px/1.4 system-ui,sans-serif">'
        if view.found is None or view.importance is None:
            hint = "<p>Press <b>Find concepts</b>: it takes some seconds.</p>"
            return f"{style}{figure(x[0], caption)}{hint}</div>"
        found, k = view.found, self._chosen(view)
        codes = found.encode(view.model, x).flatten(0, -2).mean(0)  # of one image
        strongest = found.dictionary.codes.amax(0).clamp(min=1e-12)
        strength = (codes.cpu() / strongest).clamp(min=0).tolist()
        blocks = [figure(x[0], caption)]
        if found.grid is not None:
            heat = found.heat(view.model, x, k)[0].cpu()
            words = f"concept {k}: where it is"
            shown = heat_overlay(None, heat, "sequential", height=120).html
            blocks.append(f'<div style="max-width:220px">{shown}{words}</div>')
        logits, steered = view.model.predict(x).logits[0].cpu(), None
        if view.factors:
            steered = found.steer(view.model, x, view.factors)[0].cpu()
        done = ", ".join(f"concept {k} × {v:g}" for k, v in sorted(view.factors.items()))
        blocks.append(f"<div>{logit_table(logits, steered, classes, what=done).html}</div>")
        rows = concept_rows(
            *(found, view.importance, strength), chosen=k, factors=view.factors, pick=True
        )
        error = (
            f"{escape(found.layer)}: the concepts leave {found.dictionary.error:.0%} of the "
            f"activations over. Importance for {escape(classes[view.label])}, gradient x input, "
            f"mean of {len(view.importance.scores)} images."
        )
        remark = f'<p role="status">{escape(view.remark)}</p>' if view.remark else ""
        return f"{style}{row(blocks)}{remark}<p>{error}</p>{rows.html}</div>"

    def _chosen(self, view: ConceptView) -> int:
        assert view.importance is not None
        if self.params.chosen >= 0:
            return self.params.chosen
        return int(view.importance.scores.mean(0).argmax())

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p, layer = self.selection, self.params, self.layer()
        options = [f"n_concepts={p.n_concepts}", f"method={p.method!r}", f"seed={p.seed}"]
        places = has_places(self._layers()[layer])
        options.append(f"n_crops={p.n_crops}" if places else "crop=1")
        lines = [
            "from workbench import concepts, data, models",
            "",
            f"images = {s.code('dataset')}.images[:{IMAGES}]",
            f"model = {s.code('model')}",
            f"found = concepts.extract(model, images, {layer!r}, {', '.join(options)})",
        ]
        view = self.result
        if view is not None and view.importance is not None:
            lines += [
                f"same = images[model.predict(images).label == {view.label}][:{ASKED}]",
                f"counts = concepts.importance(found, model, same, {view.label})",
            ]
            if view.factors:
                x = f"{s.code('dataset')}.images[{view.index}:{view.index + 1}]"
                lines.append(f"logits = found.steer(model, {x}, {view.factors})")
        return "\n".join(lines)

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form; what to do to the concept chosen."""
        self.form = Form(self.params, choices={"layer": self._choices()}, only=FORM)
        self.form.observe(guarded(self, self._form_changed))
        self.slider = ipw.FloatSlider(
            value=1, min=0, max=3, step=0.1, description="strength", disabled=True,
            tooltip="Of the concept chosen: 0 takes it away, 2 doubles it",
            style={"description_width": "5em"}, layout={"width": "28em"},
        )  # fmt: skip
        self.slider.observe(guarded(self, self._slid), "value")
        reset = ipw.Button(description="Reset", tooltip="All concepts as they are")
        reset.on_click(guarded(self, lambda _: self._steer({})))
        if self.result is not None:
            self.shown(self.result)
        launch = self.button("Find concepts", "Run")
        return ipw.VBox([self.form.widget, launch, ipw.HBox([self.slider, reset])])

    def _choices(self) -> list[tuple[str, str]]:
        return [("the last with places", ""), *((name, name) for name in self._layers())]

    def shown(self, result: ConceptView) -> None:
        """Bring the slider to the concept chosen."""
        if self.picker is None:
            return
        self.slider.unobserve_all("value")
        self.slider.disabled = result.importance is None
        if result.importance is not None:
            self.slider.value = result.factors.get(self._chosen(result), 1.0)
        self.slider.observe(guarded(self, self._slid), "value")

    def _steer(self, factors: dict[int, float]) -> None:
        if self.result is not None and self.result.importance is not None:
            self._show(self._current, replace(self.result, factors=factors))

    def _slid(self, change: Any) -> None:
        if self.result is not None and self.result.importance is not None:
            factors = {**self.result.factors, self._chosen(self.result): round(change["new"], 3)}
            self._steer({k: v for k, v in factors.items() if v != 1})

    def _picked(self, change: Any) -> None:
        """A concept was clicked or chosen by a key."""
        name, key = change["new"].get("name", ""), change["new"].get("key", "")
        if name.startswith("concept:") and not key.startswith("Arrow") and self.result is not None:
            self.params = self.params.changed(chosen=int(name.removeprefix("concept:")))
            self._show(self._current, self.result)

    def _form_changed(self, values: Parameters) -> None:
        params = cast("ConceptPanelParameters", values).changed(chosen=-1)
        self.check(params)
        self.params = params
        self.start()

    def followed(self, change: Any) -> None:
        """The selection changed: concepts that are known are shown, none are searched for."""
        if change["name"] in ("dataset", "model", "layer"):
            layer = self.selection.layer if self.selection.layer in self._layers() else ""
            self.params = self.params.changed(chosen=-1, layer=layer)
        if self.picker is not None:
            self.form.choose_from("layer", self._choices(), self.params.layer)
        known = self.result is not None and self.result.importance is not None
        same = change["name"] in ("index", "edition")
        self.start(None if same and known else self.peek())


def has_places(layer: Layer) -> bool:
    """Whether a layer gives maps, or a square of tokens."""
    if len(layer.shape) == 3:
        return layer.shape[1] * layer.shape[2] > 1
    return len(layer.shape) == 2 and round(layer.shape[0] ** 0.5) ** 2 == layer.shape[0] > 1
