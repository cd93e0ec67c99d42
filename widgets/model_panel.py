"""`ModelPanel`: what a model says of an image, how sure it is, and which pixels matter."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import ipywidgets as ipw
import numpy as np
import torch
from pydantic import Field

from workbench import checks, models, saliency
from workbench.data import ImageDataset
from workbench.figures import confidence_table, heat_overlay, img_tag
from workbench.models import Classifier, Prediction
from workbench.params import Parameters
from workbench.saliency import Saliency
from workbench.steps import Step

from .form import Form
from .panel import Panel, guarded
from .picker import model_choices

NONE = "none"
HEIGHT = 168  # pixels on the screen for an image, whatever its own size


class ModelPanelParameters(Parameters):
    """What `ModelPanel` shows beside the data, the model and the image."""

    compare: str = Field("", description="a second model, shown beside the first")
    browse: Literal["in order", "mistakes", "least confident first"] = Field(
        "in order", description="which images to step through, by what the model says of them"
    )
    only: str = Field("", description="step through images of this class only")
    method: str = Field(NONE, description="how to find the pixels that matter")
    target: str = Field("", description="class to explain; the predicted one when empty")


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

    Args:
        dataset: a name (see `data.available()`) or an `ImageDataset`.
        model: a name (see `models.available()`) or a `Classifier`.
        index: which image to look at first.
        selection: shared with other panels; then dataset, model and index come from it.
        parameters: see `ModelPanelParameters`.

    Raises:
        ValueError: an unknown name, or a model that does not take the images.
    """

    Params = ModelPanelParameters
    title = "Model panel"
    follows = (*Panel.follows, "towards")

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self._answers: dict[tuple[int, int], tuple[ImageDataset, Classifier, Prediction]] = {}
        self._facts_of: list[str] = []
        self.card_view, self.layer_view = ipw.HTML(), ipw.HTML()
        self._syncing = False

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

    # The work.

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

    # The picture.

    def draw(self, result: ModelView) -> str:
        """The image, then one block a model: its answer, its map, and what the map means."""
        if result.index is None:
            return f"<p>{html.escape(self._nothing())}</p>"
        x = result.images.images[result.index]
        labelled = f"labelled {result.label}" if result.label else "without a label"
        alt = f"index {result.index} of {result.images.name}, {labelled}"
        blocks = [
            f'<figure style="margin:0">{img_tag(x, alt, height=HEIGHT)}'
            f"<figcaption>index {result.index}, {html.escape(labelled)}</figcaption></figure>"
        ]
        blocks += [draw_look(look, result.label) for look in result.looks]
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:24px;line-height:1.4">'
            + "".join(blocks)
            + "</div>"
        )

    def _nothing(self) -> str:
        s = self.selection
        what = f"images of class {self.params.only!r}" if self.params.only else "images"
        if self.params.browse == "mistakes":
            return f"{s.model} makes no mistake on the {what} of {s.dataset}."
        return f"There are no {what} in {s.dataset}."

    def code(self) -> str:
        """The calls that give the predictions and maps shown."""
        s, p = self.selection, self.params
        lines = ["from workbench import data, models, saliency", ""]
        lines.append(f"images = {s.code('dataset')}")
        index = self.result.index if self.result is not None else s.index
        if index is None:
            return "\n".join(lines)
        lines.append(f"x = images.images[{index}:{index + 1}]")
        names = [s.model, p.compare] if p.compare else [s.model]
        target = ""
        if p.target and p.method != NONE:
            lines[0] = "import torch\n" + lines[0]
            lines.append(f"target = torch.tensor([images.classes.index({p.target!r})])")
            target = ", target"
        for i, name in enumerate(names):
            suffix = str(i + 1) if i else ""
            lines.append(f"model{suffix} = {s.code('model', name)}")
            lines.append(f"prediction{suffix} = model{suffix}.predict(x)")
            if p.method != NONE:
                call = f"saliency.method({p.method!r})(model{suffix}, x{target})"
                lines.append(f"pixels{suffix} = {call}")
        return "\n".join(lines)

    # The controls.

    def controls(self) -> ipw.Widget:
        """Which images, beside what, and saliency."""
        self.form = Form(
            self.params,
            choices=self._choices(),
        )
        self.form.observe(guarded(self, self._form_changed))
        if self.result is not None:
            self.shown(self.result)
        return self.form.widget

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """The card and the layers of the models shown."""
        return [("Model card", self.card_view), ("Layers", self.layer_view)]

    def set(self, **changes: Any) -> None:
        """Change parameters and look again, as the form does."""
        self._form_changed(ModelPanelParameters(**{**dict(self.params), **changes}))
        if self._widget is not None:
            self.form.set(self.params)

    def shown(self, result: ModelView) -> None:
        """Bring selection and controls into line with what is shown."""
        self._syncing = True
        try:
            if result.index is not None and self.selection.index == result.asked:
                self.selection.index = result.index
            if self.picker is not None:
                self.picker.show(result.order)
                self._show_facts(result)
        finally:
            self._syncing = False

    def _show_facts(self, result: ModelView) -> None:
        shown = [look.model for look in result.looks]
        names = [model.card.name for model in shown]
        if names != self._facts_of:
            self.card_view.value = "".join(map(card_table, shown))
            self.layer_view.value = "".join(map(layer_table, shown))
            self._facts_of = names

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel."""
        if self._syncing:
            return
        if change["name"] == "dataset":  # what was chosen of the other data would not fit
            self.params = self.params.model_copy(update={"compare": "", "only": ""})
        if self.params.only and self.params.only not in self.selection.class_names():
            self.params = self.params.model_copy(update={"only": ""})
        if change["name"] in ("dataset", "towards"):
            self.params = self.params.model_copy(update={"target": self.selection.towards})
        if change["name"] == "edition":
            self._answers.clear()
        if self.params.compare == self.selection.model:
            self.params = self.params.model_copy(update={"compare": ""})
        if self._widget is not None:
            self._sync_pickers()
        self.start()

    def _sync_pickers(self) -> None:
        self._syncing = True
        try:
            for name, options in self._choices().items():
                self.form.choose_from(name, options, getattr(self.params, name))
        finally:
            self._syncing = False

    def _form_changed(self, values: Parameters) -> None:
        if not self._syncing:
            params = cast("ModelPanelParameters", values)
            self.check(params)
            self.params = params
            if params.target != self.selection.towards:
                self.selection.towards = params.target  # which starts
            else:
                self.start()

    def _choices(self) -> dict[str, list[tuple[str, str]]]:
        """What can be chosen for the present data and model."""
        model, classes = self.selection.model, self.selection.class_names()
        named = [(name, name) for name in classes]
        return {
            "compare": [
                ("no other model", ""),
                *(choice for choice in model_choices(self.selection) if choice[1] != model),
            ],
            "only": [("all classes", ""), *named],
            "method": self._method_choices(),
            "target": [("predicted class", ""), *named],
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


def draw_look(look: Look, label: str) -> str:
    """One model's answer as a table of confidences, with its map below.

    label: what the data set calls the image, which may be no class of the model.
    """
    prediction = look.prediction
    table = confidence_table(
        prediction.probabilities[0],
        prediction.classes,
        label=look.label,
        predicted=int(prediction.label[0]),
    )
    title = html.escape(look.model.card.name)
    block = f'<div style="max-width:30em"><h4 style="margin:0 0 4px">{title}</h4>{table.html}'
    if label and look.label is None:
        block += f"<p>{html.escape(label)} is no class of this model: nothing is right here.</p>"
    if look.saliency is not None:
        found = look.saliency
        target = prediction.classes[int(found.target[0])]
        scale = "diverging" if found.signed else "sequential"
        block += heat_overlay(
            None, found.values[0], scale, height=HEIGHT, title=f"{found.method} of {target}"
        ).html
    return block + "</div>"


def card_table(model: Classifier) -> str:
    """The card of a model as an HTML table."""
    card = model.card
    rows = {**card.summary(), "seed": card.seed, **card.training}
    for key in ("accuracy", "robust_accuracy"):
        if rows[key] is not None:
            rows[key] = f"{rows[key]:.2%}"
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(key.replace("_", " "))}</th>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for key, value in rows.items()
        if value not in (None, "")
    )
    return f"<table><caption>{html.escape(card.name)}</caption>{lines}</table>"


def layer_table(model: Classifier) -> str:
    """The layers of a model as an HTML table: name, kind, output shape, weights."""
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(layer.name)}</th>'
        f"<td>{html.escape(layer.kind)}</td><td>{'×'.join(map(str, layer.shape))}</td>"
        f"<td>{layer.parameters:,}</td></tr>"
        for layer in model.layers().values()
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in ("layer", "kind", "output", "weights"))
    name = html.escape(model.card.name)
    return f"<table><caption>{name}</caption><tr>{head}</tr>{lines}</table>"
