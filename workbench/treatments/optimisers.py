"""Optimisers, rates over time, and rates by layer: each a slot of the one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, optim

from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training


class Adan(optim.Optimizer):
    """Adaptive Nesterov momentum (Xie et al., 2022): one gradient a step, and its last change.

    betas: how much is kept of the means of the gradient g, of its change d, and of the square of
    g + betas[1] d, the gradient where the weights are about to be. Three numbers and the last
    gradient are held for each weight. weight_decay is decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights; `closure` is not asked."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad, group)

    def move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        """One weight tensor, one step."""
        state, betas = self.state[p], group["betas"]
        if not state:  # before the first step the gradient has not changed
            state |= {"step": 0, "last": g.clone()}
            state |= {name: torch.zeros_like(p) for name in ("mean", "change", "square")}
        state["step"] += 1
        d = g - state["last"]
        state["last"] = g.clone()
        state["mean"].lerp_(g, 1 - betas[0])
        state["change"].lerp_(d, 1 - betas[1])
        state["square"].lerp_((g + betas[1] * d).square(), 1 - betas[2])
        # The means start at zero: after t steps they are short by the share beta^t.
        mean, change, square = (
            state[name] / (1 - beta ** state["step"])
            for name, beta in zip(("mean", "change", "square"), betas, strict=True)
        )
        p -= group["lr"] * (mean + betas[1] * change) / (square.sqrt() + group["eps"])
        p /= 1 + group["lr"] * group["weight_decay"]


class Together(optim.Optimizer):
    """Several optimisers, each of weights of its own, as one; they share their groups with it."""

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each; `closure` is not asked."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What each holds."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; the groups are new ones."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


class Optimiser(Training):
    """How the weights move on their gradients, at the rate of the recipe.

    muon (Jordan et al., 2024) moves matrices, by their momentum with all singular values made
    about 1 and as far as AdamW would on average; what is no matrix AdamW moves beside it.
    The recipe's weight decay is decoupled, but for sgd, adam and rmsprop, which add it to the
    gradient.
    """

    title: ClassVar[str] = "Another optimiser"
    paper: ClassVar[str] = (
        "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models"
    )

    name: Literal["sgd", "adam", "adamw", "nadam", "rmsprop", "muon", "adan"] = Field(
        "adan", description="the rule by which weights move"
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="how much of the mean gradient is kept; None: as usual"
    )

    def optimiser(self, model: Classifier, plan: Recipe) -> optim.Optimizer:
        """One torch optimiser over all weights."""
        usual = {"rmsprop": 0.0, "muon": 0.95, "adan": 0.98}.get(self.name, 0.9)
        m = usual if self.momentum is None else self.momentum
        makers: dict[str, Callable[..., optim.Optimizer]] = {
            "sgd": partial(optim.SGD, momentum=m),
            "adam": partial(optim.Adam, betas=(m, 0.999)),
            "adamw": partial(optim.AdamW, betas=(m, 0.999)),
            "nadam": partial(optim.NAdam, betas=(m, 0.999), decoupled_weight_decay=True),
            "rmsprop": partial(optim.RMSprop, momentum=m),
            "muon": partial(muon, momentum=m),
            "adan": partial(Adan, betas=(m, 0.92, 0.99)),
        }
        return makers[self.name](model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)


def muon(weights: Iterable[Tensor], momentum: float, **values: Any) -> optim.Optimizer:
    """Muon for matrices, as far a step as AdamW's on average; AdamW for the rest."""
    weights, how = list(weights), {"adjust_lr_fn": "match_rms_adamw", **values}
    matrices, others = ([p for p in weights if (p.ndim == 2) == flat] for flat in (True, False))
    parts = [optim.Muon(matrices, momentum=momentum, **how)] if matrices else []
    return Together([*parts, *([optim.AdamW(others, **values)] if others else [])])


class Schedule(Training):
    """The rate over time: a straight rise, then a straight or a cosine fall to zero, or none.

    "cycle" with a rise of 0.2 is what happens without this treatment.
    """

    title: ClassVar[str] = "Learning rate over time"

    kind: Literal["cycle", "cosine", "constant"] = Field("cosine", description="what follows it")
    warm_up: float = Field(0.1, ge=0, lt=1, description="share of the training that it rises for")

    def rate(self, run: Run) -> float:
        """The learning rate of the next step."""
        if run.progress < self.warm_up:
            return run.plan.lr * run.progress / self.warm_up
        left = (1 - run.progress) / (1 - self.warm_up)
        shape = {"cycle": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
        return run.plan.lr * shape[self.kind]


class Layerwise(Training):
    """Layers with noisier gradients take smaller steps (LANTON; Hao et al., 2025).

    Noise H is the mean square of the change of a layer's gradient from step to step, in the norm
    that is dual to the one of the step: the nuclear norm of a matrix (of a filter bank, a row a
    filter), the sum of absolute values of anything else. Among the layers of one norm, the step
    of each is multiplied by sqrt(a / max a), with a = alpha / sqrt(alpha^2 + H). It works with
    any optimiser; what the others changed of the gradient before it counts as noise, too.
    """

    title: ClassVar[str] = "Rates by the noise of a layer"
    paper: ClassVar[str] = (
        "Noise-Adaptive Layerwise Learning Rates: Accelerating Geometry-Aware Optimization for "
        "Deep Neural Network Training"
    )

    alpha: float = Field(0.1, gt=0, le=1e6, description="noise from which on a layer slows down")
    memory: float = Field(0.9, ge=0, lt=1, description="how much of the mean noise is kept")

    def gradients(self, run: Run) -> None:
        """Measure the noise; keep the ratios, by name of the weight, and where each weight is."""
        kept, here = run.state(self), run.aside.setdefault(self, {})
        last, noise = kept.setdefault("last", {}), kept.setdefault("noise", {})
        shares: dict[bool, dict[str, float]] = {True: {}, False: {}}
        for name, p in run.model.named_parameters():
            if p.grad is None:
                continue
            if name in last:
                new = dual(p.grad - last[name]) ** 2
                noise[name] = self.memory * noise.get(name, 0.0) + (1 - self.memory) * new
            last[name], here[name] = p.grad.clone(), p.detach().clone()
            share = self.alpha / math.sqrt(self.alpha**2 + noise.get(name, 0.0))
            shares[p.ndim > 1][name] = share
        kept["ratios"] = {
            name: math.sqrt(share / max(group.values()))
            for group in shares.values()
            for name, share in group.items()
        }

    def after(self, run: Run) -> None:
        """Take of each step the share that is the layer's: a step is proportional to its rate."""
        ratios, here = run.state(self)["ratios"], run.aside.pop(self)
        for name, p in run.model.named_parameters():
            if ratios.get(name, 1.0) < 1:
                p.data = here[name].lerp(p.detach(), ratios[name])


def dual(change: Tensor) -> float:
    """The nuclear norm of a matrix, its rows the first axis; the sum of |.| of a vector."""
    if change.ndim > 1:
        return float(torch.linalg.matrix_norm(change.flatten(1), "nuc"))
    return float(change.abs().sum())
