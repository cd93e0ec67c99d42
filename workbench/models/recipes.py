"""Training recipes: how each shipped model was made, and how to make it again.

To add a model, add a row to `RECIPES` and run `workbench train NAME`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workbench import checks
from workbench.params import Parameters


class Recipe(Parameters):
    """Everything that decides the weights, beside the data."""

    dataset: str = Field(description="data set to train on")
    architecture: str = Field(description="architecture by name")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the architecture")
    epochs: int = Field(10, ge=1, le=1000, description="passes over the training images")
    batch_size: int = Field(128, ge=1, le=4096, description="images a step")
    lr: float = Field(2e-3, gt=0, le=1, description="highest learning rate (Adam, one cycle)")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay (AdamW)")
    shift: int = Field(0, ge=0, le=8, description="random shifts by up to so many pixels")
    flip: bool = Field(False, description="mirror half of the images left to right")
    elastic: float = Field(0.0, ge=0, le=100, description="pixels of random bending, unsmoothed")
    treatments: tuple[str, ...] = Field((), description="what else changes the training, as calls")
    test_eps: float = Field(0.1, gt=0, le=1, description="radius for the card's robust accuracy")
    seed: int = Field(0, ge=0, description="seed of weights, order, shifts and attacks")


def adversarially(recipe: Recipe, eps: float, steps: int = 7, **changes: Any) -> Recipe:
    """The same recipe, trained on images attacked inside radius `eps`."""
    settings = f"eps={eps!r}" + (f", n_steps={steps}" if steps != 7 else "")
    treatments = (*recipe.treatments, f"AdversarialTraining({settings})")
    return recipe.changed(treatments=treatments, test_eps=eps, **changes)


DIGITS = Recipe(
    dataset="digits",
    architecture="cnn",
    options={"channels": (32, 64)},
    epochs=60,
    lr=4e-3,
    shift=1,
    test_eps=0.1,
)
MNIST = Recipe(dataset="mnist", architecture="cnn", epochs=12, shift=2, test_eps=0.3)
FASHION = Recipe(
    dataset="fashion_mnist", architecture="cnn", epochs=16, flip=True, shift=1, test_eps=0.1
)
SHAPES = Recipe(dataset="shapes", architecture="resnet", epochs=8, lr=5e-3, test_eps=8 / 255)

PROTOTYPES = Recipe(
    dataset="mnist",
    architecture="prototypes",
    epochs=30,
    batch_size=250,
    lr=4e-3,
    elastic=20,
    test_eps=0.1,
)
PROB_PROTOTYPES = PROTOTYPES.changed(
    architecture="prob-prototypes", epochs=12, batch_size=128, lr=3e-3, elastic=0, shift=1
)

RECIPES: dict[str, Recipe] = {
    "digits/mlp": DIGITS.model_copy(update={"architecture": "mlp", "options": {}, "shift": 0}),
    "digits/cnn": DIGITS,
    "digits/cnn-robust": adversarially(DIGITS, 0.1),
    "mnist/mlp": MNIST.model_copy(update={"architecture": "mlp", "shift": 0}),
    "mnist/cnn": MNIST,
    "mnist/cnn-robust": adversarially(MNIST, 0.3, epochs=24, shift=0),
    "fashion_mnist/cnn": FASHION,
    "fashion_mnist/cnn-robust": adversarially(FASHION, 0.1, steps=4, epochs=12),
    "shapes/resnet": SHAPES,
    "shapes/resnet-robust": adversarially(SHAPES, 8 / 255, steps=4, epochs=12),
    "shapes/vit": SHAPES.model_copy(
        update={"architecture": "vit", "epochs": 25, "lr": 2e-3, "weight_decay": 0.05}
    ),
    "digits/prototypes": PROTOTYPES.changed(
        dataset="digits", epochs=300, batch_size=128, lr=5e-3, elastic=0
    ),
    "digits/prob-prototypes": PROB_PROTOTYPES.changed(
        dataset="digits", epochs=150, lr=5e-3, shift=0
    ),
    "mnist/prototypes": PROTOTYPES,
    "mnist/prob-prototypes": PROB_PROTOTYPES,
    "fashion_mnist/prototypes": PROTOTYPES.changed(
        dataset="fashion_mnist", elastic=0, flip=True, shift=1
    ),
    "kmnist/cnn": MNIST.model_copy(update={"dataset": "kmnist"}),
    "cifar10/resnet": SHAPES.model_copy(
        update={"dataset": "cifar10", "epochs": 30, "flip": True, "shift": 4}
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ValueError: there is none; the nearest is suggested.
    """
    if name not in RECIPES:
        raise checks.unknown("recipe", name, RECIPES)
    return RECIPES[name]
