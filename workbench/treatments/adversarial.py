"""Training on attacked images."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from workbench.models import Run, pgd
from workbench.treatments.base import Training


class AdversarialTraining(Training):
    """Each batch is attacked with PGD before it is learned (Madry et al., 2018).

    With one step from a random start it is the fast training of Wong et al. (2020).
    """

    title: ClassVar[str] = "Adversarial training"

    eps: float = Field(0.1, ge=0, le=1, description="L-infinity radius of the attacks")
    n_steps: int = Field(7, ge=1, le=100, description="steps of an attack; 1 is fast training")
    warmup: float = Field(0.25, ge=0, le=1, description="share of training in which eps grows")

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images inside the ball on which the loss is high, found in eval mode."""
        eps = self.eps * min(1.0, run.progress / self.warmup if self.warmup else 1.0)
        # A single step goes a quarter beyond the radius, several go 2.5 times as far in all.
        alpha = 1.25 * eps if self.n_steps == 1 else 2.5 * eps / self.n_steps
        return pgd(
            run.model, x, y, eps=eps, alpha=alpha, steps=self.n_steps, generator=run.generator
        ), y
