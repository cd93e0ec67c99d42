"""Converters of the ONNX nodes that move values about, or sum over some axes.

The sizes of one image's values are known, so every change of shape is a reshape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from workbench.models.onnx_nodes import LARGEST, Node, Operation, Value, chain, tensor


def reshape(node: Node) -> nn.Module:
    """Flatten or Reshape; a batch size that is baked into the graph does not count."""
    shape = node.value.shape
    if node.op == "Flatten":
        axis = node.take("axis", 1)
        target = [math.prod(shape[:axis]), math.prod(shape[axis:])]
    else:
        target = [int(n) for n in node.constants[0]]
        if node.take("allowzero", 0) and 0 in target:
            raise ValueError("allowzero=1 with a size of 0 is not supported")
        target = [shape[i] if n == 0 else n for i, n in enumerate(target)]
    return node.give(torch.empty(shape, device="meta").reshape(target).shape)


def squeeze(node: Node) -> nn.Module:
    """Squeeze; without axes also of the batch, for there is one image in it."""
    sizes, axes = node.value.shape, node.numbers("axes", 1)
    ones = [i for i, n in enumerate(sizes) if n == 1]
    axes = ones if axes is None else [node.value.axis(axis) for axis in axes]
    if not set(axes) <= set(ones):
        raise ValueError(f"axes={axes} of {sizes} are not all of size 1")
    return node.give([n for i, n in enumerate(sizes) if i not in axes])


def unsqueeze(node: Node) -> nn.Module:
    """Unsqueeze, whose axes are those of the result."""
    sizes, axes = list(node.value.shape), node.numbers("axes", 1) or []
    rank = len(sizes) + len(axes)
    if len({axis % rank for axis in axes}) < len(axes) or any(not -rank <= a < rank for a in axes):
        raise ValueError(f"axes={axes} of a result of {rank} dimensions")
    for place in sorted(axis % rank for axis in axes):
        sizes.insert(place, 1)
    return node.give(sizes)


def transpose(node: Node) -> nn.Module:
    """Transpose; where the batch is moved, an axis of size 1 is, for one image."""
    value = node.value
    perm = node.take("perm", list(range(len(value.shape)))[::-1])
    dims = [0, *(p + int(value.bare) for p in perm if value.bare or p)]
    layers: list[nn.Module] = [Operation("Transpose", dims=dims)]
    if not value.bare and perm[0] != 0:
        layers.append(node.give([value.shape[p] for p in perm]))
    return chain(layers)


def taken(value: Value, axis: int, places: Sequence[int]) -> list[nn.Module]:
    """Layers that keep these places along an axis: none where all are kept."""
    if list(places) == list(range(value.shape[axis])):
        return []
    if not len(places):
        raise ValueError(f"no place of axis {axis} of {value.shape} is kept")
    return [Operation("Take", [None, torch.tensor(list(places))], dim=value.dim(axis))]


def slice_(node: Node) -> nn.Module:
    """Slice, which cuts off what is beyond the ends as Python does, but starts backwards at 0."""
    starts, ends = node.numbers("starts", 1) or [], node.numbers("ends", 2) or []
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = node.numbers("steps", 4) or [1] * len(axes)
    layers: list[nn.Module] = []
    if len({node.value.axis(axis) for axis in axes}) < len(axes):
        raise ValueError(f"axes={axes} name one twice")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = node.value.shape[axis]
        first = max(start, -n) if step < 0 else start
        layers += taken(node.value, axis, range(n)[first:end:step])
    return chain(layers or [nn.Identity()])


def gather(node: Node) -> nn.Module:
    """Gather of constant places."""
    shape, places = node.value.shape, node.constants[0]
    axis = node.value.axis(node.take("axis", 0))
    kept = np.arange(shape[axis])[np.asarray(places, dtype=np.int64)]
    layers = taken(node.value, axis, kept.ravel().tolist())
    return chain([*layers, node.give([*shape[:axis], *kept.shape, *shape[axis + 1 :]])])


def split(node: Node) -> nn.Module:
    """One part of a Split."""
    axis, sizes = node.value.axis(node.take("axis", 0)), node.numbers("split", 1)
    whole, count = node.value.shape[axis], node.take("num_outputs", node.outputs)
    if sizes is None:
        part = math.ceil(whole / count)
        sizes = [min(part, whole - i * part) for i in range(count)]
    if sum(sizes) != whole or min(sizes) < 0 or len(sizes) != node.outputs:
        raise ValueError(f"axis {axis} of {node.value.shape} is not split into {sizes}")
    start = sum(sizes[: node.output])
    places = range(start, start + sizes[node.output])
    return chain(taken(node.value, axis, places) or [nn.Identity()])


def concat(node: Node) -> nn.Module:
    """Concat of values and constants, not along the batch."""
    values = [given for given in node.inputs if isinstance(given, Value)]
    node.bare = values[0].bare
    if any(value.bare != node.bare for value in values):
        raise ValueError(f"shapes {[value.shape for value in values]}: not all have a batch")
    fixed = [None if isinstance(c, Value) else tensor(c[None] if node.bare else c)
             for c in node.inputs]  # fmt: skip
    if any(c is not None and len(c) != 1 for c in fixed):
        raise ValueError("a constant of more than one row would change the batch")
    return Operation("Concat", fixed, dim=values[0].dim(node.take("axis")))


def pad(node: Node) -> nn.Module:
    """Pad by a constant, by reflection or by the edge; not along the batch."""
    value, mode = node.value, node.take("mode", b"constant").decode()
    pads, axes = node.numbers("pads", 1) or [], node.numbers("axes", 3)
    fill, rank = node.take("value", node.constants[1]), len(value.shape)
    axes = list(range(rank)) if axes is None else axes
    each = {value.axis(a): (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    first = min((value.dim(axis) for axis, ends in each.items() if any(ends)), default=0)
    if not first:
        return nn.Identity()
    if math.prod(n + sum(each.get(i, ())) for i, n in enumerate(value.shape)) > LARGEST:
        raise ValueError(f"pads={pads} of a value of shape {value.shape} are too many")
    first = first if mode == "constant" else min(first, 2)  # torch reflects at all sides or none
    last = range(rank - 1, rank - 1 - value.data.ndim + first, -1)
    sides = [n for axis in last for n in each.get(axis, (0, 0))]  # torch: the last axis first
    if mode == "constant":
        return Operation("Pad", pad=sides, value=0.0 if fill is None else float(np.max(fill)))
    if mode not in ("reflect", "edge") or min(sides) < 0:
        raise ValueError(f"mode={mode!r} with pads={pads} is not supported")
    return Operation("Pad", pad=sides, mode={"edge": "replicate"}.get(mode, mode))


def reduction(node: Node) -> nn.Module:
    """ReduceMean, ReduceSum and their like, within each image."""
    value, axes = node.value, node.numbers("axes", 1)
    keep, idle = node.take("keepdims", 1), node.take("noop_with_empty_axes", 0)
    if not axes and idle:
        return nn.Identity()
    dims = sorted(value.dim(axis) for axis in axes or range(len(value.shape)))
    layer: nn.Module = Operation(node.op, dim=dims, keepdim=True)
    if node.op == "ReduceMean" and not value.bare and value.data.ndim == 4 and dims == [2, 3]:
        layer = nn.AdaptiveAvgPool2d(1)
    if keep:
        return layer
    kept = [n for i, n in enumerate(value.shape) if i + int(value.bare) not in dims]
    return chain([layer, node.give(kept)])
