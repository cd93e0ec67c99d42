"""`evaluate`: what attacks leave of a model's accuracy, image by image."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.attacks import Attack, AttackResult
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, measurable
from workbench.robustness import keys
from workbench.robustness.auditing import verification, within
from workbench.robustness.intervals import wilson
from workbench.steps import Step, work

Attacks = Mapping[str, Attack] | Sequence[Attack]
WORST = "worst case"
TICKS = 100  # of progress a run


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model under attacks.

    rows: one row an image x attack x eps. `label`: as the model numbers its classes, -1 where
    none is known; `right`: before the attack, NA where there is no label; `robust`: 1 where
    nothing the attack tried within eps fools the model, 0 where something does, NaN where
    the attack raised (`error` says what); `flawed`: the attack's image breaks a rule (see
    `Audit`) and counts for nothing; `distance`: of the image found, in `norm`.
    An image without a label is fooled where the model no longer says what it said at first.
    """

    model: str
    dataset: str
    seed: int
    attacks: dict[str, str]
    rows: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """The rows."""
        return self.rows.copy()

    def curve(self, *, level: float = 0.95) -> pd.DataFrame:
        """Robust accuracy by attack and eps, and over all attacks in one norm ("worst case").

        low, high: Wilson's interval. An attack that raised has no rate, and leaves the worst
        case without one: what it would have fooled is not known.
        """
        # Fooled (0) beats not known (0.5), which beats robust (1).
        known = self.rows.assign(robust=self.rows["robust"].fillna(0.5))
        worst = known.groupby(["norm", "eps", "image"], as_index=False)["robust"].min()
        both = pd.concat([known, worst.assign(attack=WORST)])
        points = []
        for place, group in both.groupby(["attack", "norm", "eps"], sort=False):
            robust, failed = int((group["robust"] == 1).sum()), int((group["robust"] == 0.5).sum())
            rate = (robust / len(group), *wilson(robust, len(group), level))
            points.append((*place, *((nan, nan, nan) if failed else rate), len(group), failed))
        names = ["attack", "norm", "eps", "robust_accuracy", "low", "high", "images", "failed"]
        return pd.DataFrame(points, columns=names)

    def summary(self) -> dict[str, Any]:
        """Clean accuracy, worst-case robust accuracy by eps, flawed images and errors.

        unlabelled: images that are not in the clean accuracy, which is None where all are.
        """
        images = self.rows.drop_duplicates("image")
        known = images["right"].notna()
        curve = self.curve()
        return {
            "model": self.model,
            "dataset": self.dataset,
            "images": len(images),
            "unlabelled": int((~known).sum()),
            "clean_accuracy": float(images["right"].mean()) if known.any() else None,
            **{
                f"robust_accuracy_{p.norm}_{p.eps:g}": None if p.failed else p.robust_accuracy
                for p in curve[curve["attack"] == WORST].itertuples()
            },
            "flawed": int(self.rows["flawed"].sum()),
            "errors": sorted(set(self.rows["error"]) - {""}),
        }


class Run(NamedTuple):
    """An attack to run once: at its budget eps, or without one; and the eps it speaks of."""

    name: str
    attack: Attack
    eps: float | None
    grid: list[float]


@work
def evaluate(
    model: Classifier,
    dataset: ImageDataset,
    attacks: Attacks,
    *,
    eps: Sequence[float],
    seed: int = 0,
    output: str | Path | None = None,
) -> Iterator[Step[Evaluation]]:
    """Attack every image by every attack at every eps, untargeted.

    Attacks with a budget run once for each eps; the others run once, and what they find
    counts from the eps that reaches it. An attack that raises is a row without a value.

    dataset: its classes are the model's by name (see `models.matched`); an image without a
    label is attacked from what the model says of it.

    output: a folder that keeps each finished run, so that a second call does only what is
    missing: another model, image, attack, eps or seed is another run. A model counts by what
    it answers, one's own attack by its code and all that it names; where that cannot be
    followed, or something draws at random, a warning says so, and nothing is kept. Nor are
    errors.

    Raises:
        ValueError: no images, attacks or eps; an eps that is negative or not finite; data
            that do not fit the model (see `models.measurable`); two attacks of one name; a
            damaged file in output.
    """
    named, grid = names(attacks), sorted({float(e) for e in eps})
    if not grid or not all(isfinite(e) and e >= 0 for e in grid):
        raise ValueError(f"eps: expected one or more finite numbers of at least 0, got {eps}")
    if not len(dataset):
        raise ValueError("dataset: expected at least one image, got none")
    dataset = measurable(dataset, model, labels=False)
    runs = [run for name, attack in named.items() for run in plan(name, attack, grid)]
    logits = yield from answers(model, dataset.images, TICKS * len(runs))
    images, start = first_rows(dataset.labels, logits.argmax(1))
    store = Store(None if output is None else Path(output), seed)
    if output is not None:
        yield from store.open(model, dataset, logits, TICKS * len(runs))
    codes = {name: attack.code() for name, attack in named.items()}
    rows: list[pd.DataFrame] = []
    value = None
    for i, run in enumerate(runs):
        tick = partial(progress, TICKS * i, TICKS * len(runs), value)
        table, error = yield from attempt(run, model, dataset.images, start, store, tick)
        facts = {"attack": run.name, "norm": run.attack.distance, "error": error}
        table = images.join(table).assign(**facts)
        rows += [judged(table, e) for e in run.grid]
        value = Evaluation(
            model.card.name, dataset.name, seed, codes, pd.concat(rows, ignore_index=True)
        )
        yield Step(TICKS * (i + 1), TICKS * len(runs), run.name, value)


def names(attacks: Attacks) -> dict[str, Attack]:
    """The attacks by name: their class, or their whole call where two share a class."""
    named = attacks
    if not isinstance(attacks, Mapping):
        kinds = [type(attack).__name__ for attack in attacks]
        named = {
            kind if kinds.count(kind) == 1 else attack.code(): attack
            for kind, attack in zip(kinds, attacks, strict=True)
        }
    if not named or len(named) < len(attacks) or WORST in named:
        raise ValueError(
            f"attacks: expected one or more, each with a name of its own other than {WORST!r}, "
            f"got {list(attacks)}; give a mapping from names to attacks"
        )
    return dict(named)


def plan(name: str, attack: Attack, grid: list[float]) -> list[Run]:
    """The runs an attack needs: one for each eps where it has a budget, else one for all."""
    if "eps" not in type(attack).model_fields:
        return [Run(name, attack, None, grid)]
    return [Run(name, attack.changed(eps=e), e, [e]) for e in grid]


def progress(
    start: int, total: int, value: Evaluation | None, done: int, message: str
) -> Step[Evaluation]:
    """A step of one run, as one of all runs."""
    return Step(start + done, total, message, value)


def attempt(
    run: Run,
    model: Classifier,
    x: torch.Tensor,
    labels: torch.Tensor,
    store: Store,
    tick: Callable[[int, str], Step[Evaluation]],
) -> Generator[Step[Evaluation], None, tuple[pd.DataFrame, str]]:
    """The table of a run, kept or made now, and what the attack raised, if it did."""
    path = store.path(run)
    if path is not None and path.exists():
        return read(path, len(x)), ""
    drawn = () if path is None else keys.draws()
    try:
        for step in run.attack.steps(model, x, labels, seed=store.seed):
            yield tick(int(TICKS * step.done / max(1, step.total)), run.name)
        for part in measured(step.value, model, run):
            table = part if part is not None else pd.DataFrame()
            yield tick(TICKS, f"{run.name}: checked")
    except Exception as raised:  # whatever an attack raises: a row, and never "robust"
        failed = pd.DataFrame({"flawed": False, "distance": nan}, range(len(x)))
        return failed, f"{type(raised).__name__}: {raised}"
    if path is not None and store.may_keep(run, drawn):
        write(table, path)
    return table, ""


def measured(result: AttackResult, model: Classifier, run: Run) -> Iterator[pd.DataFrame | None]:
    """One row an image: what the attack found, by our own check of its images.

    Yields None between two batches, and then the table.
    """
    norm = run.attack.distance
    budget = {} if run.eps is None else {"norm": norm, "eps": run.eps}
    audited = yield from verification(result, model, **budget)
    columns = {
        "flawed": audited.flawed,
        "distance": result.norms[norm].double().masked_fill(~audited.sound, nan),
        "predicted": result.predicted,
        "confidence": result.confidence.double(),
        **result.queries,
    }
    yield pd.DataFrame({name: values.tolist() for name, values in columns.items()})


def judged(table: pd.DataFrame, eps: float) -> pd.DataFrame:
    """The rows of a run at one eps; a run that raised is not judged."""
    fooled = within(torch.tensor(table["distance"].to_numpy(float)), eps).numpy()
    robust = (~fooled).astype(float)
    return table.assign(eps=eps, robust=np.where(table["error"] == "", robust, nan))


def first_rows(y: torch.Tensor, label: torch.Tensor) -> tuple[pd.DataFrame, torch.Tensor]:
    """One row an image, before any attack; and the classes that attacks start from, `(N,)`."""
    unknown = y < 0
    right: Any = (label == y).tolist()
    if bool(unknown.any()):
        right = pd.array(right, dtype="boolean")
        right[unknown.numpy()] = pd.NA
    rows = pd.DataFrame({"image": range(len(y)), "label": y.tolist(), "right": right})
    return rows, label.where(unknown, y)


def answers(
    model: Classifier, x: torch.Tensor, total: int
) -> Generator[Step[Evaluation], None, torch.Tensor]:
    """The logits of all images, batch by batch."""
    parts = []
    for part in x.split(batch_size(model.input_shape)):
        parts.append(model.predict(part).logits)
        yield Step(0, total, "images as they are")
    return torch.cat(parts)


class Store:
    """A folder of finished runs, each under the key of all that decides it; None keeps nothing."""

    def __init__(self, folder: Path | None, seed: int) -> None:
        self.folder, self.seed, self.subject, self.lost = folder, seed, "", set[str]()

    def open(
        self, model: Classifier, dataset: ImageDataset, logits: torch.Tensor, total: int
    ) -> Iterator[Step[Evaluation]]:
        """Find the key of the model and the images; where there is none, nothing is kept."""
        try:
            self.subject = yield from subject(model, dataset, logits, total)
        except keys.Undecided as reason:
            warnings.warn(f"output: nothing is kept: {model.card.name} {reason}", stacklevel=2)

    def path(self, run: Run) -> Path | None:
        """Where a run is kept; None where what decides it cannot be followed."""
        if self.folder is None or not self.subject:
            return None
        try:
            key = keys.key(self.subject, run.attack, run.eps, self.seed)
        except keys.Undecided as reason:
            self.refuse(run, str(reason))
            return None
        return self.folder / f"{key[:32]}.csv"

    def may_keep(self, run: Run, drawn: tuple[Any, ...]) -> bool:
        """Whether a run that has ended drew from no generator that others draw from too."""
        if keys.draws() != drawn:
            self.refuse(
                run, "it draws from a global generator, and so finds another thing each time"
            )
            return False
        return True

    def refuse(self, run: Run, reason: str) -> None:
        """Say why the runs of an attack are not kept, once."""
        if run.name not in self.lost:
            text = f"output: what {run.name} finds is computed each time, not kept: {reason}"
            warnings.warn(text, stacklevel=2)
        self.lost.add(run.name)


def subject(
    model: Classifier, dataset: ImageDataset, logits: torch.Tensor, total: int
) -> Generator[Step[Evaluation], None, str]:
    """A key of the images, and of the model by what it answers: to these, and to some near by.

    Its gradients are answers too, as attacks follow them. What it is made of counts as well,
    as far as that can be followed: no answers show what a model does elsewhere.

    Raises:
        Undecided: it answers differently each time.
    """
    few = max(1, min(8, batch_size(model.input_shape, copies=8)))
    x, draw = dataset.images[:few].clone(), torch.Generator().manual_seed(0)
    noise = torch.rand(x.shape, generator=draw, dtype=torch.float32) * 2 - 1
    answered: list[Any] = [logits, str(model), model.state_dict(), model.classes]
    for near in (x, *((x + r * noise.sign()).clamp(0, 1) for r in (0.02, 0.2)), noise.abs()):
        first, again = (model.predict(near).logits.nan_to_num() for _ in range(2))
        if not torch.equal(first, again):
            raise keys.Undecided("answers the same images differently each time")
        answered += [first, slopes(model, near)]
        yield Step(0, total, "the model as it is")
    try:
        return keys.key(dataset.images, dataset.labels, answered, model)
    except keys.Undecided:
        return keys.key(dataset.images, dataset.labels, answered)


def slopes(model: Classifier, x: torch.Tensor) -> torch.Tensor | str | None:
    """The gradient of a sum of the logits, each with its own weight, or why there is none."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.to(model.device, copy=True).requires_grad_()
        try:
            logits = model(x)
            weight = torch.linspace(0.5, 1, logits.shape[1], dtype=torch.float32)
            total = (logits * weight.to(logits)).sum()
            return torch.autograd.grad(total, x, allow_unused=True)[0]
        except RuntimeError as error:
            return str(error)


def read(path: Path, images: int) -> pd.DataFrame:
    """The table of a finished run.

    Raises:
        ValueError: not such a table, or not a row for each image.
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # what pandas raises for text that is no table
        raise ValueError(f"{path}: damaged ({error}); delete it to run it again") from None
    if "distance" not in table or len(table) != images:
        raise ValueError(f"{path}: damaged (not {images} rows); delete it to run it again")
    return table


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table in one stroke: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        table.to_csv(temporary, index=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
