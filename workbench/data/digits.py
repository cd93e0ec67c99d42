"""`digits`: 1,797 real 8x8 scans of handwritten digits, from scikit-learn's own files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from workbench.data.dataset import ImageDataset

CLASSES = tuple("0123456789")
SPLITS = {"train": 1437, "test": 360}
TEST_PER_CLASS = 36
SEED = 2016


def load(split: str, limit: int | None) -> ImageDataset:
    """Images `(N, 1, 8, 8)` in steps of 1/16, and labels."""
    found = find_spec("sklearn")  # its file alone: importing all of it takes two seconds
    if found is None or found.origin is None:
        raise FileNotFoundError("digits: install scikit-learn, which brings the images")
    table = np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    rows = split_rows(labels, split)[:limit]
    return ImageDataset.from_arrays(
        images[rows] / 16, labels[rows], CLASSES, name="digits", split=split
    )


def split_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Row numbers of a split, ascending: 36 images of each class are the test set.

    Raw bits of PCG64 rank the rows: numpy promises these never to change, unlike the
    draws made from them.
    """
    rank = np.random.PCG64(SEED).random_raw(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    for k in range(len(CLASSES)):
        members = np.flatnonzero(labels == k)
        is_test[members[np.argsort(rank[members])[:TEST_PER_CLASS]]] = True
    return np.flatnonzero(is_test == (split == "test"))
