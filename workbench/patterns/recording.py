"""`record`: what a network fires on a data set, as bits and running statistics.

Units are neurons, or, of layers too large for that, channels: see `grouping`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, measurable, outputs, ready
from workbench.patterns.grouping import amounts, grouped, margins
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

BATCH = 500
RECTIFIERS = (nn.ReLU, nn.ReLU6)
SMOOTH = (nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus)


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer of n neurons over N images; of a large layer, n channels (see `grouping`).

    bits: which neurons were on, packed, uint8 `(N, ceil(n / 8))`. mean, std, highest: of the
    activations of each neuron, float32 `(n,)`. class_mean: the mean over the images of each
    class, `(K, n)`, NaN without images. shape: of one image's output.
    """

    bits: np.ndarray
    mean: torch.Tensor
    std: torch.Tensor
    highest: torch.Tensor
    class_mean: torch.Tensor
    shape: tuple[int, ...]

    def signs(self, images: slice | Sequence[int] = slice(None)) -> torch.Tensor:
        """Which neurons were on, bool `(M, n)`, for some of the images or all."""
        width = len(self.mean)
        return torch.from_numpy(np.unpackbits(self.bits[images], axis=1, count=width)).bool()

    def selectivity(self) -> torch.Tensor:
        """How much each neuron prefers one class, in [0, 1], `(n,)` (Morcos et al. 2018).

        (a - b) / (a + b), with a the highest mean of a class and b the mean of the means of
        the others; NaN for a neuron that is never above zero.
        """
        means = self.class_mean[self.class_mean.isfinite().all(1)].clamp(min=0)
        best = means.amax(0)
        rest = (means.sum(0) - best) / max(1, len(means) - 1)
        return (best - rest) / (best + rest)

    def cofiring(self) -> torch.Tensor:
        """Correlation of the on-off states of each two neurons, `(n, n)`; 0 for constant ones."""
        on = self.signs().float()
        on = on - on.mean(0)  # correlation: the cosine of what is centred
        on = on / on.norm(dim=0).clamp(min=1e-12)
        return on.T @ on


@dataclass(frozen=True, eq=False)
class Recording:
    """What the layers of one model fired on N images; no activations are kept.

    labels: of the data, as the model numbers its classes, -1 where unknown; predicted: by the
    model; both int64 `(N,)`.
    """

    model: str
    layers: dict[str, LayerRecord]
    labels: torch.Tensor
    predicted: torch.Tensor

    def summary(self) -> dict[str, Any]:
        """How many images and neurons, and what never or always fires."""
        shares = [record.signs().float().mean(0) for record in self.layers.values()]
        on = torch.cat(shares) if shares else torch.zeros(0)
        return {
            "images": len(self.labels),
            "neurons": len(on),
            "dead": int((on == 0).sum()),
            "always_on": int((on == 1).sum()),
        }

    def frame(self) -> pd.DataFrame:
        """One row a neuron: layer, how often it is on, mean, deviation, highest, selectivity."""
        import pandas as pd

        parts = []
        for name, record in self.layers.items():
            on = record.signs().float().mean(0)
            columns = {"on": on, "mean": record.mean, "std": record.std}
            columns |= {"highest": record.highest, "selectivity": record.selectivity()}
            table = pd.DataFrame({key: value.tolist() for key, value in columns.items()})
            parts.append(table.assign(layer=name, neuron=range(len(on))))
        return pd.concat(parts, ignore_index=True)


def rectifiers(model: Classifier) -> tuple[str, ...]:
    """The names of the ReLU layers of `model`, in the order they run."""
    return model.layers_of(*RECTIFIERS)


def pattern_layers(model: Classifier, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The layers asked for, or all ReLU layers; smooth ones are taken with a warning.

    Raises:
        ValueError: no such layer, one without signs that mean anything, or none at all.
    """
    if layers is None:
        layers = rectifiers(model)
        if not layers:
            kinds = ", ".join(sorted({layer.kind for layer in model.layers().values()}))
            raise ValueError(
                f"layers: {model.card.name} has no ReLU layer (it has {kinds}); name the layers "
                "whose sign is of interest"
            )
        return layers
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers: expected a list of one layer name or more, got {layers!r}")
    for name in layers:
        module = model.layer(name)
        if not isinstance(module, RECTIFIERS):
            known = "is never zero" if isinstance(module, SMOOTH) else "is no activation function"
            warnings.warn(
                f"layers: {name} is {type(module).__name__}, which {known}: its sign is "
                "recorded, but nothing can be proved from it",
                stacklevel=3,
            )
    return tuple(layers)


@contextmanager
def watched(
    model: Classifier,
    layers: Sequence[str],
    read: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> Iterator[Callable[..., Any]]:
    """A function from images to logits and what `read` makes of the units of `layers`.

    Units are `(N, n)`, above zero where they are on; `read` must copy, since a later layer
    may work in place.
    """

    def units(output: torch.Tensor) -> torch.Tensor:
        return read(margins(amounts(output), output.shape[1:]))

    with outputs(model, layers, units) as ask:
        yield ask


def copied(output: torch.Tensor) -> torch.Tensor:
    """The value of each unit, `(N, n)`, in memory of its own."""
    values = amounts(output)
    return values if grouped(output.shape[1:]) else values.clone()


@work
def record(
    model: Classifier, dataset: ImageDataset, layers: Sequence[str] | None = None
) -> Iterator[Step[Recording]]:
    """Record `layers` (all ReLU layers when None) on every image, batch by batch.

    Images without a label are recorded, and count for no class.

    Raises:
        ValueError: an unknown layer, a model in train mode, or data that do not fit it.
    """
    ready(model)
    dataset = measurable(dataset, model, labels=False)
    names = pattern_layers(model, layers)
    sums = {name: Sums() for name in names}
    shapes = {name: model.layers()[name].shape for name in names}
    present = dataset.labels[dataset.labels >= 0].unique()
    predicted, done = [torch.zeros(0, dtype=torch.int64)], 0
    with outputs(model, names, copied) as ask:
        for x, y in dataset.batches(batch_size(model.input_shape, BATCH)):
            of_class = (y == present[:, None]).float()
            with torch.no_grad():
                logits, values = ask(x)
            predicted.append(logits.argmax(1).cpu())
            for name, value in values.items():
                sums[name].add(value.cpu(), shapes[name], of_class)
            done += len(x)
            yield Step(done, len(dataset), f"{done:,} images")
    images = torch.bincount(dataset.labels[dataset.labels >= 0], minlength=len(model.classes))
    records = {name: sums[name].record(shapes[name], present, images) for name in names}
    result = Recording(model.card.name, records, dataset.labels, torch.cat(predicted))
    yield Step(done, len(dataset), "done", result)


class Sums:
    """What is kept of a layer while its batches go by: bits, and sums by unit and by class."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []
        self.parts: list[torch.Tensor] = []
        self.images = 0

    def add(self, value: torch.Tensor, shape: Sequence[int], own: torch.Tensor) -> None:
        """Count in the values `(B, n)` of a batch; own: 1 where an image is of a class, `(P, B)`.

        Kept are the sum, the sum of squares, the maximum and the sums by class.
        """
        self.bits.append(np.packbits((margins(value, shape) > 0).numpy(), axis=1))
        self.images += len(value)
        if not len(value):
            return
        parts = [value.sum(0).double(), value.square().sum(0).double(), value.amax(0)]
        parts.append((own.to(value) @ value).double())
        if self.parts:
            total, squares, highest, of_class = self.parts
            highest = torch.maximum(highest, parts[2])
            parts = [total + parts[0], squares + parts[1], highest, of_class + parts[3]]
        self.parts = parts

    def record(
        self, shape: tuple[int, ...], present: torch.Tensor, images: torch.Tensor
    ) -> LayerRecord:
        """The record. present: the classes added up `(P,)`; images: of every class `(K,)`."""
        if not self.parts:  # not one image
            n = amounts(torch.zeros(1, *shape)).shape[1]
            self.add(torch.zeros(1, n), shape, torch.zeros(len(present), 1))
            self.bits, self.images = [self.bits[0][:0]], 1
        total, squares, highest, of_class = self.parts
        mean = total / self.images
        # E[v^2] - E[v]^2, in float64: sums alone are kept while the images pass.
        std = (squares / self.images - mean**2).clamp(min=0).sqrt()
        class_mean = torch.full((len(images), len(mean)), torch.nan)
        class_mean[present] = (of_class / images[present, None]).float()
        return LayerRecord(
            *(np.concatenate(self.bits), mean.float(), std.float(), highest.float()),
            *(class_mean, shape),
        )


def one_hot(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """1 where an image is of a class, float32 `(N, K)`; a row of 0 where that is not known."""
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)).float()
