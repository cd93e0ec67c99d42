"""What counts as a unit of a layer: each neuron, or, where they are too many, each channel.

A layer of at most `FEW` neurons is read neuron by neuron; one is on where its value is above
zero. A larger one is read by channel `(C, H, W)`, and tokens `(T, D)` by feature: the value of
a channel is its mean over its places, as DeepXplore takes it (Pei, Cao, Yang, Jana 2017), and
it is on where that is above the mean of the layer. Above zero would not do: after a ReLU the
mean of nearly every channel is, for nearly every image. On a ResNet-20 of CIFAR-10 the states
of the channels tell the class of 84 % of the images so (naive Bayes), of 75 % where on means
above zero at most places, of 30 % where it means above zero anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

FEW = 16_384  # the neurons of a layer that is still read neuron by neuron


def grouped(shape: Sequence[int]) -> bool:
    """Whether a layer whose output for an image has this shape is read by channel."""
    return len(shape) > 1 and math.prod(shape) > FEW


def axis(shape: Sequence[int]) -> int:
    """Where the channels are in an image's output of this shape.

    First, but last for tokens and where the first two sides alone are equal: `(H, W, C)`.
    """
    last = len(shape) == 2 or (len(shape) == 3 and shape[0] == shape[1] != shape[2])
    return len(shape) - 1 if last else 0


def unit(shape: Sequence[int]) -> str:
    """What a unit of such a layer is called."""
    return ("feature" if len(shape) == 2 else "channel") if grouped(shape) else "neuron"


def amounts(output: torch.Tensor) -> torch.Tensor:
    """The value of each unit, `(N, n)`, from a layer's output for N images."""
    if output.dtype not in (torch.float32, torch.float64):
        output = output.float()
    shape = output.shape[1:]
    if not grouped(shape):
        return output.flatten(1)
    return output.movedim(1 + axis(shape), 1).flatten(2).mean(2)


def margins(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """What is above zero exactly where a unit is on, from the values `(N, n)` of the units."""
    return values - values.mean(1, keepdim=True) if grouped(shape) else values


def hold(output: torch.Tensor, unit: int, value: float) -> None:
    """Set a unit of a layer's output, at all of its places, for all images: in place."""
    shape = output.shape[1:]
    if grouped(shape):
        output.select(1 + axis(shape), unit).fill_(value)
    else:
        output.flatten(1)[:, unit] = value  # of a contiguous output: a view
