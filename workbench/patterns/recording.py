"""`record`: what a network fires on a data set, as bits and running statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from workbench import steps
from workbench.data import ImageDataset
from workbench.models import Classifier, ready
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd

BATCH = 500
RECTIFIERS = (nn.ReLU, nn.ReLU6)
SMOOTH = (nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus)


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer of n neurons over N images.

    bits: which neurons were above zero, packed, uint8 `(N, ceil(n / 8))`. mean, std,
    highest: of the activations of each neuron, float32 `(n,)`. class_mean: the mean over
    the images of each class, `(K, n)`, NaN without images. shape: of one image's output.
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
        on = on - on.mean(0)
        on = on / on.norm(dim=0).clamp(min=1e-12)
        return on.T @ on


@dataclass(frozen=True, eq=False)
class Recording:
    """What the layers of one model fired on N images; no activations are kept.

    labels: of the data; predicted: by the model; both int64 `(N,)`.
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
    return tuple(name for name in model.layers() if isinstance(model.layer(name), RECTIFIERS))


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
    """A function from images to logits and what `read` makes of the outputs of `layers`.

    Outputs are `(N, n)`; `read` must copy, since a later layer may work in place.
    """
    outputs: dict[str, torch.Tensor] = {}
    asker = 0

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            if get_ident() != asker:  # another thread asks the same model
                return
            if name in outputs:
                raise ValueError(f"layers: {name} runs more than once a pass; it has no one sign")
            outputs[name] = read(output.flatten(1))

        return hook

    def ask(x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        nonlocal asker
        asker = get_ident()
        outputs.clear()
        logits = model(x.to(model.device))
        return logits, {name: outputs[name] for name in layers}

    hooks = [model.layer(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield ask
    finally:
        for hook in hooks:
            hook.remove()


def record_steps(
    model: Classifier, dataset: ImageDataset, layers: Sequence[str] | None = None
) -> Iterator[Step[Recording]]:
    """Record `layers` (all ReLU layers when None) on every image, batch by batch.

    Raises:
        ValueError: an unknown layer, one that runs twice, or a model in train mode.
    """
    ready(model)
    names = pattern_layers(model, layers)
    bits: dict[str, list[np.ndarray]] = {name: [] for name in names}
    sums: dict[str, list[torch.Tensor]] = {}
    shapes = {name: layer.shape for name, layer in model.layers().items()}
    predicted, done = [], 0
    with watched(model, names) as ask:
        for x, y in dataset.batches(BATCH):
            own = one_hot(y, len(model.classes)).T
            with torch.no_grad():
                logits, outputs = ask(x)
            predicted.append(logits.argmax(1).cpu())
            for name, value in outputs.items():
                bits[name].append(np.packbits((value > 0).cpu().numpy(), axis=1))
                if len(value):
                    add(sums, name, value.cpu(), own)
            done += len(x)
            yield Step(done, len(dataset), f"{done:,} images")
    n = max(1, len(dataset))
    images = torch.bincount(dataset.labels, minlength=len(model.classes))
    found = {}
    for name in names:
        if name not in sums:
            size = int(np.prod(shapes[name]))
            bits[name] = [np.zeros((0, -(-size // 8)), np.uint8)]
            add(sums, name, torch.zeros(1, size), torch.zeros(len(model.classes), 1))
        total, squares, highest, of_class = sums[name]
        mean = total / n
        std = (squares / n - mean**2).clamp(min=0).sqrt()
        found[name] = LayerRecord(
            *(np.concatenate(bits[name]), mean.float(), std.float(), highest),
            *((of_class / images[:, None]).float(), shapes[name]),
        )
    said = torch.cat(predicted) if predicted else torch.zeros(0, dtype=torch.int64)
    result = Recording(model.card.name, found, dataset.labels, said)
    yield Step(done, len(dataset), "done", result)


def record(
    model: Classifier, dataset: ImageDataset, layers: Sequence[str] | None = None
) -> Recording:
    """`record_steps`, run to its end."""
    return steps.run(record_steps(model, dataset, layers))


def add(
    sums: dict[str, list[torch.Tensor]], name: str, value: torch.Tensor, own: torch.Tensor
) -> None:
    """Add a batch `(B, n)` to the sum, the sum of squares, the maximum and the sums by class.

    own: 1 where an image is of a class, `(K, B)`.
    """
    parts = [value.sum(0).double(), value.square().sum(0).double(), value.amax(0)]
    parts.append((own @ value).double())
    if name in sums:
        total, squares, highest, of_class = sums[name]
        highest = torch.maximum(highest, parts[2])
        parts = [total + parts[0], squares + parts[1], highest, of_class + parts[3]]
    sums[name] = parts


def one_hot(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """1 where an image is of a class, float32 `(N, K)`."""
    return torch.nn.functional.one_hot(labels, n_classes).float()
