"""Classes are names, not numbers: a data set's labels as a model numbers its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from workbench.data import ImageDataset
from workbench.models.classifier import Classifier


def matched(dataset: ImageDataset, model: Classifier) -> ImageDataset:
    """The data set with the classes of the model, and its labels as the model numbers them.

    A label is -1 where the model has no class of that name: then nothing is right or wrong.
    Where the names of one side are mere numbers (`named` is False) and the counts agree, the
    numbers stand for the names.
    """
    if dataset.space is not None and model.space is None:
        name = f"{model.card.name} has no space, as the points of {dataset.name} have"
        raise ValueError(f"model: {name}; give it theirs: model.space = dataset.space")
    if dataset.classes == model.classes:
        return dataset
    table = torch.tensor([*numbers(dataset, model), -1])  # label -1 stays -1
    return replace(dataset, labels=table[dataset.labels], classes=model.classes)


def measurable(dataset: ImageDataset, model: Classifier, *, labels: bool = True) -> ImageDataset:
    """The data set `matched`, where something can be measured of the model on it.

    labels: whether some image has to have a label.

    Raises:
        ValueError: images of another shape; classes of which the model has only some; no
            label, where one is needed.
    """
    name = model.card.name
    if model.input_shape != dataset.shape:
        raise ValueError(
            f"dataset: {name} takes {model.input_shape} images, {dataset.name} has "
            f"{dataset.shape} images"
        )
    own = numbers(dataset, model)
    strange = [name for name, k in zip(dataset.classes, own, strict=True) if k < 0]
    if 0 < len(strange) < len(own):
        raise ValueError(
            f"dataset: {name} ({len(model.classes)} classes) has no class {some(strange)}, as "
            f"{dataset.name} has beside others ({len(own)} classes); models.matched(dataset, "
            "model) leaves images of such classes without a label"
        )
    found = matched(dataset, model)
    if labels and not bool((found.labels >= 0).any()):
        raise ValueError(
            f"dataset: no image of {dataset.name} has a label that {name} can be right about; "
            f"its classes: {some(dataset.classes)}; the model's: {some(model.classes)}"
        )
    return found


def numbers(dataset: ImageDataset, model: Classifier) -> list[int]:
    """The model's number of each class of the data set, -1 where it has none of that name."""
    if len(dataset.classes) == len(model.classes) and not (dataset.named and model.card.named):
        return list(range(len(model.classes)))
    number = {name: k for k, name in enumerate(model.classes)}
    return [number.get(name, -1) for name in dataset.classes]


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return (", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "")) or "none"
