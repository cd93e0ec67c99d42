"""Confidence on the straight lines and triangles between images and their blind spots.

Balasubramanian, Rezaei, Feizi: Exploring the geometry of blind spots in vision models (2023).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from workbench import checks
from workbench.levelsets.traversal import confidence
from workbench.models import Classifier, ready

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Star:
    """Confidence on the straight lines and triangles between N sources and their ends.

    source: `(N,)`; lines `(N, M, T)` from source to each of the M ends; triangles
    `(N, P, G)` over a grid of G points in the triangle of source and each pair of ends.
    """

    source: torch.Tensor
    lines: torch.Tensor
    triangles: torch.Tensor

    def frame(self) -> pd.DataFrame:
        """One row a source: means over its lines and triangles, and the share that keeps up."""
        import pandas as pd

        p, lines, triangles = self.source, self.lines.flatten(1), self.triangles.flatten(1)
        columns = {
            "source_confidence": p,
            "line_mean": lines.mean(1),
            "line_lowest": lines.amin(1),
            "triangle_mean": triangles.mean(1),
        }
        for drop in (0.0, 0.1, 0.2, 0.3):
            columns[f"triangle_within_{drop:g}"] = (triangles > p[:, None] - drop).float().mean(1)
        return pd.DataFrame({name: values.tolist() for name, values in columns.items()})

    def summary(self) -> dict[str, float]:
        """Plain numbers: means over the sources."""
        return {str(name): float(value) for name, value in self.frame().mean().items()}


def star(model: Classifier, source: torch.Tensor, ends: torch.Tensor, labels: torch.Tensor) -> Star:
    """Confidence between sources `(N, C, H, W)` and their ends `(M, N, C, H, W)`, straight.

    Lines have 11 points, triangles 66, as in the paper's tables.

    Raises:
        TypeError, ValueError: images or labels that break their contract.
    """
    ready(model)
    if ends.ndim != 5 or ends.shape[1:] != source.shape:
        raise ValueError(
            f"ends: expected shape (M, {', '.join(map(str, source.shape))}), got {ends.shape}"
        )
    source = checks.images(source, model.input_shape, name="source").to(model.device)
    ends = checks.images(ends.flatten(0, 1), model.input_shape, name="ends").view_as(ends)
    checks.labels(labels, len(model.classes), len(source))
    directions = ends.to(source.device) - source
    # Barycentric: source + a (end_i - source) + b (end_j - source), with a + b <= 1.
    ticks = torch.linspace(0, 1, 11, dtype=torch.float32).tolist()
    grid = [(a, b) for a in ticks for b in ticks if a + b <= 1 + 1e-6]

    def confidences(shift: torch.Tensor) -> torch.Tensor:
        logits = model.predict((source + shift).clamp(0, 1)).logits
        return confidence(logits, labels.to(source.device))

    lines = [torch.stack([confidences(t * way) for t in ticks], 1) for way in directions]
    triangles = [
        torch.stack([confidences(a * directions[i] + b * directions[j]) for a, b in grid], 1)
        for i, j in itertools.combinations(range(len(ends)), 2)
    ]
    none = source.new_zeros(len(source), 0, len(grid))
    return Star(
        confidences(torch.zeros_like(source)),
        torch.stack(lines, 1),
        torch.stack(triangles, 1) if triangles else none,
    )
