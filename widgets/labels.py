"""Images by their labels, some of which may not be known."""

from __future__ import annotations

from workbench.data import ImageDataset

MOST = 24  # images offered to choose from


def other_images(images: ImageDataset, index: int) -> list[int]:
    """The images of another class than one has; all others where its class is not known."""
    labels = images.labels.tolist()
    others = [i for i in range(len(labels)) if i != index]
    return [i for i in others if labels[i] != labels[index] or labels[index] < 0] or others


def one_of_each(images: ImageDataset, index: int) -> list[int]:
    """At most `MOST` images beside one: the first of each class, in the order of classes."""
    first: dict[int, int] = {}
    for i, label in enumerate(images.labels.tolist()):
        if i != index and (label not in first or label < 0):
            first.setdefault(label if label >= 0 else len(images.classes) + i, i)
    return [first[key] for key in sorted(first)][:MOST]


def says(images: ImageDataset, index: int, answer: str) -> str:
    """An image, its class and what the model says of it: a caption."""
    whose = f" of class {called(images, index)}" if int(images.labels[index]) >= 0 else ""
    return f"image {index}{whose}; the model says {answer}"


def called(images: ImageDataset, index: int) -> str:
    """What an image is labelled, in words."""
    label = int(images.labels[index])
    return images.classes[label] if label >= 0 else "no label"
