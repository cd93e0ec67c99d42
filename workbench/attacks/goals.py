"""What an attack is after: a goal says when it is met and how far it is.

`margin` is the loss every attack can use: negative exactly where the goal is met. Other
classes are left out by -inf, so that adding a number to all logits changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workbench import checks


@dataclass(frozen=True, eq=False)
class Goal:
    """The base: labels is int64 `(N,)`, the classes the images truly have."""

    labels: torch.Tensor

    def met(self, logits: torch.Tensor) -> torch.Tensor:
        """Which of the logits `(N, K)` reach the goal: bool `(N,)`."""
        raise NotImplementedError

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """How far the goal is, in logits `(N,)`: negative where it is met."""
        raise NotImplementedError

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """A loss `(N,)` to be made small, by cross-entropy."""
        raise NotImplementedError

    def of(self, chosen: torch.Tensor) -> Goal:
        """The goal for some of the images, by index or mask."""
        return type(self)(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Untargeted(Goal):
    """Any class but the true one."""

    def met(self, logits: torch.Tensor) -> torch.Tensor:
        """The most likely class is another."""
        return logits.argmax(1) != self.labels

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """The true class less the best other one."""
        return best_margin(logits, self.labels)

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """The true class is to become unlikely."""
        return -F.cross_entropy(logits, self.labels, reduction="none")


@dataclass(frozen=True, eq=False)
class Targeted(Goal):
    """One chosen class; target: int64 `(N,)`."""

    target: torch.Tensor

    def met(self, logits: torch.Tensor) -> torch.Tensor:
        """The most likely class is the target."""
        return logits.argmax(1) == self.target

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """The best other class less the target."""
        return -best_margin(logits, self.target)

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """The target is to become likely."""
        return F.cross_entropy(logits, self.target, reduction="none")


@dataclass(frozen=True, eq=False)
class OrderedTopK(Goal):
    """The K most likely classes, in this order; target: int64 `(N, K)`."""

    target: torch.Tensor

    def met(self, logits: torch.Tensor) -> torch.Tensor:
        """The K most likely classes are the targets, in order; a tie is no order."""
        return self.margin(logits) < 0

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """The worst broken place of the order."""
        wanted = logits.gather(1, self.target)
        rest = logits.scatter(1, self.target, -torch.inf).amax(1, keepdim=True)
        following = torch.cat([wanted[:, 1:], rest], 1)
        return (following - wanted).amax(1)

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Each target against the classes that may not come before it (Plackett-Luce)."""
        total = logits.new_zeros(len(logits))
        for k in range(self.target.shape[1]):
            chosen = self.target[:, k]
            total = total + F.cross_entropy(logits, chosen, reduction="none")
            logits = logits.scatter(1, chosen[:, None], -torch.inf)
        return total


def best_margin(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The logit of each image's class less its largest other logit: `(N,)`."""
    own = logits.gather(1, classes[:, None])
    return (own - logits.scatter(1, classes[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def goal_for(labels: torch.Tensor, target: torch.Tensor | Goal | None, n_classes: int) -> Goal:
    """The goal that `target` names: None, classes `(N,)`, or ordered classes `(N, K)`.

    Raises:
        TypeError, ValueError: targets outside the classes, of another length, equal to the
            label, or repeated in an order; more of them than classes; a goal of other labels.
    """
    if isinstance(target, Goal):
        labels = labels.to(target.labels.device)
        if not torch.equal(target.labels, labels):
            raise ValueError("target: expected a goal for the labels y, got one for others")
        goal_for(labels, getattr(target, "target", None), n_classes)
        return target
    if target is None:
        return Untargeted(labels)
    if isinstance(target, torch.Tensor) and target.ndim == 2:
        checks.labels(target.flatten(), n_classes, name="target")
        n, k = target.shape
        if n != len(labels) or not 1 <= k < n_classes:
            raise ValueError(
                f"target: expected ({len(labels)}, K) with K from 1 to {n_classes - 1}, got {n, k}"
            )
        if any(len(row.unique()) < k for row in target):
            raise ValueError("target: expected K different classes for each image, got some twice")
    else:
        checks.labels(target, n_classes, len(labels), name="target")
    first = target[:, 0] if target.ndim == 2 else target
    if bool((first == labels).any()):
        i = int((first == labels).nonzero()[0])
        raise ValueError(
            f"target: image {i} already has class {int(first[i])}; choose another target"
        )
    return OrderedTopK(labels, target) if target.ndim == 2 else Targeted(labels, target)
