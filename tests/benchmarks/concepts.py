"""Concept extraction, steering and importance, in one run.

`python tests/benchmarks/concepts.py` prints a table and asserts nothing.
"""

from __future__ import annotations

import os
import time

import torch

from workbench import concepts, data, models
from workbench.concepts import attribution, dictionaries

LAYER, CROPS, CONCEPTS = "stage3_block1", 2000, 10


def main() -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model, images = models.load("shapes/resnet"), data.load("shapes", limit=1000).images
    found = {}
    for method in dictionaries.METHODS:
        begun = time.perf_counter()
        found[method] = concepts.extract(
            model, images, LAYER, method=method, n_crops=CROPS, n_concepts=CONCEPTS
        )
        seconds = time.perf_counter() - begun
        error = found[method].dictionary.error
        print(f"{method}: {CROPS} crops, {CONCEPTS} concepts: {seconds:.2f} s, error {error:.3f}")
    for method, one in found.items():
        one.steer(model, images[:1], {0: 0.0})
        begun = time.perf_counter()
        for k in range(CONCEPTS):
            one.steer(model, images[:1], {k: 0.0})
        print(f"{method}: a damped concept {(time.perf_counter() - begun) * 100:.0f} ms")
    for method in attribution.METHODS:
        begun = time.perf_counter()
        concepts.importance(found["nmf"], model, images[:60], method=method)
        print(f"{method}, 60 images: {time.perf_counter() - begun:.2f} s")


if __name__ == "__main__":
    main()
