"""ONNX graphs as torch modules made of ordinary, named layers.

A graph is read as the function of one image that it is at batch size 1, and every layer
keeps the batch as the first dimension. So the module takes any batch size, which onnx2torch
(it also needs torchvision) does not give where a batch size is baked into the graph.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.models.onnx_layers import ARITHMETIC, CONVERTERS, convert, reshaped, tensor

SUPPORTED = sorted({"Constant", *ARITHMETIC, *CONVERTERS})
OLDEST_OPSET = 7  # before it, Add and Mul broadcast by other rules
LARGEST = 10**8  # values in one image: beyond it is an error or an attack


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A graph as a module in eval mode, an `nn.Sequential` where it is a chain.

    module: float32 `(N, *input_shape)` -> `(N, n_outputs)`, for any N.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    n_outputs: int


def read(path: str | Path) -> OnnxModel:
    """Read an `.onnx` file of float32 weights; no code in it is run, no other file opened.

    Raises:
        ImportError: the `onnx` package is missing.
        FileNotFoundError: no such file.
        ValueError: not an ONNX file, or a damaged one; NaN weights; or something that is
            not supported, by the names of the operation and the node.
    """
    try:
        return Builder(parse(Path(path).read_bytes())).build()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def as_images(model: OnnxModel, input_shape: Sequence[int]) -> nn.Module:
    """The module made to take images `(N, *input_shape)`, with `input_shape` `(C, H, W)`.

    A graph that takes flat vectors gets the pixels channel by channel, row by row.

    Raises:
        ValueError: the graph takes another number of values, or arranges them otherwise.
    """
    images, wanted = tuple(input_shape), model.input_shape
    if images == wanted:
        return model.module
    flat = max(wanted) == math.prod(wanted) == math.prod(images)
    if not flat and [n for n in images if n != 1] != [n for n in wanted if n != 1]:
        raise ValueError(f"input_shape: images {images} do not fit the graph, which takes {wanted}")
    return nn.Sequential(OrderedDict(arrange=reshaped(wanted), graph=model.module)).eval()


class Graph(nn.Module):
    """Layers whose values may branch and meet again; the last one gives the logits."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        # Of each layer the name, the values that it takes, and the value that it makes.
        self.wiring: list[tuple[str, tuple[str, ...], str]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, *input_shape)` -> `(N, n_outputs)`."""
        values = {self.source: x}
        for name, sources, target in self.wiring:
            x = values[target] = self.get_submodule(name)(*(values[s] for s in sources))
        return x


class Builder:
    """Turns the nodes of a graph into layers, in order, trying each on one blank image."""

    def __init__(self, graph: Any) -> None:
        self.nodes = graph.node
        self.constants = stored_constants(graph)
        self.source, self.input_shape, self.result = ends(graph, self.constants)
        self.values = {self.source: torch.zeros((1, *self.input_shape))}
        self.uses = Counter([self.result, *(name for node in self.nodes for name in node.input)])
        self.module = Graph(self.source)

    def build(self) -> OnnxModel:
        """Read the nodes that the result may depend on and put the layers together."""
        for node in self.nodes:
            if self.result in self.values:
                break
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif node.op_type != "Constant" and not self.fuse_bias(node):
                self.add_layer(node)
        logits = self.values.get(self.result)
        if logits is None or logits.ndim != 2:
            raise ValueError(f"{self.result!r}: expected (N, classes), computed from the images")
        made = [self.source, *(target for _, _, target in self.module.wiring)]
        chained = [(name,) for name in made[:-1]] == [taken for _, taken, _ in self.module.wiring]
        layers = OrderedDict(self.module.named_children())
        module = nn.Sequential(layers) if chained else self.module
        return OnnxModel(module.eval(), self.input_shape, logits.shape[1])

    def add_layer(self, node: Any) -> None:
        """Add the layer for a node."""
        from onnx.helper import get_attribute_value

        inputs = [self.values.get(name, self.constants.get(name)) for name in node.input]
        sources = tuple(name for name in node.input if name in self.values)
        attributes = {a.name: get_attribute_value(a) for a in node.attribute}
        try:
            layer = convert(node.op_type, inputs, attributes).eval()
            with torch.no_grad():
                self.values[node.output[0]] = layer(*(self.values[name] for name in sources))
        except Exception as error:  # torch and numpy raise several kinds in a broken graph
            raise ValueError(f"{title(node)}: {error}") from error
        name = re.sub(r"\W+", "_", str(node.name)).strip("_")
        name = name or f"{node.op_type.lower()}_{len(self.module.wiring)}"
        while name in {*dir(self.module), *dir(nn.Sequential)}:  # layers, torch's own attributes
            name += "_"
        self.module.add_module(name, layer)
        self.module.wiring.append((name, sources, node.output[0]))

    def fuse_bias(self, node: Any) -> bool:
        """Put an Add of a constant into the linear layer just before it, if there is one."""
        if node.op_type != "Add" or not self.module.wiring:
            return False
        name, sources, product = self.module.wiring[-1]
        layer = self.module.get_submodule(name)
        bias = [self.constants[i] for i in node.input if i in self.constants]
        if not isinstance(layer, nn.Linear) or layer.bias is not None or self.uses[product] > 1:
            return False
        if product not in node.input or not bias or bias[0].shape != (layer.out_features,):
            return False
        layer.bias = nn.Parameter(tensor(bias[0]))
        self.module.wiring[-1] = (name, sources, node.output[0])
        self.values[node.output[0]] = self.values[product]
        return True


def parse(content: bytes) -> Any:
    """The graph in a file, whose operations are all supported and fit ONNX's own rules."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "reading ONNX files needs the onnx package: pip install dnn-workbench[onnx]"
        ) from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has its own kinds
        raise ValueError(f"not an ONNX file, or cut short ({error})") from None
    if not model.graph.node:
        raise ValueError(f"not an ONNX file: no graph in its {len(content)} bytes")
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or versions[0] < OLDEST_OPSET:
        raise ValueError(f"expected opset {OLDEST_OPSET} or later, got {versions or 'none'}")
    for node in model.graph.node:
        if node.op_type not in SUPPORTED or node.domain not in ("", "ai.onnx"):
            raise ValueError(f"{title(node)}: not supported. Supported: {', '.join(SUPPORTED)}")
    stored_constants(model.graph)  # before the checker, which opens other files
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"not a valid ONNX graph: {error}") from error
    return model.graph


def stored_constants(graph: Any) -> dict[str, np.ndarray]:
    """The initializers and the values of Constant nodes, by name."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update(zip(node.output, (a.t for a in node.attribute), strict=False))
    values = {}
    for name, proto in stored.items():
        if proto.data_location or proto.external_data:
            raise ValueError(
                f"the weights {name!r} are in another file (export with external_data=False)"
            )
        try:
            value = numpy_helper.to_array(proto)
        except Exception as error:  # numpy and onnx raise several kinds
            raise ValueError(f"the weights {name!r} are damaged or no tensor: {error}") from error
        if value.dtype not in (np.float32, np.int64, np.bool_):
            raise ValueError(f"the weights {name!r} are {value.dtype}; export the model in float32")
        if not np.isfinite(value).all():
            raise ValueError(f"the weights {name!r} hold NaN or infinity")
        values[name] = value
    return values


def ends(graph: Any, constants: dict[str, np.ndarray]) -> tuple[str, tuple[int, ...], str]:
    """The one input, the shape of one image, and the one output."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        names = [[value.name for value in side] for side in (inputs, graph.output)]
        raise ValueError(f"expected one input and one output, got {names[0]} and {names[1]}")
    kind = inputs[0].type.tensor_type
    batch, *shape = [dim.dim_value for dim in kind.shape.dim] or [0]  # 0 is free
    if kind.elem_type != 1:  # TensorProto.FLOAT
        raise ValueError(f"the input has ONNX type {kind.elem_type}; export the model in float32")
    if batch > 1 or not shape or min(shape) < 1 or math.prod(shape) > LARGEST:
        raise ValueError(
            "expected an input (batch, ...) with batch size 1 or a free one, and otherwise "
            f"known, reasonable sizes; got {[batch, *shape]}, where 0 is free"
        )
    return inputs[0].name, tuple(shape), graph.output[0].name


def title(node: Any) -> str:
    """How errors name a node: by its name, or else by what it makes."""
    return f"{node.op_type} node {node.name or ' '.join(map(str, node.output))!r}"
