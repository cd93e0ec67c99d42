"""Nodes of a graph whose edges stay: a point is the features of a node and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from workbench import checks
from workbench.spaces.base import InputSpace


@dataclass(frozen=True, eq=False)
class Nodes(InputSpace):
    """A node's features and those around it, `(1, M, D)`: the node's own first; see `nodes`.

    adjacency: bool `(n, n)`. features: float32 `(n, D)`. field_of: the M nodes, int64.
    """

    kind: ClassVar[str] = "node"

    adjacency: torch.Tensor = field(kw_only=True)
    features: torch.Tensor = field(kw_only=True)
    field_of: torch.Tensor = field(kw_only=True)
    binary: bool = field(kw_only=True)

    @property
    def node(self) -> int:
        """The node that is classified."""
        return int(self.field_of[0])

    @property
    def point(self) -> torch.Tensor:
        """The node as it is in the graph, `(1, 1, M, D)`."""
        return self.points(self.features[self.field_of][None, None])

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Features that are there or not are rounded to that."""
        return x.round() if self.binary else x

    def changes(self, x: torch.Tensor, origin: torch.Tensor) -> list[str]:
        """What was moved, the most moved first: "node 12: + graph"."""
        if not self.binary:
            return super().changes(x, origin)
        by = (x - origin).flatten()
        moved = (by.abs() > checks.ROUNDING).nonzero().flatten()
        order = moved[by[moved].abs().argsort(descending=True)]
        signs = {True: "+ ", False: "− "}
        return [
            self.names[i].replace(": ", f": {signs[far > 0]}") + part(abs(far))
            for i, far in zip(order.tolist(), by[order].tolist(), strict=True)
        ]

    def around(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """A module from the features `(..., n, D)` of all nodes to their logits `(..., n, K)`."""
        return (Around(module, self.features, self.field_of),)


class Around(nn.Module):
    """The graph with the features of some nodes replaced, and the answer for the first of them."""

    features: torch.Tensor
    field_of: torch.Tensor

    def __init__(self, module: nn.Module, features: torch.Tensor, field_of: torch.Tensor) -> None:
        super().__init__()
        self.module: Any = module
        self.register_buffer("features", features.float())
        self.register_buffer("field_of", field_of)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(N, K)` of the node, from features `(N, 1, M, D)`."""
        whole = self.features.to(x).expand(len(x), -1, -1)
        index = self.field_of[None, :, None].expand(len(x), -1, x.shape[3])
        return self.module(whole.scatter(1, index, x[:, 0]))[:, int(self.field_of[0])]


def nodes(
    adjacency: torch.Tensor,
    features: torch.Tensor,
    node: int,
    *,
    hops: int = 1,
    names: Sequence[str] | None = None,
    moves: Literal["own", "all"] = "own",
) -> Nodes:
    """The space of one node's features, and of those up to `hops` edges away.

    adjacency: `(n, n)`, symmetric, other than zero where there is an edge; an edge from a node to
    itself is no neighbour, and a node without edges stands alone. features: `(n, D)`, each from
    its least to its largest value in the graph to [0, 1]. names: of the D features. moves: what
    may move, the node's own features or all that are shown.

    Raises:
        ValueError: no square symmetric matrix, other shapes, values that are not finite, a node
            that is not there.
    """
    n = len(features)
    edges = neighbours(adjacency)
    if features.ndim != 2 or len(edges) != n:
        raise ValueError(
            f"features: expected (n, D), a row for each of the {len(edges)} nodes of adjacency, "
            f"got {tuple(features.shape)}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError("features: expected finite values, got NaN or infinity")
    if not 0 <= node < n:
        raise ValueError(f"node: expected 0 to {n - 1}, got {node}")
    names = [f"feature {i}" for i in range(features.shape[1])] if names is None else [*names]
    if len(names) != features.shape[1]:
        raise ValueError(f"names: expected {features.shape[1]}, one a feature, got {len(names)}")
    reached, order = torch.zeros(n, dtype=torch.bool), [torch.tensor([node])]
    reached[node] = True
    for _ in range(hops):
        fresh = edges[reached].any(0) & ~reached
        order.append(fresh.nonzero().flatten())
        reached |= fresh
    around, features = torch.cat(order), features.float().cpu()
    low, high = features.amin(0), features.amax(0)
    unit = torch.where(high > low, high - low, torch.ones(()))
    shape = (1, len(around), features.shape[1])
    free = (high > low).expand(shape).clone()
    if moves == "own":
        free[0, 1:] = False
    labels = tuple(f"node {i}: {name}" for i in around.tolist() for name in names)
    binary = bool(((features == 0) | (features == 1)).all())
    spread = (low.expand(shape).contiguous(), unit.expand(shape).contiguous(), free)
    return Nodes(
        *(labels, *spread), adjacency=edges, features=features, field_of=around, binary=binary
    )


def neighbours(adjacency: torch.Tensor) -> torch.Tensor:
    """Who is whose neighbour, bool `(n, n)`; nobody is their own.

    Raises:
        ValueError: no square symmetric matrix of finite numbers.
    """
    square = adjacency.ndim == 2 and adjacency.shape[0] == adjacency.shape[1]
    if not square or not bool(torch.as_tensor(adjacency).isfinite().all()):
        raise ValueError(
            f"adjacency: expected a square matrix of finite numbers, got {tuple(adjacency.shape)}"
        )
    edges = adjacency.cpu() != 0
    if not bool((edges == edges.T).all()):
        raise ValueError(
            "adjacency: expected a symmetric matrix; of edges with a direction make "
            "adjacency + adjacency.T"
        )
    return edges.fill_diagonal_(False)


def propagation(adjacency: torch.Tensor) -> torch.Tensor:
    """D^-1/2 (A + I) D^-1/2, float32 `(n, n)`: each node hears itself once (Kipf, Welling, 2017).

    Raises:
        ValueError: as `nodes`.
    """
    heard = neighbours(adjacency).float() + torch.eye(len(adjacency))
    scale = heard.sum(1).rsqrt()  # at least one: a node without edges hears itself
    return scale[:, None] * heard * scale


def part(by: float) -> str:
    """How much of a feature came or went, where it is less than all."""
    return "" if by > 1 - checks.ROUNDING else f" by {by:.2f}"
