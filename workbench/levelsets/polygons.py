"""Convex polygons, many at a time, cut along where the largest of some affine functions changes.

Affine functions `c0 + c1 s + c2 t` of a point (s, t) are arrays of coefficients `(3, ...)`. A
unit is K of them, `(3, K, ...)`, that compete with each other and with 0: number 0 wins where
all are negative, number k where the k-th of them is the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-12  # of a function's size: what is nearer to 0 counts as 0


@dataclass(frozen=True, eq=False)
class Polygons:
    """P convex polygons, counterclockwise.

    vertices: float64 `(P, V, 2)`; a polygon of fewer than V repeats its last one.
    counts: how many vertices each has, `(P,)`.
    """

    vertices: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: np.ndarray | slice) -> Polygons:
        return Polygons(self.vertices[rows], self.counts[rows])

    @property
    def real(self) -> np.ndarray:
        """Which vertices repeat no other, `(P, V)`."""
        return np.arange(self.vertices.shape[1]) < self.counts[:, None]

    @property
    def after(self) -> np.ndarray:
        """Where the vertex after each one is, `(P, V)`."""
        place = np.arange(1, self.vertices.shape[1] + 1)
        return np.where(place < self.counts[:, None], place, 0)

    @property
    def edges(self) -> np.ndarray:
        """From each vertex to the next, `(P, V, 2)`."""
        return np.take_along_axis(self.vertices, self.after[..., None], 1) - self.vertices

    def areas(self) -> np.ndarray:
        """`(P,)`."""
        return cross(self.vertices - self.vertices[:, :1], self.edges).sum(1) / 2

    def centres(self) -> np.ndarray:
        """The mean of each one's vertices, a point inside it: `(P, 2)`."""
        return (self.vertices * self.real[..., None]).sum(1) / self.counts[:, None]

    def clipped(self, z: np.ndarray) -> Polygons:
        """Each one's part where an affine function, z `(P, V)` at its vertices, is >= 0."""
        ahead = np.take_along_axis(z, self.after, 1)
        crossed = self.real & (z * ahead < 0)
        # Where an edge changes sign, z is linear on it: the zero is at z / (z - ahead).
        share = np.divide(z, z - ahead, out=np.zeros_like(z), where=crossed)
        points = np.stack([self.vertices, self.vertices + share[..., None] * self.edges], 2)
        kept = np.stack([self.real & (z >= 0), crossed], 2).reshape(len(z), 2 * z.shape[1])
        counts = kept.sum(1)
        order = np.argsort(~kept, axis=1, kind="stable")
        slots = np.minimum(np.arange(counts.max(initial=1)), counts[:, None] - 1)
        order = np.take_along_axis(order, slots, 1)[..., None]
        return Polygons(np.take_along_axis(points.reshape(*kept.shape, 2), order, 1), counts)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of vectors `(..., 2)`: positive where b points to the left of a."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def joined(parts: Sequence[Polygons]) -> Polygons:
    """All of them in one; at least one part."""
    width = max(part.vertices.shape[1] for part in parts)
    padding = [((0, 0), (0, width - part.vertices.shape[1]), (0, 0)) for part in parts]
    vertices = [np.pad(p.vertices, r, mode="edge") for p, r in zip(parts, padding, strict=True)]
    return Polygons(np.concatenate(vertices), np.concatenate([p.counts for p in parts]))


def values(coefs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Affine functions `(3, ...)` at points `(..., 2)`."""
    return coefs[0] + coefs[1] * points[..., 0] + coefs[2] * points[..., 1]


def rounding(coefs: np.ndarray) -> np.ndarray:
    """What counts as 0 in units `(3, K, ...)`: `(...)`."""
    return ROUNDING * np.abs(coefs).sum(0).max(0)


def winners(coefs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which number wins in units `(3, K, ...)` at points `(..., 2)`: the first of equals."""
    z = values(coefs, points)
    return np.where(z.max(0) > 0, 1 + z.argmax(0), 0)


def undecided(coefs: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Whether units `(3, K, ...)` change their winner inside polygons `(..., V, 2)`."""
    n, *shape = coefs.shape[1:]
    # Affine functions are largest at corners. A number that is never behind there wins all over.
    behind = np.zeros((n + 1, *shape))  # how far each number gets behind the winner
    for v in range(vertices.shape[-2]):
        z = values(coefs, vertices[..., v, :])
        top = np.maximum(z.max(0), 0)
        np.maximum(behind[0], top, out=behind[0])
        np.maximum(behind[1:], top - z, out=behind[1:])
    return behind.min(0) > rounding(coefs)


def cells(polygons: Polygons, coefs: np.ndarray) -> tuple[Polygons, np.ndarray, np.ndarray]:
    """Cut each of P polygons by a unit of its own, coefs `(3, K, P)`: a cell a winner.

    Returns the cells, the polygon that each comes from, and its winner.
    """
    pieces, tolerance = [], rounding(coefs)
    rivals = np.concatenate([np.zeros_like(coefs[:, :1]), coefs], 1)
    for j in range(rivals.shape[1]):
        part, rows = polygons, np.arange(len(polygons))
        for i in range(rivals.shape[1]):
            if i == j:
                continue
            z = values((rivals[:, j] - rivals[:, i])[:, rows, None], part.vertices)
            z[np.abs(z) <= tolerance[rows, None]] = 0
            # Number j's cell is where it beats each rival; where two are equal the first has it.
            alive = (z > 0).any(1) | ((z == 0).all(1) & (j < i))
            part, rows = part[alive].clipped(z[alive]), rows[alive]
        pieces.append((part, rows, np.full(len(rows), j)))
    parts, sources, numbers = zip(*pieces, strict=True)
    return joined(parts), np.concatenate(sources), np.concatenate(numbers)


def subdivided(polygons: Polygons, coefs: np.ndarray, limit: int) -> tuple[Polygons, np.ndarray]:
    """Cut P polygons until no unit of theirs, coefs `(3, K, P, n)`, changes its winner inside.

    Every round cuts each polygon by one of the units that it is undecided about, and hands
    the others on to those of its pieces that they cross. Returns the pieces and the polygon
    that each comes from. It stops early with more than `limit` pieces.
    """
    # Pairs of a polygon and a unit that is undecided in it, in the order of the polygons.
    owner, unit = np.nonzero(undecided(coefs, polygons.vertices[:, None]))
    origin, done, count = np.arange(len(polygons)), [], 0
    while len(owner) and count + len(polygons) <= limit:
        # A polygon without such a unit is done; of each other one the first unit cuts.
        open_, first, sizes = np.unique(owner, return_index=True, return_counts=True)
        settled = np.delete(np.arange(len(polygons)), open_)
        done.append((polygons[settled], origin[settled]))
        count += len(settled)
        polygons, source, _ = cells(polygons[open_], coefs[:, :, origin[open_], unit[first]])
        origin, remaining = origin[open_][source], (sizes - 1)[source]
        # Each piece takes over its polygon's other units: a copy of their stretch of `unit`.
        owner = np.repeat(np.arange(len(polygons)), remaining)
        offset = np.arange(len(owner)) - np.repeat(remaining.cumsum() - remaining, remaining)
        unit = unit[np.repeat(first[source] + 1, remaining) + offset]
        # Smaller pieces may lie off the line of a unit: it is decided there, and drops out.
        undecided_mask = undecided(coefs[:, :, origin[owner], unit], polygons.vertices[owner])
        owner, unit = owner[undecided_mask], unit[undecided_mask]
    parts, origins = zip(*done, (polygons, origin), strict=True)
    return joined(parts), np.concatenate(origins)
