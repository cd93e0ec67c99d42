"""One ONNX node becomes one torch layer: the converters behind `workbench.models.onnx`.

Every computed value has the batch as its first dimension. A converter takes each
attribute that it honours out of the node; whatever is left over and does something is
refused, so that nothing is silently ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

ARITHMETIC: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}
# Attributes that a converter may leave, at the values that do nothing; so may all that are 0.
IDLE = [("auto_pad", b"NOTSET"), ("dilations", [1, 1])]


@dataclass
class Node:
    """A node that computes on one value; `data` is what one blank image makes of it."""

    data: torch.Tensor
    constants: list[Any]  # the further inputs: arrays, None where absent
    unread: dict[str, Any]  # the attributes that no converter took yet


def convert(op: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> nn.Module:
    """The layer for a node. inputs: tensors are computed, arrays are constants."""
    if op in ARITHMETIC:
        return arithmetic(op, *inputs)
    data, *constants = *inputs, None, None
    if not isinstance(data, torch.Tensor) or any(isinstance(c, torch.Tensor) for c in constants):
        raise ValueError("expected a first input computed from the images and constant others")
    node = Node(data, constants, attributes)
    layer = CONVERTERS[op](node)
    for name, value in node.unread.items():
        if value != 0 and (name, value) not in IDLE:
            raise ValueError(f"{name}={value!r} is not supported")
    return layer


class Arithmetic(nn.Module):
    """`left op right`; a side that is None is computed, the other one is constant."""

    def __init__(self, op: str, left: torch.Tensor | None, right: torch.Tensor | None) -> None:
        super().__init__()
        self.op = op
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def forward(self, *computed: torch.Tensor) -> torch.Tensor:
        """One or two values `(N, ...)` -> `(N, ...)`."""
        left = computed[0] if self.left is None else self.left
        right = computed[-1] if self.right is None else self.right
        return ARITHMETIC[self.op](left, right)


def arithmetic(op: str, left: Any, right: Any) -> nn.Module:
    """A sum, difference, product or quotient that leaves the batch the first dimension."""
    ranks = {side.ndim for side in (left, right) if isinstance(side, torch.Tensor)}
    if len(ranks) != 1:
        raise ValueError("expected computed values of one number of dimensions, at least one")
    rank = max(ranks)
    fixed = [None if isinstance(side, torch.Tensor) else side for side in (left, right)]
    for value in fixed:
        if value is not None and (value.ndim > rank or (value.ndim == rank and len(value) != 1)):
            raise ValueError(f"a constant of shape {value.shape} would change the batch")
    return Arithmetic(op, *(None if value is None else tensor(value) for value in fixed))


def tensor(value: np.ndarray) -> torch.Tensor:
    """A float32 copy of a constant."""
    return torch.from_numpy(np.array(value, dtype=np.float32))


def filled(layer: nn.Module, **weights: np.ndarray | None) -> nn.Module:
    """`layer` with these weights."""
    state = {name: tensor(value) for name, value in weights.items() if value is not None}
    layer.load_state_dict(state, strict=False, assign=True)
    return layer


def linear(weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Module:
    """A linear layer; weight `(n_out, n_in)`, bias `(n_out,)`."""
    if weight.ndim != 2:
        raise ValueError(f"expected a matrix of weights, got shape {weight.shape}")
    n_out, n_in = weight.shape
    # On the meta device torch draws no initial weights: its global generator is not ours.
    layer = nn.Linear(n_in, n_out, bias=bias is not None, device="meta")
    return filled(layer, weight=weight, bias=bias)


def gemm(node: Node) -> nn.Module:
    """`alpha * data @ B + beta * C`."""
    weight, bias, *_ = node.constants
    alpha, beta = node.unread.pop("alpha", 1.0), node.unread.pop("beta", 1.0)
    weight = alpha * (weight if node.unread.pop("transB", 0) else weight.T)
    if bias is not None:
        bias = np.broadcast_to(beta * bias, (1, len(weight)))[0]
    return linear(weight, bias)


def window(node: Node) -> dict[str, Any]:
    """Size, stride and padding of a 2-d window, as torch's layers name them."""
    if node.data.ndim != 4:
        raise ValueError(f"expected (N, C, H, W), got shape {tuple(node.data.shape)}")
    pads = node.unread.pop("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise ValueError(f"pads={pads} that differ by side are not supported")
    size, stride = node.unread.pop("kernel_shape"), node.unread.pop("strides", [1, 1])
    return {"kernel_size": tuple(size), "stride": tuple(stride), "padding": tuple(pads[:2])}


def conv(node: Node) -> nn.Module:
    """A 2-d convolution."""
    weight, bias, *_ = node.constants
    node.unread.setdefault("kernel_shape", weight.shape[2:])
    options = {**window(node), "dilation": tuple(node.unread.pop("dilations", [1, 1]))}
    options |= {"groups": node.unread.pop("group", 1), "bias": bias is not None, "device": "meta"}
    layer = nn.Conv2d(weight.shape[1] * options["groups"], len(weight), **options)
    return filled(layer, weight=weight, bias=bias)


def channel_mean(node: Node, axes: Sequence[int] | None) -> nn.Module:
    """The mean of each channel: GlobalAveragePool, or ReduceMean over height and width."""
    if node.data.ndim != 4 or axes is None or sorted(int(a) % 4 for a in axes) != [2, 3]:
        raise ValueError(f"expected the mean over H and W of (N, C, H, W), got axes {axes}")
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if node.unread.pop("keepdims", 1) else nn.Sequential(pool, nn.Flatten())


def batch_norm(node: Node) -> nn.Module:
    """Batch normalisation with its stored statistics."""
    weight, bias, mean, var, *_ = node.constants
    kind = nn.BatchNorm2d if node.data.ndim == 4 else nn.BatchNorm1d
    momentum = 1 - node.unread.pop("momentum", 0.9)  # torch weighs the new value, ONNX the old
    layer = kind(len(mean), eps=node.unread.pop("epsilon", 1e-5), momentum=momentum)
    return filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=var)


def reshaped(sizes: Sequence[int]) -> nn.Module:
    """A layer that gives each image of the batch the shape `sizes`."""
    flat = nn.Flatten()
    return flat if len(sizes) == 1 else nn.Sequential(flat, nn.Unflatten(1, tuple(sizes)))


def reshape(node: Node) -> nn.Module:
    """Flatten or Reshape; a batch size that is baked into the graph does not count."""
    shape, target = tuple(node.data.shape), node.constants[0]
    if target is None:
        axis = node.unread.pop("axis", 1)
        target = [math.prod(shape[:axis]), math.prod(shape[axis:])]
    elif node.unread.pop("allowzero", 0) and 0 in target:
        raise ValueError("allowzero=1 with a size of 0 is not supported")
    target = [shape[i] if n == 0 else int(n) for i, n in enumerate(target)]
    batch, *sizes = node.data.reshape(target).shape
    if batch != 1:
        raise ValueError(f"turns one image {shape} into {[batch, *sizes]}: that moves the batch")
    return reshaped(sizes)


def softmax(node: Node) -> nn.Module:
    """Softmax of `(N, K)`, where the meanings and defaults of `axis` in all versions agree."""
    if node.data.ndim != 2 or node.unread.pop("axis", 1) not in (1, -1):
        raise ValueError(f"expected it over axis 1 of (N, K), got shape {tuple(node.data.shape)}")
    return nn.Softmax(1)


CONVERTERS: dict[str, Callable[[Node], nn.Module]] = {
    "AveragePool": lambda node: nn.AvgPool2d(
        **window(node), count_include_pad=bool(node.unread.pop("count_include_pad", 0))
    ),
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "Dropout": lambda node: nn.Identity(node.unread.pop("ratio", None)),  # once training is over
    "Flatten": reshape,
    "Gemm": gemm,
    "GlobalAveragePool": lambda node: channel_mean(node, (2, 3)),
    "Identity": lambda node: nn.Identity(),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.unread.pop("alpha", 0.01)),
    "MatMul": lambda node: linear(node.constants[0].T),
    "MaxPool": lambda node: nn.MaxPool2d(**window(node)),
    "ReduceMean": lambda node: channel_mean(node, node.unread.pop("axes", node.constants[0])),
    "Relu": lambda node: nn.ReLU(),
    "Reshape": reshape,
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Softmax": softmax,
}
