"""Random functions with a kernel: a Gaussian process, and one whose scale is unknown (Student's t).

Rasmussen and Williams (2006); Shah, Wilson and Ghahramani (2014); Lee, Yun, Yang and Lee (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

from workbench.kernels.machines import factor


@dataclass(frozen=True)
class GaussianProcess:
    """Values with covariance `scale * (kernel + noise^2)`; scale None: that of most likelihood."""

    kernel: Callable[[Tensor, Tensor], Tensor]
    noise: float = 0.1
    scale: float | None = 1.0

    def posterior(self, x: Tensor, y: Tensor, z: Tensor) -> Distribution:
        """Of each noisy value at z `(M, ...)` by itself, given those `y` `(n,)` at x `(n, ...)`.

        Raises:
            ValueError: the kernel matrix is not positive definite.
        """
        lower = factor(self.kernel(x, x), self.noise**2)
        across = torch.linalg.solve_triangular(lower, self.kernel(x, z), upper=False)
        white = torch.linalg.solve_triangular(lower, y.to(lower)[:, None], upper=False)
        own = self.kernel(z, z).diagonal() + self.noise**2
        spread = (own - across.square().sum(0)).sqrt()
        energy = float(white.square().sum())  # y' K^-1 y
        return self.scaled((across.T @ white)[:, 0], spread, energy, len(y))

    def scaled(self, mean: Tensor, spread: Tensor, energy: float, n: int) -> Distribution:
        """The posterior at scale 1, at the scale that is given or that n values speak for."""
        return Normal(mean, (energy / n if self.scale is None else self.scale) ** 0.5 * spread)


@dataclass(frozen=True)
class StudentTProcess(GaussianProcess):
    """The same where the scale is drawn first, from the inverse gamma distribution IG(a, b)."""

    a: float = 2.0
    b: float = 2.0

    def scaled(self, mean: Tensor, spread: Tensor, energy: float, n: int) -> Distribution:
        """IG(a, b) becomes IG(a + n/2, b + energy/2); a Gaussian over it is Student's t."""
        scale = (self.b + energy / 2) / (self.a + n / 2)
        return StudentT(2 * self.a + n, mean, scale**0.5 * spread)
