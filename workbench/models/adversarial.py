"""Projected gradient descent, as training and the model cards need it.

Madry et al. (2018). Inside the L-infinity ball of radius `eps` and the box [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def pgd(
    model: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    alpha: float,
    steps: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Images near `x` on which the loss of label `y` is high: the last iterate.

    Starts at a random point of the ball. Gradients are taken with respect to the image
    alone, so the model's own `.grad` stays as it is.
    """
    noise = torch.rand(
        x.shape, generator=generator, device=generator.device, dtype=torch.float32
    ).to(x.device)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    if (space := getattr(model, "space", None)) is not None:  # only what may move
        low, high = space.held(low, x), space.held(high, x)
    x_adv = torch.clamp(x + (2 * noise - 1) * eps, low, high)
    for _ in range(steps):
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            x_adv = x_adv.clone().requires_grad_()
            loss = F.cross_entropy(model(x_adv), y.clone(), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = torch.clamp(x_adv.detach() + alpha * gradient.sign(), low, high)
    return x_adv.detach()


def survivors(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    eps: float,
    steps: int = 40,
    restarts: int = 5,
    seed: int = 0,
) -> torch.Tensor:
    """Which images stay right under PGD with restarts: bool `(N,)`.

    The step is 2.5 eps / steps. Images already fooled are not attacked again.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        alive = model(x).argmax(1) == y
    for _ in range(restarts):
        left = alive.nonzero().flatten()
        if len(left) == 0:
            break
        alpha = 2.5 * eps / steps
        x_adv = pgd(model, x[left], y[left], eps=eps, alpha=alpha, steps=steps, generator=generator)
        with torch.no_grad():
            alive[left] = model(x_adv).argmax(1) == y[left]
    return alive
