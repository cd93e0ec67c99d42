"""Weights of few bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field

from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.treatments.base import OfWeights, weighted


class Quantise(OfWeights):
    """Weights of linear and convolutional layers on a symmetric uniform grid, to the nearest.

    2^bits - 1 levels, from -scale to scale; biases and statistics stay. As surveyed by Gholami
    et al. (2021).
    """

    title: ClassVar[str] = "Uniform quantisation of the weights"
    paper: ClassVar[str] = "A Survey of Quantization Methods for Efficient Neural Network Inference"

    bits: int = Field(4, ge=2, le=16, description="bits a weight")
    per_channel: bool = Field(True, description="a scale for each output channel, not each layer")

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """One layer after the other."""
        layers = weighted(model)
        levels = 2 ** (self.bits - 1) - 1  # on either side of zero
        for done, layer in enumerate(layers.values(), 1):
            w = layer.weight.detach().flatten(1)
            largest = w.abs().amax(1, keepdim=True) if self.per_channel else w.abs().amax()
            scale = largest.clamp(min=torch.finfo(w.dtype).tiny) / levels
            layer.weight.data = ((w / scale).round() * scale).view_as(layer.weight)
            yield done, len(layers)
        bits = {f"{name}.weight": self.bits for name in layers}
        model.card = model.card.model_copy(update={"bits": {**model.card.bits, **bits}})
