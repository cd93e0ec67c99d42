"""`Family`: many classifiers of one kind with what they cost, and the one that fits a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, Cost, Latency, cost, latency, measurable, measure
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = ("parameters", "nonzero", "bytes", "macs", "latency_ms")


@dataclass(frozen=True, eq=False)
class Member:
    """A classifier of a family: its cost, accuracy and latency, where these were measured."""

    name: str
    model: Classifier
    cost: Cost
    accuracy: float | None = None
    latency: Latency | None = None

    def spends(self, budget: str) -> float:
        """What it takes of a budget, one of `BUDGETS`.

        Raises:
            ValueError: milliseconds, which were not measured.
        """
        if budget != "latency_ms":
            return getattr(self.cost, budget)
        if self.latency is None:
            raise ValueError("latency_ms: no member was timed; make it by family(..., timed=True)")
        return self.latency.median


@dataclass(frozen=True, eq=False)
class Family:
    """Classifiers over the same classes, in the order given: widths, depths, bits, exits."""

    members: tuple[Member, ...]

    def __getitem__(self, name: str) -> Member:
        """The member called `name`.

        Raises:
            ValueError: there is none; the nearest name is suggested.
        """
        known = {member.name: member for member in self.members}
        if name not in known:
            raise checks.unknown("member", name, known)
        return known[name]

    def at(self, name: str) -> Classifier:
        """The classifier called `name`."""
        return self[name].model

    def within(self, **budgets: float) -> Classifier:
        """The most accurate member inside every budget; of equal ones, the one that spends least.

        budgets: parameters, nonzero, bytes, macs (all of one image) or latency_ms. Bytes are no
        milliseconds: each is its own budget.

        Raises:
            ValueError: an unknown budget; no member inside it, and which is the nearest; members
                of which no accuracy is known.
        """
        if not budgets:
            raise ValueError(f"budgets: expected one or more of {', '.join(BUDGETS)}, got none")
        for name in budgets:
            checks.known("budget", name, BUDGETS)
        spent = {m.name: {b: m.spends(b) for b in budgets} for m in self.members}
        over = {
            m.name: max(spent[m.name][b] / max(limit, 1e-12) for b, limit in budgets.items())
            for m in self.members
        }
        fitting = [m for m in self.members if over[m.name] <= 1]
        if not fitting:
            near = min(over, key=lambda name: over[name])
            has = ", ".join(f"{b}={v:,.4g}" for b, v in spent[near].items())
            asked = ", ".join(f"{b}={v:,.4g}" for b, v in budgets.items())
            raise ValueError(f"{asked}: no member is inside; the nearest is {near!r} with {has}")
        if any(m.accuracy is None for m in fitting):
            raise ValueError("accuracy: not measured; make the family with a data set")
        return min(fitting, key=lambda m: (-(m.accuracy or 0.0), over[m.name])).model

    def frame(self, by: str = "macs") -> pd.DataFrame:
        """One row a member: costs, accuracy, and `pareto`: no other is better at no more `by`."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for m in self.members:
            timed = m.latency.summary() if m.latency else {}
            rows.append({"member": m.name, "accuracy": m.accuracy, **m.cost.summary(), **timed})
        points = [(m.spends(by), m.accuracy or 0.0) for m in self.members]
        best = [
            not any((s <= spent and a > acc) or (s < spent and a >= acc) for s, a in points)
            for spent, acc in points
        ]
        return pd.DataFrame(rows).assign(pareto=best)

    def summary(self) -> dict[str, Any]:
        """By member, its accuracy and costs."""
        return {m.name: {"accuracy": m.accuracy, **m.cost.summary()} for m in self.members}


@work
def family(
    models: Mapping[str, Classifier], dataset: ImageDataset | None = None, *, timed: bool = False
) -> Iterator[Step[Family]]:
    """A family of classifiers, by name: `Treated.variants`, or treated models of a sweep.

    dataset: for their accuracies. timed: measure how long one image takes, on this machine.

    Raises:
        ValueError: no models, models of different classes, or data that do not fit them.
    """
    if not models:
        raise ValueError("models: expected one or more by name, got none")
    classes = {name: model.classes for name, model in models.items()}
    first = next(iter(classes))
    for name, own in classes.items():
        if own != classes[first]:
            raise ValueError(f"models: {name!r} and {first!r} have different classes")
    members: list[Member] = []
    for name, model in models.items():
        yield Step(len(members), len(models), name, Family(tuple(members)))
        counts = measure(model, dataset) if dataset is not None else {}
        accuracy = counts["test_correct"] / counts["test_total"] if counts else None
        time = latency(model) if timed else None
        members.append(Member(name, model, cost(model), accuracy, time))
    yield Step(len(members), len(models), "done", Family(tuple(members)))


def agreement(one: Classifier, other: Classifier, dataset: ImageDataset) -> pd.Series:
    """The share of images to which two models give the same answer, by class, and "all".

    dataset: of the class of each image its label; without labels "all" alone.

    Raises:
        ValueError: the models have different classes, or the data do not fit.
    """
    import pandas as pd

    if one.classes != other.classes:
        raise ValueError(f"other: expected the classes {one.classes}, got {other.classes}")
    dataset = measurable(dataset, one, labels=False)
    same = one.predict(dataset.images).label == other.predict(dataset.images).label
    shares = {"all": float(same.float().mean())}
    for k in dataset.labels[dataset.labels >= 0].unique().tolist():
        shares[one.classes[k]] = float(same[dataset.labels == k].to(torch.float32).mean())
    return pd.Series(shares, name=f"{one.card.name} and {other.card.name}")
