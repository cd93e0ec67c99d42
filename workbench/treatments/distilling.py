"""A student that learns from a teacher's answers."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench import models
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training


class Distil(Training):
    """Learn the teacher's probabilities, softened by a temperature (Hinton et al., 2015).

    The loss is T^2 times the divergence from them; `hard` of it is left to the labels. The factor
    keeps gradients as large as at temperature 1.
    """

    title: ClassVar[str] = "Distillation from a teacher"

    teacher: str = Field("digits/cnn", description="the model to learn from, by name")
    temperature: float = Field(4.0, gt=0, le=100, description="softens the teacher's answers")
    hard: float = Field(0.0, ge=0, le=1, description="share of the loss that labels have")

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """The teacher's classes and images have to be those that are learned."""
        if data is None:
            return ""
        card = models.card(self.teacher)
        if card.input_shape != data.shape or len(card.classes) != len(data.classes):
            return (
                f"the teacher {self.teacher} takes {card.input_shape} images of "
                f"{len(card.classes)} classes, the data has {data.shape} of {len(data.classes)}"
            )
        return ""

    def depends(self) -> tuple[str, ...]:
        """The teacher."""
        return (self.teacher,)

    def prepare(self, run: Run) -> None:
        """Load the teacher once."""
        run.aside[self] = models.load(self.teacher).to(run.device)

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence from the teacher, and cross-entropy."""
        hard, logits = run.model.objective(x, y, run.generator)
        with torch.no_grad():
            soft = (run.aside[self](x) / self.temperature).softmax(1)
        own = (logits / self.temperature).log_softmax(1)
        apart = self.temperature**2 * F.kl_div(own, soft, reduction="batchmean")
        return (1 - self.hard) * apart + self.hard * hard, logits
