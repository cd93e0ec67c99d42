"""Errors that name the argument, the value given, and what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROUNDING = 1e-6  # -1e-8 below zero is floating-point rounding, not an error


def unknown(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """The error for a name that is not there: suggests the nearest, lists the rest."""
    known = list(options)
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known[:20]) + (f", … ({len(known)} in all)" if len(known) > 20 else "")
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {listed or 'none'}.")


def images(
    x: torch.Tensor, input_shape: tuple[int, ...] | None = None, *, name: str = "images"
) -> torch.Tensor:
    """Check `x` is float32 `(N, C, H, W)` in [0, 1] and return it.

    Rounding (at most 1e-6 outside) is clamped; anything else raises.

    Raises:
        TypeError: not a tensor, or not float32.
        ValueError: wrong shape, NaN, or values outside [0, 1].
    """
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype != torch.float32:
        advice = "divide by 255 and" if not x.is_floating_point() else "please"
        raise TypeError(f"{name}: expected float32 in [0, 1], got {x.dtype}; {advice} use .float()")
    if x.ndim != 4:
        raise ValueError(
            f"{name}: expected shape (N, C, H, W), got {tuple(x.shape)}; "
            "a single image needs a batch dimension: x[None]"
        )
    if input_shape is not None and tuple(x.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"{name}: expected images of shape {tuple(input_shape)}, got {tuple(x.shape[1:])}"
        )
    if x.numel() == 0:
        return x
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true for NaN
        raise ValueError(
            f"{name}: expected values in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "normalisation belongs inside the model (models.wrap(..., mean=, std=))"
        )
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def labels(y: torch.Tensor, n_classes: int, n: int | None = None, *, name: str = "labels") -> None:
    """Check `y` is int64 `(N,)` with values in [0, n_classes).

    Raises:
        TypeError: not a tensor, or not int64.
        ValueError: wrong shape or length, or a label outside the classes.
    """
    import torch

    if not isinstance(y, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(y).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64, got {y.dtype}; use .long()")
    if y.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), got {tuple(y.shape)}")
    if n is not None and len(y) != n:
        raise ValueError(f"{name}: expected {n} labels, one an image, got {len(y)}")
    if len(y) == 0:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= n_classes:
        raise ValueError(f"{name}: expected values in 0..{n_classes - 1}, got {low}..{high}")


def positive(name: str, value: int, *, least: int = 1) -> int:
    """Check `value` is a whole number of at least `least` and return it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value
