"""`EvaluationPanel`: how much accuracy attacks leave, and whether to trust the figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from workbench import attacks, models
from workbench.attacks import Attack
from workbench.data import ImageDataset
from workbench.figures import drag_curve, health_table
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.robustness import Diagnosis, Evaluation, diagnose, evaluate
from workbench.steps import Step

from .attack_panel import call_of, named
from .blocks import column, live, row, section, table
from .panel import Panel
from .views import filled

ASKED = 200  # images at most for the indicators, which run the attack some fifteen times
WAITING = "not yet run"
FEW = 12  # points that a table shows at once; of more, the curve is enough to begin with
GREATEST = {"Linf": 1.0, "L2": 100.0}


class EvaluationPanelParameters(Parameters):
    """What `EvaluationPanel` does beside the data and the model."""

    attacks: tuple[str, ...] = Field(
        ("FGSM", "PGD"), min_length=1, description="attacks, such as PGD or PGD(n_steps=100)"
    )
    norm: Literal["Linf", "L2"] = Field("Linf", description="norm of the perturbation")
    eps: tuple[float, ...] = Field(
        (0.05, 0.1, 0.15),
        min_length=1,
        title="largest changes (eps)",
        description="radii, with commas between them",
    )
    n: int = Field(
        100, ge=1, le=100_000, title="test images", description="how many, from the first on"
    )
    health: bool = Field(
        True,
        title="ask whether it can be trusted",
        description="run the indicators on the strongest attack",
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random draws")

    @field_validator("eps", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("eps")
    @classmethod
    def _in_the_box(cls, value: tuple[float, ...], info: Any) -> tuple[float, ...]:
        greatest = GREATEST[info.data.get("norm", "Linf")]
        if not all(0 <= eps <= greatest for eps in value):
            raise ValueError(f"expected numbers from 0 to {greatest:g}")
        return tuple(sorted(set(value)))


@dataclass(frozen=True, eq=False)
class EvaluationView:
    """What the panel shows: the clean accuracy, the evaluation and the diagnosis so far.

    accuracy: over those of the images that have a label; None where none has.
    """

    accuracy: float | None
    images: int
    evaluation: Evaluation | None = None
    diagnosis: Diagnosis | None = None

    def summary(self) -> dict[str, Any]:
        """Plain numbers of the evaluation, and the worst level of the indicators."""
        row: dict[str, Any] = {"images": self.images, "clean_accuracy": self.accuracy}
        if self.evaluation is not None:
            row |= self.evaluation.summary()
        if self.diagnosis is not None:
            row["health"] = self.diagnosis.summary()["worst"]
        return row


class EvaluationPanel(Panel[EvaluationPanelParameters, EvaluationView]):
    """Choose attacks and radii; see the robust accuracy with intervals, and its health.

    Args and Raises: as of `Panel`; the parameters are `EvaluationPanelParameters`.
    """

    Params = EvaluationPanelParameters
    title = "Evaluation panel"
    follows = ("dataset", "model")
    action = ("Evaluate", "Attack the images")
    matter = ("attacks", "eps", "n")
    waits = True

    def check(self, params: EvaluationPanelParameters) -> None:
        """Check that there are such attacks, and that they fit."""
        self.battery(params)

    def battery(self, params: EvaluationPanelParameters) -> dict[str, Attack]:
        """The attacks by the names given, in the norm of the panel.

        Raises:
            ValueError: an attack that is not there, or does not fit the norm or the model.
        """
        battery, model = {}, self.selection.classifier()
        for code in params.attacks:
            attack = attacks.get(code)
            if "norm" in type(attack).model_fields:
                attack = attack.changed(norm=params.norm)
            reason = misfit(attack, params.norm, model)
            if reason:
                raise ValueError(f"{code}: {reason}")
            battery[code] = attack
        return battery

    def images(self) -> ImageDataset:
        """The images attacked: the first of the test split."""
        return self.selection.images()[: self.params.n]

    def peek(self) -> Iterator[Step[EvaluationView]]:
        """The clean accuracy of as many images as one pass takes, without an attack."""
        images = self.images()
        images = images[: models.batch_size(images.shape)]
        known = images[images.labels >= 0]
        right = self.selection.classifier().predict(known.images).label == known.labels
        accuracy = float(right.float().mean()) if len(known) else None
        yield Step(1, 1, "answered", EvaluationView(accuracy, len(images)))

    def steps(self) -> Iterator[Step[EvaluationView]]:
        """The evaluation, run by run, then the indicators, one by one."""
        params, model, images = self.params, self.selection.classifier(), self.images()
        battery = self.battery(params)
        view, halves = self.first(), 1 + params.health
        work = evaluate.steps(model, images, battery, eps=params.eps, seed=params.seed)
        view = yield from filled(view, "evaluation", work, of=halves)
        assert view.evaluation is not None
        accuracy = view.evaluation.summary()["clean_accuracy"]
        view = replace(view, accuracy=accuracy, images=len(images))
        yield Step(1, halves, "attacked", view)
        asked = strongest(view.evaluation, battery)
        if params.health and asked is not None:
            indicators = diagnose.steps(model, images[:ASKED], asked, seed=params.seed)
            yield from filled(view, "diagnosis", indicators, part=1, of=2, prefix="health: ")

    def draw(self, result: EvaluationView) -> str:
        """The curve to drag, its table, and what the indicators say beside that."""
        accuracy = f"{result.images:,} test images, whose classes the model does not know: nothing "
        accuracy += "is right or wrong, and attacks start from what the model says of each."
        if result.accuracy is not None:
            accuracy = f"Without an attack {result.accuracy:.1%} of {result.images:,} test images "
            accuracy += "are right."
        if result.evaluation is None:
            return section(f"<p>{accuracy}</p>", live("Press <b>Evaluate</b> to attack them."))
        curve = result.evaluation.curve()
        if curve["attack"].nunique() == 2:  # one attack is its own worst case
            curve = curve[curve["attack"] != "worst case"]
        title = f"<h4>Accuracy under attack ({self.params.norm})</h4>"
        blocks = [f"<div>{curve_table(curve)}{troubles(result.evaluation)}</div>"]
        if result.diagnosis is not None:
            about = f"<b>Can it be trusted?</b> Asked about {escape(result.diagnosis.attack)}:"
            health = health_table(result.diagnosis.findings).html
            blocks.append(column(f"<p>{about}</p>", health, width="36em"))
        return section(f"<p>{accuracy}</p>", title, self._curve(curve), row(*blocks))

    def _curve(self, curve: Any) -> str:
        """The curve to drag, or its room until there are two points; "" where one is all."""
        if curve.loc[curve["failed"] == 0, "eps"].nunique() > 1:
            return f'<div class="wb-drag-room">{drag_curve(curve).html}</div>'
        words = '<div class="wb-drag-room wb-live wb-soft">The curve begins at two points.</div>'
        return words if len(self.params.eps) > 1 else ""

    def code(self) -> str:
        """The calls that give the result shown."""
        p, battery = self.params, self.battery(self.params)
        seed = f", seed={p.seed}" if p.seed else ""
        made = ", ".join(f"{name!r}: {call_of(name, a)}" for name, a in battery.items())
        lines = [
            *self.code_head("from workbench import attacks, data, models, robustness"),
            f"images = images[:{p.n}]",
            f"battery = {{{made}}}",
            f"result = robustness.evaluate(model, images, battery, eps={list(p.eps)}{seed})",
        ]
        evaluation = self.result.evaluation if self.result is not None else None
        asked = strongest(evaluation, battery) if p.health and evaluation is not None else None
        if asked is not None:
            name = next(n for n, attack in battery.items() if type(attack) is type(asked))
            lines += [
                f"attack = {call_of(name, asked)}",
                f"health = robustness.diagnose(model, images[:{ASKED}], attack{seed})",
            ]
        return "\n".join(lines)

    # The controls.

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """The attacks that fit."""
        return {"attacks": self._attacks(self.params)}

    def _attacks(self, params: EvaluationPanelParameters) -> list[tuple[str, str]]:
        """The attacks that fit, and those that were given with parameters of their own."""
        model = self.selection.classifier()
        fit = {
            name: named(name, kind.title)
            for name, kind in attacks.available().items()
            if not misfit(attacks.get(name), params.norm, model)
        }
        given = {code: code for code in params.attacks}
        return [(label, name) for name, label in {**given, **fit}.items()]

    def taken(self, values: EvaluationPanelParameters) -> EvaluationPanelParameters:
        """In another norm, the attacks that fit it."""
        if values.norm != self.params.norm:
            model = self.selection.classifier()
            fit = [c for c in values.attacks if not misfit(attacks.get(c), values.norm, model)]
            values = values.model_copy(update={"attacks": tuple(fit) or ("PGD",)})
            self.form.choose_from("attacks", self._attacks(values), values.attacks)
            self.form.set(values)
        return values


def misfit(attack: Attack, norm: str, model: Classifier) -> str:
    """Why an attack has no place in an evaluation in `norm`; empty where it has one."""
    if not attack.keeps(norm):
        return f"it does not keep {norm} small"
    return attack.unfit(model, attacks.goal_for(torch.zeros(1).long(), None, len(model.classes)))


def strongest(evaluation: Evaluation, battery: dict[str, Attack]) -> Attack | None:
    """The attack with a budget that left least, at the largest radius that left anything."""
    curve = evaluation.curve()
    budget = [name for name, attack in battery.items() if "eps" in type(attack).model_fields]
    known = curve[curve["attack"].isin(budget) & (curve["failed"] == 0) & (curve["eps"] > 0)]
    if known.empty:
        return None
    some = known[known["robust_accuracy"] > 0]
    radius = (some if len(some) else known)["eps"].max()
    best = known[known["eps"] == radius].sort_values("robust_accuracy", kind="stable").iloc[0]
    return battery[best["attack"]].changed(eps=float(radius))


def curve_table(curve: Any) -> str:
    """The points of the curve as a table: a row an attack, a column an eps."""
    radii = sorted(set(curve["eps"]))
    rows = []
    for name, points in curve.groupby("attack", sort=False):
        cells = {
            p.eps: f"not known: it failed on {p.failed} images"
            if p.failed
            else f"{p.robust_accuracy:.1%}<br><small>{p.low:.1%} to {p.high:.1%}</small>"
            for p in points.itertuples()
        }
        rows.append([escape(str(name)), *(cells.get(eps, WAITING) for eps in radii)])
    head = ["attack", *(f"eps {eps:.3g}" for eps in radii)]
    html = table("Robust accuracy, with 95% intervals", rows, head)
    if len(rows) * len(radii) <= FEW:
        return html
    return f"<details><summary>All points, as a table</summary>{html}</details>"


def troubles(evaluation: Evaluation) -> str:
    """What went wrong, in words: attacks that raised, images that break a rule."""
    summary = evaluation.summary()
    lines = [f"An attack failed: {error}" for error in summary["errors"]]
    if summary["flawed"]:
        lines.append(f"{summary['flawed']} attacked images break a rule and count for nothing.")
    return "".join(f'<p role="alert">{escape(line)}</p>' for line in lines)
