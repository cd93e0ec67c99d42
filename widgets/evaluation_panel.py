"""`EvaluationPanel`: how much accuracy attacks leave, and whether to trust the figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal, cast

import ipywidgets as ipw
import torch
from pydantic import Field, field_validator

from workbench import attacks, models
from workbench.attacks import Attack
from workbench.data import ImageDataset
from workbench.figures import health_table, robustness_curve
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.robustness import Diagnosis, Evaluation, diagnose, evaluate
from workbench.steps import Step

from .attack_panel import named
from .form import Form
from .panel import Panel, guarded

ASKED = 200  # images at most for the indicators, which run the attack some fifteen times
HALF = 1000  # of the progress bar: the evaluation, then the indicators
WAITING = "not yet run"
GREATEST = {"Linf": 1.0, "L2": 100.0}


class EvaluationPanelParameters(Parameters):
    """What `EvaluationPanel` does beside the data and the model."""

    attacks: tuple[str, ...] = Field(
        ("FGSM", "PGD"), min_length=1, description="attacks, such as PGD or PGD(n_steps=100)"
    )
    norm: Literal["Linf", "L2"] = Field("Linf", description="norm of the perturbation")
    eps: tuple[float, ...] = Field(
        (0.05, 0.1, 0.15), min_length=1, description="radii, with commas between them"
    )
    n: int = Field(100, ge=1, le=100_000, description="test images, the first ones")
    health: bool = Field(True, description="ask the indicators about the strongest attack")
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

    Args:
        dataset, model, selection: as `ModelPanel` takes them.
        parameters: see `EvaluationPanelParameters`.

    Raises:
        ValueError: an unknown name, or a value out of bounds.
    """

    Params = EvaluationPanelParameters
    title = "Evaluation panel"
    follows = ("dataset", "model")

    def check(self, params: EvaluationPanelParameters) -> None:
        """Check that there are such attacks, and that they fit."""
        self.battery(params)

    def battery(self, params: EvaluationPanelParameters) -> dict[str, Attack]:
        """The attacks by the names given, in the norm of the panel.

        Raises:
            ValueError: an attack that is not there, or does not fit the norm or the model.
        """
        named, model = {}, self.selection.classifier()
        for code in params.attacks:
            attack = attacks.get(code)
            if "norm" in type(attack).model_fields:
                attack = attack.changed(norm=params.norm)
            reason = misfit(attack, params.norm, model)
            if reason:
                raise ValueError(f"{code}: {reason}")
            named[code] = attack
        return named

    # The work.

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
        view = next(self.peek()).value
        assert view is not None
        total = HALF * (2 if params.health else 1)
        work = evaluate.steps(model, images, battery, eps=params.eps, seed=params.seed)
        for step in work:
            view = replace(view, evaluation=step.value)
            yield Step(HALF * step.done // max(1, step.total), total, step.message, view)
        assert view.evaluation is not None
        accuracy = view.evaluation.summary()["clean_accuracy"]
        view = replace(view, accuracy=accuracy, images=len(images))
        yield Step(HALF, total, "attacked", view)
        asked = strongest(view.evaluation, battery)
        if params.health and asked is not None:
            for found in diagnose.steps(model, images[:ASKED], asked, seed=params.seed):
                view = replace(view, diagnosis=found.value)
                done = HALF + HALF * found.done // max(1, found.total)
                yield Step(done, total, f"health: {found.message}", view)

    # The picture.

    def draw(self, result: EvaluationView) -> str:
        """The curve with intervals and its table, and what the indicators say beside them."""
        font = "font-family:system-ui,sans-serif"
        accuracy = f"{result.images:,} test images, whose classes the model does not know: nothing "
        accuracy += "is right or wrong, and attacks start from what the model says of each."
        if result.accuracy is not None:
            accuracy = f"{result.accuracy:.1%} of {result.images:,} test images right, unattacked."
        if result.evaluation is None:
            return f'<p style="{font}">{accuracy} Press <b>Evaluate</b> to attack them.</p>'
        curve = result.evaluation.curve()
        if curve["attack"].nunique() == 2:  # one attack is its own worst case
            curve = curve[curve["attack"] != "worst case"]
        health = ""
        if result.diagnosis is not None:
            asked = escape(result.diagnosis.attack)
            found = health_table(result.diagnosis.findings).html
            health = (
                '<div style="flex:1 1 22em;max-width:36em"><p><b>Can it be trusted?</b> '
                f"Asked about {asked}:</p>{found}</div>"
            )
        picture = robustness_curve(curve).html
        return (
            f'<p style="{font}">{accuracy}</p><div style="{font};display:flex;flex-wrap:wrap;'
            'gap:16px;align-items:flex-start;line-height:1.4">'
            f"<div><p>Robust accuracy over eps ({self.params.norm})</p>{picture}"
            f"{curve_table(curve)}{troubles(result.evaluation)}</div>{health}</div>"
        )

    def code(self) -> str:
        """The calls that give the result shown."""
        s, p = self.selection, self.params
        battery = ", ".join(f"{name!r}: attacks.{a.code()}" for name, a in self.battery(p).items())
        seed = f", seed={p.seed}" if p.seed else ""
        lines = [
            "from workbench import attacks, data, models, robustness",
            "",
            f"images = {s.code('dataset')}[:{p.n}]",
            f"model = {s.code('model')}",
            f"battery = {{{battery}}}",
            f"result = robustness.evaluate(model, images, battery, eps={list(p.eps)}{seed})",
        ]
        view = self.result
        if p.health and view is not None and view.evaluation is not None:
            asked = strongest(view.evaluation, self.battery(p))
            if asked is not None:
                lines += [
                    f"attack = attacks.{asked.code()}",
                    f"health = robustness.diagnose(model, images[:{ASKED}], attack{seed})",
                ]
        return "\n".join(lines)

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        state = super().state()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in state.items()}

    # The controls.

    def controls(self) -> ipw.Widget:
        """Attacks, radii, images; the button."""
        self.form = Form(self.params, choices={"attacks": self._choices(self.params)})
        self.form.observe(guarded(self, self._form_changed))
        return ipw.VBox([self.form.widget, self.button("Evaluate", "Attack the images")])

    def _choices(self, params: EvaluationPanelParameters) -> list[tuple[str, str]]:
        """The attacks that fit, and those that were given with parameters of their own."""
        model = self.selection.classifier()
        fit = {
            name: named(name, kind.title)
            for name, kind in attacks.available().items()
            if not misfit(attacks.get(name), params.norm, model)
        }
        given = {code: code for code in params.attacks}
        return [(label, name) for name, label in {**given, **fit}.items()]

    def _form_changed(self, values: Parameters) -> None:
        params = cast("EvaluationPanelParameters", values)
        if params.norm != self.params.norm:
            kept = tuple(
                code
                for code in params.attacks
                if not misfit(attacks.get(code), params.norm, self.selection.classifier())
            )
            params = params.model_copy(update={"attacks": kept or ("PGD",)})
            self.form.choose_from("attacks", self._choices(params), params.attacks)
            self.form.set(params)
        self.battery(params)
        self.params = params
        self.start(self.peek())

    def followed(self, change: Any) -> None:
        """The selection changed: say the clean accuracy, attack nothing."""
        self.start(self.peek())


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
    cell = 'style="text-align:left;padding:2px 12px 2px 0"'
    radii = sorted(set(curve["eps"]))
    head = "".join(f'<th scope="col" {cell}>eps {eps:.3g}</th>' for eps in radii)
    rows = []
    for name, points in curve.groupby("attack", sort=False):
        said = {
            p.eps: f"not known: it failed on {p.failed} images"
            if p.failed
            else f"{p.robust_accuracy:.1%}<br><small>{p.low:.1%} to {p.high:.1%}</small>"
            for p in points.itertuples()
        }
        cells = "".join(f"<td {cell}>{said.get(eps, WAITING)}</td>" for eps in radii)
        rows.append(f'<tr><th scope="row" {cell}>{escape(str(name))}</th>{cells}</tr>')
    return (
        '<table style="font-size:13px;border-collapse:collapse">'
        '<caption style="text-align:left">Robust accuracy, with 95% intervals</caption>'
        f"<tr><th {cell}>attack</th>{head}</tr>{''.join(rows)}</table>"
    )


def troubles(evaluation: Evaluation) -> str:
    """What went wrong, in words: attacks that raised, images that break a rule."""
    summary = evaluation.summary()
    said = [f"An attack failed: {error}" for error in summary["errors"]]
    if summary["flawed"]:
        said.append(f"{summary['flawed']} attacked images break a rule and count for nothing.")
    return "".join(f'<p role="alert">{escape(line)}</p>' for line in said)
