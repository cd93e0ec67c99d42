"""Fixed-budget gradient attacks: FGSM, BIM, PGD and its momentum variant.

Goodfellow et al. (2015), Kurakin et al. (2017), Madry et al. (2018), Dong et al. (2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from workbench.attacks.base import FixedBudget
from workbench.attacks.norms import per_image, project, random_start, size, steepest
from workbench.attacks.problem import Loss, Problem

LOSSES: dict[str, Loss] = {
    "cross-entropy": lambda goal, logits: goal.cross_entropy(logits),
    "margin": lambda goal, logits: goal.margin(logits),
}


class FGSM(FixedBudget):
    """The fast gradient sign method: one step as long as the budget (Goodfellow et al., 2015)."""

    title: ClassVar[str] = "FGSM: one step"

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """One gradient at the image itself."""
        yield from descend(problem, n_steps=1, alpha=1.0, loss=LOSSES["cross-entropy"])


class PGD(FixedBudget):
    """Projected gradient descent from random starts (Madry et al., 2018).

    Images already fooled are left alone; `exhaustive` goes on with them.
    """

    title: ClassVar[str] = "PGD: many steps, projected"

    n_steps: int = Field(40, ge=1, le=10_000, description="gradient steps")
    alpha: float = Field(0.0, ge=0, description="size of a step; 2.5 eps / steps when 0")
    restarts: int = Field(1, ge=1, le=1000, description="random starts")
    random_start: bool = Field(True, description="start at a random point of the ball")
    momentum: float = Field(0.0, ge=0, le=1, description="decay of summed gradients (MI-FGSM: 1)")
    loss: Literal["cross-entropy", "margin"] = Field("cross-entropy", description="what to lower")
    exhaustive: bool = Field(False, description="go on with images already fooled")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Descend from each start, on the images that are left."""
        alpha = self.alpha / self.eps if self.alpha and self.eps else 2.5 / self.n_steps
        total = self.restarts * self.n_steps
        for restart in range(self.restarts):
            for done, _ in descend(
                problem,
                n_steps=self.n_steps,
                alpha=alpha,
                loss=LOSSES[self.loss],
                random=self.random_start,
                momentum=self.momentum,
                exhaustive=self.exhaustive,
            ):
                yield restart * self.n_steps + done, total


class BIM(PGD):
    """The basic iterative method: PGD from the image itself (Kurakin et al., 2017)."""

    title: ClassVar[str] = "BIM: many steps from the image"

    n_steps: int = Field(10, ge=1, le=10_000, description="gradient steps")
    random_start: bool = Field(False, description="start at a random point of the ball")


def descend(
    problem: Problem,
    *,
    n_steps: int,
    alpha: float,
    loss: Loss,
    random: bool = False,
    momentum: float = 0.0,
    exhaustive: bool = False,
) -> Iterator[tuple[int, int]]:
    """Steps of `alpha` times the budget against the gradient, each projected on the ball."""
    everyone = torch.arange(len(problem), device=problem.x.device)
    index = everyone if exhaustive else problem.active()
    x, eps = problem.x[index], problem.budget(index)
    current = random_start(x, eps, problem.norm, problem.generator) if random else x
    memory = torch.zeros_like(x)
    # Each look at who is fooled makes a GPU wait, so it is taken less often there.
    every = 1 if x.device.type == "cpu" else 5
    for step in range(n_steps):
        if len(index) == 0:
            return
        logits, gradient = problem.gradient(current, index, loss)
        problem.offer(current, logits, index)
        yield step, n_steps
        if momentum:
            memory = momentum * memory + gradient / per_image(size(gradient, "L1")).clamp(min=1e-30)
            gradient = memory
        step_by = steepest(gradient, problem.norm, current).mul_(per_image(alpha * eps))
        current = project(step_by.add_(current), x, eps, problem.norm)
        if not exhaustive and step % every == 0:
            left = ~problem.found[index]
            index, x, eps = index[left], x[left], eps[left]
            current, memory = current[left], memory[left]
    problem.offer(current, problem.logits(current, index), index)
    yield n_steps, n_steps
