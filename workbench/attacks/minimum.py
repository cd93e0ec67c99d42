"""Attacks that look for the smallest perturbation: DeepFool, DDN and FMN.

All of them descend margins, whose gradients stay where that of cross-entropy vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field

from workbench.attacks.base import MinimumNorm
from workbench.attacks.goals import Goal, Targeted, Untargeted
from workbench.attacks.norms import Norm, per_image, project, size, steepest
from workbench.attacks.problem import Loss, Problem

TINY = 1e-20
MOST_RIVALS = 9  # most likely other classes looked at
DUAL: dict[Norm, Norm] = {"L2": "L2", "L1": "Linf", "Linf": "L1", "L0": "Linf"}


class MarginDescent(MinimumNorm):
    """What these attacks share: any goal that has a margin, and a choice of norms."""

    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)

    @property
    def distance(self) -> Norm:
        """The field `norm`; L2 where there is none."""
        return getattr(self, "norm", "L2")


class Nearness:
    """How far it is to the nearest face of the goal's region, if margins were linear.

    Of the rivals of a label the nearest in the norm counts, which need not be the likeliest:
    each margin is divided by its slope at the image itself, taken once.
    """

    def __init__(self, problem: Problem, index: torch.Tensor) -> None:
        losses: list[Loss] = [margin]
        if isinstance(problem.goal, Untargeted):
            most = min(MOST_RIVALS, len(problem.model.classes) - 1)
            losses = [partial(lead, rank) for rank in range(1, most + 1)]
        logits, gradients = problem.gradients(problem.x[index], index, losses)
        dual = DUAL[problem.norm]
        slopes = torch.stack([size(gradient, dual) for gradient in gradients], 1)
        steep = slopes.amax(1, keepdim=True)
        slopes = slopes.clamp(min=1e-3 * steep).where(steep > TINY, 1.0)
        self.rivals: torch.Tensor | None = None
        if len(losses) > 1:
            others = logits.scatter(1, problem.goal.labels[index][:, None], -torch.inf)
            self.rivals = others.topk(len(losses)).indices
        self.slopes, self.row = slopes, torch.zeros_like(problem.found, dtype=torch.int64)
        self.row[index] = torch.arange(len(index), device=index.device)
        self.now = self(index, problem.goal.of(index), logits)

    def __call__(self, index: torch.Tensor, goal: Goal, logits: torch.Tensor) -> torch.Tensor:
        """The distances `(M,)` from images of `index` that have these logits."""
        row = self.row[index]
        if self.rivals is None:
            return goal.margin(logits) / self.slopes[row, 0]
        leads = logits.gather(1, goal.labels[:, None]) - logits.gather(1, self.rivals[row])
        return (leads / self.slopes[row]).amin(1)

    def of(self, index: torch.Tensor) -> Loss:
        """The same as a loss for the images `index`."""
        return partial(self, index)


class DeepFool(MarginDescent):
    """Steps to the nearest face of the linearised class region (Moosavi-Dezfooli et al., 2016).

    It stops at the first success. Towards a target it steps to the worst rival's face, which
    is not always the shortest way.
    """

    title: ClassVar[str] = "DeepFool: linearise, step to the nearest face"
    goals: ClassVar[tuple[type[Goal], ...]] = (Untargeted, Targeted)

    norm: Literal["L2", "Linf"] = Field("L2", description="norm to keep small")
    n_steps: int = Field(50, ge=1, le=10_000, description="linearisations at most")
    candidates: int = Field(10, ge=2, le=1000, description="most likely classes looked at")
    overshoot: float = Field(0.02, ge=0, le=1, description="share added to the perturbation")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Linearise, step, and leave out the images that are fooled."""
        index = unfinished(problem)
        x = current = problem.x[index]
        delta = torch.zeros_like(x)
        for step in range(self.n_steps):
            if len(index) == 0:
                return
            delta = (x + delta + self.to_face(problem, current, index)).clamp(0, 1) - x
            current = (x + (1 + self.overshoot) * delta).clamp(0, 1)
            problem.offer(current, problem.logits(current, index), index)
            yield step + 1, self.n_steps
            left = ~problem.found[index]
            index, x, current, delta = index[left], x[left], current[left], delta[left]

    def to_face(self, problem: Problem, current: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The shortest step to where a linearised margin is 0, and 1e-4 beyond."""
        nearest = torch.full((len(index),), torch.inf, device=current.device)
        chosen, faces = torch.zeros_like(current), self.faces(problem)
        logits, gradients = problem.gradients(current, index, faces)
        for face, gradient in zip(faces, gradients, strict=True):
            slope = size(gradient, DUAL[self.norm]).clamp(min=TINY)
            away = face(problem.goal.of(index), logits) / slope
            step = per_image(away + 1e-4) * steepest(gradient, self.norm, current)
            chosen = torch.where(per_image(away < nearest), step, chosen)
            nearest = torch.minimum(nearest, away)
        return chosen

    def faces(self, problem: Problem) -> list[Loss]:
        """The margins to bring to 0: of the label over each likely class, or of the goal."""
        if not isinstance(problem.goal, Untargeted):
            return [margin]
        most = min(self.candidates, len(problem.model.classes))
        return [partial(lead, rank) for rank in range(1, most)]


class DDN(MarginDescent):
    """Decoupled direction and norm: a walk on a sphere that shrinks where the goal is met.

    Rony et al., 2019; without the rounding to 8 bits.
    """

    title: ClassVar[str] = "DDN: decoupled direction and norm"

    n_steps: int = Field(100, ge=1, le=100_000, description="gradient steps")
    gamma: float = Field(0.05, gt=0, lt=1, description="change of the norm at each step")
    first_norm: float = Field(1.0, gt=0, description="norm to begin with")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Step along the gradient, then onto the sphere."""
        index = unfinished(problem)
        if len(index) == 0:
            return
        x = current = problem.x[index]
        radius = torch.full((len(index),), self.first_norm, device=x.device)
        loss = Nearness(problem, index).of(index)
        for step in range(self.n_steps):
            logits, gradient = problem.gradient(current, index, loss)
            problem.offer(current, logits, index)
            yield step, self.n_steps
            met = problem.goal.of(index).met(logits)
            radius = radius * torch.where(met, 1 - self.gamma, 1 + self.gamma)
            alpha = cosine(1.0, 0.01, step / self.n_steps)
            delta = current - x + alpha * steepest(gradient, "L2", current)
            current = (x - per_image(radius) * steepest(delta, "L2", current)).clamp(0, 1)
        problem.offer(current, problem.logits(current, index), index)
        yield self.n_steps, self.n_steps


class FMN(MarginDescent):
    """Fast minimum norm: PGD in a ball whose radius follows the boundary (Pintor et al., 2021)."""

    title: ClassVar[str] = "FMN: fast minimum norm"

    norm: Literal["Linf", "L2", "L1", "L0"] = Field("L2", description="norm to keep small")
    n_steps: int = Field(100, ge=1, le=100_000, description="gradient steps")
    alpha: float = Field(
        0.0, ge=0, description="L2 length of the first step; 1 in L1 and L2, 10 else, when 0"
    )
    gamma: float = Field(0.05, gt=0, lt=1, description="first relative change of the radius")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Set the radius by whether the goal is met, step, and project on the ball."""
        index = unfinished(problem)
        if len(index) == 0:
            return
        x = current = problem.x[index]
        radius = torch.zeros(len(index), device=x.device)
        first = self.alpha or (1.0 if self.norm in ("L1", "L2") else 10.0)
        loss = Nearness(problem, index).of(index)
        for step in range(self.n_steps):
            logits, gradient = problem.gradient(current, index, loss)
            problem.offer(current, logits, index)
            yield step, self.n_steps
            done = step / self.n_steps
            goal, best = problem.goal.of(index), problem.distance[index]
            least = 1.0 if self.norm == "L0" else 0.0
            gamma = cosine(self.gamma, 1e-3, done)
            radius = follow(radius, best, goal.met(logits), gamma, least)
            if self.norm != "L0":  # until the first success, as far as a linear margin reaches
                slope = size(gradient, DUAL[self.norm]).clamp(min=TINY)
                reach = size(current - x, self.norm) + loss(goal, logits) / slope
                radius = torch.where(problem.found[index], radius, reach * (1 + gamma))
            alpha = cosine(first, first / 100, done)
            moved = current + alpha * steepest(gradient, "L2", current)
            if self.norm != "L0":
                moved = moved.clamp(0, 1)
            current = within(moved, x, radius, self.norm)
        problem.offer(current, problem.logits(current, index), index)
        yield self.n_steps, self.n_steps


def unfinished(problem: Problem) -> torch.Tensor:
    """The indices of the images for which something other than no change must be found."""
    return (problem.distance > 0).nonzero().flatten()


def margin(goal: Goal, logits: torch.Tensor) -> torch.Tensor:
    """The margin of the goal `(N,)`, as a loss."""
    return goal.margin(logits)


def lead(rank: int, goal: Goal, logits: torch.Tensor) -> torch.Tensor:
    """The logit of the label less that of the rank-th other class `(N,)`."""
    own = goal.labels[:, None]
    others = logits.scatter(1, own, -torch.inf).topk(rank).values[:, -1]
    return logits.gather(1, own)[:, 0] - others


def cosine(first: float, last: float, done: float) -> float:
    """From `first` to `last` along half a cosine, `done` of the way."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def follow(
    radius: torch.Tensor, best: torch.Tensor, met: torch.Tensor, gamma: float, least: float = 0.0
) -> torch.Tensor:
    """The radius `(N,)`, below the best so far where the goal is met, else larger."""
    near = torch.minimum(radius, best)
    smaller = torch.minimum(near * (1 - gamma), near - least)
    return torch.where(met, smaller, torch.maximum(radius * (1 + gamma), radius + least))


def within(x_adv: torch.Tensor, x: torch.Tensor, radius: torch.Tensor, norm: Norm) -> torch.Tensor:
    """`x_adv`, in the box, brought within `radius` `(N,)` of `x`; in L0, its largest changes."""
    if norm != "L0":
        return project(x_adv, x, radius, norm).clamp(0, 1)
    place = (x_adv - x).flatten(1).abs().argsort(dim=1, descending=True).argsort(dim=1)
    return torch.where((place < radius[:, None]).view_as(x), x_adv.clamp(0, 1), x)
