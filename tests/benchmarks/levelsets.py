"""Traversals, planes and regions beside the bare model, in one run.

`python tests/benchmarks/levelsets.py` prints a table and asserts nothing. It uses MNIST where
it is in the data folder, else the digits.
"""

from __future__ import annotations

import os
import time
import tracemalloc

import torch
from torch.nn import functional as F

from workbench import data, levelsets, models
from workbench.levelsets import LevelSetTraversal
from workbench.models import Classifier

PAIRS, STEPS, SIDE = 200, 200, 201
NAME = "mnist" if data.present("mnist") else "digits"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model, images = models.load(f"{NAME}/cnn"), data.load(NAME, limit=1000)
    right = images[model.predict(images.images).label == images.labels]
    source, labels = right.images[:PAIRS], right.labels[:PAIRS]
    shifted = [(right.labels != k).nonzero().flatten() for k in labels]
    target = right.images[torch.stack([places[i] for i, places in enumerate(shifted)])]
    traversal(model, source, target, labels)
    plane(model, source[0])
    regions(source[0])


def traversal(
    model: Classifier, source: torch.Tensor, target: torch.Tensor, labels: torch.Tensor
) -> None:
    """All pairs at once, beside the bare gradients and beside one pair after the other."""
    method = LevelSetTraversal(n_steps=STEPS)
    begun = time.perf_counter()
    found = method(model, source, target, labels)
    ours = time.perf_counter() - begun
    begun = time.perf_counter()
    for step in range(STEPS):
        left = found.n_steps >= step
        if bool(left.any()):
            batch = source[left].requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(batch), labels[left]), batch)
    bare = time.perf_counter() - begun
    few = 10
    begun = time.perf_counter()
    for i in range(few):
        method(model, source[i : i + 1], target[i : i + 1], labels[i : i + 1])
    single = (time.perf_counter() - begun) / few * len(source)
    print(f"traversal, {len(source)} pairs x {STEPS} steps: {ours:.2f} s; bare {bare:.2f} s")
    print(f"  {ours / bare:.2f} x bare; one by one {single / ours:.1f} x (from {few} pairs)")


def plane(model: Classifier, x: torch.Tensor) -> None:
    """First picture and whole, beside bare forwards in the best batch size."""
    ways = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(0))
    at = levelsets.through(x, *ways, 10.0)
    points = at.grid(SIDE)
    bare = []
    for size in (128, 256, 512, 1024):
        batches = [at.images(part) for part in points.split(size)]
        begun = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        bare.append(time.perf_counter() - begun)
    begun, first = time.perf_counter(), 0.0
    for step in levelsets.plane.steps(model, at, SIDE):
        if step.value is not None and not first:
            first = time.perf_counter() - begun
    whole = time.perf_counter() - begun
    print(f"plane, {SIDE} x {SIDE}: first picture {first * 1000:.0f} ms, whole {whole:.2f} s")
    print(f"  {whole / min(bare):.2f} x bare forwards ({min(bare):.2f} s)")


def regions(x: torch.Tensor) -> None:
    """Exact regions of the 256-256 MLP (of the digits' MLP without MNIST)."""
    model = models.load(f"{NAME}/mlp")
    ways = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(0))
    for extent in (1.0, 2.0, 4.0, 8.0):
        at = levelsets.through(x, *ways, extent)
        begun = time.perf_counter()
        found = levelsets.regions(model, at)
        seconds = time.perf_counter() - begun
        tracemalloc.start()
        levelsets.regions(model, at)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        n = len(found.polygons)
        print(
            f"regions, {NAME}/mlp, extent {extent:g}: {n} in {seconds:.2f} s, peak {peak:.0f} MiB"
        )


if __name__ == "__main__":
    main()
