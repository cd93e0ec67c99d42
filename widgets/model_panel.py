"""`ModelPanel`: what a model says of an image, how sure it is, and which pixels matter."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import ipywidgets as ipw
import numpy as np
import torch
from pydantic import Field

from workbench import checks, models, saliency
from workbench.data import ImageDataset
from workbench.figures import confidence_table, heat_overlay, points
from workbench.models import Classifier, Prediction
from workbench.params import Parameters
from workbench.saliency import Saliency
from workbench.steps import Step

from .blocks import figure, pick, section, status, table
from .labels import MOST
from .panel import Panel
from .picker import model_choices, model_label

NONE = "none"
HEIGHT = 168  # pixels on the screen for an image, whatever its own size


class ModelPanelParameters(Parameters):
    """What `ModelPanel` shows beside the data, the model and the image."""

    compare: str = Field(
        "", title="beside it", description="a second model, shown beside the first"
    )
    browse: Literal["in order", "mistakes", "least confident first"] = Field(
        "in order",
        title="show images",
        description="which images to step through, by what the model says of them",
    )
    only: str = Field("", title="of class", description="step through images of this class only")
    method: str = Field(
        NONE, title="why (saliency)", description="how to find the pixels that matter"
    )
    target: str = Field(
        "", title="why class", description="class to explain; the predicted one when empty"
    )


@dataclass(frozen=True, eq=False)
class Look:
    """One model's view of one image. label: its class as the model numbers them; None: unknown."""

    model: Classifier
    prediction: Prediction
    label: int | None = None
    saliency: Saliency | None = None


@dataclass(frozen=True, eq=False)
class ModelView:
    """What the panel shows: one image, and what one or two models say of it.

    index: of the image in the data set, or None where `order` is empty; order: the
    indices stepped through; asked: the index selected, which need not be among them.
    label: what the data set calls the image; empty where it has no label.
    """

    images: ImageDataset
    order: np.ndarray
    asked: int
    index: int | None
    looks: tuple[Look, ...]
    label: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the image, its label, and each model's answer."""
        if self.index is None:
            return {"images": 0}
        row: dict[str, Any] = {"images": len(self.order), "index": self.index}
        row["label"] = self.label or None
        for look in self.looks:
            answer = look.prediction.frame().iloc[0].to_dict()
            row[look.model.card.name] = answer
        return row


class ModelPanel(Panel[ModelPanelParameters, ModelView]):
    """Pick data and a model, step through images, see predictions, saliency and the card.

    Args and Raises: as of `Panel`; the parameters are `ModelPanelParameters`.
    """

    Params = ModelPanelParameters
    title = "Model panel"
    picks = True
    matter = ("method", "browse", "compare")
    follows = (*Panel.follows, "towards")

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self._answers: dict[tuple[int, int], tuple[ImageDataset, Classifier, Prediction]] = {}
        self._facts_of: list[str] = []
        self.card_view, self.layer_view = ipw.HTML(), ipw.HTML()

    def check(self, params: ModelPanelParameters) -> None:
        """Check that the names fit one another before any work is done."""
        n = len(self.selection.images())
        if self.selection.index >= n:
            raise ValueError(f"index: expected 0..{n - 1}, got {self.selection.index}")
        fit = self.selection.models_for(self.selection.dataset)
        for name in filter(None, (self.selection.model, params.compare)):
            if name not in fit and name in models.available():
                takes, shape = models.card(name).input_shape, self.selection.as_it_is().shape
                raise ValueError(
                    f"model: {name} takes {takes} images, {self.selection.dataset} has {shape} "
                    f"images; choose one that takes them, such as {fit[0]}"
                )
            if name not in fit:
                raise checks.unknown(f"model for {self.selection.dataset}", name, fit)
        if params.compare == self.selection.model:
            raise ValueError(f"compare: expected another model than {params.compare!r}")
        classes = self.selection.class_names()
        for field in ("only", "target"):
            value = getattr(params, field)
            if value and value not in classes:
                raise checks.unknown(field, value, classes)
        saliency_names = [NONE, *saliency.METHODS]
        if params.method not in saliency_names:
            raise checks.unknown("saliency method", params.method, saliency_names)

    def steps(self) -> Iterator[Step[ModelView]]:
        """First the answers, then the saliency maps, getting finer."""
        params, selection = self.params, self.selection
        images, model = selection.images(), selection.classifier()
        order = yield from self._order(images, model)
        asked = selection.index
        index = chosen(order, asked)
        if index is None:
            yield Step(1, 1, "nothing to show", ModelView(images, order, asked, None, ()))
            return
        names = [selection.model, params.compare] if params.compare else [selection.model]
        one = selection.as_it_is()[index : index + 1]
        x, looks = one.images, []
        for other in map(selection.classifier, names):
            label = int(models.matched(one, other).labels[0])
            looks.append(Look(other, other.predict(x), label if label >= 0 else None))
        called = selection.label_name(index)
        view = ModelView(images, order, asked, index, tuple(looks), called)
        with_maps = params.method != NONE
        yield Step(0 if with_maps else 1, 1, "answered", view)
        if not with_maps:
            return
        method = saliency.method(params.method)
        target = torch.tensor([images.classes.index(params.target)]) if params.target else None
        for i, look in enumerate(looks):
            for step in method.steps(look.model, x, target):
                looks[i] = replace(look, saliency=step.value)
                view = replace(view, looks=tuple(looks))
                done = i * step.total + step.done
                yield Step(done, step.total * len(looks), step.message, view)

    def _order(
        self, images: ImageDataset, model: Classifier
    ) -> Generator[Step[ModelView], None, np.ndarray]:
        labels = images.labels.numpy()
        order = np.arange(len(images))
        if self.params.browse != "in order":
            answers = yield from self._all_answers(images, model)
            wrong = (answers.label.numpy() != labels) & (labels >= 0)
            if self.params.browse == "mistakes":
                order = order[wrong]
            else:
                order = np.argsort(answers.confidence.numpy(), kind="stable")
        if self.params.only:
            order = order[labels[order] == images.classes.index(self.params.only)]
        return order

    def known_answers(self) -> torch.Tensor | None:
        """The class predicted of every image, `(N,)`, where the model was asked of all of them."""
        key = id(self.selection.images()), id(self.selection.classifier())
        return self._answers[key][2].label if key in self._answers else None

    def _all_answers(
        self, images: ImageDataset, model: Classifier
    ) -> Generator[Step[ModelView], None, Prediction]:
        key = (id(images), id(model))  # both are kept beside the answers, so the ids are theirs
        if key not in self._answers:
            parts, done = [], 0
            for x in images.images.split(models.batch_size(images.shape)):
                parts.append(model.predict(x))
                done += len(x)
                yield Step(done, len(images), f"{model.card.name} looks at image {done}")
            joined = {
                name: torch.cat([getattr(part, name) for part in parts])
                for name in ("logits", "probabilities", "label", "confidence")
            }
            self._answers[key] = images, model, Prediction(**joined, classes=model.classes)
        return self._answers[key][2]

    def draw(self, result: ModelView) -> str:
        """The image, then one block a model: its answer, its map, and what the map means."""
        if result.index is None:
            ways = pick("only:", "Show all classes") if self.params.only else ""
            if self.params.browse == "mistakes":
                ways += pick("browse:least confident first", "Show those it is least sure of")
            return section(status(escape(self.nothing())), ways)
        labelled = f"labelled {result.label}" if result.label else "without a label"
        alt = f"index {result.index} of {result.images.name}, {labelled}"
        caption = f"index {result.index}, {escape(labelled)}"
        image = result.images.images[result.index]
        shown = figure(image, alt, caption, HEIGHT, result.images.space)
        maps = [look.saliency.values for look in result.looks if look.saliency is not None]
        most = max((float(values.abs().max()) for values in maps), default=0.0) or 1.0
        looks = (f"<div>{draw_look(k, result.label, image, most)}</div>" for k in result.looks)
        unknown = "" if result.label else self._unlabelled()
        return section(f'<div class="wb-looks">{shown}{"".join(looks)}</div>{unknown}')

    def nothing(self) -> str:
        """That there is no image to step through."""
        s, only = self.selection, self.params.only
        what = f"images of class {only!r}" if only else "images"
        if self.params.browse == "mistakes":
            return f"{s.model} makes no mistake on the {what} of {s.dataset}."
        return f"There are no {what} in {s.dataset}."

    def _unlabelled(self) -> str:
        """What it means that a drawing has no label, and the classes it can be given."""
        words = "Without a label no answer is right or wrong."
        if self.selection.dataset == self.selection.origin:
            return status(words)
        classes = self.selection.class_names()[:MOST]
        buttons = (pick(f"meant:{name}", name) for name in classes)
        return status(f"{words} This is a") + "".join(buttons)

    def code(self) -> str:
        """The calls that give the predictions and maps shown."""
        s, p = self.selection, self.params
        torch_too = ["import torch"] * bool(p.target and p.method != NONE)
        lines = self.code_head(*torch_too, "from workbench import data, models, saliency")[:-1]
        index = self.result.index if self.result is not None else s.index
        if index is None:
            return "\n".join(lines)
        lines.append(f"x = images.images[{index}:{index + 1}]")
        target = ", target" if torch_too else ""
        if target:
            lines.append(f"target = torch.tensor([images.classes.index({p.target!r})])")
        for suffix, name in zip(("", "2"), filter(None, (s.model, p.compare)), strict=False):
            lines.append(f"model{suffix} = {s.code('model', name)}")
            lines.append(f"prediction{suffix} = model{suffix}.predict(x)")
            if p.method != NONE:
                call = f"saliency.method({p.method!r})(model{suffix}, x{target})"
                lines.append(f"pixels{suffix} = {call}")
        return "\n".join(lines)

    # The controls.

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """The card and the layers of the models shown."""
        return [("Model card", self.card_view), ("Layers", self.layer_view)]

    def set(self, **values: Any) -> None:
        """Change parameters and look again, as the form does."""
        self.accept(self.params.changed(**values))
        super().set()

    def updated(self, result: ModelView) -> ModelView:
        """Select the image shown, where the one selected is not stepped through."""
        if result.index is not None and self.selection.index == result.asked:
            with self.quietly():
                self.selection.index = result.index
        return result

    def shown(self, result: ModelView) -> None:
        """Bring the controls into line with what is shown."""
        assert self.picker is not None
        self.picker.show(result.order)
        self._show_facts(result)

    def _show_facts(self, result: ModelView) -> None:
        shown = [look.model for look in result.looks]
        names = [model.card.name for model in shown]
        if names != self._facts_of:
            self.card_view.value = "".join(map(card_table, shown))
            self.layer_view.value = "".join(map(layer_table, shown))
            self._facts_of = names

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A way on was picked: other images to step through, or the class of a drawing."""
        if what in ("only", "browse"):
            self.set(**{what: which})
        elif what == "meant":
            self.selection.draw(self.selection.images()[-1][0], which)

    def followed(self, change: Any) -> None:
        """What was chosen of other data, or beside another model, would not fit."""
        p, s, what = self.params, self.selection, change["name"]
        if p.compare not in s.models_for(s.dataset) or p.compare == s.model:
            p = p.changed(compare="")  # a drawing is no other data: the second model stays
        if what == "dataset" or p.only not in s.class_names():
            p = p.changed(only="")
        if what in ("dataset", "towards"):
            p = p.changed(target=s.towards)
        if what == "edition":
            self._answers.clear()
        self.params = p
        super().followed(change)

    def changed(self, before: ModelPanelParameters) -> None:
        """Another target is one for all panels."""
        self.aim(self.params.target)

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """What can be chosen for the present data and model."""
        model, classes = self.selection.model, self.selection.class_names()
        names = [(name, name) for name in classes]
        others = [choice for choice in model_choices(self.selection) if choice[1] != model]
        return {
            "compare": [("no other model", ""), *others],
            "only": [("all classes", ""), *names],
            "method": self._method_choices(),
            "target": [("predicted class", ""), *names],
        }

    def _method_choices(self) -> list[tuple[str, str]]:
        model = self.selection.classifier()
        choices = [(NONE, NONE)]
        for name, kind in saliency.METHODS.items():
            reason = kind().unfit(model)
            choices.append((f"{name} (not here: {reason})" if reason else name, name))
        return choices


def chosen(order: np.ndarray, index: int) -> int | None:
    """`index` where it is among those stepped through, else their first; None of none."""
    if len(order) == 0:
        return None
    return index if index in order else int(order[0])


def draw_look(look: Look, label: str, image: torch.Tensor, most: float) -> str:
    """One model's answer as a table of confidences, with its map below, over the image.

    label: what the data set calls the image, which may be no class of the model. most: the
    value at the end of the map's scale, the same for all that are compared.
    """
    prediction, shown = look.prediction, look.saliency
    card = look.model.card
    title = f'<h4 title="{escape(model_label(card))}">{escape(card.name)}</h4>'
    blocks = [
        title,
        confidence_table(
            prediction.probabilities[0],
            prediction.classes,
            label=look.label,
            predicted=int(prediction.label[0]),
        ).html,
    ]
    if label and look.label is None:
        blocks.append(f"<p>{escape(label)} is no class of this model: nothing is right here.</p>")
    if said := points.why(look.model.space, [look]):
        blocks.append(f"<p>{escape(said[0]['words'])}</p>")
    elif shown is not None:
        about = f"why {prediction.classes[int(shown.target[0])]} ({shown.method})"
        scale, low = ("diverging", -most) if shown.signed else ("sequential", 0.0)
        ends: dict[str, Any] = {"limits": (low, most), "height": HEIGHT, "title": about}
        blocks.append(heat_overlay(image, shown.values[0], scale, over=True, **ends).html)
    return "".join(blocks)


def card_table(model: Classifier) -> str:
    """The card of a model as an HTML table."""
    card = model.card
    facts = {**card.summary(), "seed": card.seed, **card.training}
    for key in ("accuracy", "robust_accuracy"):
        if facts[key] is not None:
            facts[key] = f"{facts[key]:.1%}"
    given = {key: value for key, value in facts.items() if value not in (None, "")}
    rows = [(escape(key.replace("_", " ")), escape(str(given[key]))) for key in given]
    return table(escape(card.name), rows)


def layer_table(model: Classifier) -> str:
    """The layers of a model as an HTML table: name, kind, output shape, weights."""
    rows = [
        (escape(layer.name), escape(layer.kind), "×".join(map(str, layer.shape)),
         f"{layer.parameters:,}")
        for layer in model.layers().values()
    ]  # fmt: skip
    return table(escape(model.card.name), rows, ("layer", "kind", "output", "weights"))
