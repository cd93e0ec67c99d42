"""What a network computes when its layers are infinitely wide: a kernel, in closed form.

NNGP: Cho and Saul (2009), Lee et al. (2018). NTK: Jacot et al. (2018). Patches: Cagnetta, Favero
and Wyart (2023). Other activations, great depth: Radhakrishnan, Belkin and Uhler (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from workbench import checks

Function = Callable[[torch.Tensor], torch.Tensor]
BELOW_ONE = 1 - 2.0**-46  # where the arc cosine still has a slope
LEAST = -1e250  # of a logarithm, so that it can still be multiplied


@dataclass(frozen=True)
class Dual:
    """What an activation phi makes of the correlation s of two inputs: f(s) = E phi(u) phi(v).

    u, v: Gaussian, of variance 1 and covariance s; phi is scaled to f(1) = 1. value: f. slope: its
    derivative. log_value, log_slope: their logarithms, of log s, for s from 0 up.
    """

    value: Function
    slope: Function
    log_value: Function
    log_slope: Function


def _relu(s: torch.Tensor) -> torch.Tensor:
    s = s.clamp(-BELOW_ONE, BELOW_ONE)
    return ((1 - s * s).sqrt() + s * (math.pi - s.acos())) / math.pi


def _step(s: torch.Tensor) -> torch.Tensor:
    return 1 - s.clamp(-BELOW_ONE, BELOW_ONE).acos() / math.pi


RELU = Dual(_relu, _step, lambda t: _relu(t.exp()).log(), lambda t: _step(t.exp()).log())


def series(coefficients: Sequence[float]) -> Dual:
    """The dual sum c_i s^i, of the activation sum sqrt(c_i) h_i with normalised Hermite h_i.

    Raises:
        ValueError: coefficients below 0, that do not sum to 1, or of a constant alone.
    """
    c = [float(value) for value in coefficients]
    if not c or min(c) < 0 or abs(sum(c) - 1) > 1e-9 or c[0] == 1:
        raise ValueError(
            "coefficients: expected numbers from 0 up that sum to 1, not a constant alone, got "
            f"{c}; divide them by their sum"
        )

    def plain(terms: list[float], s: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(s)
        for term in reversed(terms):  # Horner's rule
            total = total * s + term
        return total

    def logarithm(terms: list[float], t: torch.Tensor) -> torch.Tensor:
        each = [math.log(term) + i * t for i, term in enumerate(terms) if term]
        return torch.stack(each).logsumexp(0)

    slopes = [i * term for i, term in enumerate(c)][1:]
    return Dual(*(partial(f, terms) for f in (plain, logarithm) for terms in (c, slopes)))


def dual(activation: Function, terms: int = 30) -> Dual:
    """The dual of any smooth activation, from its first Hermite coefficients, by quadrature."""
    import numpy as np

    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(120))
    h = [torch.ones_like(nodes), nodes]
    for k in range(1, checks.positive("terms", terms, least=2) - 1):  # h_k = He_k / sqrt(k!)
        h.append((nodes * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
    c = (torch.stack(h) @ (activation(nodes) * weights)).square()
    return series((c / c.sum()).tolist())


@dataclass(frozen=True)
class Wide:
    """The kernel of a network with `depth` infinitely wide hidden layers; 1 for equal inputs.

    kind: "nngp", the covariance of the outputs of random networks; "ntk", of their gradients by
    the weights, the kernel with which gradient descent learns. Weights are standard normal over
    the root of the fan-in, there are no biases. group: how many neighbouring patches are averaged
    before each layer but the first, as in a convolutional network without overlaps. constant: one
    more entry of each input, so that none is 0.

    Raises:
        ValueError: a depth or a group below 1, another kind.
    """

    depth: int = 3
    dual: Dual = RELU
    kind: Literal["nngp", "ntk"] = "ntk"
    group: int = 1
    constant: float = 0.0

    def __post_init__(self) -> None:
        checks.positive("depth", self.depth)
        checks.positive("group", self.group)
        checks.known("kind", self.kind, ("nngp", "ntk"))

    def __call__(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The kernel of inputs `(N, D)` and `(M, D)`, or of P patches each, `(N, P, D)`.

        Each input or patch is scaled to length 1 first. float64 `(N, M)`, with a gradient.

        Raises:
            ValueError: inputs of different sizes, or all 0; patches that make no whole groups.
        """
        s = k = self._cosines(x, z)
        for level, (new, old) in enumerate(self._shares()):
            s, k = (self._grouped(v, level).mean(-1) for v in (s, k))
            value = self.dual.value(s).where(s < 1, s)  # f(1) = 1, to the last bit
            k = value if self.kind == "nngp" else new * value + old * k * self.dual.slope(s)
            s = value
        return k.mean(-1)

    def log(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The logarithm of the same, which underflows at no depth.

        Raises:
            ValueError: as above; inputs (or patches) with an angle above 90 degrees.
        """
        cosines = self._cosines(x, z)
        if bool((cosines < -1e-12).any()):
            raise ValueError(
                "x, z: expected cosines from 0 up, as images in [0, 1] have, got "
                f"{float(cosines.min()):.3g}; call the kernel, not its logarithm"
            )
        s = k = cosines.clamp(min=1e-300).log()
        for level, (new, old) in enumerate(self._shares()):
            s, k = (_log_mean(self._grouped(v, level)) for v in (s, k))
            s = s.clamp(LEAST, 0)
            value, k = self.dual.log_value(s).where(s < 0, s), k + self.dual.log_slope(s)
            k = torch.logaddexp(math.log(new + 1e-300) + value, math.log(old) + k)
            s, k = value, value if self.kind == "nngp" else k
        return _log_mean(k)

    @property
    def diagonal(self) -> float:
        """The NTK of equal inputs before it is scaled to 1."""
        return 1 / [*self._shares()][-1][0]

    def _shares(self) -> Iterator[tuple[float, float]]:
        """In each layer K' = S' + K f'(S), over what that is for S = 1: the shares of both."""
        slope, inverse = float(self.dual.slope(torch.tensor(1.0).double())), 1.0
        for _ in range(self.depth):
            yield inverse / (inverse + slope), 1 / (inverse + slope)
            inverse = inverse / (inverse + slope)

    def _grouped(self, values: torch.Tensor, level: int) -> torch.Tensor:
        """`(N, M, P)` as `(N, M, P / group, group)` before each layer but the first."""
        n = values.shape[-1]
        size = self.group if level and n > 1 else 1
        if n % size:
            raise ValueError(
                f"group: expected a divisor of the {n} patches before layer {level + 1}, got {size}"
            )
        return values.unflatten(-1, (-1, size))

    def _cosines(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Of each input with each other one, patch by patch: `(N, M, P)`."""
        if x.ndim not in (2, 3) or x.shape[1:] != z.shape[1:]:
            raise ValueError(
                "x, z: expected inputs (N, D) or (N, P, D) of one size, got "
                f"{tuple(x.shape)} and {tuple(z.shape)}"
            )
        x, z = (F.pad(v.double(), (0, 1), value=self.constant) for v in (x, z))
        x, z = (v / v.norm(dim=-1, keepdim=True) for v in (x, z))
        if not bool(x.isfinite().all() and z.isfinite().all()):
            raise ValueError("x, z: expected inputs that are finite and not all 0; give a constant")
        cosines = torch.einsum("n...d,m...d->nm...", x, z).reshape(len(x), len(z), -1)
        return cosines.where(cosines.abs() < BELOW_ONE, cosines.detach().round())  # equal is equal


def _log_mean(t: torch.Tensor) -> torch.Tensor:
    return t.logsumexp(-1) - math.log(t.shape[-1])


def empirical_ntk(
    model: nn.Module, x: torch.Tensor, z: torch.Tensor, *, logit: int | None = None
) -> torch.Tensor:
    """The kernel of a network as it is: how alike its gradients by the weights are.

    Of inputs `(N, ...)` and `(M, ...)`, `(N, M)`: for one logit, or the mean over all.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def logits(weights: dict[str, torch.Tensor], one: torch.Tensor) -> torch.Tensor:
        said = functional_call(model, weights, (one[None],))[0]
        return said if logit is None else said[logit : logit + 1]

    jacobian = vmap(jacrev(logits), in_dims=(None, 0))
    pairs = zip(jacobian(weights, x).values(), jacobian(weights, z).values(), strict=True)
    each = [torch.einsum("nkp,mkp->nm", a.flatten(2), b.flatten(2)) / a.shape[1] for a, b in pairs]
    return torch.stack(each).sum(0)
