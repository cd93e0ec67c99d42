"""Broken on purpose: models and attacks that make a weak evaluation look like robustness.

For teaching and for testing the indicators; nothing here belongs in an evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from workbench.attacks import PGD, AttackResult, FixedBudget, Goal, Problem
from workbench.models import Classifier, ready
from workbench.steps import Step

Change = Callable[[torch.Tensor], torch.Tensor]


class Altered(nn.Module):
    """A model with its images or its logits changed; `how` tells it apart when printed."""

    def __init__(self, model: nn.Module, how: str, before: Change, after: Change) -> None:
        super().__init__()
        self.model, self.how, self.before, self.after = model, how, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Changed logits of changed images."""
        return self.after(self.model(self.before(x)))

    def extra_repr(self) -> str:
        """What was changed."""
        return self.how


def altered(
    model: Classifier, how: str, *, before: Change | None = None, after: Change | None = None
) -> Classifier:
    """`model` with the same weights and card, its images or logits changed.

    Raises:
        ValueError: the model is in train mode.
    """
    ready(model)  # a Classifier puts all it holds in eval mode
    same = nn.Identity()
    return Classifier(Altered(model, how, before or same, after or same), model.card)


class KWinners(nn.Module):
    """Keeps the largest `share` of each image's activations and zeroes the rest."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, most of it zero."""
        flat = x.flatten(1)
        k = max(1, int(self.share * flat.shape[1]))
        return (flat * (flat >= flat.topk(k).values[:, -1:])).view_as(x)

    def extra_repr(self) -> str:
        """The share kept."""
        return f"share={self.share}"


def k_winners(model: Classifier, share: float = 0.1) -> Classifier:
    """A copy with every ReLU replaced by k-winners-take-all (Xiao et al., 2020), untrained."""
    broken = copy.deepcopy(model)
    for name, module in list(broken.body.named_modules()):
        if isinstance(module, nn.ReLU):
            parent, _, child = name.rpartition(".")
            setattr(broken.body.get_submodule(parent), child, KWinners(share))
    return broken.eval()


def with_dropout(model: Classifier, share: float = 0.3) -> Classifier:
    """Pixels dropped at random at every look, as when dropout is left on."""
    generator = torch.Generator().manual_seed(0)

    def dropped(x: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(x.shape, generator=generator, dtype=torch.float32)
        kept = drawn.to(x.device) >= share
        return x * kept / (1 - share)

    return altered(model, "dropout left on", before=dropped)


MODELS: dict[str, Callable[[Classifier], Classifier]] = {
    "saturated logits": lambda m: altered(m, "logits x 1000", after=lambda z: 1000 * z),
    "softmax inside": lambda m: altered(m, "softmax", after=lambda z: z.softmax(1)),
    "quantised input": lambda m: altered(m, "1/16", before=lambda x: (16 * x).round() / 16),
    "k-winners-take-all": k_winners,
    "dropout left on": with_dropout,
    "wrong normalisation": lambda m: altered(m, "(x - .5) / .25", before=lambda x: 4 * x - 2),
    "shifted logits": lambda m: altered(m, "logits - 50", after=lambda z: z - 50),
    "batch statistics": lambda m: altered(m, "less the batch", after=lambda z: z - z.mean(0)),
    "broken graph": lambda m: altered(m, "detached", before=lambda x: x.detach()),
}


class Naive(FixedBudget):
    """Steps by the sign of the gradient, in Linf, with room for a mistake."""

    title: ClassVar[str] = "a PGD with a mistake"

    n_steps: int = Field(40, ge=1, le=10_000, description="gradient steps")

    def loss(self, goal: Goal, logits: torch.Tensor) -> torch.Tensor:
        """What is made small, `(N,)`."""
        return goal.cross_entropy(logits)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of size 1."""
        return -gradient.sign()

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """Every step on every image."""
        everyone = torch.arange(len(problem), device=problem.x.device)
        eps = problem.budget(everyone)[:, None, None, None]
        current = problem.x
        for step in range(self.n_steps):
            _, gradient = problem.gradient(current, everyone, self.loss)
            current = current + 2.5 / self.n_steps * eps * self.direction(gradient)
            current = current.clamp(problem.x - eps, problem.x + eps).clamp(0, 1)
            problem.offer(current, problem.logits(current, everyone), everyone)
            yield step + 1, self.n_steps


class ZeroThreshold(Naive):
    """Takes small gradients for zero, and so stands still where the model is sure."""

    threshold: float = Field(1e-3, ge=0, description="gradients smaller than this are dropped")

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """No step along small gradients."""
        return -gradient.sign() * (gradient.abs() >= self.threshold)


class ZeroMasked(Naive):
    """Leaves the true class out by a zero, which is no small logit where all are negative."""

    def loss(self, goal: Goal, logits: torch.Tensor) -> torch.Tensor:
        """The hinge of Carlini and Wagner, badly masked."""
        own = nn.functional.one_hot(goal.labels, logits.shape[1])
        return ((own * logits).sum(1) - ((1 - own) * logits).amax(1)).clamp(min=0)


class Tampered(PGD):
    """A proper PGD whose result is changed on its way out."""

    def tamper(self, model: Classifier, result: AttackResult) -> AttackResult:
        """Another result."""
        raise NotImplementedError

    def steps(self, model: Classifier, *args: Any, **kwargs: Any) -> Iterator[Step[AttackResult]]:
        """The steps of PGD, each result tampered with."""
        for step in super().steps(model, *args, **kwargs):
            assert step.value is not None
            value = self.tamper(model, step.value)
            yield Step(step.done, step.total, step.message, value)


class BlackImages(Tampered):
    """Returns a black image where it fails and calls it a success, as a known C&W does."""

    def tamper(self, model: Classifier, result: AttackResult) -> AttackResult:
        """Failures become black."""
        x_adv = result.x_adv * result.success[:, None, None, None]
        return replace(result, x_adv=x_adv, success=torch.ones_like(result.success))


class LastIterate(Tampered):
    """Returns where it ended, and forgets what it found on the way; long steps show it."""

    alpha: float = Field(0.2, ge=0, description="size of a step; 2.5 eps / steps when 0")
    exhaustive: bool = Field(True, description="go on with images already fooled")

    def tamper(self, model: Classifier, result: AttackResult) -> AttackResult:
        """The last images, asked of the model."""
        logits = model.predict(result.last).logits
        success = logits.argmax(1) != result.labels
        return replace(result, x_adv=result.last, logits=logits, success=success)


ATTACKS: dict[str, type[FixedBudget]] = {
    "zero threshold": ZeroThreshold,
    "zero-masked loss": ZeroMasked,
    "black images": BlackImages,
    "last iterate": LastIterate,
}
