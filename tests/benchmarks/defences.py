"""Every defence of the bench: clean, under images made without it, and under attacks that know it.

Mean over three trainings, and in brackets the lowest and highest 95 % bound of them. A treatment
that trains is beside the same recipe without it, a change beside the model that it changes. Run:
python tests/benchmarks/defences.py [NAME ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from workbench import data, models, treatments
from workbench.models import Classifier
from workbench.robustness import Defences, compare_defences
from workbench.treatments import Change, Treatment

SEEDS, IMAGES = (1, 2, 3), 100
PLANS = {  # the first whose images a defence fits; radius of the attacks
    "digits": (
        models.Recipe(
            dataset="digits",
            architecture="cnn",
            options={"channels": (16, 32)},
            epochs=30,
            lr=4e-3,
            shift=1,
        ),
        0.1,
    ),
    "shapes": (
        models.Recipe(
            dataset="shapes",
            architecture="resnet",
            options={"width": 8},
            epochs=3,
            lr=5e-3,
        ),
        4 / 255,
    ),
}


def made(stage: Treatment, name: str, seed: int) -> tuple[Classifier, Classifier]:
    """The undefended control, and the defence."""
    plan, training = PLANS[name][0].changed(seed=seed), data.load(name, "train")
    control = models.fit(plan, training, name="control", device="cpu").model
    if isinstance(stage, Change):
        return control, stage(control, training, seed=seed).model
    hooks = {"treatments": [stage], "name": stage.code()}
    return control, models.fit(plan, training, device="cpu", **hooks).model


def home(stage: Treatment) -> str:
    """The first data set whose images a defence fits."""
    for name, (plan, _) in PLANS.items():
        sample = data.load(name, "train")
        subject = models.fit(plan.changed(epochs=1), sample[:64], device="cpu").model
        if not stage.unfit(subject if isinstance(stage, Change) else plan, sample):
            return name
    raise ValueError(f"{stage.code()} fits none of {', '.join(PLANS)}")


def tables(stage: Treatment, name: str) -> Iterator[Defences]:
    """The table of each training."""
    for seed in SEEDS:
        pair = dict(zip(("control", "defence"), made(stage, name, seed), strict=True))
        images = data.load(name)[:IMAGES]
        yield compare_defences(pair, images, eps=PLANS[name][1], seed=seed)


def cell(told: list[Defences], row: str, column: str) -> str:
    """A mean with its bounds."""
    found = [t.frame().set_index(["defence", "attack"]).loc[(row, column)] for t in told]
    mean = sum(f["accuracy"] for f in found) / len(found)
    low, high = min(f["low"] for f in found), max(f["high"] for f in found)
    return f"{mean:6.1%} [{low:.0%}, {high:.0%}]"


def main() -> None:
    """Print a row for each defence and each control."""
    torch.set_num_threads(1)
    known = [name for name, kind in treatments.available().items() if kind.defends]
    print(f"{'':34}{'clean':>18}{'unknowing':>18}{'knowing':>18}  indicators")
    for code in sys.argv[1:] or known:
        stage = treatments.get(code)
        name = home(stage)
        told = list(tables(stage, name))
        for row, label in (("control", f"  {name}, without"), ("defence", stage.code())):
            cells = (cell(told, row, column) for column in ("clean", "unknowing", "knowing"))
            words = sorted({w for t in told for w in t.warnings(row)})
            print(f"{label:34}{''.join(f'{c:>18}' for c in cells)}  {'; '.join(words) or 'green'}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
