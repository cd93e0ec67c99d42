"""`compare_defences`: what is left of each defence without an attack, under images that were made
without it, and under attacks that know it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from workbench.attacks import APGD, PGD, Attack, AttackResult, Square
from workbench.data import ImageDataset
from workbench.models import Classifier, measurable, private_copy, ready
from workbench.robustness.diagnosis import Diagnosis, diagnose
from workbench.robustness.intervals import wilson
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

CLEAN, UNKNOWING, KNOWING = "clean", "unknowing", "knowing"
DIRECT, SOFTENED, BLACK_BOX = "gradient", "softened", "black box"  # the attacks that know
COLUMNS = (CLEAN, UNKNOWING, DIRECT, SOFTENED, BLACK_BOX, KNOWING)
# What shows that a defence hides its gradients, and costs few runs of the attack.
ASKED = (
    "same answer every time",
    "margin has gradients",
    "cross entropy has gradients",
    "many steps beat one",
    "unbounded fools all",
    "beats random noise",
    "beats black box",
    "beats transfer",
)


@dataclass(frozen=True)
class Cell:
    """A defence under one attack: the images `(N, C, H, W)` that it met, what it said of each
    `(N,)`, and whether that is right `(N,)`."""

    images: torch.Tensor
    predicted: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True, eq=False)
class Defences:
    """A table of defences and attacks, as far as it is filled.

    cells: by defence and column. `clean`: no attack; `unknowing`: images made for the first of
    the models, which is undefended; `gradient`: the attack on the defence itself; `softened`: on
    what it computes without rounding, draws and maxima (see `softened`), counted on the defence;
    `black box`: Square; `knowing`: for each image the worst of these three. health: what the
    indicators say of the attack on the defence itself, the first model being the one to transfer
    from. order: the names of the defences.
    """

    dataset: ImageDataset
    attack: str
    order: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    health: Mapping[str, Diagnosis] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row a cell: defence, attack, accuracy with its 95 % interval, images."""
        import pandas as pd

        rows = []
        for name in self.order:
            for column in COLUMNS:
                if (name, column) in self.cells:
                    right = self.cells[name, column].right
                    k, n = int(right.sum()), len(right)
                    rows.append((name, column, k / n, *wilson(k, n), n))
        names = ["defence", "attack", "accuracy", "low", "high", "images"]
        return pd.DataFrame(rows, columns=names)

    def accuracy(self, name: str, column: str) -> float | None:
        """The share of images that a defence gets right under an attack; None where not run."""
        cell = self.cells.get((name, column))
        return None if cell is None else float(cell.right.float().mean())

    def warnings(self, name: str) -> list[str]:
        """What speaks against the figures of a defence, in words; none where nothing does."""
        words = []
        unknowing, knowing = (self.accuracy(name, column) for column in (UNKNOWING, KNOWING))
        if unknowing is not None and knowing is not None and unknowing < knowing:
            words.append("images made without it fool it more often than the attacks that know it")
        if name in self.health:
            words += [f.name for f in self.health[name].findings if f.level in ("red", "error")]
        return words

    def summary(self) -> dict[str, Any]:
        """By defence: the accuracy in each column, and what speaks against it."""
        told: dict[str, Any] = {}
        for name in self.order:
            row = {c: self.accuracy(name, c) for c in COLUMNS if (name, c) in self.cells}
            told[name] = {**row, "warnings": self.warnings(name)}
        return told


def softened(model: Classifier) -> Classifier | None:
    """A copy that computes what an attacker who knows a defence differentiates.

    A module that rounds, draws or takes a maximum has a method `soften()` for it: straight
    through the rounding, the mean of the members in place of a vote. None where no module has.
    """
    copy = cast(Classifier, private_copy(model, share=True))
    hidden = [module for module in copy.modules() if hasattr(module, "soften")]
    for module in hidden:
        module.soften()
    return copy if hidden else None


@work
def compare_defences(
    models: Sequence[Classifier] | Mapping[str, Classifier],
    dataset: ImageDataset,
    *,
    attack: Attack | None = None,
    eps: float = 0.1,
    n_queries: int = 500,
    indicators: Sequence[str] = ASKED,
    seed: int = 0,
) -> Iterator[Step[Defences]]:
    """Attack the first of `models`, which is undefended, and each other without and with knowledge.

    dataset: images with labels, of the models' classes by name. attack: with a budget; APGD of 50
    steps inside Linf `eps` when None. n_queries: of Square for an image; 0 for none.

    Raises:
        ValueError: no models, two of one name, an attack without a budget, no images, or data
            that do not fit a model (see `models.measurable`).
    """
    named = by_name(models)
    attack = APGD(eps=eps, n_steps=50) if attack is None else attack
    if not hasattr(attack, "eps"):
        raise ValueError(f"attack: expected one with a budget, such as PGD(eps=0.1), got {attack}")
    if not len(dataset):
        raise ValueError("dataset: expected at least one image, got none")
    control = next(iter(named.values()))
    ours = {name: measurable(dataset, model) for name, model in named.items()}
    value = Defences(ours[next(iter(named))], attack.code(), tuple(named))
    total, made = 3 * len(named), None
    for row, (name, model) in enumerate(named.items()):
        ready(model)
        x, y = ours[name].images, ours[name].labels
        if made is None:  # to its end, so that what it finds carries over
            for step in to_its_end(attack).steps(control, x, y, seed=seed):
                yield Step(3 * row, total, f"{name}: {step.message}", value)
            assert step.value is not None
            made = carried(step.value, control)
        for column, images in ((CLEAN, x), (UNKNOWING, made)):
            value = with_cell(value, name, column, model, images, y)
        yield Step(3 * row + 1, total, f"{name}: knowing attacks", value)
        for column, run, subject in knowing(model, attack, n_queries):
            for step in run.steps(subject, x, y, seed=seed):
                yield Step(3 * row + 1, total, f"{name}, {column}: {step.message}", value)
            assert step.value is not None
            value = with_cell(value, name, column, model, carried(step.value, model), y)
            yield Step(3 * row + 1, total, f"{name}, {column}", value)
        value = with_worst(value, name)
        if indicators:
            asked = {"indicators": indicators, "surrogate": control if row else None}
            for asking in diagnose.steps(model, ours[name], attack, seed=seed, **asked):
                health = {**value.health, name: cast(Diagnosis, asking.value)}
                yield Step(3 * row + 2, total, f"{name}: {asking.message}", value)
            value = replace(value, health=health)
        yield Step(3 * row + 3, total, name, value)


def by_name(models: Sequence[Classifier] | Mapping[str, Classifier]) -> dict[str, Classifier]:
    """The models by name: as given, or by that of the card."""
    pairs = models.items() if isinstance(models, Mapping) else [(m.card.name, m) for m in models]
    named = dict(pairs)
    if not named or len(named) < len(models):
        names = [name for name, _ in pairs]
        raise ValueError(
            "models: expected one or more, each with a name of its own, "
            f"got {names}; give a mapping from names to models"
        )
    return named


def knowing(
    model: Classifier, attack: Attack, n_queries: int
) -> Iterator[tuple[str, Attack, Classifier]]:
    """The attacks that know a defence: column, attack, and the model that it asks."""
    if not attack.needs_gradient or not attack.unfit(model):
        yield DIRECT, attack, model
    if (soft := softened(model)) is not None:
        # Each of its images is tried on the defence itself: the best for the one may be no good
        # for the other, so it goes on to the end.
        yield SOFTENED, to_its_end(attack), soft
    if n_queries and attack.distance in ("Linf", "L2"):
        budget = {"norm": attack.distance, "eps": attack.eps}  # type: ignore[attr-defined]
        yield BLACK_BOX, Square(n_queries=n_queries, **budget), model


def to_its_end(attack: Attack) -> Attack:
    """The attack, going on with images already fooled; where it cannot, PGD of as many steps."""
    if "exhaustive" in type(attack).model_fields:
        return attack.changed(exhaustive=True)
    if not PGD.keeps(attack.distance):
        return attack
    budget = {"norm": attack.distance, "eps": attack.eps}  # type: ignore[attr-defined]
    return PGD(n_steps=getattr(attack, "n_steps", 40), exhaustive=True, **budget)


def carried(result: AttackResult, model: Classifier) -> torch.Tensor:
    """Of an attack on another model: its last image, which goes furthest, or where `model` is
    right about that, the first that it found."""
    right = model.predict(result.last).label.to(result.labels) == result.labels
    return result.x_adv.where(right[:, None, None, None], result.last)


def with_cell(
    value: Defences,
    name: str,
    column: str,
    model: Classifier,
    images: torch.Tensor,
    y: torch.Tensor,
) -> Defences:
    """The table with one cell more: a defence asked about images."""
    images = images.cpu()
    predicted = model.predict(images).label
    cell = Cell(images, predicted, predicted == y)
    return replace(value, cells={**value.cells, (name, column): cell})


def with_worst(value: Defences, name: str) -> Defences:
    """The table with the worst of the attacks that know a defence, image by image."""
    tried = [
        value.cells[name, c] for c in (DIRECT, SOFTENED, BLACK_BOX) if (name, c) in value.cells
    ]
    if not tried:
        return value
    worst = [tensor.clone() for tensor in vars(tried[0]).values()]
    for cell in tried[1:]:
        better = worst[-1] & ~cell.right
        for kept, tensor in zip(worst, vars(cell).values(), strict=True):
            kept[better] = tensor[better]
    return replace(value, cells={**value.cells, (name, KNOWING): Cell(*worst)})
