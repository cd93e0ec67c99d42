"""Ordered top-K attacks: the K most likely classes are to be these, in this order.

QuadAttacK (Paniagua, Grainger and Wu, 2023) and what it is compared with: the loss of
Carlini and Wagner extended to an order, and adversarial distillation (Zhang and Wu, 2020).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from workbench import checks
from workbench.attacks.base import MinimumNorm
from workbench.attacks.goals import Goal, OrderedTopK
from workbench.attacks.norms import Norm, per_image, size
from workbench.attacks.problem import Loss, Problem
from workbench.attacks.qp import OrderProgrammes
from workbench.models import Classifier

NOISE = 2e-3  # spread of the random start
FRESH_START = 5  # Adam forgets the steps before this one, taken while still far off course
RELAX = 0.75  # the weight of the loss after each smaller success


class OrderedAttack(MinimumNorm):
    """What the ordered top-K attacks share: Adam on `weight * loss + L2 squared`.

    Each image has its own weight: half the largest, then bisected from search to search,
    and lowered after each smaller success, so that the perturbation shrinks.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (OrderedTopK,)

    n_steps: int = Field(60, ge=1, le=10_000, description="gradient steps a search")
    searches: int = Field(1, ge=1, le=20, description="searches for the weight of the loss")
    weight: float = Field(20.0, gt=0, description="largest weight of the loss")
    alpha: float = Field(0.05, gt=0, le=1, description="size of a step (Adam)")

    @property
    def distance(self) -> Norm:
        """Perturbations are kept small in L2."""
        return "L2"

    def loss(self, problem: Problem) -> Loss:
        """The loss that draws logits towards the order."""
        raise NotImplementedError

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """One descent for each weight."""
        loss = self.loss(problem)
        low = problem.x.new_zeros(len(problem))
        high = torch.full_like(low, self.weight)
        for search in range(self.searches):
            middle = (low + high) / 2
            before = search * self.n_steps
            reached = yield from self.descend(problem, loss, middle, before)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)

    def descend(
        self, problem: Problem, loss: Loss, weight: torch.Tensor, before: int
    ) -> Generator[tuple[int, int], None, torch.Tensor]:
        """One descent, from beside the images; returns which met the goal, bool `(N,)`."""
        x, everyone = problem.x, torch.arange(len(problem), device=problem.x.device)
        nearest = torch.full_like(weight, torch.inf)
        draw = problem.generator
        noise = torch.randn(x.shape, generator=draw, device=draw.device, dtype=torch.float32)
        images = (x + NOISE * noise.to(x.device)).clamp(0, 1)
        for step in range(self.n_steps):
            if step in (0, FRESH_START):
                adam = torch.optim.Adam([images], lr=self.alpha)
            logits, gradient = problem.gradient(images, everyone, loss)
            problem.offer(images, logits, everyone)
            yield before + step, self.searches * self.n_steps
            images.grad = per_image(weight) * gradient + 2 * (images - x)
            distance = size(images - x, "L2")
            nearer = problem.goal.met(logits) & (distance < nearest)
            nearest = torch.where(nearer, distance, nearest)
            weight = torch.where(nearer, RELAX * weight, weight)
            adam.step()
            images.clamp_(0, 1)
        logits = problem.logits(images, everyone)
        problem.offer(images, logits, everyone)
        return nearest.isfinite() | problem.goal.met(logits)


class QuadAttacK(OrderedAttack):
    """QuadAttacK: towards the nearest features that have the order (Paniagua et al., 2023).

    Each step finds them by a quadratic programme and lowers the squared distance to them.
    """

    title: ClassVar[str] = "QuadAttacK: ordered top-K by quadratic programming"

    margin: float = Field(0.2, gt=0, description="least difference of logits in the order")

    def unfit(self, model: Classifier, goal: Goal | None = None) -> str:
        """Why the attack does not fit; it also needs a linear head."""
        reason = super().unfit(model, goal)
        if not reason and model.linear_head() is None:
            return (
                "the model's logits are not the output of an nn.Linear, so there are no features "
                "to move; use CWK, which needs the logits alone"
            )
        return reason

    def loss(self, problem: Problem) -> Loss:
        """A loss with the gradient of the features' squared distance to those in order.

        That gradient, 2 (f - z) = -2 W' D' multipliers, is the one that a sum of the logits
        has while the multipliers are held fixed. So the features need not be seen.
        """
        head = problem.model.linear_head()
        assert head is not None, "unfit refuses models without one"
        programmes = OrderProgrammes.of(head.weight.detach(), ordered(problem.goal))
        bound: torch.Tensor | None = None

        def towards_order(goal: Goal, logits: torch.Tensor) -> torch.Tensor:
            nonlocal bound
            multipliers = programmes.solve(logits.detach(), self.margin, bound)
            bound = multipliers > 0
            return -2 * (programmes.spread(multipliers).to(logits) * logits).sum(1)

        return towards_order


class CWK(OrderedAttack):
    """The loss of Carlini and Wagner extended to an order (Zhang and Wu, 2020)."""

    title: ClassVar[str] = "CW^K: ordered top-K by margins"

    weight: float = Field(200.0, gt=0, description="largest weight of the loss")
    places: Literal["all", "worst"] = Field("all", description="broken places that count")

    def loss(self, problem: Problem) -> Loss:
        """The mean of the broken places of the order, or the worst of them."""
        if self.places == "all":
            return broken_places
        return lambda goal, logits: goal.margin(logits).clamp(min=0)


class AdversarialDistillation(OrderedAttack):
    """The probabilities are drawn to some that have the order (Zhang and Wu, 2020)."""

    title: ClassVar[str] = "Adversarial distillation: ordered top-K by probabilities"

    weight: float = Field(2000.0, gt=0, description="largest weight of the loss")
    alpha: float = Field(0.1, gt=0, le=1, description="size of a step (Adam)")
    first: float = Field(10.0, gt=0, description="wanted logit of the first class")
    gap: float = Field(0.3, gt=0, description="wanted difference from one class to the next")

    def loss(self, problem: Problem) -> Loss:
        """The Kullback-Leibler divergence of the probabilities from the wanted ones.

        Other classes are wanted by their likeness to the targets: the cosine of their rows
        in the head, in place of the paper's word vectors; 0 without a head.
        """
        target, head = ordered(problem.goal), problem.model.linear_head()
        likeness = problem.x.new_zeros(len(target), len(problem.model.classes))
        if head is not None:
            rows = F.normalize(head.weight.detach().float())
            likeness = (rows @ rows.T)[target].mean(1)
        places = torch.arange(target.shape[1], device=target.device).float()
        order = self.first - self.gap * places
        wanted = likeness.scatter(1, target, order.expand(target.shape)).softmax(1)
        return lambda goal, logits: F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1)


def broken_places(goal: Goal, logits: torch.Tensor) -> torch.Tensor:
    """What later classes have above the targets before them: a sum over places, by K."""
    target = ordered(goal)
    total, rest = logits.new_zeros(len(logits)), logits
    lowest = logits.gather(1, target).cummin(1).values
    for k in range(target.shape[1]):
        rest = rest.scatter(1, target[:, k : k + 1], -torch.inf)
        total = total + (rest.amax(1) - lowest[:, k]).clamp(min=0)
    return total / target.shape[1]


def ordered(goal: Goal) -> torch.Tensor:
    """The wanted order, int64 `(N, K)`."""
    assert isinstance(goal, OrderedTopK), "unfit refuses other goals"
    return goal.target


def random_order(labels: torch.Tensor, n_classes: int, k: int, *, seed: int = 0) -> torch.Tensor:
    """K different classes for each image, never its label, in random order: int64 `(N, K)`.

    Raises:
        ValueError: k is not from 1 to n_classes - 1.
    """
    if checks.positive("k", k) >= n_classes:
        raise ValueError(f"k: expected at most {n_classes - 1}, all classes but the label; got {k}")
    checks.labels(labels, n_classes)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(labels), n_classes, generator=generator, dtype=torch.float32)
    draws[torch.arange(len(labels)), labels.cpu()] = -1.0
    return draws.topk(k).indices.to(labels.device)
