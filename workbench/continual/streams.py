"""One data set as a row of tasks, which are learned one after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset


@dataclass(frozen=True, eq=False)
class Task:
    """Images to learn and to test on; their `classes` are those of the whole stream.

    name: "" where the stream does not say which task it is, nor when one ends.

    Raises:
        ValueError: no images, or training and test images of other shapes or classes.
    """

    train: ImageDataset
    test: ImageDataset
    name: str = ""

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if not bool((images.labels >= 0).any()):
                raise ValueError(
                    f"task {self.name!r}: expected {part} images with a label, got none of "
                    f"{images.name}; leave the task out, or give more images"
                )
        kinds = [(images.shape, images.classes) for images in (self.train, self.test)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"test: expected images and classes {kinds[0]}, got {kinds[1]}")

    def mask(self) -> Tensor:
        """Which classes of the stream occur in the task; bool `(K,)`."""
        return torch.bincount(self.train.labels.clamp(min=0), minlength=len(self.train.classes)) > 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that occur in the task."""
        names = zip(self.train.classes, self.mask().tolist(), strict=True)
        return tuple(name for name, occurs in names if occurs)


Stream = Sequence[Task]


def split(training: ImageDataset, test: ImageDataset, n_tasks: int, *, seed: int = 0) -> list[Task]:
    """The classes, in an order that `seed` decides, in groups as equal as can be.

    Raises:
        ValueError: fewer classes than tasks; a class without images.
    """
    k = len(training.classes)
    if checks.positive("n_tasks", n_tasks) > k:
        raise ValueError(f"n_tasks: {training.name} has {k} classes, got {n_tasks} tasks; take {k}")
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    tasks = []
    for group in order.tensor_split(n_tasks):
        own, its = (part[torch.isin(part.labels, group)] for part in (training, test))
        tasks.append(Task(own, its, ", ".join(training.classes[c] for c in group.sort().values)))
    return tasks


def permuted(
    training: ImageDataset, test: ImageDataset, n_tasks: int, *, seed: int = 0
) -> list[Task]:
    """The same images with their pixels in another order in each task; the first as they are."""
    checks.positive("n_tasks", n_tasks)
    generator, tasks = torch.Generator().manual_seed(seed), [Task(training, test, "as it is")]
    for t in range(1, n_tasks):
        order = torch.randperm(math.prod(training.shape[1:]), generator=generator)
        own, its = (
            replace(part, images=part.images.flatten(2)[:, :, order].view_as(part.images))
            for part in (training, test)
        )
        tasks.append(Task(own, its, f"order {t}"))
    return tasks


def rotated(training: ImageDataset, test: ImageDataset, degrees: Sequence[float]) -> list[Task]:
    """The same images turned anticlockwise by so many degrees; black comes in at the corners."""
    return [Task(turned(training, d), turned(test, d), f"{d:g}°") for d in degrees]


def turned(dataset: ImageDataset, degrees: float) -> ImageDataset:
    """A data set turned about the middle, with values between pixels interpolated."""
    _, h, w = dataset.shape
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Where each pixel comes from: in units of half a side, so a side ratio keeps the angle right.
    matrix = torch.tensor([[c, -s * h / w, 0], [s * w / h, c, 0]], dtype=torch.float32)
    size = [len(dataset), *dataset.shape]
    grid = F.affine_grid(matrix.expand(len(dataset), 2, 3), size, align_corners=False)
    images = F.grid_sample(dataset.images, grid, align_corners=False).clamp(0, 1)
    return replace(dataset, images=images) if degrees % 360 else dataset


def by_factor(
    training: ImageDataset, test: ImageDataset, factor: str, values: Sequence[Any] | None = None
) -> list[Task]:
    """A task for each value of a column of the factors (all values, when None)."""
    columns = []
    for part in (training, test):
        frame = part.factors
        checks.known("factor", factor, [] if frame is None else list(frame.columns))
        columns.append(frame[factor].to_numpy())  # type: ignore[index]
    values = sorted(set(columns[0].tolist())) if values is None else values
    rows = [[column == value for column in columns] for value in values]
    named = zip(rows, values, strict=True)
    return [Task(training[a], test[b], f"{factor} {value}") for (a, b), value in named]


def unannounced(stream: Stream) -> list[Task]:
    """The same stream for a learner that is told neither names nor ends of tasks."""
    return [replace(task, name="") for task in stream]
