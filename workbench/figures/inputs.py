"""What every figure asks of its input (else it raises), and how figures write numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

SUM_TOLERANCE = 1e-3  # float16 softmax over a thousand classes strays this far from 1


def numbers(name: str, values: Any, ndim: int) -> np.ndarray:
    """Finite numbers with `ndim` dimensions as a float64 array, from a tensor or an array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: expected a tensor or array of numbers, got {type(values).__name__}"
        ) from None
    if array.ndim != ndim or array.size == 0:
        raise ValueError(
            f"{name}: expected {ndim} dimension(s) and a value at least, got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return array


def probabilities(values: Any) -> np.ndarray:
    """`(K,)` probabilities that sum to 1."""
    array = numbers("probabilities", values, 1)
    if array.min() < -SUM_TOLERANCE or abs(array.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"probabilities: expected values in [0, 1] that sum to 1, got "
            f"[{array.min():.4g}, {array.max():.4g}] with sum {array.sum():.4g}; "
            "logits need logits.softmax(-1)"
        )
    return array.clip(0, 1)


def class_names(classes: Sequence[str], n: int) -> list[str]:
    """The `n` class names as a list of strings."""
    if isinstance(classes, str) or len(classes) != n:
        raise ValueError(f"classes: expected {n} names, one a class, got {classes!r}")
    return [str(name) for name in classes]


def class_index(name: str, value: Any, n: int) -> int | None:
    """`value` as a class index in 0..n-1, or None."""
    if value is None:
        return None
    if value not in range(n):
        raise ValueError(f"{name}: expected a class index in 0..{n - 1}, got {value!r}")
    return int(value)


def percent(share: float) -> str:
    """A share as a percentage that never rounds to certainty: "71%", ">99%", "100%"."""
    if 0 < share <= 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.0%}"


def count(n: int, noun: str) -> str:
    """`n` and its noun: "1 image", "12 images", "2 classes"."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{n} {noun if n == 1 else plural}"
