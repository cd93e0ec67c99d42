"""Noise on the gradients."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from workbench.models import Run
from workbench.treatments.base import Training


class GradientNoise(Training):
    """Gaussian noise of variance eta / (1 + t)^gamma on each gradient (Neelakantan et al., 2015).

    t counts the steps. Deep networks from a bad start find a way with it that they miss without.
    """

    title: ClassVar[str] = "Annealed gradient noise"
    paper: ClassVar[str] = "Adding Gradient Noise Improves Learning for Very Deep Networks"

    eta: float = Field(0.3, ge=0, le=100, description="variance of the noise at the first step")
    gamma: float = Field(0.55, ge=0, le=10, description="how fast it dies away")

    def gradients(self, run: Run) -> None:
        """Add to each gradient noise of its own."""
        deviation = (self.eta / (1 + run.step) ** self.gamma) ** 0.5
        for p in run.model.parameters():
            if p.grad is not None:
                noise = torch.randn(p.shape, generator=run.generator, dtype=torch.float32)
                p.grad += deviation * noise.to(p.grad)
