"""Square: random squares, kept where they help; asks for logits only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from workbench.attacks.base import FixedBudget
from workbench.attacks.norms import per_image, size
from workbench.attacks.problem import Problem

# The share of the image that a square covers halves after each of these queries in 10,000.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(FixedBudget):
    """The Square attack: logits only, no gradient (Andriushchenko et al., 2020)."""

    title: ClassVar[str] = "Square: random squares, black box"
    needs_gradient: ClassVar[bool] = False

    norm: Literal["Linf", "L2"] = Field("Linf", description="norm of the perturbation")
    n_queries: int = Field(5000, ge=1, le=1_000_000, description="queries an image")
    p_init: float = Field(0.8, gt=0, le=1, description="share of the image in the first squares")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Try a square a query on each image that is left, and keep it if the margin falls."""
        index, draw = problem.active(), problem.generator
        if len(index) == 0:
            return
        goal, x, eps = problem.goal.of(index), problem.x[index], problem.budget(index)
        change = squares if self.norm == "Linf" else bumps
        best = stripes(x, eps, draw) if self.norm == "Linf" else tiles(x, eps, draw)
        logits = problem.logits(best, index)
        margin = goal.margin(logits)
        pause = max(1, self.n_queries // 100)
        # Each look at who is fooled makes a GPU wait, so it is taken less often there.
        every = 1 if x.device.type == "cpu" else 10
        for query in range(1, self.n_queries + 1):
            last = query == self.n_queries
            if query % pause == 0 or last:  # those not kept are no better than what is there
                problem.offer(best, logits, index)
            yield query, self.n_queries
            if query % every == 0 or last:
                met = goal.met(logits)
                if bool(met.any()):
                    problem.offer(best[met], logits[met], index[met])
                    index, goal, x, eps = index[~met], goal.of(~met), x[~met], eps[~met]
                    best, logits, margin = best[~met], logits[~met], margin[~met]
            if last or len(index) == 0:
                return
            share = self.p_init / 2 ** sum(query * 10_000 > h * self.n_queries for h in HALVINGS)
            tried = change(best, x, eps, share, draw)
            answer = problem.logits(tried, index)
            tried_margin = goal.margin(answer)
            better = tried_margin < margin
            best = torch.where(per_image(better), tried, best)
            logits = torch.where(better[:, None], answer, logits)
            margin = torch.where(better, tried_margin, margin)


def signs(shape: tuple[int, ...], like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Random +1 and -1."""
    return (torch.randint(2, shape, generator=draw, device=draw.device) * 2 - 1).to(like)


def spot(x: torch.Tensor, side: int, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    """The index of a square somewhere in each image: `x[spot]` is `(N, C, side, side)`."""
    n, channels = x.shape[:2]
    rows, columns = (
        torch.randint(length - side + 1, (n, 1), generator=draw, device=draw.device).to(x.device)
        + torch.arange(side, device=x.device)
        for length in x.shape[2:]
    )
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return image, channel, rows[:, None, :, None], columns[:, None, None, :]


def stripes(x: torch.Tensor, eps: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """The first try in Linf: vertical stripes of +eps and -eps."""
    n, channels, _, width = x.shape
    return (x + per_image(eps) * signs((n, channels, 1, width), x, draw)).clamp(0, 1)


def squares(
    best: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, share: float, draw: torch.Generator
) -> torch.Tensor:
    """Linf: one square of each image moved to +eps or -eps from `x`, one sign a channel."""
    n, channels, height, width = x.shape
    side = max(1, min(round((share * height * width) ** 0.5), height, width))
    here = spot(x, side, draw)
    tried = best.clone()
    tried[here] = (x[here] + per_image(eps) * signs((n, channels, 1, 1), x, draw)).clamp(0, 1)
    return tried


def tiles(x: torch.Tensor, eps: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """The first try in L2: bumps, five a side, with random signs."""
    n, channels, height, width = x.shape
    side = max(1, min(height, width) // 5)
    sign = signs((n, channels, height // side, width // side), x, draw)
    delta = torch.kron(sign, bump(side).to(x))
    return within(F.pad(delta, (0, width % side, 0, height % side)), x, eps)


def bumps(
    best: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, share: float, draw: torch.Generator
) -> torch.Tensor:
    """L2: what one square has of the budget goes, as a bump, into another square."""
    n, channels, height, width = x.shape
    side = min(max(round((share * height * width) ** 0.5), 3) // 2 * 2 + 1, height, width)
    into, out = spot(x, side, draw), spot(x, side, draw)
    delta = best - x
    energy, old = length(delta) ** 2, delta[into]
    delta[into], delta[out] = 0, 0
    freed = energy - length(delta) ** 2
    unused = (per_image(eps) ** 2 - energy.sum(1, keepdim=True)).clamp(min=0) / channels
    shape, upright = bump(side).to(x), signs((n, 1, 1, 1), x, draw) > 0
    new = torch.where(upright, shape, shape.T) * signs((n, channels, 1, 1), x, draw)
    new = new + old / length(old)
    delta[into] = new / length(new) * (freed + unused).clamp(min=0).sqrt()
    return within(delta, x, eps)


def length(delta: torch.Tensor) -> torch.Tensor:
    """The L2 norm of each channel, `(N, C, 1, 1)`, kept from zero."""
    return delta.norm(dim=(2, 3), keepdim=True).clamp(min=1e-12)


def within(delta: torch.Tensor, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The perturbation made as long as the L2 budget, then the box."""
    return (x + delta * per_image(eps / size(delta, "L2").clamp(min=1e-12))).clamp(0, 1)


def bump(side: int) -> torch.Tensor:
    """A hill above a valley, of unit length; hills add up squares, the k-th by 1 / k^2."""
    halves, count = [], partial(torch.arange, device="cpu")
    for height in (side // 2, side - side // 2):
        rows, columns = count(0, height) - height // 2, count(0, side) - side // 2
        sums = (1 / count(1, side // 2 + 2).float() ** 2).flip(0).cumsum(0).flip(0)
        hill = sums[torch.maximum(rows.abs()[:, None], columns.abs())]
        halves.append(hill / hill.norm().clamp(min=1e-12))
    both = torch.cat([halves[0], -halves[1]])
    return both / both.norm()
