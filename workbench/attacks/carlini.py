"""The attack of Carlini and Wagner (2017): Adam on a distance plus a weighted margin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field

from workbench.attacks.minimum import MarginDescent, Nearness, follow, unfinished
from workbench.attacks.norms import per_image, size
from workbench.attacks.problem import Problem

# The tanh reaches beyond the box and is stopped at its walls. The paper's only nears them:
# there, a pixel that is exactly 0 or 1 has no slope and never moves.
STRETCH = 2.0
WALL = math.atanh(1 / STRETCH)
DECAY = 0.6  # of both memories of Adam: the descents are short
FALL = 1e-3  # of the learning rate over a descent
HEAVIEST = 1e10
PACE = 4.0  # the first step of Adam, in units of the distance of a linear margin


@dataclass
class Descent:
    """The images in play in one search, with Adam's variable w and memories, and their c.

    reach: the change of a pixel that is free in Linf; before: the loss when last looked at.
    """

    index: torch.Tensor
    x: torch.Tensor
    w: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor
    c: torch.Tensor
    reach: torch.Tensor
    before: torch.Tensor
    rate: torch.Tensor

    def keep(self, chosen: torch.Tensor) -> None:
        """Drop the images that are not chosen."""
        for name, value in vars(self).items():
            setattr(self, name, value[chosen])


class CW(MarginDescent):
    """Adam on distance + c * margin in tanh space, with a search for c (Carlini, Wagner 2017).

    In Linf the distance is the sum of what lies beyond a reach, which shrinks where the goal
    is met. The first c comes from each image's gradient, so that the scale of the logits does
    not matter. In L2 an image that stops getting better sits out the rest of a search.
    """

    title: ClassVar[str] = "Carlini-Wagner: distance plus weighted margin"

    norm: Literal["L2", "Linf"] = Field("L2", description="norm to keep small")
    n_steps: int = Field(50, ge=1, le=100_000, description="steps of Adam for each c")
    searches: int = Field(4, ge=1, le=50, description="weights c tried on each image")
    alpha: float = Field(0.4, gt=0, le=10, description="first step of Adam; falls a thousandfold")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """One descent for each c, which grows until one succeeds and is then bisected."""
        index = unfinished(problem)
        if len(index) == 0:
            return
        nearness = Nearness(problem, index)
        near = nearness.now
        # In L2 three times what a linear margin needs; in Linf an average pixel gains a third
        # of what it costs to go beyond the reach.
        c = 6 * near if self.norm == "L2" else torch.full_like(near, 0.3 * problem.x[0].numel())
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for search in range(self.searches):
            won = torch.zeros_like(problem.found)
            rate = torch.where(problem.found[index] | (search == 0), PACE * near, self.alpha)
            run = start(problem, index, c, rate.clamp(max=self.alpha))
            for step in self.descend(problem, run, nearness, won):
                yield search * self.n_steps + step, self.searches * self.n_steps
            low = torch.where(won[index], low, c)
            high = torch.where(won[index], c, high)
            lighter = high / (2 if self.norm == "L2" else 5)
            between = torch.where(low > 0, (low + high) / 2, lighter)
            c = torch.where(high.isinf(), c * 10, between).clamp(max=HEAVIEST)

    def descend(
        self, problem: Problem, run: Descent, nearness: Nearness, won: torch.Tensor
    ) -> Iterator[int]:
        """Steps of Adam; notes in `won` which images met the goal."""
        every = max(5, self.n_steps // 10)
        for step in range(self.n_steps):
            if len(run.index) == 0:
                return
            done = step / self.n_steps
            image = to_image(run.w)
            logits, slope = problem.gradient(image, run.index, nearness.of(run.index))
            problem.offer(image, logits, run.index)
            yield step
            goal, best = problem.goal.of(run.index), problem.distance[run.index]
            met, miss = goal.met(logits), nearness(run.index, goal, logits).clamp(min=0)
            won[run.index] |= met
            delta = image - run.x
            if self.norm == "L2":
                pull = 2 * delta
            else:
                run.reach = follow(run.reach, best, met, 0.15 * 0.03**done).minimum(best)
                pull = delta.sign() * (delta.abs() > per_image(run.reach))
            gradient = pull + per_image(run.c * (miss > 0)) * slope
            adam(run, gradient, FALL**done, step)
            if self.norm == "L2" and step % every == every - 1:
                loss = size(delta, "L2").square() + run.c * miss
                better, run.before = loss < 0.9999 * run.before, loss
                run.keep(better)
        if len(run.index):
            image = to_image(run.w)
            problem.offer(image, problem.logits(image, run.index), run.index)


def start(problem: Problem, index: torch.Tensor, c: torch.Tensor, rate: torch.Tensor) -> Descent:
    """A descent from the images themselves; its reach begins below the best so far."""
    x = problem.x[index]
    w = torch.atanh((2 * x - 1) / STRETCH)
    zero = torch.zeros_like(w)
    reach = 0.9 * problem.distance[index].clamp(max=1)
    return Descent(index, x, w, zero, zero, c, reach, torch.full_like(c, torch.inf), rate)


def to_image(w: torch.Tensor) -> torch.Tensor:
    """The image that a point of tanh space stands for."""
    return (0.5 + STRETCH / 2 * w.tanh()).clamp(0, 1)


def adam(run: Descent, by_image: torch.Tensor, rate: float, step: int) -> None:
    """A step of Adam (Kingma and Ba, 2015), stopped at the walls; `by_image`: the gradient."""
    gradient = by_image * (STRETCH / 2) * (1 - run.w.tanh().square())
    run.mean = DECAY * run.mean + (1 - DECAY) * gradient
    run.square = DECAY * run.square + (1 - DECAY) * gradient.square()
    unbiased = 1 - DECAY ** (step + 1)
    direction = run.mean / unbiased / ((run.square / unbiased).sqrt() + 1e-8)
    run.w = (run.w - per_image(run.rate) * rate * direction).clamp(-WALL, WALL)
