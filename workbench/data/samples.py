"""Samples of MNIST and Fashion-MNIST that travel with the package, as many of each class.

`tests/make_samples.py` made them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.data.dataset import ImageDataset

FOLDER = Path(__file__).with_name("samples")
SPLITS = {"train": 2000, "test": 1000}


def load(name: str, classes: tuple[str, ...], split: str, limit: int | None) -> ImageDataset:
    """Images `(N, 1, 28, 28)` and labels of a sample, such as `mnist-sample`."""
    with np.load(FOLDER / f"{name}.npz") as arrays:  # no object arrays: nothing is unpickled
        images, labels = arrays[f"{split}_images"][:limit], arrays[f"{split}_labels"][:limit]
    return ImageDataset.from_arrays(images, labels, classes, name=name, split=split)
