"""Curvature: the outermost eigenvalues of a loss's Hessian in the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench import checks
from workbench.models import Classifier, batch_size, ready
from workbench.steps import Step, work

BATCH = 512
CLOSE = 1e-5  # an eigenvalue is known when its residual is this share of the largest


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """largest: the k largest, falling; smallest: the k smallest, rising; float64 `(k,)`.

    products: of the Hessian with a vector, which they took. residual: how far the worst of them
    may be from an eigenvalue.
    """

    largest: Tensor
    smallest: Tensor
    products: int
    residual: float

    def summary(self) -> dict[str, Any]:
        """The numbers by their names."""
        ends = {"largest": self.largest.tolist(), "smallest": self.smallest.tolist()}
        return {**ends, "products": self.products, "residual": self.residual}


@work
def top_eigenvalues(
    model: Classifier, x: Tensor, y: Tensor, k: int = 1, *, most: int = 200, seed: int = 0
) -> Iterator[Step[Eigenvalues]]:
    """Both ends of the spectrum of the Hessian of the mean cross-entropy, by Lanczos' method.

    Gradient descent with a rate above 2 / largest moves away from a minimum. The Hessian is that
    in all weights; it is only ever multiplied with vectors (Pearlmutter, 1994), at about twice
    the cost of a gradient. x, y: images and labels whose loss it is. most: products after which
    it ends, also where residuals are larger than 1e-5 of the largest eigenvalue. seed: of the
    vector that it starts with.

    Raises:
        TypeError, ValueError: images or labels that break the contract; k or most out of range;
            a model in train mode.
    """
    x = checks.images(x, model.input_shape, name="x").to(model.device)
    checks.labels(y, len(model.classes), len(x))
    ready(model)
    times, n = products(model, x, y.to(model.device))
    if 2 * checks.positive("k", k) > n:
        raise ValueError(f"k: expected at most half of the {n} weights, got {k}")
    most = min(checks.positive("most", most, least=2 * k), n)
    draw = torch.Generator().manual_seed(seed)
    v = torch.randn(n, generator=draw, dtype=torch.float64)
    basis, diagonal, beside = [v / v.norm()], [], []
    for done in range(1, most + 1):
        w = times(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for q in basis * 2:  # twice: the second time takes what rounding has left
            w -= (w @ q) * q
        beside.append(float(w.norm()))
        found = ends(diagonal, beside, k)
        yield Step(done, most, f"{done} products", found)
        if found.residual <= CLOSE * float(found.largest.abs().max()):
            break
        basis.append(w / beside[-1])
    yield Step(most, most, "done", found)


def ends(diagonal: list[float], beside: list[float], k: int) -> Eigenvalues:
    """The outermost eigenvalues of the tridiagonal matrix, and how well they are known."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (diagonal, beside[:-1]))
    values, vectors = torch.linalg.eigh(a.diag() + b.diag(1) + b.diag(-1))
    # The residual of a pair is the norm of what is left, times the last number of its vector.
    apart = beside[-1] * vectors[-1].abs()
    worst = float(torch.cat([apart[:k], apart[-k:]]).max())
    return Eigenvalues(values[-k:].flip(0), values[:k], len(diagonal), worst)


def products(model: Classifier, x: Tensor, y: Tensor) -> tuple[Callable[[Tensor], Tensor], int]:
    """The Hessian of the mean loss as a function of a vector, and its size."""
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    leaves, size = list(weights.values()), batch_size(model.input_shape, BATCH)
    batches = list(zip(x.split(size), y.split(size), strict=True))

    def times(vector: Tensor) -> Tensor:
        parts = vector.to(leaves[0]).split([p.numel() for p in leaves])
        total = torch.zeros_like(vector)
        # Fast attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for images, labels in batches:
                logits = functional_call(model, weights, (images,))
                loss = F.cross_entropy(logits, labels, reduction="sum") / len(x)
                slopes = torch.autograd.grad(loss, leaves, create_graph=True)
                along = sum((g.flatten() * v).sum() for g, v in zip(slopes, parts, strict=True))
                curved = torch.autograd.grad(along, leaves, materialize_grads=True)
                total += torch.cat([c.flatten() for c in curved]).to(total)
        return total

    return times, sum(p.numel() for p in leaves)
