"""Kernel regression, and the classifier that it makes."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset
from workbench.kernels.wide import Wide
from workbench.models import Classifier, ModelCard


def factor(kernel: torch.Tensor, ridge: float = 0.0) -> torch.Tensor:
    """The lower Cholesky factor of a kernel matrix `(n, n)` with `ridge` added to its diagonal.

    Raises:
        ValueError: that is not positive definite; which ridge would do.
    """
    lower, failed = torch.linalg.cholesky_ex(kernel + ridge * torch.eye(len(kernel)).to(kernel))
    pivots = lower.diagonal()  # of two equal inputs one is 0 up to rounding
    if failed or bool((pivots < 1e-7 * pivots.amax()).any()):
        least = float(torch.linalg.eigvalsh(kernel).min())
        raise ValueError(
            f"kernel: not positive definite with ridge={ridge:g}, its least eigenvalue is "
            f"{least:.1e}; take ridge={max(1e-10, -10 * least):.0e}, or leave out what occurs twice"
        )
    return lower


def solve(kernel: torch.Tensor, targets: torch.Tensor, ridge: float = 0.0) -> torch.Tensor:
    """Coefficients `(n, K)` of kernel regression: `kernel(z, x) @ coefficients` predicts at z."""
    return torch.cholesky_solve(targets.to(kernel), factor(kernel, ridge))


class Similarities(nn.Module):
    """The kernel of images with n points, float64 `(N, n)`; by `log`, over its largest in a row."""

    points: torch.Tensor

    def __init__(self, kernel: Wide, images: torch.Tensor, patch: int, log: bool) -> None:
        super().__init__()
        self.kernel, self.patch, self.log = kernel, patch, log
        self.register_buffer("points", self.inputs(images))

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Images as `(N, D)`; or as patches `(N, P, D)`, four that make a square in a row."""
        if not self.patch:
            return x.flatten(1)
        levels = round(math.log2(max(1, x.shape[-1] // self.patch)))
        if x.shape[-2:] != (self.patch * 2**levels,) * 2:
            raise ValueError(
                f"patch: expected a side that goes 2, 4, 8, ... times into images of {x.shape[-2]}x"
                f"{x.shape[-1]}, got {self.patch}; 0 takes the image whole"
            )
        parts = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        order = [axis for i in range(levels) for axis in (1 + i, 1 + levels + i)]
        parts = parts.unflatten(1, [2] * (2 * levels)) if levels else parts
        return parts.permute(0, *order, -1).reshape(len(x), -1, parts.shape[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The kernel of images `(N, C, H, W)` with the points."""
        if not self.log:
            return self.kernel(self.inputs(x), self.points)
        logs = self.kernel.log(self.inputs(x), self.points)
        return (logs - logs.amax(1, keepdim=True)).exp()


class Head(nn.Linear):
    """The coefficients: float64 inside, float32 logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(N, K)` of kernels `(N, n)`."""
        return super().forward(x).float()


class KernelClassifier(Classifier):
    """Kernel regression on classes: what an infinitely wide network learns from n images.

    ridge: 0 fits every training image. patch: the side of square patches, for a kernel with
    `group=4`; 0 gives it whole images. log: each row of the kernel over its largest entry: no
    other answers, and hundreds of layers. sharpness: times the values of the regression, which
    go from about 0 to 1, it gives the logits.

    Raises:
        ValueError: labels that are unknown, images that occur twice (with ridge=0), patches that
            do not fit, and what the kernel raises.
    """

    def __init__(
        self,
        kernel: Wide,
        training: ImageDataset,
        *,
        ridge: float = 0.0,
        patch: int = 0,
        log: bool = False,
        sharpness: float = 10.0,
        name: str = "kernel",
    ) -> None:
        shape, classes = tuple(training.shape), tuple(training.classes)
        checks.labels(training.labels, len(classes), name="training.labels")
        similar = Similarities(kernel, training.images, patch, log)
        gram = (kernel.log if log else kernel)(similar.points, similar.points)
        targets = sharpness * F.one_hot(training.labels, len(classes))
        head = Head(len(gram), len(classes), bias=False, dtype=torch.float64)
        head.weight = nn.Parameter(solve(gram.exp() if log else gram, targets, ridge).T)
        card = ModelCard(name=name, input_shape=shape, classes=classes, architecture="kernel")
        super().__init__(nn.Sequential(OrderedDict(kernel=similar, head=head)), card)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """How alike images are to each training image, `(N, n)`; each row sums to 1."""
        with torch.no_grad():
            kernel = self.body[0](checks.images(x, self.input_shape).to(self.device))
        return kernel / kernel.sum(1, keepdim=True)
