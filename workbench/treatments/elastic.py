"""Many networks in one: the first units of each layer are a narrower network of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from workbench.concepts import NORMS
from workbench.data import ImageDataset
from workbench.models import Classifier, Run
from workbench.treatments.base import OfWeights, Training, share_of
from workbench.treatments.structured import Units, take_out, units

BATCH = 256  # images of which batch norms take the statistics at a time


class Narrow(OfWeights):
    """Keep the first units of each layer and cut the others out; batch norms are measured anew.

    Of a network that `Elastic` trained this is a member; of any other it is truncation.
    """

    title: ClassVar[str] = "The first units of each layer"

    width: float = Field(0.5, gt=0, le=1, description="share of the units of each layer that stay")

    @property
    def needs_data(self) -> bool:
        """For the statistics of batch norms."""
        return True

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Any:
        """At once."""
        found = units(model)
        keep = first(found, self.width)
        found.scale(model, keep.float())  # so that the cut is exact
        take_out(model, replace(found, idle=~keep))
        if data is not None:
            recalibrate(model, data.images)
        yield 1, 1


class Elastic(Training):
    """One training of nested networks: the first units of each layer, the same share of all.

    A step trains one width drawn at random (SortedNet, 2023); the full, the narrowest and two
    random ones, gradients added (the sandwich rule of Yu and Huang, 2019); or the same with
    the full one's answers as the others' labels ("taught": BigNAS, 2020). `Treated.variants`
    has each member with weights of its own; `Narrow` cuts further ones.
    """

    title: ClassVar[str] = "Nested widths in one training"
    paper: ClassVar[str] = (
        "SortedNet, a Place for Every Network and Every Network in its Place: Towards a "
        "Generalized Solution for Training Many-in-One Neural Networks"
    )

    widths: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75, 1.0), min_length=1, description="shares of each layer's units, up to 1"
    )
    rule: Literal["random", "sandwich", "taught"] = Field(
        "random", description="what a step trains: one width, or four; taught by the full one"
    )

    @field_validator("widths")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < width <= 1 for width in value) or max(value) != 1:
            raise ValueError("expected shares above 0, the largest of them 1, the full network")
        return tuple(sorted(set(value)))

    def prepare(self, run: Run) -> None:
        """Find what belongs to each width; says at once where one would empty a layer."""
        if type(run.model).objective is not Classifier.objective:
            kind = run.model.card.architecture
            raise ValueError(f"{type(self).__name__}: {kind} has an objective of its own")
        found = units(run.model)
        run.aside[self] = {w: masks(run.model, found, first(found, w)) for w in self.widths}

    def drawn(self, run: Run) -> Sequence[float]:
        """The widths that a step trains."""
        n = 1 if self.rule == "random" else 2
        some = torch.randint(len(self.widths), (n,), generator=run.generator).tolist()
        ends = [] if self.rule == "random" else [self.widths[-1], self.widths[0]]
        return [*ends, *(self.widths[i] for i in some)]

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over what was drawn, and the logits of the first of them."""
        own = dict(run.model.named_parameters())
        losses, answers = [], []
        for width in self.drawn(run):
            narrowed = {name: own[name] * mask for name, mask in run.aside[self][width].items()}
            answers.append(functional_call(run.model, narrowed, (x,)))
            taught = self.rule == "taught" and width < 1
            aim = answers[0].detach().softmax(1) if taught else y
            losses.append(F.cross_entropy(answers[-1], aim))
        return torch.stack(losses).sum(), answers[0]

    def conclude(self, run: Run) -> Classifier:
        """Every member with weights and statistics of its own."""
        recalibrate(run.model, run.data.images)
        whole = Classifier(run.model.body, run.model.card)  # without what counts its passes
        whole.mean, whole.std = run.model.mean, run.model.std
        for width in self.widths:
            made = Narrow(width=width)(whole, run.data)
            run.variants[f"width {width:g}"] = made.model
        return run.model


def first(found: Units, width: float) -> Tensor:
    """bool `(units,)`: the first `width` of each layer's units, and all that cannot be cut.

    Raises:
        ValueError: no layer can be cut, or one would be left without units; it is named.
    """
    keep = torch.ones(len(found.idle), dtype=torch.bool)
    for name, members in found.sets().items():
        count = share_of(len(members), width)
        if not count:
            raise ValueError(
                f"width={width:g} would leave nothing of {name}, which has {len(members)} units; "
                "take more"
            )
        keep[members[count:]] = False
    if not found.sets():
        row = found.frame().iloc[0]
        raise ValueError(f"no layer can be cut; {row['layer']}: its output {row['fixed']}")
    return keep


def masks(model: Classifier, found: Units, keep: Tensor) -> dict[str, Tensor]:
    """By parameter what to multiply it with, so that of the units only those to `keep` speak."""
    return {
        name: keep[found.rows[name]].to(p).view(-1, *[1] * (p.ndim - 1))
        for name, p in model.named_parameters()
        if name in found.rows
    }


def recalibrate(model: Classifier, images: Tensor) -> None:
    """Measure the mean and variance of all batch norms anew, over images `(N, C, H, W)`.

    Those of a shared training are of no one width (Yu and Huang, 2019).
    """
    norms = [
        part
        for part in model.modules()
        if isinstance(part, NORMS) and part.running_mean is not None
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    every = -(-len(images) // BATCH)  # each batch goes through all of the images
    with torch.no_grad():
        for start in range(every if norms else 0):
            model(images[start::every].to(model.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
