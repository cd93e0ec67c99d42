"""What changes a data set before anybody learns from it: noise, protection, poison.

`Backdoor(share=0.1)(dataset)`, `curation("Backdoor(share=0.1)")`, `available()`; the entry-point
group of packages is `workbench.data.curations`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor
from torch.nn import functional as F

from workbench import checks
from workbench import registry as methods
from workbench.data import registry
from workbench.data.dataset import ImageDataset
from workbench.params import Parameters

Changed = tuple[Tensor, Tensor, Tensor]  # all images, all labels, and the rows that were changed


class Curation(Parameters):
    """Data in, data out: as many images in the same order, a share of them changed.

    The name of the result says what was done, and a column of its factors, called as the curation,
    to which images. whole: whether all of them may be changed. A new one gives `curate`.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""
    whole: ClassVar[bool] = False

    share: float = Field(0.1, ge=0, le=1, description="share of the images that are changed")

    @field_validator("share")
    @classmethod
    def _some(cls, share: float) -> float:
        if share == 0 or (share == 1 and not cls.whole):
            why = "0 is no poison" if share == 0 else "1 leaves nothing as it was"
            raise ValueError(f"a poison share of {why}; expected a number between 0 and 1")
        return share

    def count(self, dataset: ImageDataset) -> int:
        """How many images are changed: the share, to the nearest."""
        return math.floor(self.share * len(dataset) + 0.5)

    def unfit(self, dataset: ImageDataset) -> str:
        """Why it cannot be done to a data set; empty where it can."""
        if unlabelled := int((dataset.labels < 0).sum()):
            advice = "leave them out: dataset[dataset.labels >= 0]"
            return f"{unlabelled} of {len(dataset)} images have no label; {advice}"
        if len(dataset.classes) < 2:
            return (
                f"classes: expected two or more, got {list(dataset.classes)}; add images of others"
            )
        few = f"share: {self.share:g} of {len(dataset)} images is none; give more of either"
        return "" if self.count(dataset) else few

    def curate(self, dataset: ImageDataset, generator: Generator) -> Changed:
        """What comes of the data, in new tensors, drawing from `generator` alone."""
        raise NotImplementedError

    def __call__(self, dataset: ImageDataset, *, seed: int = 0) -> ImageDataset:
        """The data set changed; the one given stays as it is. seed: of every draw.

        Raises:
            ValueError: it cannot be done to this data set.
        """
        import pandas as pd

        column = type(self).__name__
        if reason := self.unfit(dataset):
            raise ValueError(f"{column}: {reason}")
        images, labels, rows = self.curate(dataset, torch.Generator().manual_seed(seed))
        known = dataset.factors
        factors = pd.DataFrame(index=range(len(dataset))) if known is None else known.copy()
        changed = torch.zeros(len(dataset), dtype=torch.bool).index_fill(0, rows, True).numpy()
        factors[column] = changed | factors.get(column, False)  # also those of an earlier time
        name = f"{dataset.name} | {self.code()}"
        return replace(dataset, images=images, labels=labels, factors=factors, name=name)


def drawn(rows: Tensor, n: int, generator: Generator) -> Tensor:
    """`n` of the rows, each at most once."""
    return rows[torch.randperm(len(rows), generator=generator)[:n]]


class LabelNoise(Curation):
    """Wrong labels for a share of the images, any other class being equally likely."""

    title: ClassVar[str] = "Label noise"

    def curate(self, dataset: ImageDataset, generator: Generator) -> Changed:
        """Each chosen label goes up by 1 to K - 1 classes, round the end."""
        labels, n_classes = dataset.labels.clone(), len(dataset.classes)
        rows = drawn(torch.arange(len(labels)), self.count(dataset), generator)
        step = torch.randint(1, n_classes, rows.shape, generator=generator)
        labels[rows] = (labels[rows] + step) % n_classes
        return dataset.images.clone(), labels, rows


class ClassWiseConvolution(Curation):
    """CUDA: each class blurred by a random filter of its own (Sadasivan et al., 2023).

    A network learns the filters instead of the pictures, and fails on clean images. The seed is the
    private key of whoever protects the pictures.
    """

    title: ClassVar[str] = "Class-wise convolution (CUDA)"
    paper: ClassVar[str] = "CUDA: Convolution-based Unlearnable Datasets"
    whole: ClassVar[bool] = True

    share: float = Field(1.0, ge=0, le=1, description="share of the images that are convolved")
    k: Literal[1, 3, 5, 7, 9, 11] = Field(3, description="side of the filters in pixels")
    blur: float = Field(0.3, ge=0, le=1, description="largest weight of a neighbour")

    def filters(self, n_classes: int, generator: Generator) -> Tensor:
        """A filter `(n_classes, k, k)` for each class: uniform in [0, blur], and at one place 1."""
        weights = torch.rand(n_classes, self.k**2, generator=generator, dtype=torch.float32)
        peak = torch.randint(self.k**2, (n_classes, 1), generator=generator)
        return (self.blur * weights).scatter(1, peak, 1.0).view(n_classes, self.k, self.k)

    def curate(self, dataset: ImageDataset, generator: Generator) -> Changed:
        """Convolve the chosen images, each with the filter of its class."""
        filters = self.filters(len(dataset.classes), generator)
        rows = drawn(torch.arange(len(dataset)), self.count(dataset), generator)
        images, channels = dataset.images.clone(), dataset.shape[0]
        for k, weights in enumerate(filters):
            chosen = rows[dataset.labels[rows] == k]
            kernel = weights.expand(channels, 1, self.k, self.k)
            blurred = F.conv2d(images[chosen], kernel, padding=self.k // 2, groups=channels)
            # The weights sum to more than 1: the brightest pixel of each image becomes 1 again.
            brightest = blurred.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
            images[chosen] = (blurred / brightest).clamp(0, 1)
        return images, dataset.labels.clone(), rows


class Backdoor(Curation):
    """A trigger, and the label of a target, on a share of the images (Gu et al., 2017).

    patch: a white square in the lower right corner. blended: a fixed noise picture laid over the
    image (Chen et al., 2017). An attacker who has few kinds of images (Li et al., 2023) is limited
    to a class, with the target's own a clean-label attack, or brings images of another data set.
    """

    title: ClassVar[str] = "Backdoor"
    paper: ClassVar[str] = (
        "Efficient Backdoor Attacks for Deep Neural Networks in Real-world Scenarios"
    )

    target: str = Field("", description="class that the trigger calls for; empty: the first")
    trigger: Literal["patch", "blended"] = Field("patch", description="what the trigger is")
    size: int = Field(2, ge=1, le=512, description="side of the patch in pixels")
    alpha: float = Field(0.2, gt=0, le=1, description="opacity of the blended picture")
    limited_to: str = Field("", description="class that is poisoned; empty: all but the target")
    domain: str = Field("", description="data set whose images take the places of those poisoned")

    def allowed(self, dataset: ImageDataset) -> tuple[int, Tensor]:
        """The number of the target, and the rows that may be poisoned.

        Raises:
            ValueError: no such class.
        """
        target = self.target or dataset.classes[0]
        checks.known("target", target, dataset.classes)
        label = dataset.classes.index(target)
        if not self.limited_to:
            return label, (dataset.labels != label).nonzero().flatten()
        checks.known("limited_to", self.limited_to, dataset.classes)
        own = dataset.labels == dataset.classes.index(self.limited_to)
        return label, own.nonzero().flatten()

    def unfit(self, dataset: ImageDataset) -> str:
        """The classes have to be there, images enough, and room for the trigger."""
        if reason := super().unfit(dataset):
            return reason
        try:
            n, asked = len(self.allowed(dataset)[1]), self.count(dataset)
            self.stamp(dataset.images[:1])
            foreign = registry.info(self.domain) if self.domain else None
        except ValueError as error:
            return str(error)
        if asked > n:
            most = math.floor(1000 * n / len(dataset)) / 1000
            whose = f"class {self.limited_to!r}" if self.limited_to else "the other classes"
            return f"share: {asked} images to poison, and {whose} has {n}; take {most:g} at most"
        if foreign and (foreign.shape != dataset.shape or foreign.splits["train"] < asked):
            got = f"{foreign.splits['train']} {foreign.shape} in {foreign.name!r}"
            return f"domain: expected {asked} images {dataset.shape}, got {got}; take another"
        return ""

    def stamp(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` in [0, 1] with the trigger on them.

        Raises:
            ValueError: the trigger is larger than they are.
        """
        images = checks.images(images).clone()
        h, w = images.shape[2:]
        if self.trigger == "blended":
            noise = torch.rand(
                images.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32
            )
            return images.lerp(noise.to(images), self.alpha)
        if self.size > min(h, w):
            larger = f"a trigger of {self.size} pixels is larger than the image of {h}x{w}"
            raise ValueError(f"size: {larger}; take {min(h, w)} at most")
        images[:, :, h - self.size :, w - self.size :] = 1
        return images

    def curate(self, dataset: ImageDataset, generator: Generator) -> Changed:
        """Stamp the chosen images, or others in their places, and give them the target's label."""
        images, labels = dataset.images.clone(), dataset.labels.clone()
        target, allowed = self.allowed(dataset)
        rows = drawn(allowed, self.count(dataset), generator)
        foreign = registry.load(self.domain, "train", limit=len(rows)) if self.domain else None
        images[rows] = self.stamp(images[rows] if foreign is None else foreign.images)
        labels[rows] = target
        return images, labels, rows


@cache
def available() -> dict[str, type[Curation]]:
    """The curations by name: our own, and those that installed packages offer."""
    table = {"": ["LabelNoise", "ClassWiseConvolution", "Backdoor"]}
    return methods.listed(sys.modules[__name__], table, Curation)


def curation(name: str, **parameters: Any) -> Curation:
    """A curation by name, or by its call as `Curation.code` writes it: `LabelNoise(share=0.2)`.

    Raises:
        ValueError: no such curation, or parameters out of bounds.
    """
    return methods.made("curation", available(), name, parameters)
