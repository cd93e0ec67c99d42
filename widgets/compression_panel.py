"""`CompressionPanel`: a network made smaller, step by step; a slider goes over what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import ipywidgets as ipw
import pandas as pd
from pydantic import Field

from workbench import attacks, models, treatments
from workbench.data import ImageDataset
from workbench.figures import confidence_pair, confidence_table
from workbench.figures.curve import line_chart
from workbench.models import Classifier, Prediction
from workbench.params import Parameters
from workbench.steps import Step
from workbench.treatments import Change, Member, agreement, family

from .blocks import button, figure, live, row, section, slider, table
from .frame import guarded
from .labels import called
from .opened import Opened

# By treatment the setting that makes a network smaller, and its values from mild to strong.
SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "Quantise": ("bits", (8, 6, 5, 4, 3, 2)),
    "Prune": ("share", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)),
    "LowRank": ("share", (0.75, 0.5, 0.35, 0.25, 0.15)),
}
UNITS = {"bytes": ("kilobytes, compressed", 1e3), "macs": ("million multiply-adds", 1e6)}
PAYING = 3  # classes named that pay most
STEPS = 10  # of PGD, on each member


class CompressionPanelParameters(Parameters):
    """What `CompressionPanel` makes of the model selected, and which of it is looked at."""

    treatment: Literal["Quantise", "Prune", "LowRank"] = Field(
        "Quantise", title="made smaller by", description="the treatment whose strength is varied"
    )
    chosen: int = Field(0, ge=0, le=20, description="which of the networks made, the mildest first")
    cost: Literal["bytes", "macs"] = Field(
        "bytes", title="counted in", description="what the chart has below"
    )
    n: int = Field(
        200, ge=1, le=10_000, title="test images", description="how many, from the first on"
    )
    eps: float = Field(
        0.05, ge=0, le=1, title="attacked within (eps)", description="radius of PGD (L-infinity)"
    )
    timed: bool = Field(
        True, title="measure milliseconds", description="of one image, on this machine as it is"
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the treatment")


@dataclass(frozen=True, eq=False)
class Looked:
    """A member and what was measured of it: beside cost and accuracy what the parent knows.

    robust: accuracy under PGD. agreement: with the parent, by class and "all". prediction: of the
    image looked at.
    """

    member: Member
    robust: float
    agreement: pd.Series
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class CompressionView:
    """What the panel shows: an image, and the networks made so far; the first is the parent."""

    images: ImageDataset
    index: int
    looked: tuple[Looked, ...] = ()

    def summary(self) -> dict[str, Any]:
        """By network: accuracy, robust accuracy, agreement and costs, without the time."""
        told: dict[str, Any] = {"index": self.index}
        for looked in self.looked:
            m = looked.member
            shares = {"accuracy": m.accuracy, "robust_accuracy": looked.robust}
            agrees = {"agreement": float(looked.agreement["all"])}
            told[m.name] = {**shares, **agrees, **m.cost.summary()}
        return told


class CompressionPanel(Opened[CompressionPanelParameters, CompressionView]):
    """Make a network smaller, more and more; slide over what came of it, beside the parent.

    Args and Raises: as of `Panel`; the parameters are `CompressionPanelParameters`. training:
    images, where the treatment needs some.
    """

    Params = CompressionPanelParameters
    title = "Compression panel"
    only = ("treatment", "cost", "n", "eps", "timed", "seed")
    matter = ("treatment", "cost")
    action = ("Make smaller", "Make and measure the networks, from mild to strong")
    waits = True

    def __init__(self, *args: Any, training: ImageDataset | None = None, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.selection.train_on(training)

    def stages(self) -> list[Change]:
        """The treatments, from mild to strong."""
        name, (setting, values) = self.params.treatment, SWEEPS[self.params.treatment]
        return [treatments.get(name, **{setting: v}) for v in values]  # type: ignore[misc]

    def check(self, params: CompressionPanelParameters) -> None:
        """Check that the treatment fits the model."""
        model = self.selection.classifier()
        if reason := treatments.get(params.treatment).unfit(model):
            raise ValueError(f"{params.treatment}: {reason}")

    def peek(self) -> Iterator[Step[CompressionView]]:
        """The image; nothing is made or measured."""
        yield Step(1, 1, "ready", CompressionView(*self.image()))

    def steps(self) -> Iterator[Step[CompressionView]]:
        """The parent, then one network after the other, each made and measured."""
        s, p, stages = self.selection, self.params, self.stages()
        view, parent = self.first(), s.classifier()
        total = len(stages) + 1
        view = replace(view, looked=(self.look_at(parent, parent, "as it is"),))
        yield Step(1, total, "the parent", view)
        for done, stage in enumerate(stages, 1):
            training = s.training() if stage.needs_data else None
            step: Step[models.Treated] = Step(0, 1)
            for step in stage.steps(parent, training, seed=p.seed):
                yield Step(done, total, f"{stage.code()}: {step.message}", view)
            assert step.value is not None
            made = self.look_at(step.value.model, parent, stage.code())
            view = replace(view, looked=(*view.looked, made))
            yield Step(done + 1, total, stage.code(), view)

    def look_at(self, model: Classifier, parent: Classifier, name: str) -> Looked:
        """What is measured of a network."""
        p, (images, index) = self.params, self.image()
        known = images[images.labels >= 0][: p.n]
        (member,) = family({name: model}, known, timed=p.timed).members
        attack = attacks.PGD(eps=p.eps, n_steps=STEPS)
        fooled = attack(model, known.images, known.labels, seed=p.seed).success
        robust = 1 - float(fooled.float().mean())
        shares = agreement(parent, model, known)
        return Looked(member, robust, shares, model.predict(images.images[index : index + 1]))

    # The picture.

    @property
    def at(self) -> int:
        """Which of the networks is looked at: the slider's, or the last there is."""
        made = len(self.result.looked) if self.result is not None else 0
        return min(self.params.chosen + 1, max(made - 1, 0))

    def draw(self, result: CompressionView) -> str:
        """The image, both answers, the chart, what it costs and who pays."""
        index, looked = result.index, result.looked
        words = f"index {index}, labelled {called(result.images, index)}"
        blocks = [figure(result.images.images[index], words)]
        if not looked:
            return section(row(*blocks), live("Press <b>Make smaller</b>."))
        parent, child = looked[0], looked[min(self.params.chosen + 1, len(looked) - 1)]
        answers = [one.prediction.probabilities[0].cpu() for one in (parent, child)]
        names = (parent.member.name, child.member.name)
        if len(looked) == 1:
            blocks.append(confidence_table(answers[0], parent.prediction.classes, top=3).html)
            return section(row(*blocks))
        pair = confidence_pair(*answers, parent.prediction.classes, names, top=3)
        blocks += [pair.html, compared(parent, child)]
        parts = [row(*blocks), self._chart(looked, child), paying(child)]
        return section(*parts)

    def _chart(self, looked: tuple[Looked, ...], child: Looked) -> str:
        """Accuracies over what the networks cost; a line at the one looked at."""
        words, unit = UNITS[self.params.cost]

        def x(one: Looked) -> float:
            return one.member.spends(self.params.cost) / unit

        lines = {
            "right": [(x(one), one.member.accuracy or 0.0) for one in looked],
            f"under PGD, eps {self.params.eps:.3g}": [(x(one), one.robust) for one in looked],
            "as the parent": [(x(one), float(one.agreement["all"])) for one in looked],
        }
        ends = ", ".join(f"{n} {points[-1][1]:.0%}" for n, points in lines.items())
        alt = f"{len(looked)} networks; at {x(looked[-1]):.3g} {words}: {ends}"
        most = max(map(x, looked))
        axes = (words, "share of the images")
        return line_chart(
            lines, most, alt, ticks=(0, most / 2, most), mark=x(child), axes=axes
        ).html

    def code(self) -> str:
        """The calls that give the networks shown."""
        p, stages = self.params, self.stages()
        needs = stages[0].needs_data
        training = f", {self.selection.code('training')}" if needs else ""
        codes = ", ".join(f"treatments.{stage.code()}" for stage in stages)
        return "\n".join(
            [
                *self.code_head("from workbench import data, models, treatments"),
                f"stages = [{codes}]",
                f"made = {{s.code(): s(model{training}, seed={p.seed}).model for s in stages}}",
                f"known = images[images.labels >= 0][:{p.n}]",
                "result = treatments.family({'as it is': model} | made, known)",
            ]
        )

    def open(self) -> Any:
        """The bench with the network looked at beside its parent; also shown below.

        Raises:
            RuntimeError: nothing was made yet.
        """
        from .bench import Bench

        view, s = self.result, self.selection
        if view is None or len(view.looked) < 2:
            raise RuntimeError("nothing was made yet: press Make smaller, and wait for its end")
        child = view.looked[self.at].member.model
        name = s.add(child, own=s.is_own(s.model))
        both = {"model": s.classifier(), "compare": s.classifier(name)}
        return self.show(Bench(s.images(), index=view.index, **both))

    # The controls.

    def controls(self) -> ipw.Widget:
        """The form, and the slider over what was made, which asks no model."""
        about = "Which of the networks made is looked at, from mild to strong"
        self.slide = slider(ipw.IntSlider, "smaller", about, min=1, max=1, disabled=True)
        self.listen(self.slide, self._slid)
        return ipw.Box([super().controls(), self.slide]).add_class("wb-first")

    def _slid(self, value: int) -> None:
        self.params = self.params.changed(chosen=value - 1)
        self.redraw()

    def shown(self, result: CompressionView) -> None:
        """The slider reaches as far as there are networks."""
        made = len(result.looked) - 1
        self.slide.disabled = made < 1
        self.slide.max = max(1, made)
        self.slide.value = min(self.params.chosen + 1, self.slide.max)

    def actions(self) -> list[ipw.Widget]:
        """Open what was made."""
        about = "The network looked at beside its parent"
        return [button("Open on the bench", about, guarded(self, self.open))]


def compared(parent: Looked, child: Looked) -> str:
    """What the parent and the child cost, and what they get right."""
    pair = (parent, child)
    costs = [one.member.cost for one in pair]
    rows = [
        ("right", *(f"{one.member.accuracy:.1%}" for one in pair)),
        ("under PGD", *(f"{one.robust:.1%}" for one in pair)),
        ("as the parent", *(f"{float(one.agreement['all']):.1%}" for one in pair)),
        ("kilobytes, compressed", *(f"{c.bytes / 1000:,.3g}" for c in costs)),
        ("million multiply-adds", *(f"{c.macs / 1e6:,.3g}" for c in costs)),
    ]
    times = [one.member.latency for one in pair]
    if all(times):
        told = (f"{t.median:.2f} ({t.low:.2f} to {t.high:.2f})" for t in times if t)
        rows.append(("milliseconds, measured", *told))
    return table("", rows, ["", "parent", escape(child.member.name)])


def paying(child: Looked) -> str:
    """The classes on which the child says something else most often."""
    by_class = child.agreement.drop("all").sort_values(kind="stable")
    worst = by_class[by_class < 1].head(PAYING)
    if worst.empty:
        return "<p>It says the same as the parent of every image.</p>"
    told = ", ".join(f"{escape(str(k))} ({1 - share:.0%})" for k, share in worst.items())
    return f"<p>Changed answers, by class: most of {told}.</p>"
