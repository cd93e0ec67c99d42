"""`ImageDataset`: images, labels and classes, held to the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import checks
from workbench.data import arrays

if TYPE_CHECKING:
    import pandas as pd
    import torch


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with their labels.

    images: float32 `(N, C, H, W)` in [0, 1]; labels: int64 `(N,)`, -1 where the class is not
    known; classes: the names of the classes (see `checks.class_names`); factors: what each
    image was generated from, one row an image; named: False where `classes` are mere numbers
    that stand for names nobody gave (see `models.matched`); space: of points that are no images.

    Raises:
        TypeError, ValueError: images or labels break the contract.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str = "my data"
    split: str = "test"
    factors: pd.DataFrame | None = None
    named: bool = True
    space: Any = None  # an InputSpace

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checks.class_names(self.classes))
        object.__setattr__(self, "images", checks.images(self.images))
        checks.labels(self.labels, len(self.classes), len(self.images), unknown=True)
        n = len(self.images)
        if self.factors is not None and len(self.factors) != n:
            raise ValueError(f"factors: expected {n} rows, one an image, got {len(self.factors)}")

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        classes: Sequence[str] | Mapping[Any, Any] | None = None,
        *,
        name: str = "my data",
        split: str = "test",
        factors: pd.DataFrame | None = None,
    ) -> ImageDataset:
        """Make a data set from arrays, tensors or lists, which are copied.

        images: floats in [0, 1], uint8 in 0..255, uint16 in 0..65535, bool, or other whole
        numbers that can only be of 0..255; `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with
        1 or 3 channels; what looks like another scale or layout is said in a warning. labels:
        whole numbers `(N,)`, -1 where the class is not known, or names of classes; None where
        none is. classes: None for the names in `labels`, in order, or for the numbers.

        Raises:
            TypeError, ValueError: another dtype, shape, range or channel count; a label that
                is none of the classes.
        """
        import torch

        given = None if labels is None else arrays.plain("labels", labels)
        pixels = arrays.images(images, None if given is None else given.size)
        y, names, named = arrays.labels(given, len(pixels), classes)
        x = torch.from_numpy(np.ascontiguousarray(pixels))
        return cls(x, torch.from_numpy(y), names, name, split, factors, named)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        """A number gives `(image, label)`; a slice, mask or list gives an `ImageDataset`."""
        if not isinstance(index, slice):
            index = arrays.plain("index", index)
            if index.ndim == 0 and index.dtype.kind in "iu":
                return self.images[int(index)], int(self.labels[int(index)])
            if index.ndim != 1:
                raise IndexError(
                    f"index: expected a number, a slice, or a list, mask or array (N,), got {index}"
                )
            index = index if index.size else index.astype(np.int64)  # [] is of floats
        rows = np.arange(len(self))[index].copy()  # torch takes no steps back
        factors = None if self.factors is None else self.factors.iloc[rows].reset_index(drop=True)
        return replace(self, images=self.images[rows], labels=self.labels[rows], factors=factors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, `(C, H, W)`."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def sample(self, n: int, *, per_class: bool = False, seed: int = 0) -> ImageDataset:
        """`n` images drawn without replacement; with `per_class`, `n` of every class.

        Raises:
            ValueError: there are fewer than `n` (of some class, with `per_class`).
        """
        import torch

        checks.positive("n", n)
        generator = torch.Generator().manual_seed(seed)
        pools = {"the data set": torch.arange(len(self))}
        if per_class:
            if not self.classes:
                raise ValueError(f"per_class: {self.name} has no classes; leave it out")
            own = [(self.labels == k).nonzero().flatten() for k in range(len(self.classes))]
            pools = {f"class {n!r}": rows for n, rows in zip(self.classes, own, strict=True)}
        chosen = []
        for where, pool in pools.items():
            if n > len(pool):
                raise ValueError(f"n: {where} has {len(pool)} images, got n={n}")
            chosen.append(pool[torch.randperm(len(pool), generator=generator)[:n]])
        return self[torch.cat(chosen)]

    def batches(self, size: int = 512) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels in order, `size` at a time."""
        checks.positive("size", size)
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)

    def sha256(self) -> str:
        """Hash of the pixels (as 8-bit values) and labels: names exactly these images."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for images, labels in self.batches(4096):
            digest.update((images * 255).round().byte().numpy().tobytes())
            digest.update(labels.numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        c, h, w = self.shape
        return f"ImageDataset({self.name!r}, {self.split}: {len(self)} images {c}x{h}x{w})"
