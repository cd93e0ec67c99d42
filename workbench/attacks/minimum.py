"""Attacks that look for the smallest perturbation: DeepFool, DDN and FMN.

All of them descend margins, whose gradients stay where that of cross-entropy vanishes.

Inside the region of a class, gradients of networks trained against attacks say little: features
are cut off by thresholds, so what a linear margin promises is wrong. From outside, the boundary
can be followed while the ball shrinks: so FMN first leaves the region, and then comes back.
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
BEYOND = (1.02, 10.0, 1e4)  # first steps of the walks, in linear margins; the last: a corner
FEWEST = 16  # steps that a walk needs: out, inward, and to settle
LAST = 1e-3  # last change of the radius
KEPT = 0.9  # share of the gradients' mean that each new one leaves, in L0
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
        nearest = torch.full((len(index),), torch.inf, device=current.device, dtype=current.dtype)
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
        radius = torch.full((len(index),), self.first_norm, device=x.device, dtype=x.dtype)
        loss = Nearness(problem, index).of(index)
        for step in range(self.n_steps):
            logits, gradient = problem.gradient(current, index, loss)
            problem.offer(current, logits, index)
            yield step, self.n_steps
            met = problem.goal.of(index).met(logits)
            radius = torch.where(met, radius * (1 - self.gamma), radius * (1 + self.gamma))
            alpha = cosine(1.0, 0.01, step / self.n_steps)
            delta = current - x + alpha * steepest(gradient, "L2", current)
            current = (x - per_image(radius) * steepest(delta, "L2", current)).clamp(0, 1)
        problem.offer(current, problem.logits(current, index), index)
        yield self.n_steps, self.n_steps


class FMN(MarginDescent):
    """Fast minimum norm: PGD in a ball whose radius follows the boundary (Pintor et al., 2021).

    The steps are shared by three walks, which leave the region of the class near the image,
    farther away, and at a corner of the box; the smallest perturbation of all counts. Step
    lengths are shares of the radius, so that sizes of images and units do not matter.
    """

    title: ClassVar[str] = "FMN: fast minimum norm"

    norm: Literal["Linf", "L2", "L1", "L0"] = Field("L2", description="norm to keep small")
    n_steps: int = Field(100, ge=1, le=100_000, description="gradient steps")
    alpha: float = Field(
        3.0, gt=0, le=100, description="first step on the boundary, as a share of the radius"
    )
    gamma: float = Field(0.4, gt=0, lt=1, description="first relative change of the radius")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Walk from each start; the first towards the nearest rival, the others the likeliest."""
        index = unfinished(problem)
        if len(index) == 0:
            return
        walks = BEYOND[: max(1, min(len(BEYOND), self.n_steps // FEWEST))]
        ends = [self.n_steps * (i + 1) // len(walks) for i in range(len(walks))]
        near = Nearness(problem, index).of(index)
        for i, (beyond, begin, end) in enumerate(zip(walks, [0, *ends], ends, strict=False)):
            # The L1 ball is the hull of L0's in the box: one walk relaxed, the others exact.
            norm: Norm = "L1" if self.norm == "L0" and i == 1 else self.norm
            loss = near if i == 0 else margin
            for step in self.walk(problem, index, loss, norm, beyond, end - begin):
                yield begin + step, self.n_steps
        yield self.n_steps, self.n_steps

    def walk(
        self,
        problem: Problem,
        index: torch.Tensor,
        loss: Loss,
        norm: Norm,
        beyond: float,
        n_steps: int,
    ) -> Iterator[int]:
        """Leave the region, then follow its boundary on a ball that shrinks where it can."""
        x = current = problem.x[index]
        goal = problem.goal.of(index)
        best = radius = torch.full((len(index),), torch.inf, device=x.device, dtype=x.dtype)
        since = torch.zeros_like(radius)  # steps until the first success of this walk
        mean, diagonal = torch.zeros_like(x), math.sqrt(x[0].numel())
        for step in range(n_steps):
            logits, gradient = problem.gradient(current, index, loss)
            problem.offer(current, logits, index)
            yield step
            met, length = goal.met(logits), size(current - x, norm)
            best = torch.where(met, torch.minimum(best, length), best)
            out = best.isfinite()
            since = torch.where(out, since, step + 1.0)
            done = ((step - since) / (n_steps - since).clamp(min=1)).clamp(0, 1)
            gamma = LAST + (self.gamma - LAST) * (1 + (math.pi * done).cos()) / 2
            radius = follow(radius, best, met, gamma, 1.0 if norm == "L0" else 0.0)
            free = feasible(gradient, current)
            # In the second half ever shorter ones at most: two faces may throw it to and fro.
            late = 2 * step / n_steps - 1
            most = diagonal * 0.01**late if late > 0 else math.inf
            reach = beyond * loss(goal, logits) / size(free, "L2").clamp(min=TINY)
            leave = current + per_image(reach.clamp(max=most)) * steepest(free, "L2", current)
            beyond = min(beyond, BEYOND[1])
            if norm == "L0":
                mean = KEPT * mean + (1 - KEPT) * unit(gradient)
                stay = fullest(x, mean, radius)
            else:
                alpha = self.alpha * (0.01 / self.alpha) ** done * radius.where(out, 0.0)
                descent = steepest(free, "Linf" if norm == "Linf" else "L2", current)
                stay = current + per_image(alpha) * descent
                stay = project(stay.clamp(0, 1), x, radius.where(out, 0.0), norm).clamp(0, 1)
            current = torch.where(per_image(out), stay, leave.clamp(0, 1))
        problem.offer(current, problem.logits(current, index), index)


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


def unit(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with L2 length 1; zero where it is."""
    return gradient / per_image(size(gradient, "L2")).clamp(min=TINY)


def feasible(gradient: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    """The gradient without the values that a descent would push out of the box.

    Half of a black ground's gradient points out: counted, it makes steps and reach too short.
    """
    stuck = ((gradient > 0) & (current <= 0)) | ((gradient < 0) & (current >= 1))
    return gradient.masked_fill(stuck, 0)


def follow(
    radius: torch.Tensor,
    best: torch.Tensor,
    met: torch.Tensor,
    gamma: torch.Tensor | float,
    least: float = 0.0,
) -> torch.Tensor:
    """The radius `(N,)`, below the best so far where the goal is met, else larger."""
    near = torch.minimum(radius, best)
    smaller = torch.minimum(near * (1 - gamma), near - least)
    return torch.where(met, smaller, torch.maximum(radius * (1 + gamma), radius + least))


def fullest(x: torch.Tensor, mean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """`x` with the `radius` `(N,)` values that gain most by going all the way to a wall there.

    What a linear margin gains is the gradient times the room; `mean` is the gradients' mean,
    which also remembers what the values that went back had gained.
    """
    wall = (mean < 0).to(x.dtype)
    gain = (mean * (x - wall)).flatten(1)
    place = gain.argsort(dim=1, descending=True).argsort(dim=1)
    return torch.where((place < radius.floor()[:, None]).view_as(x), wall, x)
