"""What panels that train need of a selection: its training images, and a recipe for them."""

from __future__ import annotations

from typing import Any

from workbench import models
from workbench.data import ImageDataset
from workbench.models import Recipe

from .selection import GIVE, Selection

PLAIN = "digits/mlp"  # the recipe for a model that has none: its network takes any images


def training_of(selection: Selection) -> ImageDataset:
    """The training images.

    Raises:
        ValueError: there are none.
    """
    training = selection.own_training()
    if training is None:
        raise ValueError(f"training: no training images of {selection.origin!r}; {GIVE}")
    return training


def recipe_for(selection: Selection, name: str, **changes: Any) -> Recipe:
    """The recipe called `name`, for the data selected.

    Raises:
        ValueError: there is none of that name.
    """
    plan = models.recipes.recipe(name).changed(dataset=selection.origin, **changes)
    if "prototypes" in plan.architecture:  # at least one a class
        count = max(15, len(selection.as_it_is().classes))
        plan = plan.changed(options={"prototypes": count, **plan.options})
    return plan
