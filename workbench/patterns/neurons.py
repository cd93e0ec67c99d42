"""Single neurons: the images that fire them most, and the answer with them switched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, edited, outputs, ready
from workbench.patterns.grouping import amounts, hold
from workbench.patterns.recording import BATCH, copied
from workbench.steps import Step, work

Top = tuple[torch.Tensor, torch.Tensor]


@work
def top_images(
    model: Classifier,
    dataset: ImageDataset,
    layer: str,
    neurons: Sequence[int] | None = None,
    k: int = 9,
) -> Iterator[Step[Top]]:
    """The `k` images that fire each of M neurons most, the strongest first.

    neurons: all of the layer when None; of a layer read by channel, channels (see `grouping`).
    The value of the last step are indices into the data set, int64, and activations, float32;
    both `(M, k)`, or `(M, N)` where there are fewer than k images.

    Raises:
        ValueError: no such layer or neuron, k below 1, or a model in train mode.
    """
    ready(model)
    checks.positive("k", k)
    best, done = None, 0
    with outputs(model, (layer,), copied) as ask:
        for x, _ in dataset.batches(batch_size(model.input_shape, BATCH)):
            with torch.no_grad():
                value = ask(x)[1][layer].cpu()
            if neurons is not None:
                check_neurons(layer, neurons, value.shape[1])
                value = value[:, list(neurons)]
            index = torch.arange(done, done + len(x))[:, None].expand(value.shape)
            if best is not None:  # of equal ones the first come first: the sort is stable
                index, value = torch.cat([best[0], index]), torch.cat([best[1], value])
            value, order = value.sort(dim=0, descending=True, stable=True)
            best = index.gather(0, order[:k]), value[:k]
            done += len(x)
            yield Step(done, len(dataset), f"{done:,} images")
    assert best is not None
    yield Step(done, len(dataset), "done", (best[0].T, best[1].T))


def switched(
    model: Classifier, x: torch.Tensor, layer: str, states: Mapping[int, float]
) -> torch.Tensor:
    """Logits `(N, K)` of images `(N, C, H, W)` with neurons of `layer` held at values.

    states: neuron (its place in the flattened output) to value; 0 switches a ReLU off. Of a
    layer read by channel (see `grouping`), channel to the value of all of its places.

    Raises:
        ValueError: no such layer or neuron, images that break the contract, train mode.
    """
    x = checks.images(x, model.input_shape)
    ready(model)

    def edit(output: torch.Tensor) -> torch.Tensor:
        check_neurons(layer, states, amounts(output[:1]).shape[1])
        edited_output = output.contiguous().clone()
        for unit, value in states.items():
            hold(edited_output, unit, value)
        return edited_output

    with edited(model, {layer: edit}) as ask, torch.no_grad():
        parts = [ask(part).to(x.device) for part in x.split(batch_size(model.input_shape, 512))]
    return torch.cat(parts)


def check_neurons(layer: str, neurons: Sequence[int] | Mapping[int, float], n: int) -> None:
    """Check that a layer of `n` neurons has those asked for.

    Raises:
        ValueError: it has not.
    """
    for neuron in neurons:
        if not 0 <= neuron < n:
            raise ValueError(f"neuron: expected 0..{n - 1} in layer {layer}, got {neuron}")
