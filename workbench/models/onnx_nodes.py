"""What the converters of ONNX nodes share: values, nodes, and layers for any operation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

LARGEST = 10**8  # values in one image: beyond it is an error or an attack
UNARY: dict[str, Callable[..., torch.Tensor]] = {
    name: getattr(torch, name.lower())
    for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Round",
                 "Sign", "Sin", "Sqrt")
}  # fmt: skip
BINARY: dict[str, Callable[..., torch.Tensor]] = {
    **{name: getattr(torch, name.lower()) for name in ("Add", "Div", "Mul", "Pow", "Sub")},
    **{"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add},
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
}
REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    **{"ReduceMax": torch.amax, "ReduceMean": torch.mean, "ReduceMin": torch.amin},
    **{"ReduceSum": torch.sum, "ReduceL2": torch.linalg.vector_norm},
}
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    **{**UNARY, **BINARY, **REDUCTIONS},
    "Concat": lambda *parts, dim: torch.cat(alike(parts), dim),
    "MatMul": torch.matmul,
    "Pad": nn.functional.pad,
    "Take": lambda x, places, dim: x.index_select(dim, places),
    "Transpose": torch.permute,
}


def alike(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts, with those of one row (constants) repeated for every image of the batch."""
    lengths = {len(part) for part in parts}
    n = 0 if 0 in lengths else max(lengths)
    return [part if len(part) == n else part.expand(n, *part.shape[1:]) for part in parts]


@dataclass(frozen=True, eq=False)
class Value:
    """A computed value.

    data: what one blank image makes of it; the batch is its first dimension, always.
    bare: the graph has no batch dimension there (its input has none, or a Squeeze took it),
    so that its axis 0 is the second dimension of `data`. A bare value of two or more
    dimensions has more than one row, or else the one row counts as a batch of one.
    """

    data: torch.Tensor
    bare: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the graph gives it at batch size 1."""
        return tuple(self.data.shape[int(self.bare) :])

    def axis(self, axis: int) -> int:
        """An axis of the graph, from 0; ValueError where there is none."""
        rank = len(self.shape)
        if not -rank <= axis < rank:
            raise ValueError(f"a value of shape {self.shape} has no axis {axis}")
        return axis % rank

    def dim(self, axis: int) -> int:
        """The dimension of `data` that the graph calls `axis`; ValueError for the batch."""
        dim = self.axis(axis) + int(self.bare)
        if dim == 0:
            raise ValueError("axis 0 is the batch, whose images must stay apart")
        return dim


@dataclass
class Node:
    """A node while it is converted.

    inputs: values, arrays (constants), None where absent. unread: the attributes that no
    converter took yet. output: which of its `outputs` is made. bare: of what is made, as in
    `Value`; a converter that changes it says so.
    """

    op: str
    inputs: list[Any]
    unread: dict[str, Any]
    opset: int
    output: int = 0
    outputs: int = 1
    bare: bool = field(init=False)

    def __post_init__(self) -> None:
        self.bare = any(isinstance(i, Value) and i.bare for i in self.inputs)

    @property
    def value(self) -> Value:
        """The first input."""
        return self.inputs[0]

    @property
    def constants(self) -> list[Any]:
        """The further inputs, None where absent."""
        return [*self.inputs[1:], *[None] * 6]

    def take(self, name: str, default: Any = None) -> Any:
        """An attribute, which is read thereby."""
        return self.unread.pop(name, default)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Integers: an attribute of old opsets, or the input at `place` (from 0) of later ones."""
        given = self.take(name, self.constants[place - 1])
        return None if given is None else [int(n) for n in np.atleast_1d(given)]

    def give(self, sizes: Sequence[int]) -> nn.Module:
        """A layer that makes one image's value of the shape `sizes` in the graph."""
        self.bare = len(sizes) < 2 or sizes[0] != 1
        return reshaped(tuple(sizes if self.bare else sizes[1:]) or (1,))

    def spatial(self) -> tuple[int, ...]:
        """The height, width and so on of what a window slides over."""
        if self.value.bare or not 3 <= len(self.value.shape) <= 5:
            raise ValueError(f"expected (N, C, H, W), got shape {self.value.shape}")
        return self.value.shape[2:]


class Operation(nn.Module):
    """One of FUNCTIONS, of values and constants.

    parts: the constants, and None for what is computed. rank: values of fewer dimensions get
    some of size 1 behind the batch. options: what else the function takes.
    """

    def __init__(
        self, op: str, parts: Sequence[torch.Tensor | None] = (None,), rank: int = 0, **options: Any
    ) -> None:
        super().__init__()
        self.op, self.count, self.rank, self.options = op, len(parts), rank, options
        for i, part in enumerate(parts):
            self.register_buffer(f"part_{i}", part)

    def forward(self, *computed: torch.Tensor) -> torch.Tensor:
        """Values `(N, ...)` -> `(N, ...)`."""
        rest = (x[(slice(None), *[None] * (self.rank - x.ndim))] for x in computed)
        parts = [getattr(self, f"part_{i}") for i in range(self.count)]
        values = [next(rest) if part is None else part for part in parts]
        if self.op in BINARY:  # or of more: from left to right
            return functools.reduce(BINARY[self.op], values)
        return FUNCTIONS[self.op](*values, **self.options)

    def extra_repr(self) -> str:
        """The operation and its options."""
        return f"{self.op}, {self.options}"


class Arithmetic(Operation):
    """An operation by elements."""


def reshaped(sizes: Sequence[int]) -> nn.Module:
    """A layer that gives each image of the batch the shape `sizes`."""
    flat = nn.Flatten()
    return flat if len(sizes) == 1 else nn.Sequential(flat, nn.Unflatten(1, tuple(sizes)))


def chain(layers: Sequence[nn.Module]) -> nn.Module:
    """These layers one after the other, as one."""
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def tensor(value: np.ndarray) -> torch.Tensor:
    """A copy of a constant: float64 where it is, or else float32."""
    dtype = np.float64 if value.dtype == np.float64 else np.float32
    return torch.from_numpy(np.array(value, dtype=dtype))


def filled(layer: nn.Module, **weights: np.ndarray | None) -> nn.Module:
    """`layer` with these weights."""
    state = {name: tensor(value) for name, value in weights.items() if value is not None}
    layer.load_state_dict(state, strict=False, assign=True)
    return layer
