"""Training on images moved as the images of a class differ."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training

SEEN = 1000  # images from which the directions are found, at most


class NaturalTraining(Training):
    """Each image is moved along what varies within classes, and the worst of some moves learned.

    After NaTra (Wang et al., 2021), which moves latent codes of a GAN along attributes that leave
    the class. Here principal components of the images stand in for it (see `variation`).
    """

    title: ClassVar[str] = "Training on natural variation"
    paper: ClassVar[str] = "Robust Training Using Natural Transformation"
    defends: ClassVar[bool] = True

    directions: int = Field(8, ge=1, le=1000, description="how many ways there are to move")
    size: float = Field(2.0, ge=0, le=100, description="largest move, in standard deviations")
    tries: int = Field(4, ge=1, le=100, description="moves of an image, the worst is learned")

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """There have to be that many directions."""
        if data is None:
            return ""
        least = min(data.images[0].numel() - len(data.classes) + 1, len(data) - len(data.classes))
        if self.directions > least:
            return f"directions: the data has at most {max(0, least)}, got {self.directions}"
        return ""

    def prepare(self, run: Run) -> None:
        """Find the directions."""
        if reason := self.unfit(run.plan, run.data):
            raise ValueError(f"{type(self).__name__}: {reason}")
        run.aside[self] = self.found(run.data, run.plan.seed).to(run.device)

    def found(self, data: ImageDataset, seed: int) -> Tensor:
        """The directions `(directions, C, H, W)`, each as long as one standard deviation."""
        some = data.sample(min(SEEN, len(data)), seed=seed)
        return variation(some.images, some.labels, self.directions)

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of some moves of each image that with the highest loss."""
        ways = run.aside[self]
        draws = torch.rand(self.tries * len(x), len(ways), generator=run.generator)
        amounts = self.size * (2 * draws.to(x) - 1)
        moves = (amounts @ ways.flatten(1)).unflatten(0, (self.tries, len(x)))
        moved = (x + moves.view(self.tries, *x.shape)).clamp(0, 1)
        with torch.no_grad():
            losses = [F.cross_entropy(run.model(one), y, reduction="none") for one in moved]
        worst = torch.stack(losses).argmax(0)
        return moved[worst, torch.arange(len(x), device=x.device)], y


def variation(images: Tensor, labels: Tensor, n: int) -> Tensor:
    """The `n` directions along which images vary most within classes, and no class's mean moves.

    images: `(N, C, H, W)`; labels: `(N,)`. Gives `(n, C, H, W)`, orthogonal, each as long as the
    standard deviation along it within a class.
    """
    x = images.flatten(1)
    classes, own = labels.unique(return_inverse=True)
    means = torch.stack([x[own == k].mean(0) for k in range(len(classes))])
    within = x - means[own]
    # What tells the means apart is left out, so that a move leaves the class as far as means say.
    _, lengths, between = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    between = between[lengths > 1e-5 * lengths[0]]
    within = within - within @ between.T @ between
    # The smaller of the two matrices of products has the same components.
    values, vectors = torch.linalg.eigh(within @ within.T)
    values, vectors = values.flip(0)[:n].clamp(min=1e-12), vectors.flip(1)[:, :n]
    ways = (vectors / values.sqrt()).T @ within
    return (ways * (values / len(x)).sqrt()[:, None]).unflatten(1, images.shape[1:])
