"""`ConceptPanel`: what a layer has learned to see, where it is, and what it counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

import ipywidgets as ipw
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from workbench import concepts
from workbench.concepts import Concepts, Importance
from workbench.figures import concept_rows, heat_overlay, logit_table
from workbench.models import Layer
from workbench.params import Parameters
from workbench.steps import Step

from .blocks import button, column, figure, live, row, section, slider, status
from .frame import guarded
from .labels import says
from .panel import Panel
from .views import Answered, filled

IMAGES = 500  # of the data set, that the crops come from
ASKED = 64  # images of the predicted class, on which importance is measured
FORM = ("layer", "method", "n_concepts", "n_crops", "seed")


class ConceptPanelParameters(Parameters):
    """What `ConceptPanel` does beside the data, the model and the image."""

    layer: str = Field("", description="layer to look into; empty: the last one with places")
    method: Literal["nmf", "semi-nmf", "kmeans", "pca", "sae"] = Field(
        "nmf",
        title="taken apart by",
        description="how activations are taken apart; NMF needs them at least 0",
    )
    n_concepts: int = Field(10, ge=2, le=50, title="concepts", description="how many to look for")
    n_crops: int = Field(
        1000, ge=50, le=10_000, title="image crops", description="random crops to find them on"
    )
    chosen: int = Field(-1, ge=-1, description="concept looked at; -1: the most important")
    seed: int = Field(0, ge=0, le=10**6, description="seed of the crops and of the search")


@dataclass(frozen=True, eq=False)
class ConceptView(Answered):
    """What the panel shows: an image, the concepts of a layer, what they count for its class.

    codes: of the concepts on the image, at every place, `(1, ..., r)`. factors: what was done to
    concepts, 0 damped, 2 boosted; steered: the logits `(K,)` then.
    """

    extracted: Concepts | None = None
    codes: Tensor | None = None
    importance: Importance | None = None
    remark: str = ""
    factors: dict[int, float] = field(default_factory=dict)
    steered: Tensor | None = None

    def summary(self) -> dict[str, Any]:
        """The concepts, and which one matters most for the class predicted."""
        summary = {"index": self.index, "predicted": self.images.classes[self.label]}
        for part in (self.extracted, self.importance):
            summary |= part.summary() if part is not None else {}
        return summary


class ConceptPanel(Panel[ConceptPanelParameters, ConceptView]):
    """Find the concepts of a layer, see where they are, damp or boost one.

    Args and Raises: as of `Panel`; the parameters are `ConceptPanelParameters`.
    """

    Params = ConceptPanelParameters
    title = "Concept panel"
    follows = (*Panel.follows, "layer")
    only = FORM
    matter = ("layer", "n_concepts")
    action = ("Find concepts", "Look for what the layer has learned; it takes some seconds")
    picks = True
    _kept: tuple[Any, Concepts | None, str] = (None, None, "")

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

    def _layers(self) -> dict[str, Layer]:
        """The layers that concepts can be looked for in."""
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
        yield Step(1, 1, "answered", ConceptView(*self.answer()))

    def steps(self) -> Iterator[Step[ConceptView]]:
        """The concepts, where they are not known yet; then what they count for the class."""
        view = self.first()
        yield from filled(view, "", self._extracted(view), of=2)
        _, extracted, remark = self._kept
        assert extracted is not None
        codes = extracted.encode(view.model, view.x).cpu()
        view = replace(view, extracted=extracted, codes=codes, remark=remark)
        pictures = view.images.images[:IMAGES]
        same = pictures[view.model.predict(pictures).label == view.label][:ASKED]
        same = same if len(same) else view.x
        work = concepts.importance.steps(extracted, view.model, same, view.label)
        yield from filled(view, "importance", work, 1, 2)

    def _extracted(self, view: ConceptView) -> Iterator[Step[Concepts]]:
        """Find the concepts, and keep them for other images."""
        p, layer, extracted = self.params, self.layer(), None
        key = (view.images, view.model, layer, *(getattr(p, name) for name in FORM[1:]))
        if key == self._kept[0]:
            return
        work = concepts.extract.steps(
            *(view.model, view.images.images[:IMAGES], layer), n_concepts=p.n_concepts,
            method=p.method, n_crops=p.n_crops, seed=p.seed,
            crop=0.5 if has_places(self._layers()[layer]) else 1.0,
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in work:
                extracted = step.value
                yield step
        self._kept = (key, extracted, " ".join(str(warning.message) for warning in caught))

    def draw(self, result: ConceptView) -> str:
        """The image, the concept chosen on it, the logits it is steered to; all concepts."""
        view, classes, extracted = result, result.images.classes, result.extracted
        shown = figure(view.x[0], says(view.images, view.index, classes[view.label]))
        if extracted is None or view.codes is None or view.importance is None:
            return section(shown, live("Press <b>Find concepts</b>: it takes some seconds."))
        k, blocks = self._chosen(view), [shown]
        if extracted.grid is not None:
            codes = view.codes[..., k].view(1, 1, *extracted.grid)
            heat = interpolate(codes, view.x.shape[2:], mode="bilinear")[0, 0]
            most = float(view.codes.max()) or 1.0  # one scale for all concepts of the image
            about: dict[str, Any] = {"limits": (0.0, most), "height": 120, "over": True}
            title = f"where concept {k} is"
            overlay = heat_overlay(view.x[0], heat, "sequential", title=title, **about).html
            blocks.append(column(overlay, width="240px"))
        done = ", ".join(f"concept {k} × {v:g}" for k, v in sorted(view.factors.items()))
        logits = view.prediction.logits[0].cpu()
        blocks.append(column(logit_table(logits, view.steered, classes, what=done).html))
        strongest = extracted.dictionary.codes.amax(0).clamp(min=1e-12)
        strength = (view.codes.flatten(0, -2).mean(0) / strongest).clamp(min=0).tolist()
        rows = concept_rows(
            *(extracted, view.importance, strength), chosen=k, factors=view.factors, pick=True
        )
        error = (
            f"Together the concepts explain {1 - extracted.dictionary.error:.0%} of what layer "
            f"{escape(extracted.layer)} holds. Importance is for {escape(classes[view.label])}: "
            f"gradient × input, the mean of {len(view.importance.scores)} images."
        )
        remark = status(escape(view.remark)) if view.remark else ""
        return section(row(*blocks), remark, f'<p class="wb-soft">{error}</p>', rows.html)

    def _chosen(self, view: ConceptView) -> int:
        assert view.importance is not None
        if self.params.chosen >= 0:
            return self.params.chosen
        return int(view.importance.scores.mean(0).argmax())

    def code(self) -> str:
        """The calls that give the result shown."""
        p, layer = self.params, self.layer()
        options = [f"n_concepts={p.n_concepts}", f"method={p.method!r}", f"seed={p.seed}"]
        places = has_places(self._layers()[layer])
        options.append(f"n_crops={p.n_crops}" if places else "crop=1")
        lines = [
            *self.code_head("from workbench import concepts, data, models"),
            f"some = images.images[:{IMAGES}]",
            f"extracted = concepts.extract(model, some, {layer!r}, {', '.join(options)})",
        ]
        view = self.result
        if view is not None and view.importance is not None:
            lines += [
                f"same = some[model.predict(some).label == {view.label}][:{ASKED}]",
                f"counts = concepts.importance(extracted, model, same, {view.label})",
            ]
            if view.factors:
                x = f"images.images[{view.index}:{view.index + 1}]"
                lines.append(f"logits = extracted.steer(model, {x}, {view.factors})")
        return "\n".join(lines)

    # The controls.

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """The layers that concepts can be looked for in."""
        return {"layer": [("the last with a map", ""), *((name, name) for name in self._layers())]}

    def controls(self) -> ipw.Widget:
        """The form; what to do to the concept chosen."""
        self.slider = slider(
            *(ipw.FloatSlider, "concept × ", "Of the one chosen: 0 takes it away, 2 doubles it"),
            value=1, min=0, max=3, step=0.1, disabled=True,
        )  # fmt: skip
        self.listen(self.slider, self._slid)
        return ipw.Box([super().controls(), self.slider]).add_class("wb-first")

    def actions(self) -> list[ipw.Widget]:
        """A way back from damping and boosting."""
        about = "All concepts count as they do in the model"
        return [button("Reset concepts", about, guarded(self, lambda: self._steer({})))]

    def shown(self, result: ConceptView) -> None:
        """Bring the slider to the concept chosen."""
        self.slider.disabled = result.importance is None
        if result.importance is not None:
            self.slider.value = result.factors.get(self._chosen(result), 1.0)

    def _slid(self, value: float) -> None:
        if self.result is not None and self.result.importance is not None:
            factors = {**self.result.factors, self._chosen(self.result): round(value, 3)}
            self._steer({k: v for k, v in factors.items() if v != 1})

    def _steer(self, factors: dict[int, float]) -> None:
        """Show the logits with concepts damped or boosted."""
        view = self.result
        if view is not None and view.extracted is not None and view.importance is not None:
            logits = view.extracted.steer(view.model, view.x, factors)[0].cpu() if factors else None
            self._show(self._current, replace(view, factors=factors, steered=logits))

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A concept was clicked or chosen by a key."""
        if what == "concept" and not event["key"].startswith("Arrow"):
            self.params = self.params.changed(chosen=int(which))
            self.redraw()

    def taken(self, values: ConceptPanelParameters) -> ConceptPanelParameters:
        """Other concepts are looked for: none of them is chosen yet."""
        return values.changed(chosen=-1)

    def followed(self, change: Any) -> None:
        """The selection changed: concepts that are known are shown, none are searched for."""
        if change["name"] in ("dataset", "model", "layer"):
            layer = self.selection.layer if self.selection.layer in self._layers() else ""
            self.params = self.params.changed(chosen=-1, layer=layer)
        self.choose_anew()
        known = self.result is not None and self.result.importance is not None
        same = change["name"] in ("index", "edition")
        self.start(None if same and known else self.peek())


def has_places(layer: Layer) -> bool:
    """Whether a layer gives maps, or a square of tokens."""
    if len(layer.shape) == 3:
        return layer.shape[1] * layer.shape[2] > 1
    return len(layer.shape) == 2 and round(layer.shape[0] ** 0.5) ** 2 == layer.shape[0] > 1
