"""`diagnose`: every indicator asked about one attack on one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import isgenerator
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import checks
from workbench.attacks import Attack
from workbench.data import ImageDataset
from workbench.models import Classifier, measurable
from workbench.robustness.indicators import INDICATORS, Indicator, NotApplicable, Subject, Ticks
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("red", "error", "amber", "green", "not applicable")  # the worst first


class Finding(NamedTuple):
    """What one indicator says. level: one of LEVELS; figure: None where there is none."""

    name: str
    level: str
    figure: float | None
    says: str
    why: str
    remedy: str
    group: str


@dataclass(frozen=True)
class Diagnosis:
    """The findings, in the order of the registry."""

    model: str
    dataset: str
    attack: str
    findings: tuple[Finding, ...]

    def summary(self) -> dict[str, Any]:
        """The worst level, and the names of the indicators by level."""
        named = {lv: [f.name for f in self.findings if f.level == lv] for lv in LEVELS}
        worst = next((level for level in LEVELS if named[level]), "not applicable")
        facts = {"model": self.model, "dataset": self.dataset, "attack": self.attack}
        return {**facts, "worst": worst, **named}

    def frame(self) -> pd.DataFrame:
        """One row an indicator."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=list(Finding._fields))


@work
def diagnose(
    model: Classifier,
    dataset: ImageDataset,
    attack: Attack,
    *,
    indicators: Sequence[str] | None = None,
    surrogate: Classifier | None = None,
    seed: int = 0,
) -> Iterator[Step[Diagnosis]]:
    """Ask indicators (all by default) whether the attack's figure on the model can be trusted.

    dataset: its classes are the model's by name; of an image without a label counts what the
    model says of it. surrogate: another model of the same images, to transfer from. The whole
    takes about fifteen runs of the attack; some hundred images are enough.

    Raises:
        ValueError: no images, data that do not fit the model (see `models.measurable`), or an
            indicator that is not there. What an indicator raises is its finding, of level
            "error".
    """
    if not len(dataset):
        raise ValueError("dataset: expected at least one image, got none")
    chosen = list(INDICATORS) if indicators is None else list(indicators)
    for name in chosen:
        if name not in INDICATORS:
            raise checks.unknown("indicator", name, INDICATORS)
    dataset = measurable(dataset, model, labels=False)
    subject = Subject(model, dataset, attack, surrogate, seed)
    findings: list[Finding] = []

    def so_far() -> Diagnosis:
        return Diagnosis(model.card.name, dataset.name, attack.code(), tuple(findings))

    for done, name in enumerate(chosen):
        yield Step(done, len(chosen), name, so_far())
        work = examine(INDICATORS[name], subject)
        while True:
            try:
                tick = next(work)
            except StopIteration as end:
                findings.append(end.value)
                break
            yield Step(done, len(chosen), f"{name}: {tick.message}", so_far())
    yield Step(len(chosen), len(chosen), "done", so_far())


def examine(indicator: Indicator, subject: Subject) -> Ticks:
    """The finding of one indicator; whatever it raises is a finding too."""
    level, figure, says = "error", None, ""
    try:
        answer = indicator.check(subject)
        level, figure, says = (yield from answer) if isgenerator(answer) else answer
    except NotApplicable as reason:
        level, says = "not applicable", str(reason)
    except Exception as error:  # of a foreign model or attack: said, never passed over
        says = f"{type(error).__name__}: {error}"
    name, group, why, remedy, _ = indicator
    return Finding(name, level, figure, says, why, remedy, group)
