"""The exact linear regions of a piecewise-linear classifier in a slice of image space.

Inside one region every ReLU and every max pooling has made its choice, and the logits are an
affine function. The regions are found layer by layer: under the choices so far the inputs of
the next layer are affine in each polygon, and the lines where they change its choices cut it
(SplineCam: Humayun, Balestriero, Balakrishnan and Baraniuk, 2023).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.levelsets import polygons as geometry
from workbench.levelsets.piecewise import ADVICE, Chosen
from workbench.levelsets.polygons import Polygons
from workbench.levelsets.slices import Slice
from workbench.models import Classifier, ready
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

VALUES = 2**21  # numbers held at once in an array, about


@dataclass(frozen=True, eq=False)
class Regions:
    """The R linear regions of a classifier in the window of a slice, in its coordinates (a, b).

    In region r the logits are `weight[r] @ (a, b) + bias[r]`.

    vertices: float64 `(R, V, 2)`, counterclockwise; a region of fewer than V, see counts
    `(R,)`, repeats its last one. polygons: the same, one array a region. area: `(R,)`.
    weight: `(R, K, 2)`. bias: `(R, K)`. label: int64 `(R,)`, the predicted class, or -1 where
    it changes inside. gradient: `(R,)`, the length, within the slice, of the gradient of the
    margin: of the largest logit less the second at the region's centre. boundary:
    `(S, 2, 2)`, segments on which two classes lead. choices: by layer, `(R, *its shape)`: 1
    where a ReLU is on, 0 where it is off; for max pooling the place of the winner among the
    pixels of its window, row by row. cuts: by layer, how many regions it added.
    """

    vertices: np.ndarray
    counts: np.ndarray
    area: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    label: np.ndarray
    gradient: np.ndarray
    boundary: np.ndarray
    choices: dict[str, np.ndarray]
    cuts: dict[str, int]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def polygons(self) -> list[np.ndarray]:
        """The vertices of each region, its own number of them `(V, 2)`."""
        return [v[:n] for v, n in zip(self.vertices, self.counts, strict=True)]

    def locate(self, points: np.ndarray | torch.Tensor) -> np.ndarray:
        """The region that holds each point: `(M, 2)` -> int64 `(M,)`, -1 outside the window."""
        points = np.asarray(points, dtype=np.float64)
        vertices, edges = self.vertices, Polygons(self.vertices, self.counts).edges
        length = np.hypot(edges[..., 0], edges[..., 1])
        low, high = vertices.min(1), vertices.max(1)
        slack = 1e-9 * float((high.max(0) - low.min(0)).max())
        located, size = np.full(len(points), -1), max(1, VALUES // len(self))
        for start in range(0, len(points), size):
            p = points[start : start + size, None]
            near, region = np.nonzero(((p >= low - slack) & (p <= high + slack)).all(2))
            side = geometry.cross(edges[region], points[start + near, None] - vertices[region])
            # Inside is to the left of every edge, or by no more than the slack to its right.
            depth = np.full_like(side, np.inf)
            np.divide(side, length[region], out=depth, where=length[region] > 0)
            inside = depth.min(1) >= -slack
            located[start + near[inside]] = region[inside]
        return located

    def summary(self) -> dict[str, Any]:
        """How many regions, their area and vertices, the boundary's length, cuts by layer."""
        ends = self.boundary[:, 1] - self.boundary[:, 0]
        return {
            "regions": len(self),
            "area": float(self.area.sum()),
            "mean_vertices": float(self.counts.mean()),
            "boundary_length": float(np.hypot(ends[:, 0], ends[:, 1]).sum()),
            **{f"cuts_{layer}": n for layer, n in self.cuts.items()},
        }

    def frame(self) -> pd.DataFrame:
        """One row a region: centre, area, vertices, class ("" where it changes), gradient."""
        import pandas as pd

        a, b = Polygons(self.vertices, self.counts).centres().T
        columns = {
            "area": self.area,
            "vertices": self.counts,
            "predicted": [self.classes[k] if k >= 0 else "" for k in self.label],
            "gradient": self.gradient,
        }
        return pd.DataFrame({"a": a, "b": b, **columns})


@work
def regions(model: Classifier, plane: Slice, *, limit: int = 100_000) -> Iterator[Step[Regions]]:
    """Find the regions layer by layer, in float64; the last step holds them.

    The network may have ReLUs, LeakyReLUs, max pooling and whatever is affine, in any order,
    as modules or as plain calls. The result is compared with it at every corner and centre.

    Raises:
        ValueError: a network that is not piecewise linear, in train mode, or of another
            input shape than the slice; more than `limit` regions.
    """
    ready(model)
    if tuple(plane.origin.shape) != model.input_shape:
        raise ValueError(
            f"plane: expected images of shape {model.input_shape}, got {tuple(plane.origin.shape)}"
        )
    network = Chosen(model, plane)
    pieces = Polygons(np.array([[[0.0, 0], [1, 0], [1, 1], [0, 1]]]), np.array([4]))
    chosen: list[np.ndarray] = []
    cuts: dict[str, int] = {}
    total = len(network.layers) + 2

    for layer in network.layers:
        before = len(pieces)
        pieces, chosen = yield from cut(network, layer, pieces, chosen, limit)
        cuts[layer] = len(pieces) - before
    logits = np.empty((3, len(model.classes), len(pieces)))
    for rows, coefs in chunks(network, pieces, chosen):
        yield Step(total - 2, total, f"logits: {rows.start} of {len(pieces)} regions")
        logits[..., rows] = coefs[..., 0]
    for compared in comparison(network, pieces, logits):
        yield Step(total - 1, total, f"compared with the network: {compared} points")
    value = assembled(network, pieces, logits, chosen, cuts)
    yield Step(total, total, f"{len(pieces)} regions", value)


def chunks(
    network: Chosen, pieces: Polygons, chosen: list[np.ndarray]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Some of the polygons, and the scores of the next layer in them."""
    size = max(1, VALUES // (8 * network.width))
    for start in range(0, len(pieces), size):
        rows = slice(start, start + size)
        yield rows, network.coefs([c[rows] for c in chosen], len(pieces[rows]))


def cut(
    network: Chosen, layer: str, pieces: Polygons, chosen: list[np.ndarray], limit: int
) -> Generator[Step[Regions], None, tuple[Polygons, list[np.ndarray]]]:
    """Cut the polygons where `layer` changes its choices; gives them, and the choices in each."""
    parts, origins, winners, count = [], [], [], 0
    for rows, coefs in chunks(network, pieces, chosen):
        yield Step(len(chosen), len(network.layers) + 2, f"{layer}: {count} regions")
        part, origin = geometry.subdivided(pieces[rows], coefs, limit - count)
        count += len(part)
        if count > limit:
            raise ValueError(
                f"plane: more than limit={limit} regions at layer {layer}; take a smaller "
                f"window or raise the limit. {ADVICE}"
            )
        # Inside a piece nothing changes: its centre tells the choices of all of it.
        size = max(1, VALUES // coefs[0, :, 0].size)
        centres = part.centres()[:, None]
        for i in range(0, len(part), size):
            which = geometry.winners(coefs[:, :, origin[i : i + size]], centres[i : i + size])
            winners.append(which.astype(np.min_scalar_type(coefs.shape[1])))
        parts.append(part)
        origins.append(rows.start + origin)
    parents = np.concatenate(origins)
    return geometry.joined(parts), [*(c[parents] for c in chosen), np.concatenate(winners)]


def assembled(
    network: Chosen,
    pieces: Polygons,
    logits: np.ndarray,
    chosen: list[np.ndarray],
    cuts: dict[str, int],
) -> Regions:
    """The regions in the coordinates of the slice; the polygons are in the unit square."""
    weight = logits[1:].T / network.sides
    # The label changes inside where some class's margin over the first is not decided.
    mixed = geometry.undecided(logits[:, 1:] - logits[:, :1], pieces.vertices)
    z = geometry.values(logits, pieces.centres())
    label = z.argmax(0)
    second, first = weight[np.arange(len(pieces)), np.argsort(z, axis=0, kind="stable")[-2:]]
    return Regions(
        vertices=network.corner + network.sides * pieces.vertices,
        counts=pieces.counts,
        area=pieces.areas() * network.sides.prod(),
        weight=weight,
        bias=logits[0].T - weight @ network.corner,
        label=np.where(mixed, -1, label),
        gradient=np.hypot(*(first - second).T),
        boundary=network.corner + network.sides * boundary(pieces, logits, label, mixed),
        choices={
            name: c.reshape(-1, *shape)
            for (name, shape), c in zip(network.layers.items(), chosen, strict=True)
        },
        cuts=cuts,
        classes=network.model.classes,
    )


def comparison(network: Chosen, pieces: Polygons, logits: np.ndarray) -> Iterator[int]:
    """See that logits `(3, K, P)` are what the network says at every corner and centre.

    Yields how many points are done.

    Raises:
        ValueError: they are not.
    """
    points = np.concatenate([pieces.vertices, pieces.centres()[:, None]], 1)
    # Neighbours share corners: the network is asked once.
    unique, inverse = np.unique(points.reshape(-1, 2).round(12), axis=0, return_inverse=True)
    actual, size = np.empty((len(unique), logits.shape[1])), max(1, VALUES // network.width)
    for start in range(0, len(unique), size):
        yield start
        with torch.no_grad():
            actual[start : start + size] = network.model(
                network.images(unique[start : start + size])
            )
    computed = geometry.values(logits[..., None], points).reshape(actual.shape[1], -1).T
    error = np.abs(computed - actual[inverse.ravel()]).max()
    if not error <= 1e-7 * (1 + np.abs(actual).max()):
        raise ValueError(
            "model: some part of it is not piecewise linear and out of sight (compiled, or not in "
            f"torch functions): the regions are off by {error:.2g}. {ADVICE}"
        )


def boundary(
    pieces: Polygons, logits: np.ndarray, label: np.ndarray, mixed: np.ndarray
) -> np.ndarray:
    """The segments `(S, 2, 2)` on which two classes lead: edges of the parts of one class.

    logits: `(3, K, P)`. label: the class at each centre. mixed: where there are more.
    """
    relative = logits[:, 1:] - logits[:, :1]
    parts, source, winner = geometry.cells(pieces[mixed], relative[..., mixed])
    parts = geometry.joined([pieces[~mixed], parts])
    source = np.concatenate([np.flatnonzero(~mixed), np.flatnonzero(mixed)[source]])
    winner = np.concatenate([label[~mixed], winner])
    # An edge belongs to the boundary where the leader and another class are equal at both ends.
    lead = logits[:, winner, source][:, None] - logits[:, :, source]
    z = geometry.values(lead[..., None], parts.vertices)  # (K, parts, V)
    even = np.abs(z) <= 10 * geometry.rounding(relative[..., source])[:, None]
    even &= np.arange(len(z))[:, None, None] < winner[:, None]  # one of a boundary's two sides
    edge = (even & np.take_along_axis(even, parts.after[None], 2)).any(0) & parts.real
    return np.stack([parts.vertices, parts.vertices + parts.edges], 2)[edge]
