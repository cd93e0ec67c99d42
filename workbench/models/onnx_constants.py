"""What an ONNX graph computes of constants alone: weights, and shapes of its own values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Of constants alone these are computed too, besides what there are converters for.
FOLDED = {"And", "CastLike", "ConstantOfShape", "DequantizeLinear", "Equal", "Greater", "Less",
          "Mod", "Not", "Or", "Range", "ReduceProd", "Shape", "Size", "Tile", "Where"}  # fmt: skip
MOST = 2**28  # values in one constant
FIELDS = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}


def stored_constants(graph: Any) -> dict[str, np.ndarray]:
    """The initializers and the values of Constant nodes, by name; half precision as float32."""
    from onnx import numpy_helper

    values = {}
    stored = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name == "value":
                stored.append((node.output[0], a.t))
            elif a.name in FIELDS:
                kind = np.float32 if "float" in a.name else np.int64
                values[node.output[0]] = np.array(getattr(a, FIELDS[a.name]), dtype=kind)
            else:
                raise ValueError(f"the constant {node.output[0]!r}: {a.name} is not supported")
    for name, proto in stored:
        if proto.data_location or proto.external_data:
            raise ValueError(
                f"the weights {name!r} are in another file (export with external_data=False)"
            )
        try:
            value = numpy_helper.to_array(proto)
        except Exception as error:  # numpy and onnx raise several kinds
            raise ValueError(f"the weights {name!r} are damaged or no tensor: {error}") from error
        values[name] = widened(value)
    for name, value in values.items():
        if value.dtype.kind not in "fiub":
            raise ValueError(f"the weights {name!r} are {value.dtype}; export the model in float32")
        # One number may be infinite: the end of a Clip, or what a Pad fills in.
        if np.isnan(value).any() or (value.size > 1 and not np.isfinite(value).all()):
            raise ValueError(f"the weights {name!r} hold NaN or infinity")
    return values


def widened(value: np.ndarray) -> np.ndarray:
    """The values, those of half precision (float16, bfloat16) as float32."""
    half = value.dtype == np.float16 or value.dtype.name == "bfloat16"
    return value.astype(np.float32) if half else value


def evaluate(node: Any, inputs: Sequence[Any], opset: int) -> dict[str, np.ndarray]:
    """What a node makes of constants, by the onnx package's own reference implementation.

    Raises:
        ValueError: more than MOST values.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    shapes, last = [i.shape for i in inputs if i is not None], inputs[-1]
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        shapes.append(tuple(int(n) for n in np.atleast_1d(last)))
        if node.op_type == "Tile":
            shapes = [tuple(n * k for n, k in zip(shapes[0], shapes[-1], strict=True))]
    elif node.op_type == "Range":
        start, limit, delta = (float(i) for i in inputs)
        shapes = [(math.ceil((limit - start) / delta),)]
    most = math.prod(map(max, itertools.zip_longest(*(s[::-1] for s in shapes), fillvalue=1)))
    if most > MOST:
        raise ValueError(f"makes about {most:.0e} values, more than {MOST:.0e}")
    names = {name: i for name, i in zip(node.input, inputs, strict=True) if name}
    taken, made = (
        [helper.make_tensor_value_info(name, 1, None) for name in side if name]
        for side in (names, node.output)
    )
    graph = helper.make_graph([node], "constants", taken, made)
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(graph, opsets={"": opset}).run(None, names)
    except Exception as error:  # numpy and onnx raise several kinds
        shapes = [i.shape for i in names.values()]
        raise ValueError(f"cannot be computed of constants of shapes {shapes}: {error}") from error
    return {info.name: widened(np.asarray(i)) for info, i in zip(made, values, strict=True)}
