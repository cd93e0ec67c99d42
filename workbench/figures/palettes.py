"""Colours that stay apart for colour-blind readers, in print and in grey."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from workbench import checks
from workbench.figures.inputs import numbers

# Ten anchors of viridis (S. van der Walt and N. Smith 2015).
SEQUENTIAL = (
    "#440154", "#482878", "#3e4989", "#31688e", "#26828e",
    "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip
# Blue is negative, white is zero, orange is positive; equally dark at equal distance from zero.
DIVERGING = (
    "#0b3d78", "#2f77b4", "#7db1d9", "#c6dff1", "#ffffff",
    "#fbdcb8", "#f2a65a", "#cf6a0a", "#7d3a02",
)  # fmt: skip
# The colours of Okabe and Ito (2008), with a slate in place of their black, which a dark page
# swallows; then a violet and a brown. For normal and colour-blind eyes the three are as far from
# the others, and from a white and a dark page, as those are from each other.
CLASSES = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7",
    "#56B4E9", "#4B5A5A", "#F0E442", "#9933FF", "#873C1E",
)  # fmt: skip

SCALES = {"sequential": SEQUENTIAL, "diverging": DIVERGING}


def class_colour(k: int) -> str:
    """The colour of class `k`, always the same one; from class 10 on, colours repeat."""
    return CLASSES[checks.positive("k", k, least=0) % len(CLASSES)]


def rgb(colours: Sequence[str]) -> np.ndarray:
    """Colours "#rrggbb" as levels in 0..255: `(K, 3)`."""
    return np.array([list(bytes.fromhex(colour[1:])) for colour in colours])


def colourise(
    values: torch.Tensor | np.ndarray,
    scale: str = "sequential",
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Colour a map: `(H, W)` values become uint8 `(H, W, 3)`.

    scale: "sequential" or "diverging". limits: the values at the two ends of the scale;
    beyond them the end colours are used. Without limits: the smallest and largest value,
    and for "diverging" the largest magnitude on both sides of zero.
    """
    array = numbers("values", values, 2)
    low, high = scale_limits(array, scale, limits)
    anchors = rgb(SCALES[scale])
    at = np.linspace(low, high, len(anchors))
    channels = [np.interp(array, at, anchors[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def scale_limits(
    values: np.ndarray, scale: str, limits: tuple[float, float] | None = None
) -> tuple[float, float]:
    """The values at the two ends of the scale, the first below the second."""
    checks.known("scale", scale, SCALES)
    if limits is not None:
        low, high = limits
        ordered = low < high and np.isfinite([low, high]).all()
        if not ordered or (scale == "diverging" and low != -high):
            raise ValueError(
                "limits: expected (low, high) with low < high, and (-a, a) for a diverging "
                f"scale, got {limits!r}"
            )
        return low, high
    # A flat map takes the bottom colour, or the white of a diverging scale at zero.
    if scale == "diverging":
        most = float(np.abs(values).max()) or 1.0
        return -most, most
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1
