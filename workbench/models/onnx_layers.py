"""One ONNX node becomes one torch layer: the converters behind `workbench.models.onnx`.

Every computed value has the batch as its first dimension. A converter takes each
attribute that it honours out of the node; whatever is left over and does something is
refused, so that nothing is silently ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.models import onnx_shapes as shapes
from workbench.models import onnx_windows as windows
from workbench.models.onnx_nodes import (
    BINARY,
    LARGEST,
    REDUCTIONS,
    UNARY,
    Arithmetic,
    Node,
    Operation,
    Value,
    filled,
    tensor,
)

# Attributes that a converter may leave, at the values that do nothing.
IDLE = [("training_mode", 0), ("saturate", 1)]
FLOATS = (1, 10, 11, 16)  # TensorProto's float32, float16, float64 and bfloat16


def convert(node: Node) -> nn.Module:
    """The layer for a node; `node.bare` then says how the graph sees what it makes.

    Raises:
        ValueError: an attribute or a form of the node is not supported.
    """
    if node.output and node.op != "Split":
        raise ValueError("only its first output is supported")
    computed = [isinstance(given, Value) for given in node.inputs]
    if node.op not in MIXED and (not computed[0] or any(computed[1:])):
        raise ValueError("expected a first input computed from the images and constant others")
    layer = CONVERTERS[node.op](node)
    for name, value in node.unread.items():
        if (name, value) not in IDLE:
            raise ValueError(f"{name}={value!r} is not supported")
    return layer


def arithmetic(node: Node) -> nn.Module:
    """An operation by elements, whose values are broadcast within each image."""
    values = [given for given in node.inputs if isinstance(given, Value)]
    arrays = [given for given in node.inputs if isinstance(given, np.ndarray)]
    # A constant whose first axis, of size 1, stands for the batch has no such axis here.
    fixed = [(c[0], False) if c.ndim > 1 and len(c) == 1 else (c, True) for c in arrays]
    most = max(value.data.ndim - 1 for value in values)
    for constant, bare in fixed:
        if constant.ndim > most and bare and not all(value.bare for value in values):
            raise ValueError(f"a constant of shape {constant.shape} would change the batch")
    sides = [(v.data.ndim - 1, v.bare) for v in values] + [(c.ndim, bare) for c, bare in fixed]
    rank = max(sides)[0]
    node.bare = (rank, False) not in sides
    zero = len(sides) == 2 and len(arrays) == 1 and not arrays[0].any() and arrays[0].size == 1
    if node.op == "Max" and zero and rank == most:
        return nn.ReLU()
    rest = iter(fixed)
    parts = [None if isinstance(given, Value) else tensor(next(rest)[0]) for given in node.inputs]
    return Arithmetic(node.op, parts, rank + 1)


def linear(weight: np.ndarray) -> nn.Module:
    """A linear layer without a bias; weight `(n_out, n_in)`."""
    if weight.ndim != 2:
        raise ValueError(f"expected a matrix of weights, got shape {weight.shape}")
    n_out, n_in = weight.shape
    return filled(nn.Linear(n_in, n_out, bias=False, device="meta"), weight=weight)


def simpler(node: Any, name: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A Gemm as Transpose, MatMul, Mul and Add nodes of this name, and constants they take."""
    from onnx.helper import get_attribute_value, make_node

    options = {a.name: get_attribute_value(a) for a in node.attribute}
    nodes, factors = list[Any](), dict[str, np.ndarray]()

    def step(op: str, *inputs: str) -> str:
        nodes.append(make_node(op, inputs, [f"{node.output[0]}/{len(nodes)}"], name=name))
        return nodes[-1].output[0]

    def scaled(value: str, factor: str) -> str:
        if options.get(factor, 1) == 1:
            return value
        factors[f"{name}/{factor}"] = np.array(options[factor], dtype=np.float32)
        return step("Mul", value, f"{name}/{factor}")

    left, right, *bias = node.input
    left = step("Transpose", left) if options.get("transA") else left
    right = step("Transpose", right) if options.get("transB") else right
    result = step("MatMul", left, scaled(right, "alpha"))
    if bias and bias[0]:
        step("Add", result, scaled(bias[0], "beta"))
    nodes[-1].output[0] = node.output[0]
    return nodes, factors


def matmul(node: Node) -> nn.Module:
    """A product with constant weights on either side, or of two computed values."""
    left, right = node.inputs
    if isinstance(left, Value) and isinstance(right, Value):
        if left.bare != right.bare or left.data.ndim != right.data.ndim or left.data.ndim < 3:
            raise ValueError(f"the product of {left.shape} and {right.shape} is not supported")
        return Operation("MatMul", [None, None])
    weight, value = (right, left) if isinstance(left, Value) else (left, right)
    if weight.ndim > max(2, len(value.shape)):
        raise ValueError(f"weights of shape {weight.shape} for {value.shape} are not supported")
    while weight.ndim > 2 and len(weight) == 1:
        weight = weight[0]
    if isinstance(left, Value):
        return linear(weight.T)
    layer, rank = linear(weight), value.data.ndim
    if value.bare and rank == 2:
        return layer
    if rank < 3:
        raise ValueError(f"constant weights on the left of {value.shape} would mix the batch")
    swap = [*range(rank - 2), rank - 1, rank - 2]
    before, after = (Operation("Transpose", dims=swap) for _ in range(2))
    return nn.Sequential(before, layer, after)


def batch_norm(node: Node) -> nn.Module:
    """Batch normalisation with its stored statistics."""
    weight, bias, mean, var, *_ = node.constants
    shape = node.value.shape
    if node.value.bare or not 2 <= len(shape) <= 5:
        raise ValueError(f"expected (N, C, ...), got shape {shape}")
    if node.opset < 14 and node.outputs > 1:
        raise ValueError("further outputs mean training; export the model in eval mode")
    if not node.take("spatial", 1) and len(shape) > 2:
        raise ValueError("spatial=0 is not supported")
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    momentum = 1 - node.take("momentum", 0.9)  # torch weighs the new value, ONNX the old
    layer = kind(len(mean), eps=node.take("epsilon", 1e-5), momentum=momentum)
    return filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=var)


def instance_norm(node: Node) -> nn.Module:
    """Normalisation of each channel of each image; groups are channels of a reshaped value."""
    weight, bias, *_ = node.constants
    kind = getattr(nn, f"InstanceNorm{len(node.spatial())}d")
    layer = kind(len(weight), eps=node.take("epsilon", 1e-5), affine=True, device="meta")
    return filled(layer, weight=weight, bias=bias)


def layer_norm(node: Node) -> nn.Module:
    """Normalisation over the last axes."""
    weight, bias, *_ = node.constants
    node.take("stash_type")  # the precision meanwhile: float32 at least, as here
    sizes = node.value.data.shape[node.value.dim(node.take("axis", -1)) :]
    eps = node.take("epsilon", 1e-5)
    layer = nn.LayerNorm(sizes, eps=eps, bias=bias is not None, device="meta")
    return filled(layer, weight=weight, bias=bias)


def local_response_norm(node: Node) -> nn.Module:
    """Division by what the neighbouring channels hold."""
    node.spatial()
    size, alpha = node.take("size"), node.take("alpha", 1e-4)
    if size % 2 == 0:
        raise ValueError(f"size={size}: an even number of channels is not supported")
    return nn.LocalResponseNorm(size, alpha, node.take("beta", 0.75), node.take("bias", 1.0))


def softmax(node: Node) -> nn.Module:
    """Softmax or LogSoftmax; before opset 13 over all axes from `axis` on."""
    value, new = node.value, node.opset >= 13
    axis = node.take("axis", -1 if new else 1)
    dim, rank = value.dim(axis), value.data.ndim
    kind = nn.Softmax if node.op == "Softmax" else nn.LogSoftmax
    if new or math.prod(value.data.shape[dim + 1 :]) == 1:
        return kind(dim)
    sizes = tuple(value.data.shape[dim:])
    return nn.Sequential(nn.Flatten(dim, rank - 1), kind(dim), nn.Unflatten(dim, sizes))


def clip(node: Node) -> nn.Module:
    """Clip; an nn.ReLU where it is one."""
    ends = node.take("min", node.constants[0]), node.take("max", node.constants[1])
    low, high = (None if end is None else float(np.reshape(end, ())) for end in ends)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if not low < high:
        raise ValueError(f"expected min below max, got {low} and {high}")
    if low == 0 and high >= np.finfo(np.float32).max:
        return nn.ReLU()
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def p_relu(node: Node) -> nn.Module:
    """PRelu; an nn.PReLU where there is one slope, or one a channel."""
    slope, shape = node.constants[0], node.value.data.shape
    one = slope.size == 1 and slope.ndim <= len(node.value.shape)
    if one or (len(shape) > 1 and slope.shape == (shape[1], *[1] * (len(shape) - 2))):
        return filled(nn.PReLU(slope.size, device="meta"), weight=slope.ravel())
    return arithmetic(node)


def hard_sigmoid(node: Node) -> nn.Module:
    """`alpha * x + beta` between 0 and 1."""
    scale, shift = (torch.tensor(node.take(*k)) for k in (("alpha", 0.2), ("beta", 0.5)))
    steps = Arithmetic("Mul", [None, scale]), Arithmetic("Add", [None, shift])
    return nn.Sequential(*steps, nn.Hardtanh(0, 1))


def dropout(node: Node) -> nn.Module:
    """Dropout once training is over: nothing."""
    node.take("ratio")
    node.take("seed")
    if node.constants[1] is not None and node.constants[1].any():
        raise ValueError("training_mode is on; export the model in eval mode")
    return nn.Identity()


def cast(node: Node) -> nn.Module:
    """A cast from one kind of float to another: nothing, all is computed in one."""
    kind = node.take("to")
    if kind not in FLOATS:
        raise ValueError(f"a cast of computed values to ONNX type {kind} is not supported")
    return nn.Identity()


def expand(node: Node) -> nn.Module:
    """Expand within each image: a product with ones."""
    sizes = [int(n) for n in node.constants[0]]
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"a shape of {sizes} is too large")
    node.inputs, node.op = [node.value, np.ones(sizes, dtype=np.float32)], "Mul"
    return arithmetic(node)


def plain(kind: type[nn.Module]) -> Callable[[Node], nn.Module]:
    """A converter that takes no attributes."""
    return lambda node: kind()


PLAIN: dict[str, type[nn.Module]] = {
    "HardSwish": nn.Hardswish, "Identity": nn.Identity, "Mish": nn.Mish, "Relu": nn.ReLU,
    "Selu": nn.SELU, "Sigmoid": nn.Sigmoid, "Softplus": nn.Softplus, "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}  # fmt: skip
CONVERTERS: dict[str, Callable[[Node], nn.Module]] = {
    **dict.fromkeys([*UNARY, *BINARY], arithmetic),
    **dict.fromkeys(REDUCTIONS, shapes.reduction),
    **{name: plain(kind) for name, kind in PLAIN.items()},
    **dict.fromkeys(["Conv", "ConvTranspose"], windows.conv),
    **dict.fromkeys(["AveragePool", "MaxPool"], windows.pool),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], windows.global_pool),
    **dict.fromkeys(["Flatten", "Reshape"], shapes.reshape),
    **dict.fromkeys(["LogSoftmax", "Softmax"], softmax),
    **{"BatchNormalization": batch_norm, "LayerNormalization": layer_norm},
    "Cast": cast,
    "Celu": lambda node: nn.CELU(node.take("alpha", 1.0)),
    "Clip": clip,
    "Concat": shapes.concat,
    "Dropout": dropout,
    "Elu": lambda node: nn.ELU(node.take("alpha", 1.0)),
    "Expand": expand,
    "Gather": shapes.gather,
    "Gelu": lambda node: nn.GELU(node.take("approximate", b"none").decode()),
    "HardSigmoid": hard_sigmoid,
    "InstanceNormalization": instance_norm,
    "LRN": local_response_norm,
    "LeakyRelu": lambda node: nn.LeakyReLU(node.take("alpha", 0.01)),
    "MatMul": matmul,
    "PRelu": p_relu,
    "Pad": shapes.pad,
    "Slice": shapes.slice_,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "ThresholdedRelu": lambda node: nn.Threshold(node.take("alpha", 1.0), 0.0),
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}
# These take constants at any place, and several computed values.
MIXED = {*UNARY, *BINARY, "Concat", "MatMul"} - {"PRelu"}
