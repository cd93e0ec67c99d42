"""What may move of a model's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from workbench.models import Classifier


def held(model: Classifier, x: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Points `(..., C, H, W)` with what may not move as in `origin`; of images all may."""
    return x if model.space is None else model.space.held(x, origin)
