"""What the reader does not take is refused by the names of the node and the operation."""

import numpy as np
import onnx
import pytest

from workbench.models import onnx as reader

pytest.importorskip("onnxruntime", reason="needs onnxruntime to compare with")
from onnx import helper, numpy_helper
from onnx_graphs import model_of, node, numbers, weights

REFUSED = {
    "normalisation by position": (
        7, [node("BatchNormalization", "x s s s s", "y", spatial=0, name="b")],
        "BatchNormalization node 'b': spatial=0 is not supported",
    ),
    "a layer in training": (
        15, [node("BatchNormalization", "x s s s s", "y m v", training_mode=1, name="b")],
        "'b': training_mode=1 is not supported",
    ),
    "dropout in training": (
        13, [node("Dropout", "x half yes", "y", name="d")],
        "Dropout node 'd': training_mode is on; export the model in eval mode",
    ),
    "an output that is not read": (
        13, [node("MaxPool", "x", "m i", kernel_shape=[1, 1], name="p"),
             node("Cast", "i", "y", to=1)],
        "MaxPool node 'p': only its first output is supported",
    ),
    "no image": (
        13, [node("Slice", "x rows nine zeros", "y", name="s")], "'s': no place of axis 0 of .1, 3",
    ),
    "an axis too many": (
        13, [node("Gather", "x nine", "y", axis=4, name="g")],
        r"Gather node 'g': a value of shape \(1, 3, 4, 5\) has no axis 4",
    ),
    "images joined": (
        13, [node("Concat", "x x", "y", axis=0, name="c")],
        "Concat node 'c': axis 0 is the batch, whose images must stay apart",
    ),
    "an image added": (
        13, [node("Pad", "x pads", "y", name="p")], "Pad node 'p': axis 0 is the batch",
    ),
    "padding around": (
        19, [node("Pad", "x more", "y", mode="wrap", name="p")], "'p': mode='wrap' with pads=",
    ),
    "a shape that is computed": (
        13, [node("Cast", "x", "y", to=7, name="c")], "'c': a cast of computed values to ONNX ty",
    ),
    "a choice by value": (
        13, [node("Less", "x x", "l", name="c"), node("Where", "l x x", "y", name="w")],
        "Less node 'c': supported for constants, not for values computed from",
    ),
    "an even neighbourhood": (
        13, [node("LRN", "x", "y", size=2, name="n")], "'n': size=2: an even number of channels",
    ),
    "a size of the result": (
        13, [node("ConvTranspose", "x w", "y", output_shape=[9, 9], name="t")],
        r"'t': output_shape=\[9, 9\] is not supported",
    ),
    "too many values": (
        13, [node("ConstantOfShape", "huge", "z", name="z"), node("Add", "x z", "y")],
        "ConstantOfShape node 'z': makes about 1e.12 values",
    ),
    "too much padding": (
        13, [node("Pad", "x far", "y", name="p")], "'p': pads=.* are too many",
    ),
    "a mean with gaps": (
        19, [node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2], name="a")],
        "'a': dilations of a mean are not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_dialect_lacks_is_refused_by_name(name, tmp_path):
    version, nodes, message = REFUSED[name]
    constants = weights(w=(3, 1, 2, 2), s=(3,)) | {
        "half": np.float32(0.5), "yes": np.array(True), "rows": numbers(1), "zeros": numbers(0),
        "nine": numbers(9), "huge": numbers(10**6, 10**6),
        "pads": numbers(1, 0, 0, 0, 0, 0, 0, 0), "more": numbers(0, 0, 1, 1, 0, 0, 1, 1),
        "far": numbers(0, 0, 10**7, 10**7, 0, 0, 0, 0),
    }  # fmt: skip
    model = model_of(nodes, (3, 4, 5), constants, opset=version)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        reader.read(tmp_path / "m.onnx")


@pytest.mark.parametrize("sizes", [("N", "C", 4), (8, 4), ("H",)])
def test_unknown_sizes_are_refused_with_a_way_on(sizes, tmp_path):
    model = model_of([node("Relu", "x", "y")], sizes, {}, batch=None, outputs=sizes)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"expected an input .batch.*0 is free: export the model"):
        reader.read(tmp_path / "m.onnx")


def test_constants_of_an_unknown_form_are_named(tmp_path):
    one, zero = numpy_helper.from_array(np.ones(1, "f4")), numpy_helper.from_array(numbers(0))
    sparse = helper.make_sparse_tensor(one, zero, [5])
    nodes = [node("Constant", "", "c", sparse_value=sparse), node("Add", "x c", "y")]
    onnx.save(model_of(nodes, (5,), {}), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="the constant 'c': sparse_value is not supported"):
        reader.read(tmp_path / "m.onnx")
