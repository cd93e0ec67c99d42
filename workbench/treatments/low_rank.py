"""Layers as products of two thin ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.treatments.base import OfWeights, share_of, weighted


class LowRank(OfWeights):
    """Each layer becomes two, which keep the largest singular values of its weights.

    By Eckart and Young (1936) no other matrix of that rank is nearer. A convolution becomes one
    to `rank` channels and a 1x1 one behind it (Zhang et al., 2016). A layer that would not get
    smaller stays as it is.
    """

    title: ClassVar[str] = "Low-rank layers, by singular values"

    share: float = Field(0.25, gt=0, le=1, description="of the singular values of each layer kept")

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """One layer after the other."""
        layers = weighted(model)
        for done, (name, layer) in enumerate(layers.items(), 1):
            rows, columns = layer.weight.flatten(1).shape
            rank = max(1, share_of(min(rows, columns), self.share))
            plain = isinstance(layer, nn.Linear) or layer.groups == 1
            if plain and rank * (rows + columns) < rows * columns:
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, factorised(layer, rank))
            yield done, len(layers)


def factorised(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Sequential:
    """Two layers whose product is the best approximation of one, of that rank."""
    w = layer.weight.detach()
    u, s, v = torch.linalg.svd(w.flatten(1), full_matrices=False)
    root = s[:rank].sqrt()
    first_weight, second_weight = root[:, None] * v[:rank], u[:, :rank] * root
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    with torch.device(w.device):
        if isinstance(layer, nn.Linear):
            first = nn.Linear(layer.in_features, rank, bias=False)
            second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
        else:
            size, stride = layer.kernel_size, layer.stride
            first = nn.Conv2d(
                layer.in_channels,
                rank,
                size,  # type: ignore[arg-type]
                stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=False,
                padding_mode=layer.padding_mode,
            )
            second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    first.weight.data = first_weight.reshape_as(first.weight).to(w.dtype)
    second.weight.data = second_weight.reshape_as(second.weight).to(w.dtype)
    if layer.bias is not None and second.bias is not None:
        second.bias.data = layer.bias.detach().clone()
    return nn.Sequential(first, second)
