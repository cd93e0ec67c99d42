"""What is to be proved: a box of images, perhaps a pattern, and outputs that must not be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from workbench import checks
from workbench.models import Classifier
from workbench.patterns import Pattern, check_model
from workbench.spaces import held

Verdict = Literal["proved", "refuted", "open"]
TOLERANCE = 1e-6  # of the box and the outputs, when a counterexample is checked


@dataclass(frozen=True, eq=False)
class Property:
    """No image in a box that follows the phases has logits in the unsafe set.

    lower, upper: the box, `(C, H, W)` each; it may lie outside [0, 1], where a network takes
    inputs that are normalised already. unsafe: a union of polyhedra; each `(A, b)`, `(m, K)`
    and `(m,)`, holds where `A @ logits <= b` in every row. A row of zeros with b = 0 holds
    everywhere. phases: +1 on, -1 off, 0 free, int8 `(n,)` by ReLU layer. inner: the box that
    counterexamples keep to, where `lower` and `upper` had to be rounded outwards.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    unsafe: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    phases: dict[str, torch.Tensor] = field(default_factory=dict)
    name: str = ""
    inner: tuple[torch.Tensor, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or self.lower.ndim != 3:
            raise ValueError(
                f"lower, upper: expected two images (C, H, W), got {tuple(self.lower.shape)} "
                f"and {tuple(self.upper.shape)}"
            )
        if not bool((self.lower <= self.upper).all()):
            raise ValueError("lower, upper: the box is empty; lower is above upper somewhere")
        if not bool((self.lower.isfinite() & self.upper.isfinite()).all()):
            raise ValueError("lower, upper: expected a box of finite sides, got infinite ones")
        if not self.unsafe:
            raise ValueError("unsafe: expected one set of outputs or more, got none")
        if not all(bool(part.isfinite().all()) for rows in self.unsafe for part in rows):
            raise ValueError("unsafe: expected finite rows (A, b), got NaN or infinite values")

    @property
    def sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The box that counterexamples keep to."""
        return self.inner or (self.lower, self.upper)

    def inside(self, pattern: Pattern, *more: Pattern) -> Property:
        """The same property of only those images that follow the pattern, or several.

        Raises:
            ValueError: patterns that no image can follow at once.
        """
        phases = dict(self.phases)
        for each in (pattern, *more):
            for layer, phase in each.phases.items():
                old = phases.get(layer, torch.zeros_like(phase))
                if bool((old * phase < 0).any()):
                    raise ValueError(
                        f"pattern: contradicts another in layer {layer}; no image follows both, "
                        "and there is nothing to prove"
                    )
                phases[layer] = torch.where(phase != 0, phase, old)
        return replace(self, phases=phases)

    def holds_against(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """Which images `(N, C, H, W)` are counterexamples on the real network, bool `(N,)`."""
        from workbench.patterns import watched

        x = x.to(torch.float32)
        inside = ((x >= self.lower - TOLERANCE) & (x <= self.upper + TOLERANCE)).flatten(1).all(1)
        with watched(model, tuple(self.phases)) as ask, torch.no_grad():
            logits, outputs = ask(x)
        for name, phase in self.phases.items():
            on = outputs[name] > 0
            inside &= ~((phase > 0) & ~on | (phase < 0) & on).any(1)
        return inside & self.unsafe_logits(logits.double())

    def unsafe_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Which logits `(N, K)` are in the unsafe set, bool `(N,)`."""
        mask = torch.zeros(len(logits), dtype=torch.bool)
        for a, b in self.unsafe:
            mask |= (logits @ a.to(logits).T <= b.to(logits)).all(1)
        return mask


@dataclass(frozen=True, eq=False)
class Properties:
    """All of these hold: the property of a union of boxes, each with its own unsafe set."""

    parts: tuple[Property, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: expected one property or more, got none")

    def holds_against(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """Which images `(N, C, H, W)` are counterexamples to any of them, bool `(N,)`."""
        return torch.stack([part.holds_against(model, x) for part in self.parts]).any(0)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a verifier found. `counterexample` `(C, H, W)` was checked on the real network.

    bound: the least value that is proved for the worst unsafe row's slack (positive:
    proved), where the method has one. branches: subproblems looked at; open: left.
    """

    verdict: Verdict
    counterexample: torch.Tensor | None = None
    bound: float | None = None
    branches: int = 0
    open: int = 0
    seconds: float = 0.0
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.verdict,
            "bound": self.bound,
            "branches": self.branches,
            "open": self.open,
            "seconds": round(self.seconds, 3),
            "note": self.note,
        }


def local_robustness(
    model: Classifier, x: torch.Tensor, label: int, eps: float, *, pattern: Pattern | None = None
) -> Property:
    """Every image within `eps` of `x` `(C, H, W)`, inside [0, 1], is called `label`.

    With a pattern: every such image that follows it. A tie counts against the property. Of a
    point that is no image only what may move does (`workbench.spaces`).

    Raises:
        ValueError: an image that breaks the contract, a label outside the classes, eps
            outside (0, 1], a pattern of another model.
    """
    x = checks.images(x[None], model.input_shape)[0]
    if not 0 < eps <= 1:
        raise ValueError(f"eps: expected an L-infinity radius in (0, 1], got {eps}")
    unsafe = not_called(model, label)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    box = held(model, low, x), held(model, high, x)
    prop = Property(*box, unsafe, name=f"all within {eps:g} are {model.classes[label]}")
    return with_pattern(prop, model, pattern)


def pattern_property(model: Classifier, pattern: Pattern, other: int | None = None) -> Property:
    """No image in [0, 1] that follows the pattern of a class is called `other` (any, if None).

    "Called other" means that its logit is at least that of the pattern's class.

    Raises:
        ValueError: `other` is the pattern's class or no class, a pattern of another model.
    """
    unsafe = not_called(model, pattern.label, None if other is None else [other])
    name = f"none that follows {model.classes[pattern.label]} is called "
    name += "anything else" if other is None else model.classes[other]
    whole = torch.zeros(model.input_shape), torch.ones(model.input_shape)
    return with_pattern(Property(*whole, unsafe, name=name), model, pattern)


def ambiguity(model: Classifier, first: Pattern, second: Pattern) -> Property:
    """No image in [0, 1] follows both patterns.

    Raises:
        ValueError: they contradict each other (then it is plainly so), or another model's.
    """
    anything = ((torch.zeros(1, len(model.classes)), torch.zeros(1)),)
    whole = torch.zeros(model.input_shape), torch.ones(model.input_shape)
    names = " and ".join(model.classes[p.label] for p in (first, second))
    for pattern in (first, second):
        check_model(pattern.model, model)
    return Property(*whole, anything, name=f"none follows both {names}").inside(first, second)


def not_called(
    model: Classifier, label: int, others: list[int] | None = None
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """The unsafe sets in which some other class's logit is at least that of `label`."""
    n_classes = len(model.classes)
    others = [k for k in range(n_classes) if k != label] if others is None else others
    if not 0 <= label < n_classes:
        raise ValueError(f"label: expected 0..{n_classes - 1}, got {label}")
    for k in others:
        if k == label or not 0 <= k < n_classes:
            raise ValueError(
                f"other: expected a class of 0..{n_classes - 1} other than {label}, got {k}"
            )
    rows = torch.eye(n_classes)
    return tuple(((rows[label] - rows[k])[None], torch.zeros(1)) for k in others)


def with_pattern(prop: Property, model: Classifier, pattern: Pattern | None) -> Property:
    """The property inside a pattern of this model, if there is one."""
    if pattern is None:
        return prop
    check_model(pattern.model, model)
    return prop.inside(pattern)
