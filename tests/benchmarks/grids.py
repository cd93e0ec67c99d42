"""What a grid costs: runs an hour on 1, 2 and 4 workers, bytes moved, and the plan they give.

`python tests/benchmarks/grids.py` prints tables and asserts nothing; it needs MNIST. The runs
evaluate a shipped model by 40 steps of PGD. `--runs` sets how many there are a measurement.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from workbench.reports import grids
from workbench.steps import run

DECLARED = 'model: str = "mnist/cnn-robust"\nn: int = 100\nseed: int = 0\n'
BODY = """
from workbench import attacks, data, figures, models, reports, robustness
images = data.load("mnist").sample(n, seed=seed)
found = robustness.evaluate(models.load(model), images, [attacks.PGD()], eps=[0.2], seed=seed)
reports.result(**found.summary())
figures.robustness_curve(found.curve())
"""
FEW, LOTS = 100, 2000  # images of a run alone
MODELS, IMAGES, CENTS = 10_000, 10_000, 4.0  # of the plan; cents an hour of one core


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        notebook = Path(home, "evaluate.ipynb")
        tagged = new_code_cell(DECLARED, metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[tagged, new_code_cell(BODY)]), notebook)
        alone = {}
        for n in (FEW, LOTS):
            job = jobs(notebook, {"n": [n], "seed": [1, 2, 3]})
            alone[n] = statistics.median(seconds(partial(grids.perform, one)) for one in job)
        sent, back = len(pickle.dumps(job[0])), len(pickle.dumps(grids.perform(job[0])))
        print(f"one run alone: {alone[FEW]:.2f} s at {FEW} images, {alone[LOTS]:.2f} s at {LOTS}")
        print(f"bytes moved a run: {sent:,} there, {back:,} back; weights and data: none")
        print("workers   seconds   runs an hour   per worker, against the first")
        first = 0.0
        for workers in options.workers:
            values = {"seed": range(options.runs)}
            work = grids.grid.steps(
                notebook,
                values,
                Path(home, str(workers)),
                executor=partial(grids.processes, workers),
            )
            begun = time.perf_counter()
            failed = run(work, progress=False).summary()["failed"]
            taken = time.perf_counter() - begun
            if failed:
                raise RuntimeError(f"{failed} runs failed: the times mean nothing")
            rate = 3600 * options.runs / taken
            first = first or rate / workers
            print(f"{workers:7} {taken:9.1f} {rate:14.0f} {rate / workers / first:12.2f}")
        image = (alone[LOTS] - alone[FEW]) / (LOTS - FEW)
        once = alone[FEW] - FEW * image
        hours = MODELS * (once + IMAGES * image) / 3600
        print(f"a run: {once:.2f} s and {image * 1000:.2f} ms an image")
        cost, moved = hours * CENTS / 100, MODELS * (sent + back) / 1e9
        print(f"{MODELS:,} models x {IMAGES:,} images: {hours:,.0f} core hours, {moved:.1f} GB,")
        print(f"{cost:,.0f} at {CENTS:g} cents an hour and core")


def jobs(notebook: Path, values: dict) -> list[grids.Job]:
    """The jobs of a grid that is not run."""
    made: list[grids.Job] = []
    steps, grids._steps = grids._steps, lambda found, *_: made.extend(found)
    try:
        grids.grid.steps(notebook, values, notebook.parent / "alone")
    finally:
        grids._steps = steps
    return made


def seconds(work) -> float:
    """The time one call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
