"""`PrototypePanel`: the prototypes an image is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, cast

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import prototypes
from workbench.data import ImageDataset
from workbench.figures import (
    confidence_table,
    image_grid,
    point_grid,
    prototype_grid,
    uncertainty_bars,
)
from workbench.models import Classifier, Prediction
from workbench.params import Parameters
from workbench.prototypes import (
    Explanation,
    ProbPrototypeClassifier,
    PrototypeClassifier,
    Uncertainty,
)
from workbench.steps import Step

from .blocks import HEIGHT, figure, live, row, section, thumbs
from .labels import called, says
from .panel import Panel
from .selection import GIVE, Selection
from .views import View

NEAR = 5  # training images shown of a prototype
CHUNK = 4096  # training images encoded at once
TRAIN = "TreatmentPanel({!r}, treatment='none', recipe='digits/prototypes')"


class PrototypePanelParameters(Parameters):
    """What `PrototypePanel` shows beside the data, the model and the image."""

    chosen: int = Field(-1, ge=-1, description="prototype to go to; -1: nearest of another class")
    share: float = Field(
        0.5,
        ge=0,
        le=1,
        title="how far to the prototype",
        description="share of the way from the image to the prototype chosen, between their codes",
        json_schema_extra={"step": 0.05},
    )


@dataclass(frozen=True, eq=False)
class Way:
    """An image `(1, C, H, W)`, `share` of the way to a prototype, and what the model says."""

    prototype: int
    share: float
    image: torch.Tensor
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class PrototypeView(View):
    """What the panel shows: an image and what a model compares it with.

    explanation, pictures, way: None where the model has no prototypes. near: the training images,
    and the indices and distances `(m, k)` of those nearest to each prototype. doubts: of a
    probabilistic model.
    """

    explanation: Explanation | None = None
    pictures: torch.Tensor | None = None
    near: tuple[ImageDataset, torch.Tensor, torch.Tensor] | None = None
    way: Way | None = None
    doubts: Uncertainty | None = None

    def summary(self) -> dict[str, Any]:
        """The model, the image, and the nearest prototype with its distance and vote."""
        known = {"model": self.model.card.name, "index": self.index}
        return known | (
            self.explanation.frame().iloc[0].to_dict() if self.explanation is not None else {}
        )


class PrototypePanel(Panel[PrototypePanelParameters, PrototypeView]):
    """See what a prototype classifier compares an image with. `TreatmentPanel` trains one.

    Args and Raises: as of `Panel`; when no model is named, a prototype classifier that fits
    the data is chosen. training: images, for a data set that is not one of the table. The
    parameters are `PrototypePanelParameters`.
    """

    Params = PrototypePanelParameters
    title = "Prototype panel"
    follows = (*Panel.follows, "towards")
    only = ("share",)
    picks = True
    _near: tuple[Any, ...] = (None, None, None)

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
        *,
        selection: Selection | None = None,
        training: ImageDataset | None = None,
        **parameters: Any,
    ) -> None:
        if selection is None:
            selection = Selection(dataset, model, index)
            if model is None:
                selection.model = next(iter(with_prototypes(selection)), selection.model)
        super().__init__(selection=selection, **parameters)
        selection.train_on(training)

    def check(self, params: PrototypePanelParameters) -> None:
        """Check that there is such a prototype."""
        model = self.selection.classifier()
        if isinstance(model, PrototypeClassifier) and params.chosen >= len(model.prototypes):
            raise ValueError(
                f"chosen: expected a prototype of {model.card.name} in "
                f"0..{len(model.prototypes) - 1}, or -1, got {params.chosen}"
            )

    def steps(self) -> Iterator[Step[PrototypeView]]:
        """The explanation; of a prototype chosen, also the nearest training images."""
        view, training = self._look(self.selection.classifier()), self.selection.training()
        yield Step(1, 1, "explained", view)
        wanted = view.explanation is not None and view.near is None and self.params.chosen >= 0
        if not wanted or training is None:
            return
        parts, n = [], len(training)
        for start in range(0, n, CHUNK):
            part = training.images[start : start + CHUNK]
            indices, distances = prototypes.nearest_images(view.model, part, min(NEAR, len(part)))
            parts.append((indices.cpu() + start, distances.cpu()))
            yield Step(min(n, start + CHUNK), n, "looking at training images", view)
        distances, order = torch.cat([d for _, d in parts], 1).sort(1)
        indices = torch.cat([i for i, _ in parts], 1).gather(1, order)
        near = (training, indices[:, :NEAR], distances[:, :NEAR])
        self._near = (view.model, training, near)
        yield Step(n, n, "done", replace(view, near=near))

    def _look(self, model: Classifier) -> PrototypeView:
        """What `model` compares the image selected with."""
        view = PrototypeView(*self.image(), model)
        if not isinstance(model, PrototypeClassifier):
            return view
        of, training, near = self._near
        near = near if of is model and training is self.selection.training() else None
        certain = not isinstance(model, ProbPrototypeClassifier)
        doubts = None if certain else prototypes.uncertainty(model, view.x)
        explanation, pictures = prototypes.explain(model, view.x), model.prototype_images().cpu()
        view = replace(view, explanation=explanation, pictures=pictures, near=near, doubts=doubts)
        return self.updated(view)

    def updated(self, result: PrototypeView) -> PrototypeView:
        """The image on the way to the prototype chosen, as far as is asked for."""
        if result.explanation is None:
            return result
        k, share, way = self._chosen(result.explanation), self.params.share, result.way
        if way is not None and (way.prototype, way.share) == (k, share):
            return result
        model = cast("PrototypeClassifier", result.model)
        with torch.no_grad():
            z = model.encode(result.x.to(model.device))
            image = model.decode(z.lerp(model.prototypes[[k]], share)).cpu()
        return replace(result, way=Way(k, share, image, model.predict(image)))

    # The picture.

    def draw(self, result: PrototypeView) -> str:
        """The prototypes, what would have to change, training images, and how sure it is."""
        view, way, explanation, pictures = result, result.way, result.explanation, result.pictures
        caption = f"index {view.index}, labelled {called(view.images, view.index)}"
        if explanation is None or pictures is None or way is None:
            call = escape(TRAIN.format(self.selection.origin))
            train = f"<p>Or train one: <code>{call}</code>.</p>"
            shown = figure(view.x[0], caption, "", HEIGHT, view.images.space)
            return section(shown, self.offer(), train)
        space, x = view.images.space, view.x[0]
        k, classes, label = way.prototype, explanation.classes, int(explanation.logits.argmax())
        vote = classes[int(explanation.votes[k])]
        change = [
            figure(x, says(view.images, view.index, classes[label]), "", HEIGHT, space),
            figure(way.image[0], f"{way.share:.0%} of the way, decoded", "", HEIGHT, space, x),
            figure(pictures[k], f"prototype #{k}, for {vote}", "", HEIGHT, space, x),
            confidence_table(way.prediction.probabilities[0].cpu(), classes).html,
        ]
        name = escape(view.model.card.name)
        blocks = [
            f"<h4>What would have to change: on the way to prototype #{k}</h4>",
            row(*(f"<div>{block}</div>" for block in change)),
            f"<h4>What {name} compares the image with</h4>",
            prototype_grid(explanation, pictures, chosen=k, pick=True, space=space).html,
            f"<h4>Training images nearest to prototype #{k}</h4>",
            self._nearest(view, k, vote),
        ]
        if view.doubts is not None:
            blocks += ["<h4>How sure it is</h4>", uncertainty_bars(view.doubts).html]
        return section(*blocks)

    def tile(self, result: PrototypeView) -> tuple[str, str]:
        """What the nearest prototype speaks for, and the three nearest."""
        explanation, pictures = result.explanation, result.pictures
        if explanation is None or pictures is None:
            return "no prototypes", ""
        near = explanation.order[0][:3].tolist()
        names = [explanation.classes[int(explanation.votes[k])] for k in near]
        words = [f"prototype {k}, for {name}" for k, name in zip(near, names, strict=True)]
        return f"nearest speaks for {names[0]}", thumbs([pictures[k] for k in near], words, 48)

    def _chosen(self, explanation: Explanation) -> int:
        """The prototype to go to: the one chosen, or the nearest of another class."""
        if 0 <= self.params.chosen < len(explanation.votes):
            return self.params.chosen
        label, order = int(explanation.logits[0].argmax()), explanation.order[0].tolist()
        others, towards = (
            [j for j in order if int(explanation.votes[j]) != label],
            self.selection.towards,
        )
        classes = self.selection.class_names()
        wanted = [j for j in others if classes[int(explanation.votes[j])] == towards]
        return next(iter([*wanted, *others, *order]))

    def _nearest(self, view: PrototypeView, k: int, vote: str) -> str:
        if view.near is None:
            if self.selection.training() is None:
                return f"<p>There are no training images of this data set at hand; {GIVE}.</p>"
            return live("They are looked up once you choose a prototype above.")
        training, indices, distances = view.near
        labels = training.labels[indices[k]]
        same = sum(label >= 0 and training.classes[label] == vote for label in labels.tolist())
        near, far = distances[k, [0, -1]].tolist()
        words = (
            f"{same} of {len(labels)} have the class it speaks for, {vote}; "
            f"distances {near:.3g} to {far:.3g}"
        )
        if training.space is not None:
            names = [training.classes[label] for label in labels]
            near_ones = point_grid(training.space, training.images[indices[k]], names)
            return f"<p>{escape(words)}</p>{near_ones.html}"
        grid = image_grid(training.images[indices[k]], labels, classes=training.classes, height=72)
        return f"<p>{escape(words)}</p>{grid.html}"

    def unfit(self, model: str = "") -> str:
        """That the model has no prototypes."""
        name = model or self.selection.model
        has = "prototypes" in self.selection.card(name).architecture
        return "" if has else f"{name} has no prototypes to compare an image with"

    def code(self) -> str:
        """The calls that give the result shown."""
        s, view = self.selection, self.result
        if view is None or view.explanation is None:
            return "from workbench import models\n\nmodels.available()  # choose one of prototypes"
        k = self._chosen(view.explanation)
        lines = [
            *self.code_head("from workbench import data, models, prototypes"),
            f"x = images.images[{view.index}:{view.index + 1}]",
            "explanation = prototypes.explain(model, x)",
            f"z = model.encode(x).lerp(model.prototypes[[{k}]], {self.params.share})",
            "prediction = model.predict(model.decode(z).detach())",
        ]
        if view.near is not None:
            images = f"{s.code('training')}.images"
            lines.append(f"near, distances = prototypes.nearest_images(model, {images}, {NEAR})")
        if isinstance(view.model, ProbPrototypeClassifier):
            lines.append("doubts = prototypes.uncertainty(model, x)")
        return "\n".join(lines)

    # The controls.

    def controls(self) -> ipw.Widget:
        """How far to go to the prototype chosen; it follows while one drags."""
        row = super().controls()
        self.form.controls["share"].continuous_update = True
        return row

    def shown(self, result: PrototypeView) -> None:
        """No way without prototypes."""
        self.form.controls["share"].disabled = result.explanation is None

    def changed(self, before: PrototypePanelParameters) -> None:
        """Another share of the way: nothing has to be explained anew."""
        if self.params.chosen == before.chosen:
            self.redraw()
        else:
            self.begin()

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A prototype was clicked, or a key pressed on one."""
        if what == "prototype" and not event["key"].startswith("Arrow"):
            self.params = self.params.changed(chosen=int(which))
            self.redraw()
            self.start()

    def followed(self, change: Any) -> None:
        """Of another model, another prototype is the nearest."""
        if change["name"] in ("dataset", "model", "towards"):
            self.params = self.params.changed(chosen=-1)
        self.start()


def with_prototypes(selection: Selection) -> list[str]:
    """The prototype classifiers that fit the data set selected, its own first."""
    cards = {name: selection.card(name) for name in selection.models_for(selection.dataset)}
    names = [name for name, card in cards.items() if "prototypes" in card.architecture]
    kinds = {name: (cards[name].dataset, cards[name].architecture) for name in names}
    return sorted(names, key=lambda name: kinds[name] != (selection.origin, "prototypes"))
