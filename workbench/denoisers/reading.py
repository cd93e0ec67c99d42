"""What a denoiser knows of images: the score, the basis it shrinks in, and samples.

Miyasawa (1961); Kadkhodaie and Simoncelli (2021); Kadkhodaie, Guth, Simoncelli and Mallat (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacrev

from workbench import checks
from workbench.steps import Step, work

Function = Callable[[Tensor], Tensor]  # noisy images (N, C, H, W) in, clean ones out


def score(denoiser: Function, y: Tensor, sigma: float) -> Tensor:
    """The gradient of the log density of noisy images `(N, C, H, W)` with noise `sigma` > 0.

    By Tweedie's formula `(f(y) - y) / sigma^2`, exact where f is the mean of what lies under y.
    """
    return (denoiser(y) - y) / sigma**2


@dataclass(frozen=True, eq=False)
class Basis:
    """Of the Jacobian `(D, D)` at an image: the eigenvalues `(D,)` of its symmetric part, falling,
    and their eigenvectors `(D, C, H, W)`; asymmetry: |J - J'| / |J|, what that leaves out."""

    values: Tensor
    vectors: Tensor
    jacobian: Tensor

    @property
    def asymmetry(self) -> float:
        """0 for a symmetric Jacobian, 2 at most."""
        return float((self.jacobian - self.jacobian.T).norm() / self.jacobian.norm())


def basis(denoiser: Function, y: Tensor) -> Basis:
    """In which directions a denoiser keeps what is there (near 1), and which it clears (near 0).

    y: one noisy image, `(1, C, H, W)`. Of all D x D derivatives: for a few thousand pixels.

    Raises:
        ValueError: not one image.
    """
    if y.ndim != 4 or len(y) != 1:
        raise ValueError(f"y: expected one image (1, C, H, W), got {tuple(y.shape)}; take y[:1]")
    jacobian = jacrev(lambda flat: denoiser(flat.view_as(y)).flatten())(y.detach().flatten())
    values, vectors = torch.linalg.eigh((jacobian + jacobian.T).detach() / 2)
    return Basis(values.flip(0), vectors.T.flip(0).reshape(-1, *y.shape[1:]), jacobian.detach())


@work
def sample(
    denoiser: Function,
    shape: tuple[int, int, int],
    *,
    n: int = 16,
    n_steps: int = 100,
    end: float = 0.01,
    beta: float = 0.5,
    seed: int = 0,
) -> Iterator[Step[Tensor]]:
    """Images `(n, C, H, W)` in [0, 1] out of noise: a part of it is taken out, a little put in.

    Starts from 0.5 plus noise of deviation 1. Each step measures the noise, |f(y) - y|, and leaves
    a fixed share, so that after all steps `end` is left. beta: 1 adds no new noise; less adds more.
    The same seed is the same noise for every denoiser. A Step holds the images as they stand.

    Raises:
        ValueError: no images or steps, or beta or `end` outside (0, 1].
    """
    checks.positive("n", n)
    total = checks.positive("n_steps", n_steps)
    for name, value in (("beta", beta), ("end", end)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}: expected a number above 0, at most 1, got {value}")
    share = end ** (1 / total)
    h = min(1.0, (1 - share) / beta)
    fresh = max(0.0, share**2 - (1 - h) ** 2) ** 0.5  # variances add up: this leaves the share
    draw = torch.Generator().manual_seed(seed)
    y = 0.5 + torch.randn(n, *shape, generator=draw)
    for step in range(total):
        with torch.no_grad():
            clean = denoiser(y)
        towards = clean - y
        sigma = towards.square().mean((1, 2, 3), keepdim=True).sqrt()
        y = y + h * towards + fresh * sigma * torch.randn(y.shape, generator=draw)
        left = f"noise {float(sigma.mean()):.3f}"
        yield Step(step + 1, total, left, clean.clamp(0, 1))
