"""A property of a network, as a verifier works on it."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import torch

from workbench.models import Classifier
from workbench.patterns.verify.network import Network
from workbench.patterns.verify.properties import TOLERANCE, Answer, Property, Verdict


class Region(NamedTuple):
    """B subproblems: a box, and what is known and asked of the N neurons in each.

    centre, radius: of the box, `(n_0,)`. lower, upper: of the inputs of the ReLUs, `(B, N)`.
    sign: +1 where a neuron must be on, -1 off, 0 free, int8 `(B, N)`.
    """

    centre: torch.Tensor
    radius: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    sign: torch.Tensor

    def under(self, sign: torch.Tensor) -> Region:
        """One subproblem under each of the signs `(B, N)`."""
        lower, upper = (side.repeat(len(sign), 1) for side in (self.lower, self.upper))
        found = Region(self.centre, self.radius, lower, upper, sign)
        found.obey()
        return found

    def obey(self) -> None:
        """Tighten the bounds to the signs."""
        self.lower.copy_(torch.where(self.sign > 0, self.lower.clamp(min=0), self.lower))
        self.upper.copy_(torch.where(self.sign < 0, self.upper.clamp(max=0), self.upper))

    @property
    def unstable(self) -> torch.Tensor:
        """Which neurons can be on or off, bool `(B, N)`."""
        return (self.lower < 0) & (self.upper > 0)

    @property
    def empty(self) -> bool:
        """Whether bounds contradict each other: then no image follows the signs."""
        return bool((self.lower > self.upper + TOLERANCE).any())


class Query:
    """A property of a model: the network as matrices, the unsafe rows, the box and the signs.

    a, b: the G unsafe sets, `(G, m, K)` and `(G, m)`; a set of fewer rows has its last one
    repeated. root: the whole problem as a region, with no bounds yet. branches, open: what
    an answer is to say of them; doubts: of the open ones, those that cannot be decided.
    floor: the lowest bound at which a branch was closed. followed: whether an image was met
    that follows the phases.

    Raises:
        ValueError: a network or a property that cannot be verified, or one that does not fit
            the other.
        TimeoutError: the time limit in seconds is over before the network is read.
    """

    def __init__(self, model: Classifier, prop: Property, time_limit: float = math.inf) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + time_limit
        if tuple(prop.lower.shape) != model.input_shape:
            raise ValueError(
                f"prop: its box is of images {tuple(prop.lower.shape)}, the model takes "
                f"{model.input_shape}"
            )
        self.model, self.prop = model, prop
        self.net = net = Network(model, self.deadline)
        for a, b in prop.unsafe:
            if a.shape != (len(b), net.sizes[-1]) or not len(b):
                raise ValueError(
                    f"prop: expected unsafe rows (m, {net.sizes[-1]}) and (m,), got "
                    f"{tuple(a.shape)} and {tuple(b.shape)}"
                )
        widest = max(len(b) for _, b in prop.unsafe)
        rows = [torch.arange(widest).clamp(max=len(b) - 1) for _, b in prop.unsafe]
        self.a = torch.stack([a[i] for (a, _), i in zip(prop.unsafe, rows, strict=True)]).double()
        self.b = torch.stack([b[i] for (_, b), i in zip(prop.unsafe, rows, strict=True)]).double()
        low, high = (side.flatten().double() for side in (prop.lower, prop.upper))
        sign = torch.zeros(1, net.parts[-1].stop, dtype=torch.int8)
        zero = torch.zeros(sign.shape).double()
        self.root = Region((low + high) / 2, (high - low) / 2, zero, zero.clone(), sign)
        for name, phase in prop.phases.items():
            if name not in net.names:
                known = ", ".join(net.names) or "none"
                raise ValueError(f"phases: {name} is no ReLU of the model; it has {known}")
            part = net.parts[1 + net.names.index(name)]
            if phase.shape != (part.stop - part.start,):
                raise ValueError(
                    f"phases: expected {part.stop - part.start} neurons in {name}, got "
                    f"{tuple(phase.shape)}"
                )
            sign[0, part] = phase.sign().to(torch.int8)
        self.branches = self.open = self.doubts = 0
        self.floor = math.inf
        self.followed = not bool(sign.any())

    def answer(self, verdict: Verdict, **more: Any) -> Answer:
        """An answer as of now."""
        seconds = time.monotonic() - self.started
        return Answer(verdict, branches=self.branches, open=self.open, seconds=seconds, **more)

    def rows(self, which: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An unsafe set for a solver of the deepest image: what holds anywhere is no edge."""
        a, b = self.a[which], self.b[which]
        return a, b + (~a.any(1) & (b >= 0))

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.deadline - time.monotonic()

    @property
    def late(self) -> bool:
        """Whether the time limit is over."""
        return self.left < 0

    def counterexample(self, x: torch.Tensor) -> torch.Tensor | None:
        """The first of the images `(B, n_0)` that breaks the property on the real network."""
        x = x.float().view(-1, *self.net.shape).clamp(self.prop.lower, self.prop.upper)
        found = self.prop.holds_against(self.model, x).nonzero()
        return x[found[0, 0]] if len(found) else None
