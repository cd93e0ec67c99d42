"""Clean and robust accuracy, counted to the last image."""

from __future__ import annotations

from typing import Any

import torch

from workbench.data import ImageDataset
from workbench.models.adversarial import survivors
from workbench.models.classifier import Classifier, ready
from workbench.models.matching import measurable

ROBUST_IMAGES = 1000
BATCH = 500


def measure(
    model: Classifier, dataset: ImageDataset, *, eps: float | None = None
) -> dict[str, Any]:
    """Count what `model` gets right on `dataset`, in the fields of a `ModelCard`.

    Classes are matched by name (see `matched`); images without a label are not counted.

    With `eps`, also how many of the first 1,000 images stay right under PGD (40 steps,
    5 restarts, L-infinity): an upper bound on robust accuracy, as every attack's figure is.

    Raises:
        ValueError: the model and the data do not fit, or the model is in train mode.
    """
    ready(model)
    dataset = measurable(dataset, model)
    dataset = dataset if bool((dataset.labels >= 0).all()) else dataset[dataset.labels >= 0]
    device = model.device
    with torch.no_grad():
        right = sum(
            int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y in dataset.batches(BATCH)
        )
    counts: dict[str, Any] = {"test_correct": right, "test_total": len(dataset)}
    if eps is not None:
        part = dataset[:ROBUST_IMAGES]
        alive = sum(
            int(survivors(model, x.to(device), y.to(device), eps=eps).sum())
            for x, y in part.batches(BATCH)
        )
        counts |= {
            "robust_correct": alive,
            "robust_total": len(part),
            "eps": eps,
            "attack": f"PGD-40, 5 restarts, Linf, first {len(part)} test images",
        }
    return counts
