"""`compare`: ways of training over seeds, each at a rate that one written rule has chosen."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, Diverged, Hooks, Recipe, Treated, fit, measurable
from workbench.robustness import paired
from workbench.steps import Step, work
from workbench.treatments.watching import Measure

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 5  # one in so many training images chooses the rate
LEDGER = ("images", "forwards", "backwards", "bytes_sent", "peak_activations")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Trainings by way and seed, as far as they are done.

    rows: as of `frame`. models: by (way, seed). rates: the learning rate of each way. tried: for
    each way and rate the cross-entropy on the training images held out; inf where it diverged.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    models: dict[tuple[str, int], Classifier] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    tried: dict[tuple[str, float], float] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row a (way, seed): rate, accuracy, losses, the ledger, the measures."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def of(self, way: str, column: str = "accuracy") -> list[float]:
        """A column of a way, seed by seed.

        Raises:
            ValueError: no such way or column.
        """
        values = [row[column] for row in self.rows if row["way"] == way and column in row]
        if not values:
            known = [*self.rates], [*(self.rows[0] if self.rows else ())]
            raise ValueError(f"{way!r}, {column!r}: expected a way and a column of {known}")
        return values

    def difference(
        self, a: str, b: str, column: str = "accuracy"
    ) -> tuple[float, tuple[float, float]]:
        """How far `a` lies above `b`: the mean over seeds, and its 95 % interval, paired."""
        return paired(self.of(a, column), self.of(b, column))

    @property
    def equal(self) -> list[str]:
        """The lines of the ledger in which all ways have spent the same."""
        return [name for name in LEDGER if len({row[name] for row in self.rows}) == 1]

    def summary(self) -> dict[str, Any]:
        """By way its rate and mean accuracy and loss; and what was equal."""
        means = {
            way: {"lr": rate}
            | {c: sum(v := self.of(way, c)) / len(v) for c in ("accuracy", "loss", "train_loss")}
            for way, rate in self.rates.items()
            if any(row["way"] == way for row in self.rows)
        }
        return {**means, "equal": self.equal if self.rows else []}


@work
def compare(
    ways: Mapping[str, Recipe | tuple[Recipe, Sequence[Hooks]]],
    training: ImageDataset,
    test: ImageDataset,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = (),
    measures: Mapping[str, Measure] | None = None,
) -> Iterator[Step[Comparison]]:
    """Train by each way with each seed, and measure on `test`: a Step a batch.

    ways: by name a recipe, or a recipe and further treatments. rates: learning rates to choose
    from, by one rule for all: lowest cross-entropy on a fifth of the training images, which is
    held out for it, in one training with a seed that is none of `seeds`; a rate that diverges
    loses. Without rates each keeps that of its recipe. measures: further columns.

    Raises:
        ValueError: no ways, no seeds, the same seed twice; data that do not fit; every rate of a
            way diverges.
    """
    if not ways or not seeds or len({*seeds}) < len(seeds):
        raise ValueError(f"ways, seeds: expected some, each seed once, got {[*ways]}, {seeds}")
    found = Comparison()
    pairs = {n: way if isinstance(way, tuple) else (way, ()) for n, way in ways.items()}
    total = len(pairs) * (len(rates) + len(seeds))
    numbered = iter(range(total))
    known, unseen = held_out(training) if rates else (training, test)
    for name, (plan, treatments) in pairs.items():
        found.rates[name] = plan.lr
        for rate in rates:
            trial = plan.changed(lr=rate, seed=max(seeds) + 1)
            try:
                work = one(trial, treatments, known, name, found, next(numbered), total)
                found.tried[name, rate] = score((yield from work).model, unseen)[1]
            except Diverged:
                found.tried[name, rate] = math.inf
        if rates:
            found.rates[name] = chosen(found, name, rates)
        for seed in seeds:
            final = plan.changed(lr=found.rates[name], seed=seed)
            work = one(final, treatments, training, name, found, next(numbered), total)
            enter(found, name, seed, (yield from work), test, measures or {})
    yield Step(total, total, "done", found)


def one(
    plan: Recipe,
    treatments: Sequence[Hooks],
    images: ImageDataset,
    name: str,
    found: Comparison,
    at: int,
    total: int,
) -> Generator[Step[Comparison], None, Treated]:
    """Training number `at` of `total`: its steps, and what comes of it."""
    value = None
    for step in fit.steps(plan, images, treatments=treatments, name=name):
        value = step.value
        message = f"{name}, lr {plan.lr:g}: {step.message}"
        # A training is a unit of work, of which each batch is a share.
        yield Step(at * step.total + step.done, total * step.total, message, found)
    assert value is not None, "a training gives a model"
    return value


def enter(
    found: Comparison,
    name: str,
    seed: int,
    treated: Treated,
    test: ImageDataset,
    measures: Mapping[str, Measure],
) -> None:
    """Enter a training into the table."""
    model, who = treated.model, {"way": name, "seed": seed, "lr": found.rates[name]}
    accuracy, loss = score(model, test)
    row = {"accuracy": accuracy, "loss": loss, "train_loss": treated.history[-1]["loss"]}
    own = {n: float(measure(model)) for n, measure in measures.items()}
    found.rows.append({**who, **row, **treated.ledger.summary(), **own})
    found.models[name, seed] = model


def held_out(training: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """The training images without every fifth of a fixed order, and these."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    out = len(training) // HELD_OUT
    if out == 0:
        raise ValueError(f"training: expected at least {HELD_OUT} images to choose a rate by")
    return training[order[out:]], training[order[:out]]


def chosen(found: Comparison, name: str, rates: Sequence[float]) -> float:
    """The rate with the lowest loss on the images held out; of equal ones the first.

    Raises:
        ValueError: all have diverged.
    """
    best = min(rates, key=lambda rate: found.tried[name, rate])
    if math.isinf(found.tried[name, best]):
        raise ValueError(f"rates: {name!r} diverges at each of {[*rates]}; try lower ones")
    return best


@torch.no_grad()
def score(model: Classifier, dataset: ImageDataset) -> tuple[float, float]:
    """Accuracy, and mean cross-entropy in nats, on the images with a label."""
    dataset, right, loss = measurable(dataset, model), 0, 0.0
    dataset = dataset[dataset.labels >= 0]
    for x, y in dataset.batches(500):
        logits, y = model(x.to(model.device)), y.to(model.device)
        right += int((logits.argmax(1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
    return right / len(dataset), loss / len(dataset)
