"""The ten outlines of `shapes`, as signed distances: negative inside, zero on the edge.

Each takes coordinates (x to the right, y up) in which the shape just fits a circle of
radius 1. Only + - * / and square roots are used, which every machine rounds alike, so
that images have the same hash everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Points = list[tuple[float, float]]


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the origin (`np.hypot` rounds differently from machine to machine)."""
    return np.sqrt(x * x + y * y)


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A filled disc."""
    return length(x, y) - 0.9


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc with a wide hole."""
    return np.abs(length(x, y) - 0.68) - 0.24


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner with a disc on each upper side."""
    half_side, up = 0.54, y + 0.12
    offset = half_side / math.sqrt(2)
    diamond = (np.abs(x) + np.abs(up)) / math.sqrt(2) - half_side
    discs = length(np.abs(x) - offset, up - offset) - half_side
    return np.minimum(diamond, discs)


def crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc with a bite taken from its right."""
    return np.maximum(length(x, y) - 0.95, 0.75 - length(x - 0.45, y))


def polygon(corners: Points) -> Outline:
    """Signed distance to a closed polygon: nearest edge, and even-odd rule for the sign."""

    def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest = np.full(x.shape, np.inf, dtype=x.dtype)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            edge_x, edge_y = bx - ax, by - ay
            dx, dy = x - ax, y - ay
            along = (dx * edge_x + dy * edge_y) / (edge_x**2 + edge_y**2)
            along = np.clip(along, 0, 1)
            gap_x, gap_y = dx - along * edge_x, dy - along * edge_y
            nearest = np.minimum(nearest, gap_x * gap_x + gap_y * gap_y)
            if edge_y:  # a level edge is never crossed by a level ray
                inside ^= ((ay > y) != (by > y)) & (dx < dy * (edge_x / edge_y))
        return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(nearest)

    return outline


def spokes(radii: list[float]) -> Points:
    """Corners at equal angles, the first at the top, at the given distances."""
    angles = [math.pi / 2 + 2 * math.pi * k / len(radii) for k in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def mirrored(right: Points) -> Points:
    """A polygon that is its own mirror image, from its right half, top to bottom."""
    return right + [(-x, y) for x, y in reversed(right)]


OUTLINES: dict[str, Outline] = {
    "circle": circle,
    "ring": ring,
    "square": polygon(mirrored([(0.72, 0.72), (0.72, -0.72)])),
    "triangle": polygon(spokes([1.0, 1.0, 1.0])),
    "star": polygon(spokes([1.0, 0.42] * 5)),
    "cross": polygon(
        mirrored(
            [(0.28, 0.9), (0.28, 0.28), (0.9, 0.28), (0.9, -0.28), (0.28, -0.28), (0.28, -0.9)]
        )
    ),
    "heart": heart,
    "crescent": crescent,
    "arrow": polygon(
        [(-0.9, 0.25), (0.1, 0.25), (0.1, 0.7), (0.95, 0), (0.1, -0.7), (0.1, -0.25), (-0.9, -0.25)]
    ),
    "hourglass": polygon(mirrored([(0.7, 0.8), (0.14, 0), (0.7, -0.8)])),
}
