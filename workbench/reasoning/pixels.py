"""Pixels as arguments: what two sides show of an image to a judge who sees nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from workbench import checks
from workbench.models import Classifier

Way = Literal["debate", "consultancy", "no side", "random"]
# From images `(N, C, H, W)` of which the rest is hidden, and masks `(N, 1, H, W)`, to logits.
Judge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Debate:
    """What was shown in turn, and what the judge made of it.

    order: int64 `(k,)`, squares row by row; sides `(k,)`: 1 for the first claim, -1 for the second,
    0 for none. worth `(h, w)`: what each square says for the first claim, by the expert. masks
    `(k + 1, 1, H, W)`: what is seen after each turn; shares `(k + 1,)`: the judge's for the first.
    """

    claims: tuple[int, int]
    order: torch.Tensor
    sides: torch.Tensor
    worth: torch.Tensor
    masks: torch.Tensor
    shares: torch.Tensor

    def until(self, turn: int) -> Debate:
        """As it was after `turn` squares."""
        said, seen = slice(turn), slice(turn + 1)
        now: dict[str, Any] = {"order": self.order[said], "sides": self.sides[said]}
        return replace(self, **now, masks=self.masks[seen], shares=self.shares[seen])


def debate(
    expert: Classifier,
    image: torch.Tensor,
    claims: tuple[int, int],
    k: int,
    *,
    way: Way = "debate",
    hidden: torch.Tensor,
    judge: Judge | None = None,
    square: int = 1,
    side: int = 1,
    seed: int = 0,
) -> Debate:
    """Show `k` squares of an image to a judge of two claims (Irving et al., 2018, with pixels).

    To first order a pixel says d(z_a - z_b)/dx (x - hidden) for claim a against b, by the expert.
    In a "debate" the sides show their best squares in turn; in a "consultancy" one of them all;
    for "no side" an expert shows what matters most, whomever it helps.

    image: `(C, H, W)`; hidden: of that shape, what stands where nothing is shown, such as the mean
    image. judge: the expert itself when None. square: pixels a side. side: 1 or -1, whose
    consultant it is. seed: of the random order.

    Raises:
        ValueError: an unknown way, the same claim twice, no square to show or more than there are.
    """
    checks.known("way", way, get_args(Way))
    if claims[0] == claims[1]:
        raise ValueError(f"claims: expected two different classes, got {claims[0]} twice")
    image, hidden = image.to(expert.device), hidden.to(expert.device)
    x = image[None].clone().requires_grad_()
    with torch.enable_grad():
        z = expert(x)[0]
        (slope,) = torch.autograd.grad(z[claims[0]] - z[claims[1]], x)
    said = (slope * (image - hidden)).detach().sum(1, keepdim=True)
    worth = F.avg_pool2d(said, square, ceil_mode=True, divisor_override=1)[0, 0].cpu()
    order, sides = turns(worth.flatten(), checks.positive("k", k), way, side, seed)
    shown = torch.zeros(k + 1, worth.numel())
    for turn, place in enumerate(order.tolist(), 1):
        shown[turn:, place] = 1
    h, w = image.shape[1:]
    masks = shown.view(-1, 1, *worth.shape).repeat_interleave(square, 2)
    masks = masks.repeat_interleave(square, 3)[:, :, :h, :w].to(image.device)
    seen = torch.where(masks > 0, image, hidden)
    with torch.no_grad():
        z = expert(seen) if judge is None else judge(seen, masks)
    return Debate(claims, order, sides, worth, masks, z[:, list(claims)].softmax(1)[:, 0].cpu())


def turns(
    worth: torch.Tensor, k: int, way: Way, side: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places are shown in turn, and for whom, by what they are worth `(P,)`."""
    if k > len(worth):
        raise ValueError(f"k: expected at most {len(worth)} squares, got {k}; choose another k")
    if way == "debate":  # neither shows what was shown: each goes down its own list
        lists = [worth.argsort(descending=d, stable=True).tolist() for d in (True, False)]
        order: list[int] = []
        for turn in range(k):
            order.append(next(i for i in lists[turn % 2] if i not in order))
        return torch.tensor(order), 1 - 2 * (torch.arange(k) % 2)
    if way == "random":
        drawn = torch.randperm(len(worth), generator=torch.Generator().manual_seed(seed))
        return drawn[:k], torch.zeros(k, dtype=torch.int64)
    liked = worth.abs() if way == "no side" else worth * side
    sides = torch.full((k,), 0 if way == "no side" else side)
    return liked.argsort(descending=True, stable=True)[:k], sides
