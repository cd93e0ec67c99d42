"""A student that learns from a teacher's answers, or from the mean of several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench import data as datasets
from workbench import models
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training, share_of


class Distil(Training):
    """Learn the teacher's probabilities, softened by a temperature (Hinton et al., 2015).

    The loss is T^2 times the divergence from them; `hard` of it is left to the labels. The factor
    keeps gradients as large as at temperature 1. Of several teachers the mean of the softened
    probabilities is learned. An image without a label, because of `unlabelled` or from `beside`,
    is learned from the teachers alone; accuracy while training counts their answer as right.
    """

    title: ClassVar[str] = "Distillation from a teacher"

    teacher: str = Field("digits/cnn", description="the model to learn from, by name")
    temperature: float = Field(4.0, gt=0, le=100, description="softens the teacher's answers")
    hard: float = Field(0.0, ge=0, le=1, description="share of the loss that labels have")
    others: tuple[str, ...] = Field((), description="more teachers, by name; their mean is learned")
    unlabelled: float = Field(0.0, ge=0, le=1, description="share of images, labels not looked at")
    beside: str = Field("", description="data set whose training images come in without labels")

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """The teachers' classes and images have to be those that are learned."""
        if data is None:
            return ""
        for name in self.depends():
            card = models.card(name)
            if card.input_shape != data.shape or len(card.classes) != len(data.classes):
                return (
                    f"the teacher {name} takes {card.input_shape} images of "
                    f"{len(card.classes)} classes, the data has {data.shape} of {len(data.classes)}"
                )
            if card.classes != data.classes and card.named and data.named:
                return f"the teacher {name} has classes {card.classes}, the data {data.classes}"
        return ""

    def depends(self) -> tuple[str, ...]:
        """The teachers."""
        return (self.teacher, *self.others)

    def prepare(self, run: Run) -> None:
        """Load the teachers once; take away labels, and add images that have none.

        Raises:
            ValueError: a teacher, or `beside`, does not fit the data; a treatment before this one
                would see images without a label.
        """
        if reason := self.unfit(run.plan, run.data):
            raise ValueError(f"Distil: {reason}")
        teachers = [models.load(name).to(run.device) for name in self.depends()]
        own, theirs = run.model.card.parameters, sum(one.card.parameters for one in teachers)
        if own > theirs:
            names = " and ".join(self.depends())
            told = f"the student has {own:,} parameters, {names} {theirs:,}: it gets no cheaper"
            warnings.warn(f"Distil: {told}", stacklevel=2)
        run.aside[self] = teachers[0] if not self.others else mean_of(teachers, self.temperature)
        if self.unlabelled or self.beside:
            self.hide(run)

    def hide(self, run: Run) -> None:
        """Put -1 for labels that are not looked at, in the run's own data."""
        for other in run.treatments[: run.treatments.index(self)]:
            if type(other).batch is not Training.batch:
                raise ValueError(f"Distil: put it before {type(other).__name__}, which asks labels")
        images, labels = run.data.images, run.data.labels.clone()
        draw = torch.Generator().manual_seed(run.plan.seed)
        labels[
            torch.randperm(len(labels), generator=draw)[: share_of(len(labels), self.unlabelled)]
        ] = -1
        if self.beside:
            more = datasets.load(self.beside, "train")
            if more.shape != run.data.shape:
                got = f"expected {run.data.shape} images, got {more.shape} of {self.beside}"
                raise ValueError(f"Distil: beside: {got}")
            images = torch.cat([images, more.images])
            labels = torch.cat([labels, torch.full_like(more.labels, -1)])
        run.data = replace(run.data, images=images, labels=labels, factors=None)
        run.total = math.ceil(len(labels) / run.plan.batch_size) * run.plan.epochs

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where there is no label stands the teachers' answer, for who needs one."""
        run.aside[self, "known"] = known = y >= 0
        if bool(known.all()):
            return x, y
        with torch.no_grad():
            return x, torch.where(known, y, run.aside[self](x).argmax(1))

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence from the teachers, and cross-entropy where there is a label."""
        known = run.aside[self, "known"]
        hard, logits = run.model.objective(x, y, run.generator)
        with torch.no_grad():
            soft = (run.aside[self](x) / self.temperature).softmax(1)
        own = (logits / self.temperature).log_softmax(1)
        if bool(known.all()):
            apart = self.temperature**2 * F.kl_div(own, soft, reduction="batchmean")
            return (1 - self.hard) * apart + self.hard * hard, logits
        each = self.temperature**2 * F.kl_div(own, soft, reduction="none").sum(1)
        loss = torch.where(known, 1 - self.hard, 1.0).mul(each).mean()
        if self.hard and bool(known.any()):
            hard, _ = run.model.objective(x[known], y[known], run.generator)
            loss = loss + self.hard * known.float().mean() * hard
        return loss, logits


def mean_of(teachers: Sequence[Classifier], temperature: float) -> Callable[[Tensor], Tensor]:
    """Logits `(N, K)` which, softened by `temperature`, give the teachers' mean probabilities."""

    def logits(x: Tensor) -> Tensor:
        each = torch.stack([(one(x) / temperature).softmax(1) for one in teachers])
        return temperature * each.mean(0).clamp_min(1e-30).log()  # softmax(log p) is p

    return logits
