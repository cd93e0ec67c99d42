"""Fooling images: images of nothing that a classifier is sure of (Nguyen et al., 2015).

They start from nothing, so this is no attack on an image: for every class one image is
bred, or climbed to, until the model is confident of that class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from workbench import steps
from workbench.attacks.genomes import Painters, Pixels
from workbench.models import Classifier, batch_size, has_gradient, ready
from workbench.params import Parameters
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd

SURE = 0.9999  # of MNIST's fooling images in the paper
Turn = tuple[torch.Tensor, torch.Tensor, int]  # images, confidences, images asked about


@dataclass(frozen=True, eq=False)
class FoolingResult:
    """One image for each of K classes.

    images: float32 `(K, C, H, W)` in [0, 1]; confidence `(K,)`: the probability that the
    model gives class k for image k; history `(T, K)`: the same after each turn; queries: how
    many images the model was asked about.
    """

    method: str
    images: torch.Tensor
    confidence: torch.Tensor
    history: torch.Tensor
    classes: tuple[str, ...]
    queries: int

    def summary(self) -> dict[str, Any]:
        """How sure the model is, and the first turn with a median of 99.99% (None: never)."""
        reached = (self.history.median(1)[0] >= SURE).nonzero().flatten().tolist()
        return {
            "method": self.method,
            "median_confidence": float(self.confidence.median()),
            "least_confidence": float(self.confidence.min()),
            "reached_9999": reached[0] if reached else None,
            "queries": self.queries,
        }

    def frame(self) -> pd.DataFrame:
        """One row a class."""
        import pandas as pd

        return pd.DataFrame({"class": self.classes, "confidence": self.confidence.tolist()})


class Fooling(Parameters):
    """A way to make fooling images; a new one gives `search` and the number of its turns."""

    def search(self, model: Classifier, generator: torch.Generator) -> Iterator[Turn | None]:
        """Yields the images so far, before the first turn and after each; None on the way."""
        raise NotImplementedError

    @property
    def turns(self) -> int:
        """How many turns there are."""
        raise NotImplementedError

    def steps(self, model: Classifier, *, seed: int = 0) -> Iterator[Step[FoolingResult]]:
        """Make the images: one Step a turn, and one between two passes of large images.

        Raises:
            ValueError: the model is in train mode, or says NaN.
        """
        ready(model)
        generator = torch.Generator().manual_seed(seed)
        name, queries = type(self).__name__, 0
        history = torch.zeros(self.turns + 1, len(model.classes), dtype=torch.float32)
        turn, value = 0, None
        for found in self.search(model, generator):
            if found is None:
                yield Step(turn, self.turns, f"{name} {turn}/{self.turns}", value)
                continue
            images, confidence, asked = found
            if not bool((confidence >= 0).all()):
                raise ValueError(f"model: its confidences are {confidence.tolist()}, not numbers")
            queries += asked
            history[turn] = confidence
            past = history[: turn + 1].clone()
            value = FoolingResult(name, images, confidence, past, model.classes, queries)
            yield Step(turn, self.turns, f"{name} {turn}/{self.turns}", value)
            turn += 1

    def __call__(self, model: Classifier, *, seed: int = 0) -> FoolingResult:
        """Run `steps` to the end."""
        return steps.run(self.steps(model, seed=seed))


class GradientAscent(Fooling):
    """Climb to each class by gradient, with or without a prior on images (Nguyen et al., 2015).

    The prior is taken off the log-probability: L2 keeps images dark, TV (squared differences
    of neighbours) smooth.
    """

    n_steps: int = Field(200, ge=1, le=100_000, description="gradient steps")
    alpha: float = Field(0.5, gt=0, description="length of a step, in L2")
    prior: Literal["none", "L2", "TV"] = Field("none", description="what images should be like")
    strength: float = Field(0.05, ge=0, description="weight of the prior")

    @property
    def turns(self) -> int:
        """The gradient steps."""
        return self.n_steps

    def search(self, model: Classifier, generator: torch.Generator) -> Iterator[Turn | None]:
        """All classes at once, from faint noise on grey."""
        if not has_gradient(model):
            raise ValueError("model: it has no gradient to climb; use MapElites")
        k, size = len(model.classes), batch_size(model.input_shape)
        noise = torch.randn(k, *model.input_shape, generator=generator, dtype=torch.float32)
        images = (0.5 + 0.1 * noise).clamp(0, 1).to(model.device)
        own = torch.arange(k, device=model.device)
        for turn in range(self.n_steps + 1):
            found: list[tuple[torch.Tensor, torch.Tensor]] = []
            for part, which in zip(images.split(size), own.split(size), strict=True):
                if found:
                    yield None
                with torch.inference_mode(False), torch.enable_grad():
                    asked = part.clone().requires_grad_()
                    logs = (
                        model(asked).float().log_softmax(1).gather(1, which.clone()[:, None])[:, 0]
                    )
                    worth = logs.sum() - self.strength * self.penalty(asked)
                    found.append((logs.detach(), torch.autograd.grad(worth, asked)[0]))
            logs, gradient = map(torch.cat, zip(*found, strict=True))
            yield images.cpu(), logs.exp().cpu(), k
            length = gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)
            # Steps grow shorter, to settle where the class and the prior pull against each other.
            step = self.alpha * (1 - turn / (self.n_steps + 1))
            images = (images + step * gradient / length).clamp(0, 1)

    def penalty(self, images: torch.Tensor) -> torch.Tensor:
        """What the prior holds against the images, summed."""
        if self.prior == "L2":
            return images.square().sum()
        if self.prior == "TV":
            return images.diff(dim=2).square().sum() + images.diff(dim=3).square().sum()
        return images.new_zeros(())


class MapElites(Fooling):
    """Evolution that keeps the best image of every class (MAP-Elites; Nguyen et al., 2015).

    Each generation breeds children from pairs of elites and asks about all at once; a child
    takes every class that it is better at. The genes are pixels (`direct`), or small
    networks that paint an image from each pixel's place (`cppn`), which makes it regular.
    """

    encoding: Literal["direct", "cppn"] = Field("direct", description="what is bred")
    generations: int = Field(250, ge=1, le=100_000, description="generations")
    children: int = Field(200, ge=2, le=10_000, multiple_of=2, description="children a generation")
    mutation: float = Field(0.1, ge=0, le=1, description="chance that a gene changes")
    hidden: int = Field(8, ge=1, le=64, description="most hidden units of a painting network")

    @property
    def turns(self) -> int:
        """The generations."""
        return self.generations

    def search(self, model: Classifier, generator: torch.Generator) -> Iterator[Turn | None]:
        """Random genomes, then children of the elites."""
        shape, k, size = model.input_shape, len(model.classes), batch_size(model.input_shape)
        coding: Pixels | Painters = Pixels(shape, self.mutation, generator)
        if self.encoding == "cppn":
            coding = Painters(shape, self.mutation, self.hidden, generator)
        genomes = coding.random(self.children)
        elites = genomes[:1].expand(k, *genomes.shape[1:])
        confidence = torch.full((k,), -1.0, dtype=torch.float32)
        for generation in range(self.generations + 1):
            if generation:
                first, second = torch.randint(k, (2, self.children // 2), generator=generator)
                genomes = coding.breed(elites[first], elites[second])
            shares: list[torch.Tensor] = []
            for part in genomes.split(size):
                if shares:
                    yield None
                with torch.no_grad():
                    logits = model(coding.paint(part).float().to(model.device))
                shares.append(logits.float().softmax(1).cpu())
            most, who = torch.cat(shares).max(0)
            better = most > confidence
            shaped = better.view(-1, *[1] * (genomes.ndim - 1))
            elites = torch.where(shaped, genomes[who], elites)
            confidence = torch.where(better, most, confidence)
            painted = torch.cat([coding.paint(part).float() for part in elites.split(size)])
            yield painted, confidence, len(genomes)
