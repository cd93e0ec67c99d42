"""Attacks without gradients: a game on features, noise, transfer; and `wrap`.

Wicker et al. (2018), Papernot et al. (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from workbench import checks, models
from workbench.attacks import registry
from workbench.attacks.base import Attack, FixedBudget, MinimumNorm
from workbench.attacks.game import Game, saliency
from workbench.attacks.goals import Goal
from workbench.attacks.norms import Norm, random_start
from workbench.attacks.problem import Problem
from workbench.data import ImageDataset
from workbench.models import Classifier, Ledger, counted, private_copy


class FeatureGuided(MinimumNorm):
    """Flip few pixels, near the image's features, found by a game (Wicker et al., 2018).

    Player one picks a feature (a scale-space keypoint, by its response), player two a pixel
    of its Gaussian, which goes to black or white; together they look for the shortest way
    to the goal, by Monte Carlo tree search. As in the authors' program, flips that do not
    help are undone. It only asks for logits. `uniform` makes all pixels equally likely
    instead: the control that shows what the features are worth.
    """

    title: ClassVar[str] = "Feature-guided game: few pixels, black box"
    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)
    needs_gradient: ClassVar[bool] = False

    plays: int = Field(10, ge=1, le=10_000, description="games played on each image")
    tries: int = Field(300, ge=1, le=100_000, description="most pixels tried in one game")
    uniform: bool = Field(False, description="choose among all pixels alike (the control)")

    @property
    def distance(self) -> Norm:
        """The number of values changed."""
        return "L0"

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """The games of all images side by side, one query each a turn."""
        index = problem.active()
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=problem.generator)))
        games = [
            Game(*saliency(problem.x[i].cpu().numpy(), self.uniform), margin, self.tries, rng)
            for i, margin in zip(index, problem.margin[index].tolist(), strict=True)
        ]
        while games:
            yield min(game.played for game in games), self.plays
            x, goal = problem.x[index], problem.goal.of(index)
            flips = torch.from_numpy(np.stack([game.move() for game in games])).to(x.device)
            images = torch.where(flips.view(len(x), 1, *x.shape[2:]), (x < 0.5).float(), x)
            logits = problem.logits(images, index)
            met = goal.met(logits)
            answers = zip(games, goal.margin(logits).tolist(), met.tolist(), strict=True)
            ended = [game.judge(*answer) for game, *answer in answers]
            told = met | torch.tensor(ended, device=met.device)
            if bool(told.any()):
                problem.offer(images[told], logits[told], index[told])
            left = [i for i, g in enumerate(games) if g.played < self.plays and g.longest > 0]
            games, index = [games[i] for i in left], index[left]
        yield self.plays, self.plays


class RandomSearch(FixedBudget):
    """Random points of the ball: what any search must beat."""

    title: ClassVar[str] = "Random points of the ball, black box"
    needs_gradient: ClassVar[bool] = False

    n_queries: int = Field(1000, ge=1, le=1_000_000, description="points tried for each image")

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """One new point a turn for each image left."""
        for done in range(self.n_queries):
            index = problem.active()
            if len(index) == 0:
                return
            eps = problem.budget(index)
            images = random_start(problem.x[index], eps, problem.norm, problem.generator)
            problem.offer(images, problem.logits(images, index), index)
            yield done, self.n_queries


class Transfer(FixedBudget):
    """Images made against another model, tried on this one (Papernot et al., 2016).

    The attack runs to its end on the surrogate, past the first success, since strong images
    carry over better; this model is asked at most twice for each image. For a surrogate
    that is no named model, use `wrap`.
    """

    title: ClassVar[str] = "Transfer from another model, black box"
    needs_gradient: ClassVar[bool] = False

    surrogate: str = Field("", description="name of the model to attack instead")
    attack: str = Field("PGD", description="attack on the surrogate, by name")

    def depends(self) -> tuple[Any, ...]:
        """The surrogate and the attack on it."""
        return models.load(self.surrogate), self.method()

    def unfit(self, model: Classifier, goal: Goal | None = None) -> str:
        """Also where the surrogate is not named or sees other images or classes."""
        if not self.surrogate:
            return "name the model to attack instead: surrogate='mnist/mlp', say"
        other, method = models.load(self.surrogate), self.method()
        takes, needs = [(m.input_shape, len(m.classes)) for m in (other, model)]
        if takes != needs:
            return f"{self.surrogate} has (input shape, classes) {takes}, the model {needs}"
        lacking = [model.classes[k] for k in (numbering(model, other) < 0).nonzero().flatten()]
        if lacking:
            return f"{self.surrogate} has no class {lacking[0]!r}, one of {len(lacking)} it lacks"
        if not isinstance(method, FixedBudget):
            return f"{self.attack} keeps to no budget; choose an attack such as PGD"
        return method.unfit(other, goal) or super().unfit(model, goal)

    def method(self) -> Attack:
        """The attack on the surrogate, with the same budget, to its end where it can."""
        fields = type(registry.get(self.attack)).model_fields
        offered = {"norm": self.norm, "eps": self.eps, "exhaustive": True}
        return registry.get(self.attack, **{k: v for k, v in offered.items() if k in fields})

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Attack the surrogate; try its last images, then its best on what is left."""
        index = problem.active()
        if len(index) == 0:
            return
        surrogate, goal = models.load(self.surrogate).to(problem.x.device), problem.goal.of(index)
        number = numbering(problem.model, surrogate).to(problem.x.device)
        goal = type(goal)(**{name: number[classes] for name, classes in vars(goal).items()})
        steps = self.method().steps(
            surrogate,
            problem.x[index],
            goal.labels,
            target=goal,
            seed=int(torch.randint(2**62, (1,), generator=problem.generator)),
            eps=problem.budget(index),
        )
        for step in steps:
            yield step.done, step.total
        assert step.value is not None, "the last step of an attack has its result"
        for images in (step.value.last, step.value.x_adv):
            left = ~problem.found[index]
            tried, who = images[left], index[left]
            problem.offer(tried, problem.logits(tried, who), who)


def numbering(model: Classifier, other: Classifier) -> torch.Tensor:
    """The number that `other` has for each class of `model`, by name; -1 where it has none."""
    n, card = len(model.classes), model.card
    numbers = torch.arange(n, device="cpu")
    images = numbers.float().view(n, 1, 1, 1) * 0
    every = ImageDataset(images, numbers, card.classes, named=card.named)
    return models.matched(every, other).labels


class Wrapped(Attack):
    """An attack from elsewhere; see `wrap`."""

    title: ClassVar[str] = "An attack from elsewhere"
    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)
    needs_gradient: ClassVar[bool] = False

    function: Callable[..., Any] = Field(description="(model, x, y) -> x_adv")
    name: str = Field(min_length=1, description="what to call it in results")
    norm: Norm = Field("Linf", description="norm that it keeps small")

    @property
    def label(self) -> str:
        """The name given."""
        return self.name

    @property
    def distance(self) -> Norm:
        """The norm that it is said to keep small."""
        return self.norm

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Call the function on a copy of the model, once, and offer what it returns."""
        yield 0, 1
        everyone = torch.arange(len(problem), device=problem.x.device)
        target = getattr(problem.goal, "target", None)
        known = [problem.goal.labels.clone()] + ([] if target is None else [target.clone()])
        seed = int(torch.randint(2**62, (1,), generator=problem.generator))
        model, ledger = private_copy(problem.model, share=False), Ledger()
        # What comes from elsewhere draws from the global generator: seeded, then put back.
        with torch.random.fork_rng([problem.x.device] if problem.x.is_cuda else []):
            torch.manual_seed(seed)
            with torch.enable_grad(), counted(model, ledger):
                images = self.function(model, problem.x.clone(), *known)
        images = checks.images(images, problem.model.input_shape, name=f"images of {self.name}")
        if len(images) != len(problem):
            raise ValueError(f"{self.name}: expected {len(problem)} images, got {len(images)}")
        problem.forwards += math.ceil(ledger.forwards / len(problem))
        images = images.detach().to(problem.x.device)
        problem.offer(images, problem.logits(images, everyone), everyone)
        yield 1, 1


def wrap(function: Callable[..., Any], *, name: str = "", norm: Norm = "Linf") -> Attack:
    """Any function `(model, x, y) -> x_adv` as an attack: of foolbox, torchattacks, one's own.

    It is given a copy of the model, on which nothing it changes matters, and last the
    target where there is one. Its images are held to the contract, its success is measured
    like any other, and what it raises is raised. Of its queries the forward passes are
    counted, on average over the images. name: the function's own if none is given.
    """
    own = getattr(function, "__name__", type(function).__name__)
    return Wrapped(function=function, name=name or own, norm=norm)
