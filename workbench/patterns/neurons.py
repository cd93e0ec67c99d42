"""Single neurons: the images that fire them most, and the answer with them switched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, heard, ready
from workbench.patterns.recording import BATCH, watched


def top_images(
    model: Classifier, dataset: ImageDataset, layer: str, neurons: Sequence[int], k: int = 9
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` images that fire each of M neurons most, the strongest first.

    Returns indices into the data set, int64, and activations, float32; both `(M, k)`, or
    `(M, N)` where there are fewer than k images.

    Raises:
        ValueError: no such layer or neuron, k below 1, or a model in train mode.
    """
    ready(model)
    checks.positive("k", k)
    values = [torch.zeros(0, len(neurons))]
    with watched(model, (layer,)) as ask, torch.no_grad():
        for x, _ in dataset.batches(BATCH):
            output = ask(x)[1][layer]
            check_neurons(layer, neurons, output.shape[1])
            values.append(output[:, list(neurons)].cpu())
    best = torch.cat(values).sort(dim=0, descending=True, stable=True)
    return best.indices[:k].T, best.values[:k].T


def switched(
    model: Classifier, x: torch.Tensor, layer: str, states: Mapping[int, float]
) -> torch.Tensor:
    """Logits `(N, K)` of images `(N, C, H, W)` with neurons of `layer` held at values.

    states: neuron (its place in the flattened output) to value; 0 switches a ReLU off.

    Raises:
        ValueError: no such layer or neuron, images that break the contract, train mode.
    """

    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        flat = output.flatten(1).clone()
        check_neurons(layer, states, flat.shape[1])
        for neuron, value in states.items():
            flat[:, neuron] = value
        return flat.reshape(output.shape)

    with heard([model.layer(layer)], hook):
        return model.predict(x).logits


def check_neurons(layer: str, neurons: Sequence[int] | Mapping[int, float], n: int) -> None:
    """Check that a layer of `n` neurons has those asked for.

    Raises:
        ValueError: it has not.
    """
    for neuron in neurons:
        if not 0 <= neuron < n:
            raise ValueError(f"neuron: expected 0..{n - 1} in layer {layer}, got {neuron}")
