"""A learning rate that falls where accuracy stops rising."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from workbench.models import Run
from workbench.treatments.base import Training


class AccuracyGradient(Training):
    """The learning rate stays, and falls where accuracy hardly rises (Nikfam et al., 2022).

    It starts at the recipe's. Accuracy is that of a pass over the training images as they were
    learned, attacked where another treatment attacks them, and costs nothing; the paper takes
    attacked images held out. A subclass with its own `accuracies` can do that.
    """

    title: ClassVar[str] = "Learning rate by the accuracy's gradient"
    paper: ClassVar[str] = (
        "AccelAT: A Framework for Accelerating the Adversarial Training of Deep Neural Networks "
        "through Accuracy Gradient"
    )

    window: int = Field(5, ge=1, le=1000, description="passes over which accuracy is averaged")
    wait: int = Field(5, ge=0, le=1000, description="passes without a fall after a fall")
    rise: float = Field(0.005, ge=0, le=1, description="a smaller rise of the mean is none")
    factor: float = Field(0.8, gt=0, le=1, description="what a fall leaves of the rate")
    least: float = Field(1e-6, ge=0, le=1, description="the rate falls no lower")

    def rate(self, run: Run) -> float:
        """The recipe's learning rate after the falls so far."""
        return max(self.least, run.plan.lr * self.factor ** self.falls(self.accuracies(run)))

    def accuracies(self, run: Run) -> list[float]:
        """The accuracy of each pass so far, in [0, 1]."""
        return [row["accuracy"] for row in run.history]

    def falls(self, accuracies: Sequence[float]) -> int:
        """How often the rate has fallen after passes of these accuracies."""
        count, quiet, before = 0, 0, 0.0
        for n in range(1, len(accuracies) + 1):
            last = accuracies[max(0, n - self.window) : n]
            mean = sum(last) / len(last)  # one pass alone is too noisy to see a slope
            quiet += 1
            if n > self.window + 1 and quiet > self.wait and mean - before < self.rise:
                count, quiet = count + 1, 1
            before = mean
        return count
