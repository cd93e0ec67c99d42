"""What the views of one image have in common, and how steps fill a view, part by part."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from workbench.data import ImageDataset
from workbench.models import Classifier, Prediction
from workbench.steps import Step

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class View:
    """An image, the data set it is of, and the model that looks at it."""

    images: ImageDataset
    index: int
    model: Classifier

    @property
    def x(self) -> torch.Tensor:
        """The image, `(1, C, H, W)`."""
        return self.images.images[self.index : self.index + 1]


@dataclass(frozen=True, eq=False)
class Answered(View):
    """An image, and what the model says of it."""

    prediction: Prediction

    @property
    def label(self) -> int:
        """The class predicted."""
        return int(self.prediction.label[0])


def filled(
    view: V, name: str, steps: Iterator[Step[Any]], part: int = 0, of: int = 1, prefix: str = ""
) -> Generator[Step[V], None, V]:
    """Go through steps whose values are the field `name` of a view; the view at the end.

    name: empty where the values are none of the view's. part, of: of the progress bar.
    """
    for step in steps:
        if name and step.value is not None:
            view = replace(view, **{name: step.value})  # type: ignore[type-var]
        done, total = part * step.total + step.done, of * step.total
        yield Step(done, total, prefix + step.message, view)
    return view
