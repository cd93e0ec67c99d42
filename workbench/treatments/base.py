"""`Treatment`: parameters with `steps` that make a model of a model, or of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn

from workbench import steps
from workbench.data import ImageDataset
from workbench.models import (
    Classifier,
    Hooks,
    Recipe,
    Treated,
    cost,
    finite,
    fit,
    private_copy,
    ready,
    unmeasured,
)
from workbench.params import Parameters
from workbench.steps import Step


class Treatment(Parameters):
    """What trains, changes, shrinks or defends a network; a `Change` or a `Training`.

    paper: the title of the paper of the atlas whose method it is. takes: what it works on, which
    is never touched. defends: whether it is meant to make a model robust.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""
    defends: ClassVar[bool] = False
    takes: ClassVar[Literal["model", "recipe", "tasks"]]

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """Why the treatment does not fit the subject; empty where it does."""
        return ""

    def depends(self) -> tuple[str, ...]:
        """The models, by name, that decide the result beside the parameters."""
        return ()

    def uses(self) -> tuple[type, ...]:
        """The other classes whose code decides the result."""
        return ()

    def steps(
        self, subject: Any, data: ImageDataset | None = None, *, seed: int = 0
    ) -> Iterator[Step[Treated]]:
        """Treat the subject with the help of training data: one Step a unit of work.

        Raises:
            ValueError: the treatment does not fit, or has broken the model.
        """
        raise NotImplementedError

    def __call__(self, subject: Any, data: ImageDataset | None = None, *, seed: int = 0) -> Treated:
        """Run `steps` to the end."""
        return steps.run(self.steps(subject, data, seed=seed))

    def fitting(self, subject: Any, data: ImageDataset | None) -> None:
        """Check that the treatment fits.

        Raises:
            ValueError: saying why it does not.
        """
        kinds = {"model": Classifier, "recipe": Recipe}
        name = type(self).__name__
        if not isinstance(subject, kinds.get(self.takes, object)):
            raise TypeError(f"{name}: expected a {self.takes}, got {type(subject).__name__}")
        if reason := self.unfit(subject, data):
            raise ValueError(f"{name}: {reason}")


class Change(Treatment):
    """A treatment of a trained model. A new one gives `apply`, which works on a private copy."""

    takes: ClassVar[Literal["model", "recipe", "tasks"]] = "model"

    @property
    def needs_data(self) -> bool:
        """Whether `apply` looks at training data."""
        return False

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """Change `model`, drawing from `generator` alone; yields done and total."""
        raise NotImplementedError

    def steps(
        self, subject: Classifier, data: ImageDataset | None = None, *, seed: int = 0
    ) -> Iterator[Step[Treated]]:
        """Treat a copy of `subject`; see `Treatment.steps`."""
        self.fitting(subject, data)
        ready(subject)
        if self.needs_data and data is None:
            raise ValueError(f"{type(self).__name__}: data: it needs training images, got none")
        model = cast(Classifier, private_copy(subject, share=False))
        model.card = unmeasured(subject.card, name=f"{subject.card.name} | {self.code()}")
        done, total = 0, 1
        work = self.apply(model, data, torch.Generator().manual_seed(seed))
        for done, total in apart(work, seed):
            yield Step(done, total, f"{type(self).__name__} {done}/{total}", Treated(model))
        for tensor in model.parameters():  # as it lies in a file, so that its sums round alike
            tensor.data = tensor.data.contiguous()
        model.requires_grad_(True).eval()
        self.sound(model)
        count = sum(p.numel() for p in model.parameters())
        model.card = model.card.model_copy(update={"parameters": count})
        yield Step(total, total, "done", Treated(model, cost=cost(model)))

    def sound(self, model: Classifier) -> None:
        """Check that the changed model still says something of an image.

        Raises:
            ValueError: it says no numbers, or of another count of classes.
        """
        name = type(self).__name__
        try:
            finite(model)
        except ValueError as error:
            raise ValueError(f"{name}: it broke the model: {error}") from None
        grey = torch.full((2, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
        with torch.no_grad():
            logits = model(grey)
        if logits.shape != (2, len(model.classes)) or not bool(logits.isfinite().all()):
            raise ValueError(
                f"{name}: it broke the model: expected {len(model.classes)} finite logits an "
                f"image, got {tuple(logits.shape)} from two, the first {logits[0].tolist()[:3]}"
            )


class OfWeights(Change):
    """A change of the weights of linear and convolutional layers."""

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """There have to be such layers."""
        if isinstance(subject, Classifier) and not weighted(subject):
            return "the model has no linear or convolutional layer"
        return ""


class Training(Treatment, Hooks):
    """A treatment of the training: a new one gives some of the hooks of the loop."""

    takes: ClassVar[Literal["model", "recipe", "tasks"]] = "recipe"

    def steps(
        self,
        subject: Recipe,
        data: ImageDataset | None = None,
        *,
        seed: int = 0,
        keep: Path | None = None,
        resume: bool = True,
    ) -> Iterator[Step[Treated]]:
        """Train by the recipe with this treatment; seed: 0 for that of the recipe.

        keep, resume: as of `models.fit`.
        """
        self.fitting(subject, data)
        if data is None:
            raise ValueError(f"{type(self).__name__}: data: it needs training images, got none")
        plan = subject.changed(seed=seed) if seed else subject
        name = f"my model | {self.code()}"
        yield from fit.steps(plan, data, treatments=[self], name=name, keep=keep, resume=resume)


def apart(work: Iterator[tuple[int, int]], seed: int) -> Iterator[tuple[int, int]]:
    """Go through `work` with torch's own generator seeded; in between it is as it was.

    New layers draw from it.
    """
    state = torch.Generator().manual_seed(seed).get_state()
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            tick = next(work, None)
            state = torch.get_rng_state()
        if tick is None:
            return
        yield tick


def weighted(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear and convolutional layers of a model, by name."""
    kinds = (nn.Linear, nn.Conv2d)
    return {name: part for name, part in model.named_modules() if isinstance(part, kinds)}


def share_of(n: int, share: float) -> int:
    """How many of `n` a share is, to the nearest."""
    return math.floor(share * n + 0.5)
