"""A property of a network, as a verifier works on it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from workbench.models import Classifier
from workbench.proofs.clock import Clock
from workbench.proofs.network import Network
from workbench.proofs.properties import TOLERANCE, Answer, Property, Verdict


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
        region = Region(self.centre, self.radius, lower, upper, sign)
        region.obey()
        return region

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
    bound: what is proved so far. floor: the lowest bound at which a branch was closed.
    followed: whether an image was met that follows the phases. slowest: the seconds of the
    longest linear program. net: the model's, where it was read before.

    Raises:
        TypeError: a property of several boxes.
        ValueError: a network or a property that cannot be verified, or one that does not fit
            the other.
        TimeoutError: the time limit of the clock is over before the network is read.
    """

    def __init__(
        self,
        model: Classifier,
        prop: Property,
        clock: Clock | None = None,
        net: Network | None = None,
    ) -> None:
        if not isinstance(prop, Property):
            raise TypeError(
                f"prop: expected a Property of one box, got {type(prop).__name__}; ask about "
                "each of its parts"
            )
        self.clock = clock or Clock()
        if tuple(prop.lower.shape) != model.input_shape:
            raise ValueError(
                f"prop: its box is of images {tuple(prop.lower.shape)}, the model takes "
                f"{model.input_shape}"
            )
        self.model, self.prop = model, prop
        self.net = net = net or Network(model, self.clock)
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
        self.bound: float | None = None
        self.floor = math.inf
        self.slowest = 0.0
        self.followed = not bool(sign.any())

    def answer(self, verdict: Verdict, **more: Any) -> Answer:
        """An answer as of now."""
        known = {"branches": self.branches, "open": self.open, "seconds": self.clock.seconds}
        return Answer(verdict, **{**known, **more})

    def rows(self, which: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An unsafe set for a solver of the deepest image: what holds anywhere is no edge."""
        a, b = self.a[which], self.b[which]
        return a, b + (~a.any(1) & (b >= 0))

    def counterexample(self, x: torch.Tensor) -> torch.Tensor | None:
        """The first of the images `(B, n_0)` that breaks the property on the real network."""
        x = x.float().view(-1, *self.net.shape).clamp(*self.prop.sides)
        for i in self.prop.holds_against(self.model, x).nonzero().flatten().tolist():
            # Alone as well: in a batch of another size the network rounds otherwise.
            if bool(self.prop.holds_against(self.model, x[i : i + 1])):
                return x[i]
        return None
