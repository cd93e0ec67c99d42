"""`evaluate`: what attacks leave of a model's accuracy, image by image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import workbench
from workbench import steps
from workbench.attacks import Attack, AttackResult
from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.robustness.intervals import wilson
from workbench.robustness.verification import verify, within
from workbench.steps import Step

Attacks = Mapping[str, Attack] | Sequence[Attack]
WORST = "worst case"
TICKS = 100  # of progress a run


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model under attacks.

    rows: one row an image x attack x eps. `right`: before the attack; `robust`: 1 where
    nothing the attack tried within eps fools the model, 0 where something does, NaN where
    the attack raised (`error` says what); `flawed`: the attack's image breaks a rule (see
    `Verification`) and counts for nothing; `distance`: of the image found, in `norm`.
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
        """Clean accuracy, worst-case robust accuracy by eps, flawed images and errors."""
        images = self.rows.drop_duplicates("image")
        curve = self.curve()
        return {
            "model": self.model,
            "dataset": self.dataset,
            "images": len(images),
            "clean_accuracy": float(images["right"].mean()),
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


def evaluate(
    model: Classifier,
    dataset: ImageDataset,
    attacks: Attacks,
    *,
    eps: Sequence[float],
    seed: int = 0,
    output: str | Path | None = None,
) -> Evaluation:
    """Attack every image by every attack at every eps, untargeted.

    Attacks with a budget run once for each eps; the others run once, and what they find
    counts from the eps that reaches it. An attack that raises is a row without a value.

    output: a folder that keeps each finished run, so that a second call does only what is
    missing: another model, image, attack, eps or seed is another run. Errors are not kept.

    Raises:
        ValueError: no images, attacks or eps; an eps that is negative or not finite; data
            that do not fit the model; two attacks of one name; a damaged file in output.
    """
    work = evaluation_steps(model, dataset, attacks, eps=eps, seed=seed, output=output)
    return steps.run(work)


def evaluation_steps(
    model: Classifier,
    dataset: ImageDataset,
    attacks: Attacks,
    *,
    eps: Sequence[float],
    seed: int = 0,
    output: str | Path | None = None,
) -> Iterator[Step[Evaluation]]:
    """`evaluate` step by step; each Step holds the runs finished so far."""
    named, grid = names(attacks), sorted({float(e) for e in eps})
    if not grid or not all(isfinite(e) and e >= 0 for e in grid):
        raise ValueError(f"eps: expected one or more finite numbers of at least 0, got {eps}")
    if not len(dataset):
        raise ValueError("dataset: expected at least one image, got none")
    images = pd.DataFrame({"image": range(len(dataset)), "label": dataset.labels.tolist()})
    images["right"] = (model.predict(dataset.images).label == dataset.labels).tolist()
    runs = [run for name, attack in named.items() for run in plan(name, attack, grid)]
    subject = fingerprint(model, dataset)
    codes = {name: attack.code() for name, attack in named.items()}
    rows: list[pd.DataFrame] = []
    value = None
    for i, run in enumerate(runs):
        key = hashlib.sha256(f"{subject} {run.name} {run.attack.code()} {run.eps} {seed}".encode())
        path = None if output is None else Path(output) / f"{key.hexdigest()[:20]}.csv"
        error = ""
        if path is not None and path.exists():
            table = read(path, len(dataset))
        else:
            try:
                for step in run.attack.steps(model, dataset.images, dataset.labels, seed=seed):
                    done = TICKS * i + int(TICKS * step.done / max(1, step.total))
                    yield Step(done, TICKS * len(runs), run.name, value)
                table = measured(step.value, model, run)
            except Exception as raised:  # whatever an attack raises: a row, and never "robust"
                error = f"{type(raised).__name__}: {raised}"
                table = pd.DataFrame({"flawed": False, "distance": nan}, images.index)
            else:
                if path is not None:
                    write(table, path)
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


def measured(result: AttackResult, model: Classifier, run: Run) -> pd.DataFrame:
    """One row an image: what the attack found, by our own check of its images."""
    norm = run.attack.distance
    found = verify(result, model, **({} if run.eps is None else {"norm": norm, "eps": run.eps}))
    columns = {
        "flawed": found.flawed,
        "distance": result.norms[norm].double().masked_fill(~found.sound, nan),
        "predicted": result.predicted,
        "confidence": result.confidence.double(),
        **result.queries,
    }
    return pd.DataFrame({name: values.tolist() for name, values in columns.items()})


def judged(table: pd.DataFrame, eps: float) -> pd.DataFrame:
    """The rows of a run at one eps; a run that raised is not judged."""
    fooled = within(torch.tensor(table["distance"].to_numpy(float)), eps).numpy()
    robust = (~fooled).astype(float)
    return table.assign(eps=eps, robust=np.where(table["error"] == "", robust, nan))


def fingerprint(model: Classifier, dataset: ImageDataset) -> str:
    """A hash of the model as printed, its weights, the images and the labels."""
    digest = hashlib.sha256(f"{workbench.__version__} {model}".encode())
    tensors = {**model.state_dict(), "images": dataset.images, "labels": dataset.labels}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
