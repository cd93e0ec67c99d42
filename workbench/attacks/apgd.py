"""Auto-PGD: gradient steps whose size halves itself where progress stalls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field

from workbench.attacks.base import FixedBudget
from workbench.attacks.goals import Goal, Untargeted
from workbench.attacks.norms import per_image, project, random_start, steepest
from workbench.attacks.problem import Problem

RHO = 0.75  # a step size is kept where at least this share of its steps helped
MOMENTUM = 0.75  # how much of a move is the new step; the rest repeats the last move


class APGD(FixedBudget):
    """Auto-PGD: no step size to choose (Croce and Hein, 2020).

    A restart takes `n_steps` gradients and one query of the last image, where nothing was
    found yet. DLR is the margin in units of the spread of the largest logits.
    """

    title: ClassVar[str] = "APGD: steps that size themselves"

    norm: Literal["Linf", "L2"] = Field("Linf", description="norm of the perturbation")
    n_steps: int = Field(100, ge=1, le=10_000, description="gradient steps")
    restarts: int = Field(1, ge=1, le=1000, description="random starts")
    loss: Literal["cross-entropy", "dlr", "margin"] = Field(
        "cross-entropy", description="what to lower"
    )

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """A run from a random start for each of the aims, on the images that are left."""
        if len(problem.active()) == 0:
            return
        aims = self.aims(problem) * self.restarts
        least, classes = compared(aims[0]), len(problem.model.classes)
        if self.loss == "dlr" and classes < least:
            message = f"loss: DLR compares {least} logits, the model has {classes}"
            warnings.warn(f"{message}; the margin is used", stacklevel=2)
        checks, total = checkpoints(self.n_steps), len(aims) * self.n_steps
        # Each look at who is fooled makes a GPU wait, so it is taken less often there.
        every = 1 if problem.x.device.type == "cpu" else 5
        for i, aim in enumerate(aims):
            run = Run(problem, aim, self.loss)
            for step in range(self.n_steps):
                if len(run.index) == 0:
                    break
                run.look()
                if step in checks:
                    run.check(step)
                yield i * self.n_steps + step, total
                if step % every == 0:
                    run.drop(problem.found[run.index])
                run.move(first=step == 0)
            if len(run.index):
                problem.offer(run.current, problem.logits(run.current, run.index), run.index)
        yield total, total

    def aims(self, problem: Problem) -> list[Goal]:
        """What to go for, one run after the other."""
        return [problem.goal]


class APGDT(APGD):
    """APGD-T: toward each of the nearest other classes in turn (Croce and Hein, 2020)."""

    title: ClassVar[str] = "APGD-T: toward each of the nearest classes"
    goals: ClassVar[tuple[type[Goal], ...]] = (Untargeted,)

    loss: Literal["dlr", "margin"] = Field("dlr", description="what to lower")
    n_targets: int = Field(9, ge=1, le=1000, description="classes to aim at, the nearest first")

    def aims(self, problem: Problem) -> list[Goal]:
        """The classes that are the most likely for the image itself, after its own."""
        labels, index = problem.goal.labels, problem.active()
        logits = torch.zeros_like(problem.best_logits)
        logits[index] = problem.logits(problem.x[index], index)
        others = logits.scatter(1, labels[:, None], -torch.inf)
        nearest = others.topk(min(self.n_targets, others.shape[1] - 1)).indices
        return [Toward(labels, target) for target in nearest.unbind(1)]


@dataclass(frozen=True, eq=False)
class Toward(Untargeted):
    """Any class but the true one, by way of one class; target: int64 `(N,)`."""

    target: torch.Tensor

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """The true class less the target."""
        own, wanted = logits.gather(1, torch.stack([self.labels, self.target], 1)).unbind(1)
        return own - wanted


def compared(goal: Goal) -> int:
    """How many of the largest logits DLR looks at."""
    return 3 if type(goal) is Untargeted else 4


def lowered(loss: str, goal: Goal, logits: torch.Tensor) -> torch.Tensor:
    """The loss `(N,)`. DLR divides by how far the largest logit is above the third (and fourth)."""
    if loss == "cross-entropy":
        return goal.cross_entropy(logits)
    least = compared(goal)
    if loss == "margin" or logits.shape[1] < least:
        return goal.margin(logits)
    top = logits.topk(least).values
    return goal.margin(logits) / (top[:, 0] - top[:, 2:].mean(1)).clamp(min=1e-12)


def checkpoints(n_steps: int) -> list[int]:
    """The steps w_j = ceil(p_j n) at which the step size is looked at; here p is in hundredths.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    """
    steps, p, gap = [], 22, 22
    while p <= 100:
        steps.append(-(-p * n_steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return sorted(set(steps))


class Run:
    """One run. Every tensor has one row for each image still in play."""

    def __init__(self, problem: Problem, aim: Goal, loss: str) -> None:
        self.problem, self.aim, self.loss, self.checked = problem, aim, loss, 0
        self.index = problem.active()
        self.x, self.eps = problem.x[self.index], problem.budget(self.index)
        start = random_start(self.x, self.eps, problem.norm, problem.generator)
        self.current = self.previous = self.best = self.gradient = self.best_gradient = start
        self.value = self.best_value = self.checked_value = torch.full_like(self.eps, torch.inf)
        self.step = 2 * self.eps
        self.helped = torch.full_like(self.eps, -1)  # the first look is no step
        self.halved = torch.ones_like(self.index, dtype=torch.bool)

    def look(self) -> None:
        """Ask the model about the current images."""
        goal, before = self.aim.of(self.index), self.value
        logits, self.gradient = self.problem.gradient(
            self.current, self.index, lambda _, logits: lowered(self.loss, goal, logits)
        )
        self.problem.offer(self.current, logits, self.index)
        self.value = lowered(self.loss, goal, logits)
        self.helped = self.helped + (self.value < before)
        better = self.value < self.best_value
        self.best_value = torch.where(better, self.value, self.best_value)
        self.best = torch.where(per_image(better), self.current, self.best)
        self.best_gradient = torch.where(per_image(better), self.gradient, self.best_gradient)

    def check(self, step: int) -> None:
        """Halve the step, and go on from the best image, where progress stalled."""
        too_few = self.helped < RHO * (step - self.checked)
        stuck = ~self.halved & (self.best_value >= self.checked_value)
        self.halved = too_few | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.current = torch.where(per_image(self.halved), self.best, self.current)
        self.gradient = torch.where(per_image(self.halved), self.best_gradient, self.gradient)
        self.helped, self.checked_value = torch.zeros_like(self.helped), self.best_value
        self.checked = step

    def move(self, *, first: bool) -> None:
        """One projected step, and after the first with momentum."""
        norm, was = self.problem.norm, self.current
        way = per_image(self.step) * steepest(self.gradient, norm, was)
        self.current = project(was + way, self.x, self.eps, norm)
        if not first:
            mixed = MOMENTUM * (self.current - was) + (1 - MOMENTUM) * (was - self.previous)
            self.current = project(was + mixed, self.x, self.eps, norm)
        self.previous = was

    def drop(self, fooled: torch.Tensor) -> None:
        """Leave the fooled images alone."""
        if bool(fooled.any()):
            for name, value in list(vars(self).items()):
                if isinstance(value, torch.Tensor):
                    setattr(self, name, value[~fooled])
