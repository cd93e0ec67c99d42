"""What a layer gives, channels last, and the model's answers where it gives something else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from workbench import checks
from workbench.models import Classifier, batch_size, edited, ready

BATCH = 256  # images at a time, at most


def activations(model: Classifier, x: Tensor, layer: str) -> Tensor:
    """What a layer gives for images: `(N, h, w, p)`, `(N, T, p)` of tokens, or `(N, p)`.

    Raises:
        TypeError, ValueError: images or a model that break the contract; an unknown layer.
    """
    x = checks.images(x, model.input_shape).to(model.device)
    ready(model)
    parts: list[Tensor] = []

    def note(output: Tensor) -> Tensor:
        parts.append(output.clone())  # a later layer may work in place
        return output

    with torch.no_grad():
        for batch in x.split(batch_size(model.input_shape, BATCH)):
            edited_logits(model, batch, layer, note)
    return torch.cat(parts)


def edited_logits(
    model: Classifier, x: Tensor, layer: str, edit: Callable[[Tensor], Tensor]
) -> Tensor:
    """Logits, where `edit` maps what the layer gives, channels last, to another."""

    def replace(output: Tensor) -> Tensor:
        return channels_first(edit(output.movedim(1, -1) if output.ndim == 4 else output))

    with edited(model, {layer: replace}) as ask:
        return ask(x)


def channels_first(output: Tensor) -> Tensor:
    """A layer's output as the model has it."""
    return output.movedim(-1, 1) if output.ndim == 4 else output


def grid_of(model: Classifier, layer: str) -> tuple[int, int] | None:
    """Rows and columns of a layer's places; None where it has one place or no square of them.

    Raises:
        ValueError: an unknown layer, or one that gives neither vectors, tokens nor maps.
    """
    known = model.layers()
    if layer not in known:
        raise checks.unknown(f"layer of {model.card.name}", layer, known)
    shape = known[layer].shape
    if len(shape) not in (1, 2, 3):
        raise ValueError(f"layer: expected vectors, tokens or maps, {layer!r} gives {shape}")
    side = math.isqrt(shape[0])
    if len(shape) == 1 or (len(shape) == 2 and side * side != shape[0]):
        return None
    grid = shape[1:] if len(shape) == 3 else (side, side)
    return (grid[0], grid[1]) if math.prod(grid) > 1 else None
