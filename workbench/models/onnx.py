"""ONNX graphs as torch modules made of ordinary, named layers.

A graph is read as the function of one image that it is at batch size 1, and every layer
keeps the batch as the first dimension. So the module takes any batch size, which onnx2torch
(it also needs torchvision) does not give where a batch size is baked into the graph.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.models.onnx_constants import FOLDED, evaluate, stored_constants
from workbench.models.onnx_layers import CONVERTERS, FLOATS, convert, simpler
from workbench.models.onnx_nodes import LARGEST, Node, Operation, Value, reshaped, tensor

SUPPORTED = sorted({"Constant", "Gemm", *CONVERTERS})
OLDEST_OPSET = 7  # before it, Add and Mul broadcast by other rules


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A graph as a module in eval mode, an `nn.Sequential` where it is a chain.

    module: float32 `(N, *input_shape)` -> `(N, n_outputs)`, for any N. Graphs in float64 or
    in half precision are computed in float32, and a graph whose input has no batch dimension
    is taken to be the function of one image.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    n_outputs: int


def read(path: str | Path) -> OnnxModel:
    """Read an `.onnx` file; no code in it is run, no other file opened.

    It warns where the input has no batch dimension, and where float32 instead of the graph's
    float64 changes what it says by more than 1e-4 of its largest output.

    Raises:
        ImportError: the `onnx` package is missing.
        FileNotFoundError: no such file.
        ValueError: not an ONNX file, or a damaged one; NaN weights; or something that is
            not supported, by the names of the operation and the node.
    """
    try:
        builder = Builder(*parse(Path(path).read_bytes()))
        if builder.bare:
            warnings.warn(
                f"{path}: the input {builder.source!r} of shape {builder.input_shape} has no "
                "batch dimension; it is taken to be one image",
                stacklevel=2,
            )
        return builder.build()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def as_images(model: OnnxModel, input_shape: Sequence[int]) -> nn.Module:
    """The module made to take images `(N, *input_shape)`, with `input_shape` `(C, H, W)`.

    A graph that takes flat vectors gets the pixels channel by channel, row by row; one that
    takes `(H, W, C)` gets the channels last.

    Raises:
        ValueError: the graph takes another number of values, or arranges them otherwise.
    """
    images, wanted = tuple(input_shape), model.input_shape
    if images == wanted:
        if len(wanted) == 3 and wanted[2] in (1, 3) and wanted[0] not in (1, 3):
            first = (wanted[2], *wanted[:2])
            warnings.warn(
                f"the graph takes {wanted}: channels last? Then input_shape={first} is right",
                stacklevel=2,
            )
        return model.module
    if wanted == (*images[1:], images[0]):  # channels last, as TensorFlow has them
        order = Operation("Transpose", dims=(0, 2, 3, 1))
        return nn.Sequential(OrderedDict(arrange=order, graph=model.module)).eval()
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

    def __init__(self, graph: Any, opset: int) -> None:
        self.nodes, self.opset = needed(graph), opset
        self.constants = stored_constants(graph)
        self.source, sizes, self.bare, self.result = ends(graph, self.constants)
        self.input_shape = tuple(sizes if self.bare else sizes[1:])
        kinds = [value.type.tensor_type.elem_type for value in graph.input]
        kinds += [a.i for node in self.nodes for a in node.attribute if a.name == "to"]
        double = 11 in kinds or any(c.dtype == np.float64 for c in self.constants.values())
        self.dtype = torch.float64 if double else torch.float32
        blank = torch.zeros((1, *self.input_shape), dtype=self.dtype)
        self.values = {self.source: Value(blank, self.bare)}
        self.uses = Counter([self.result, *(name for node in self.nodes for name in node.input)])
        self.module = Graph(self.source)

    def build(self) -> OnnxModel:
        """Read the nodes that the result depends on and put the layers together."""
        for node in self.nodes:
            try:
                for part in self.lowered(node):
                    if not self.fold(part) and not self.fuse_bias(part):
                        self.add_layers(part)
            except Exception as error:  # torch and numpy raise several kinds in a broken graph
                raise ValueError(f"{title(node)}: {error}") from error
        logits = self.values.get(self.result)
        shape = None if logits is None else tuple(logits.data.shape[1:])
        if shape is None or max(shape) != math.prod(shape):
            raise ValueError(
                f"{self.result!r}: expected (N, classes), computed from the images; one image "
                f"gives {shape}"
            )
        if len(shape) > 1:
            self.append("flat", nn.Flatten(), (self.result,), "")
        made = [self.source, *(target for _, _, target in self.module.wiring)]
        chained = [(name,) for name in made[:-1]] == [taken for _, taken, _ in self.module.wiring]
        layers = OrderedDict(self.module.named_children())
        module = (nn.Sequential(layers) if chained else self.module).eval()
        if self.dtype is torch.float64:
            rounded(module, self.input_shape)
        return OnnxModel(module, self.input_shape, max(shape))

    def fold(self, node: Any) -> bool:
        """Compute a node that takes only constants, or the shape of a value, if it does."""
        known = dict(self.constants)
        if node.op_type == "Constant":
            return True
        if node.op_type in ("Shape", "Size"):  # of one image: a batch of one
            shapes = {name: self.values[name].shape for name in node.input if name in self.values}
            known |= {name: np.broadcast_to(np.float32(0), n) for name, n in shapes.items()}
        if any(name and name not in known for name in node.input):
            return False
        inputs = [known.get(name) for name in node.input]
        self.constants |= evaluate(node, inputs, self.opset)
        return True

    def add_layers(self, node: Any) -> None:
        """Add the layer for each output of a node that is needed."""
        from onnx.helper import get_attribute_value

        for name in node.input:
            if name and name not in self.values and name not in self.constants:
                raise ValueError(f"takes {name!r}, which no node before it makes")
        if node.op_type not in CONVERTERS:
            raise ValueError("supported for constants, not for values computed from the images")
        inputs = [self.values.get(name, self.constants.get(name)) for name in node.input]
        sources = tuple(name for name in node.input if name in self.values)
        for i, output in enumerate(node.output):
            if not self.uses[output]:
                continue
            attributes = {a.name: get_attribute_value(a) for a in node.attribute}
            form = Node(node.op_type, [*inputs], attributes, self.opset, i, len(node.output))
            layer = convert(form).to(self.dtype).eval()
            with torch.no_grad():
                made = Value(layer(*(self.values[name].data for name in sources)), form.bare)
                if made.bare and len(made.shape) > 1 and made.shape[0] == 1:
                    layer = nn.Sequential(layer, nn.Flatten(1, 2))
                    made = Value(layer(*(self.values[name].data for name in sources)))
            name = re.sub(r"\W+", "_", str(node.name)).strip("_")
            name = name or f"{node.op_type.lower()}_{len(self.module.wiring)}"
            if made.data.numel() > LARGEST:
                raise ValueError(f"makes {made.data.numel():.0e} values of one image")
            self.append(name, layer, sources, output)
            self.values[output] = made

    def append(self, name: str, layer: nn.Module, sources: tuple[str, ...], output: str) -> None:
        """Add a layer under a free name."""
        while name in {*dir(self.module), *dir(nn.Sequential)}:  # layers, torch's own attributes
            name += "_"
        self.module.add_module(name, layer)
        self.module.wiring.append((name, sources, output))

    def lowered(self, node: Any) -> list[Any]:
        """The node, or the simpler ones that a Gemm consists of."""
        if node.op_type != "Gemm":
            return [node]
        name = node.name or f"gemm_{len(self.module.wiring)}"
        nodes, constants = simpler(node, name)
        self.constants |= constants
        self.uses.update(name for part in nodes for name in part.input)
        return nodes

    def fuse_bias(self, node: Any) -> bool:
        """Put an Add of a constant into the linear layer just before it, if there is one."""
        if node.op_type != "Add" or not self.module.wiring:
            return False
        name, sources, product = self.module.wiring[-1]
        layer = self.module.get_submodule(name)
        bias = [self.constants[i] for i in node.input if i in self.constants]
        if not isinstance(layer, nn.Linear) or layer.bias is not None or self.uses[product] > 1:
            return False
        shapes = [(layer.out_features,), (1, layer.out_features)][: len(self.values[product].shape)]
        if product not in node.input or not bias or bias[0].shape not in shapes:
            return False
        layer.bias = nn.Parameter(tensor(bias[0].ravel()).to(self.dtype))
        self.module.wiring[-1] = (name, sources, node.output[0])
        self.values[node.output[0]] = self.values[product]
        return True


def parse(content: bytes) -> tuple[Any, int]:
    """The graph in a file, whose operations are supported and fit ONNX's rules, and its opset."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("reading ONNX files needs the onnx package: pip install onnx") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has its own kinds
        raise ValueError(f"not an ONNX file, or cut short ({error})") from None
    if not model.graph.node:
        raise ValueError(f"not an ONNX file: no graph in its {len(content)} bytes")
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or versions[0] < OLDEST_OPSET:
        raise ValueError(
            f"expected opset {OLDEST_OPSET} or later, got {versions or 'none'}; "
            "onnx.version_converter makes later ones of old files"
        )
    for node in needed(model.graph):
        if node.op_type not in {*SUPPORTED, *FOLDED} or node.domain not in ("", "ai.onnx"):
            domain = f" (of {node.domain})" * (node.domain not in ("", "ai.onnx"))
            raise ValueError(
                f"{title(node)}{domain}: not supported. Export the network without it, or give "
                "models.wrap its PyTorch module. Supported: " + ", ".join(SUPPORTED)
            )
    stored_constants(model.graph)  # before the checker, which opens other files
    # Old files list their weights as inputs too; not all do that say so by their version.
    model.ir_version = max(model.ir_version, 4) if model.ir_version > 0 else 0
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"not a valid ONNX graph: {error}") from error
    return model.graph, versions[0]


def needed(graph: Any) -> list[Any]:
    """The nodes that the outputs depend on, in order."""
    names, nodes = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if names & set(node.output):
            nodes.append(node)
            names |= set(node.input) - {""}
    return nodes[::-1]


def ends(graph: Any, constants: dict[str, np.ndarray]) -> tuple[str, list[int], bool, str]:
    """The one input, its sizes (0 is free), whether it lacks a batch, and the one output."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        names = [[value.name for value in side] for side in (inputs, graph.output)]
        raise ValueError(f"expected one input and one output, got {names[0]} and {names[1]}")
    kind, made = (value.type.tensor_type for value in (inputs[0], graph.output[0]))
    sizes, results = ([dim.dim_value for dim in side.shape.dim] for side in (kind, made))
    if kind.elem_type not in FLOATS:
        raise ValueError(f"the input has ONNX type {kind.elem_type}; export the model in float32")
    # A first size that is no batch is not the first one of the answer either.
    bare = len(sizes) == 1 or (sizes[:1] > [1] and results[:1] > [0] and sizes[:1] != results[:1])
    batch, *shape = [1, *sizes] if bare else sizes or [0]
    if batch > 1 or not shape or min(shape) < 1 or math.prod(shape) > LARGEST:
        raise ValueError(
            "expected an input (batch, ...) with batch size 1 or a free one, and otherwise "
            f"known, reasonable sizes; got {sizes}, where 0 is free: export the model for one "
            "image, or set sizes by onnx.tools.update_model_dims"
        )
    return inputs[0].name, sizes, bare, graph.output[0].name


def rounded(module: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Turn a float64 module to float32, and say where that matters on a few random images."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand((4, *input_shape), generator=draw, dtype=torch.float64)
    with torch.no_grad():
        exact = module(x)
        error = float((module.float()(x.float()) - exact).abs().max())
    size = float(exact.abs().max())
    if not error <= 1e-4 * size:
        warnings.warn(
            f"the graph computes in float64, the workbench in float32: on random images its "
            f"outputs, of up to {size:.2g}, change by up to {error:.2g}",
            stacklevel=4,
        )


def title(node: Any) -> str:
    """How errors name a node: by its name, or else by what it makes."""
    return f"{node.op_type} node {node.name or ' '.join(map(str, node.output))!r}"
