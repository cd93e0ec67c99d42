"""`Cascade`: the worst of several attacks, each on what the ones before it left.

After AutoAttack (Croce and Hein, 2020), with FMN in the place of FAB-T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from workbench.attacks.apgd import APGD, APGDT
from workbench.attacks.base import Attack, FixedBudget
from workbench.attacks.goals import Goal, Untargeted
from workbench.attacks.minimum import FMN
from workbench.attacks.norms import project
from workbench.attacks.problem import Problem
from workbench.attacks.square import Square

HOPELESS = 1 / 3  # the share of its margin that an image has left where it is given up
BEHIND = 1.5  # how far above the margins by gradient those by squares are where they do not pay


class Cascade(FixedBudget):
    """An image counts as robust where each of several attacks fails (Croce and Hein, 2020).

    standard: the budgets of AutoAttack's standard version, which are APGD with cross-entropy,
    APGD-T toward 9 classes and FMN, 100 steps each, and Square with 5000 queries.
    quick: two times 20 steps of APGD; what it leaves is not shown to be robust.
    adaptive: short attacks on all images, long ones where the margin's course gives hope; the
    result's remarks say how many images were given up, and why.
    """

    title: ClassVar[str] = "Cascade: the worst of several attacks (standard, quick or adaptive)"

    norm: Literal["Linf", "L2"] = Field("Linf", description="norm of the perturbation")
    preset: Literal["standard", "quick", "adaptive"] = Field(
        "standard", description="AutoAttack's budgets, a quick look, or effort where it may pay"
    )

    @property
    def label(self) -> str:
        """What results call the attack: with its preset, so that quick is called quick."""
        return f"Cascade ({self.preset})"

    def attacks(self, goal: Goal) -> list[Attack]:
        """The attacks in order; the first three of adaptive are short."""
        ball: dict[str, Any] = {"norm": self.norm, "eps": self.eps}

        def toward(n_steps: int, n_targets: int) -> Attack:
            if isinstance(goal, Untargeted):
                return APGDT(**ball, n_steps=n_steps, n_targets=n_targets)
            return APGD(**ball, n_steps=n_steps, loss="dlr")

        if self.preset == "quick":
            return [APGD(**ball, n_steps=20), APGD(**ball, n_steps=20, loss="margin")]
        if self.preset == "adaptive":
            short = [Square(**ball, n_queries=200), APGD(**ball, n_steps=20), toward(20, 3)]
            return [*short, APGD(**ball), toward(100, 4), Square(**ball)]
        return [APGD(**ball), toward(100, 9), FMN(norm=self.norm, n_steps=100), Square(**ball)]

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Each attack on the images that are left; yields thousandths of an attack."""
        attacks, course = self.attacks(problem.goal), [problem.margin.clone()]
        for i, attack in enumerate(attacks):
            if self.preset == "adaptive" and i >= 3:
                give_up(problem, course, attack)
            for done, total in on_the_rest(attack, problem):
                yield 1000 * i + 1000 * done // total, 1000 * len(attacks)
            course.append(problem.margin.clone())


def give_up(problem: Problem, course: list[torch.Tensor], attack: Attack) -> None:
    """Leave the images that the attack has no hope on, and say why.

    course: the smallest margins at the start, after a short Square, and after each attack by
    gradient. (A model that hides its gradients is one on which Square is not behind them.)
    """
    left, (clean, squares), now = ~problem.found, course[:2], problem.margin
    hopeless, why = now > HOPELESS * clean, f"more than {HOPELESS:.0%} of their margin was left"
    if isinstance(attack, Square) and bool((squares / now)[left].median() > BEHIND):
        hopeless, why = left, "short attacks by gradient did much better"
    hopeless = hopeless & left & ~problem.given_up
    if bool(hopeless.any()):
        problem.given_up |= hopeless
        problem.remarks.append(
            f"{int(hopeless.sum())} images given up before {attack.code()}: {why}"
        )


def on_the_rest(attack: Attack, problem: Problem) -> Iterator[tuple[int, int]]:
    """The attack on the images that are left; its smallest perturbations are cut to the ball."""
    index = problem.active()
    if not attack.smallest:
        yield from attack.search(problem)
    elif len(index):
        part = problem.part(index, smallest=True)
        try:
            yield from attack.search(part)
        finally:
            problem.forwards[index] += part.forwards
            problem.backwards[index] += part.backwards
            problem.lost[index] |= part.lost
        best = project(part.best, part.x, problem.budget(index), problem.norm)
        problem.offer(best, problem.logits(best, index), index)
