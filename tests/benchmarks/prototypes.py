"""Explanations beside the bare forward pass, and training from nothing, in one run.

`python tests/benchmarks/prototypes.py` prints a table and asserts nothing. Concepts have
a table of their own, `concepts.py`; the panel's clicks are in `panels.py`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from workbench import data, models, prototypes
from workbench.models import fit
from workbench.models.recipes import RECIPES


def main() -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    for name in ("digits/prototypes", "mnist/prototypes"):
        model = models.load(name)
        x = torch.rand(1000, *model.input_shape, generator=torch.Generator().manual_seed(0))
        bare = seconds(lambda m=model, z=x: m.predict(z))
        ours = seconds(lambda m=model, z=x: prototypes.explain(m, z))
        print(f"{name}: explanation of 1,000 images {ours * 1000:.1f} ms, {ours / bare:.2f} x bare")
    model = models.load("mnist/prob-prototypes")
    x = torch.rand(1000, *model.input_shape, generator=torch.Generator().manual_seed(0))
    doubt = seconds(lambda: prototypes.uncertainty(model, x))
    print(f"mnist/prob-prototypes: five uncertainties of 1,000 images {doubt:.2f} s")
    begun = time.perf_counter()
    found = fit(RECIPES["digits/prototypes"], data.load("digits", "train")).model
    taken, test = time.perf_counter() - begun, data.load("digits")
    right = float((found.predict(test.images).label == test.labels).float().mean())
    print(f"digits/prototypes from nothing: {taken:.1f} s, {right:.1%} of the test images")


def seconds(work: Callable[[], object], times: int = 9) -> float:
    """The median time of `work`, after one call to warm up."""
    work()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
