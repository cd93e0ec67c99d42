"""What `TreatmentPanel` shows: a model before and after, what it costs, and the way between."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any, cast

from workbench.data import ImageDataset
from workbench.figures import confidence_table
from workbench.figures.curve import line_chart
from workbench.models import Classifier, Cost, Prediction

from .blocks import column, figure, live, row, section, table
from .labels import called

Course = tuple[tuple[float, float], ...]  # the share of the work done, and the accuracy then
FEW = 300  # test images that a model is asked about on its way


@dataclass(frozen=True, eq=False)
class Look:
    """A model as it was looked at: its answer, and its accuracy on `n` test images."""

    name: str
    prediction: Prediction
    accuracy: float | None
    n: int
    cost: Cost | None = None


@dataclass(frozen=True, eq=False)
class TreatmentView:
    """What the panel shows: an image, the parent's look, that of what is made of it.

    course: of the work. model: what was made, at the end.
    """

    images: ImageDataset
    index: int
    treatment: str
    before: Look | None = None
    after: Look | None = None
    course: Course = ()
    history: list[dict[str, float]] = field(default_factory=list)
    model: Classifier | None = None

    def summary(self) -> dict[str, Any]:
        """Plain numbers: accuracies and costs, before and after."""
        row: dict[str, Any] = {"index": self.index, "treatment": self.treatment}
        for when, look in (("before", self.before), ("after", self.after)):
            if look is not None:
                costs = look.cost.summary() if look.cost else {}
                row[when] = {"model": look.name, "accuracy": look.accuracy, **costs}
        return row


def picture(view: TreatmentView) -> str:
    """The image, both answers, the course of the work, and what it costs and gains: HTML."""
    index = view.index
    words = f"index {index}, labelled {called(view.images, index)}"
    blocks = [figure(view.images.images[index], words)]
    blocks += [answer(look) for look in (view.before, view.after) if look is not None]
    parts = [row(*blocks)]
    if len(view.course) > 1:
        last = view.course[-1]
        alt = f"accuracy on {FEW} test images: {view.course[0][1]:.1%}, at last {last[1]:.1%}"
        axes = ("share of the work done", "accuracy on test images")
        chart = line_chart({"accuracy": view.course}, 1.0, alt, ticks=(0, 0.5, 1), axes=axes)
        parts.append(column(chart.html, width="40em"))
    if view.after is not None and view.after.cost is not None:
        parts.append(costs_table(view))
    if view.before is None and view.after is None:
        parts.append(live("Press <b>Start</b>: a new model is trained by the recipe."))
    return section(*parts)


def answer(look: Look) -> str:
    """A model's name, its accuracy, and its answer as a table."""
    right = "" if look.accuracy is None else f"{look.accuracy:.1%} of {look.n} images right"
    answer = look.prediction
    confidences = confidence_table(
        answer.probabilities[0].cpu(), answer.classes, predicted=int(answer.label[0])
    )
    return column(f"<b>{escape(look.name)}</b><br><small>{right}</small>", confidences.html)


def costs_table(view: TreatmentView) -> str:
    """Accuracy and costs, before and after."""
    looks = [look for look in (view.before, view.after) if look is not None and look.cost]
    costs = [cast("Cost", look.cost) for look in looks]
    rights = ["" if look.accuracy is None else f"{look.accuracy:.1%}" for look in looks]
    rows = [
        ("accuracy", *rights),
        ("parameters", *(f"{c.parameters:,}" for c in costs)),
        ("weights that are not zero", *(f"{c.nonzero:,}" for c in costs)),
        ("kilobytes, compressed", *(f"{c.bytes / 1000:,.1f}" for c in costs)),
        ("million multiply-adds", *(f"{c.macs / 1e6:,.3f}" for c in costs)),
    ]
    head = ["", *(("before", "after") if len(looks) == 2 else ("made",))]
    return table("What it costs", rows, head)
