"""Norms of perturbations, projections on their balls, and steepest steps."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch

Norm = Literal["Linf", "L2", "L1", "L0"]
NORMS: tuple[Norm, ...] = get_args(Norm)


def size(delta: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The norm of each perturbation: `(N, C, H, W)` -> `(N,)`. L0 counts changed values."""
    flat = delta.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
    if norm == "L2":
        return flat.norm(dim=1)
    if norm == "L1":
        return flat.abs().sum(1)
    return (flat != 0).sum(1).to(delta.dtype)


def per_image(values: torch.Tensor) -> torch.Tensor:
    """`(N,)` made to multiply `(N, C, H, W)`."""
    return values[:, None, None, None]


def project(x_adv: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The images nearest `x_adv` within `eps` `(N,)` of `x` and, for Linf exactly, the box.

    For L2 and L1 the ball comes first and the box after, which can only shrink the
    perturbation; for L1 the two together are exact (Croce and Hein, 2021).
    """
    e = per_image(eps)
    if norm == "Linf":
        return x_adv.clamp(x - e, x + e).clamp_(0, 1)
    if norm == "L2":
        delta = x_adv - x
        length = per_image(size(delta, "L2"))
        return (x + delta * (e / length.clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)
    return x + project_l1_box(x_adv - x, eps, -x, 1 - x)


def project_l1_box(
    delta: torch.Tensor, eps: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """The point nearest `delta` with L1 norm at most `eps` and low <= point <= high.

    It is sign(d) * clip(|d| - t, 0, bound) for one t >= 0 an image; the norm falls
    with t, so t is found by bisection. low <= 0 <= high.
    """
    bound = torch.where(delta > 0, high, -low)
    magnitude = delta.abs()

    def shrunk(t: torch.Tensor) -> torch.Tensor:
        return torch.minimum((magnitude - per_image(t)).clamp(min=0), bound)

    least = torch.zeros_like(eps)
    most = magnitude.flatten(1).amax(1)
    for _ in range(40):
        middle = (least + most) / 2
        too_long = shrunk(middle).flatten(1).sum(1) > eps
        least, most = torch.where(too_long, middle, least), torch.where(too_long, most, middle)
    inside = shrunk(torch.zeros_like(eps)).flatten(1).sum(1) <= eps
    return delta.sign() * shrunk(torch.where(inside, torch.zeros_like(most), most))


def steepest(gradient: torch.Tensor, norm: Norm, x_adv: torch.Tensor) -> torch.Tensor:
    """The step of unit norm that lowers a linear loss most; zero where the gradient is.

    For L1, the steps of the largest 1% of the values that the box lets move.
    """
    if norm == "Linf":
        return gradient.sign().neg_()
    if norm == "L2":
        return -gradient / per_image(size(gradient, "L2")).clamp(min=1e-12)
    stuck = ((gradient > 0) & (x_adv <= 0)) | ((gradient < 0) & (x_adv >= 1))
    usable = gradient.masked_fill(stuck, 0).flatten(1)
    k = max(1, usable.shape[1] // 100)
    threshold = usable.abs().topk(k).values[:, -1:]
    chosen = -usable.sign() * (usable.abs() >= threshold.clamp(min=1e-30))
    return (chosen / chosen.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def random_start(
    x: torch.Tensor, eps: torch.Tensor, norm: Norm, generator: torch.Generator
) -> torch.Tensor:
    """A random image in the ball (uniform for Linf) and the box."""
    draw = partial(torch.rand, generator=generator, device=generator.device, dtype=torch.float32)
    noise = draw(x.shape).to(x.device) * 2 - 1
    if norm == "Linf":
        return (x + per_image(eps) * noise).clamp(0, 1)
    reach = draw(len(x)).to(x.device)
    noise = noise / per_image(size(noise, norm)).clamp(min=1e-12)
    return project(x + per_image(eps * reach) * noise, x, eps, norm)
