"""A network in which a router sends each image to one of several experts, trained robustly."""

from __future__ import annotations

import copy
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import models
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training

GATE: ContextVar[Tensor] = ContextVar("gate")  # of the pass under way: one-hot, (N, experts)


class Experts(nn.Module):
    """`n` convolutions in the place of one: of each image one counts, which the router chose."""

    def __init__(self, conv: nn.Conv2d, n: int) -> None:
        super().__init__()
        self.n = n
        self.how = {name: getattr(conv, name) for name in ("stride", "padding", "dilation")}
        each = [conv, *(copy.deepcopy(conv) for _ in range(n - 1))]
        for other in each[1:]:  # the experts start apart
            other.reset_parameters()
        self.weight = nn.Parameter(torch.cat([one.weight.detach() for one in each]))
        bias = [one.bias.detach() for one in each if one.bias is not None]
        self.bias = nn.Parameter(torch.cat(bias)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` as one of the convolutions maps it.

        Where a gradient is asked for all compute, so that it says what another would have given.
        """
        gate = GATE.get()
        if torch.is_grad_enabled():
            y = F.conv2d(x, self.weight, self.bias, **self.how)
            return (y.unflatten(1, (self.n, -1)) * gate[..., None, None, None]).sum(1)
        chosen = gate.argmax(1)
        order, sizes = chosen.argsort(), chosen.bincount(minlength=self.n).tolist()
        bias = [None] * self.n if self.bias is None else self.bias.chunk(self.n)
        each = zip(x[order].split(sizes), self.weight.chunk(self.n), bias, strict=True)
        return torch.cat([F.conv2d(*one, **self.how) for one in each])[order.argsort()]


class Routed(nn.Module):
    """A body with experts, and the router that chooses for each image one of every layer."""

    def __init__(self, body: nn.Module, router: nn.Module) -> None:
        super().__init__()
        self.body, self.router = body, router

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        p = self.router(x).softmax(1)
        hard = F.one_hot(p.argmax(1), p.shape[1]).to(p)
        token = GATE.set(hard + (p - p.detach()))  # the choice forward, its probability backward
        try:
            return self.body(x)
        finally:
            GATE.reset(token)


class RobustExperts(Training):
    """Every convolution becomes `n` experts behind a router; both learn against attacks.

    In turns (Zhang et al., 2023): on each batch the experts learn cross-entropy and, `beta` times,
    to answer alike under attack (TRADES: Zhang et al., 2019); then, attacked anew, the router
    learns to choose alike, and `alpha` times to send class y to expert y mod n, as the authors'
    code does. The recipe's width is that of one expert. With n=1 it is TRADES.
    """

    title: ClassVar[str] = "Router and experts against attacks"
    paper: ClassVar[str] = "Robust Mixture-of-Expert Training for Convolutional Neural Networks"
    defends: ClassVar[bool] = True

    n: int = Field(2, ge=1, le=16, description="experts of a layer")
    eps: float = Field(0.1, ge=0, le=1, description="L-infinity radius of the attacks")
    n_steps: int = Field(2, ge=1, le=100, description="steps of an attack")
    beta: float = Field(6.0, ge=0, le=100, description="weight of answers that stay under attack")
    alpha: float = Field(6.0, ge=0, le=100, description="weight of the router's classes")
    turns: bool = Field(True, description="the router learns in its own turn, not with the rest")

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """There have to be convolutions of the usual kind, and no objective but cross-entropy."""
        if data is None or not isinstance(subject, Recipe):
            return ""
        name, classes = subject.architecture, len(data.classes)
        with torch.device("meta"):
            body = models.architectures.build(name, data.shape, classes, **subject.options)
        convs = [part for part in body.modules() if isinstance(part, nn.Conv2d)]
        odd = [c for c in convs if c.groups > 1 or c.padding_mode != "zeros"]
        if odd or not convs or hasattr(body, "classifier"):
            why = f"has {odd[0]}" if odd else "has no convolution, or an objective of its own"
            return f"the architecture {name!r} {why}; take another, such as 'cnn' or 'resnet'"
        return ""

    def build(self, plan: Recipe, training: ImageDataset, name: str) -> Classifier:
        """The model of the plan with experts."""
        if reason := self.unfit(plan, training):
            raise ValueError(f"{type(self).__name__}: {reason}")
        model = super().build(plan, training, name)
        if self.n == 1:
            return model
        convs = [(at, p) for at, p in model.body.named_modules() if isinstance(p, nn.Conv2d)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed + 1)
            for at, conv in convs:
                model.body.set_submodule(at, Experts(conv, self.n))
            model.body = Routed(model.body, router(training.shape[0], self.n).float())
        count = sum(p.numel() for p in model.parameters())
        model.card = model.card.model_copy(update={"parameters": count})
        return model

    def prepare(self, run: Run) -> None:
        """Check that a model which was given to start with has a router."""
        if self.n > 1 and not isinstance(run.model.body, Routed):
            raise ValueError(f"{type(self).__name__}: start: it has no router; train from a recipe")

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the divergence of the answers under attack from those without."""
        run.model.eval()
        moved = self.attacked(run, x)
        run.model.train()
        run.aside[self] = x, y
        logits = run.model(x)
        return F.cross_entropy(logits, y) + self.beta * apart([run.model(moved)], [logits]), logits

    def gradients(self, run: Run) -> None:
        """In the experts' turn the router stays."""
        if self.turns and self.n > 1:
            run.model.body.router.zero_grad(set_to_none=True)  # type: ignore[union-attr]

    def after(self, run: Run) -> None:
        """The router's turn, against the experts as they are now."""
        x, y = run.aside.pop(self)
        if not self.turns or self.n == 1:
            return
        moved, body = self.attacked(run, x), run.model.body
        run.optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            scores, there = (body.router(run.model.normalised(z)) for z in (x, moved))
            aim = self.alpha * F.cross_entropy(scores, y % self.n)
            (aim + self.beta * apart([there], [scores])).backward()
        run.optimiser.step()
        run.log["flips"] = float((scores.argmax(1) != there.argmax(1)).float().mean())

    def attacked(self, run: Run, x: Tensor) -> Tensor:
        """Images near `x` whose logits, and scores of the router, are far from those of `x`."""
        with torch.no_grad():
            said = answers(run.model, x)
        # It starts beside the image: at the image itself the divergence has no slope.
        noise = torch.randn(x.shape, generator=run.generator, dtype=torch.float32).to(x)
        low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
        moved = torch.clamp(x + 0.001 * noise, low, high)
        for _ in range(self.n_steps):
            with torch.enable_grad():
                moved.requires_grad_()
                (slope,) = torch.autograd.grad(apart(answers(run.model, moved), said), moved)
            moved = moved.detach() + 1.25 * self.eps / self.n_steps * slope.sign()
            moved = torch.clamp(moved, low, high)
        return moved


def router(channels: int, n: int) -> nn.Sequential:
    """A small network from images, seen at 8x8 pixels, to a score for each of `n` experts."""
    seen = (nn.AdaptiveAvgPool2d(8), nn.Flatten())
    return nn.Sequential(*seen, nn.Linear(64 * channels, 32), nn.ReLU(), nn.Linear(32, n))


def answers(model: Classifier, x: Tensor) -> list[Tensor]:
    """The logits of images, and the scores of the router where there is one."""
    body: Any = model.body
    routed = [body.router(model.normalised(x))] if isinstance(body, Routed) else []
    return [model(x), *routed]


def apart(now: list[Tensor], before: list[Tensor]) -> Tensor:
    """The mean divergence KL(before || now) of the probabilities, over all that was said."""
    pairs = zip(now, before, strict=True)
    both = [F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean") for a, b in pairs]
    return torch.stack(both).sum()
