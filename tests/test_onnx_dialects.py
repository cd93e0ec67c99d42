"""The dialects that files of the field are written in: each equals onnxruntime."""

import numpy as np
import onnx
import pytest
import torch

from workbench import models
from workbench.models import onnx as reader

pytest.importorskip("onnxruntime", reason="needs onnxruntime to compare with")
from onnx import TensorProto
from onnx_graphs import agree, kinds, model_of, node, numbers, theirs, weights


def keras():
    """NHWC images, convolved in NCHW, flattened in NHWC: Keras by tf2onnx."""
    constants = weights(w=(4, 3, 3, 3), b=(4, 1, 1), fc=(60, 5), c=(5,))
    constants |= {"shape": numbers(-1, 60), "pads": numbers(0, 0, 0, 1, 0, 0, 1, 0)}
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Pad", "t pads", "p"),
        node("Conv", "p w", "k", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Add", "k b", "l"),
        node("Relu", "l", "r"),
        node("Transpose", "r", "u", perm=[0, 2, 3, 1]),
        node("Reshape", "u shape", "f"),
        node("MatMul", "f fc", "m"),
        node("Add", "m c", "y"),
    ]
    return model_of(nodes, (9, 5, 3), constants)


def test_keras_takes_images_with_channels_last(tmp_path):
    path = tmp_path / "m.onnx"
    read = agree(keras(), path, dynamic=True)
    assert read.input_shape == (9, 5, 3)
    assert kinds(read.module) == [
        *["Operation", "Operation", "Padded", "Arithmetic", "ReLU", "Operation", "Flatten"],
        "Linear",
    ]
    model = models.load(f"onnx:{path}", input_shape=(3, 9, 5))
    x = torch.rand(2, 3, 9, 5, generator=torch.Generator().manual_seed(0))
    last = x.permute(0, 2, 3, 1).contiguous().numpy()
    np.testing.assert_allclose(model.predict(x).logits, theirs(keras(), last[:, None]), atol=1e-5)


def test_acasxu(tmp_path):
    """(1, 1, 1, 5) minus the means, Flatten, MatMul, Add, Relu."""
    constants = weights(mean=(1, 1, 1, 5), a=(5, 8), b=(8,), c=(8, 5), d=(5,))
    nodes = [
        node("Sub", "x mean", "h0"),
        node("Flatten", "h0", "h1"),
        node("MatMul", "h1 a", "h2"),
        node("Add", "h2 b", "h3"),
        node("Relu", "h3", "h4"),
        node("MatMul", "h4 c", "h5"),
        node("Add", "h5 d", "y"),
    ]
    model = model_of(nodes, (1, 1, 5), constants, batch=1)
    read = agree(model, tmp_path / "m.onnx")
    assert read.input_shape == (1, 1, 5)
    assert kinds(read.module) == ["Arithmetic", "Flatten", "Linear", "ReLU", "Linear"]


def test_weights_on_the_left_and_no_batch_dimension(tmp_path):
    """W @ x + b of a column, as in files without a batch dimension; said as it is read."""
    constants = weights(a=(6, 4), b=(6, 1), c=(3, 6), d=(3, 1))
    nodes = [
        node("MatMul", "a x", "h1"),
        node("Add", "h1 b", "h2"),
        node("Relu", "h2", "h3"),
        node("Gemm", "c h3 d", "y"),
    ]
    model = model_of(nodes, (4, 1), constants, batch=None, outputs=(3, 1))
    with pytest.warns(UserWarning, match=r"'x' of shape \(4, 1\) has no batch .* one image"):
        read = agree(model, tmp_path / "m.onnx", batch=False)
    assert (read.input_shape, read.n_outputs) == ((4, 1), 3)
    assert sum(isinstance(m, torch.nn.Linear) for m in read.module.modules()) == 2


@pytest.mark.filterwarnings("ignore:.*no batch dimension")
@pytest.mark.parametrize("sizes", [(6,), (2, 3), (3, 1, 2)])
def test_inputs_without_a_batch_dimension(sizes, tmp_path):
    constants = weights(w=(6, 4), b=(1, 4), s=sizes) | {"shape": numbers(1, -1), "zero": numbers(0)}
    nodes = [node("Sub", "x s", "h0"), node("Reshape", "h0 shape", "h1"),
             node("Gemm", "h1 w b", "h2"), node("Relu", "h2", "y")]  # fmt: skip
    read = agree(
        model_of(nodes, sizes, constants, batch=None, outputs=(1, 4)), tmp_path / "m.onnx",
        batch=False,
    )  # fmt: skip
    assert read.input_shape == sizes
    if len(sizes) == 1:  # all the way, or with the batch added by hand and taken off again
        bare = [node("MatMul", "x w", "y")]
        agree(model_of(bare, sizes, constants, batch=None, outputs=(4,)),
              tmp_path / "n.onnx", batch=False)  # fmt: skip
        nodes = [node("Unsqueeze", "x zero", "u"), node("MatMul", "u w", "h"),
                 node("Squeeze", "h zero", "y")]  # fmt: skip
        agree(model_of(nodes, sizes, constants, batch=None, outputs=(4,)),
              tmp_path / "o.onnx", batch=False)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*no batch dimension")
def test_a_batch_that_comes_up_on_the_way(tmp_path):
    """From there on its axis is not one of the image's."""
    norm = weights(s=(3,), b=(3,), m=(3,), v=np.full(3, 0.4, "f4"))
    row = {"zero": numbers(0), "one": numbers(1), "i": numbers(2, 0), "c": norm["b"][None]}
    flat = node("BatchNormalization", "r s b m v", "y")
    nodes = [node("Slice", "x zero one zero", "r"), flat]
    model = model_of(nodes, (4, 3), norm | row, batch=None, outputs=(1, 3))
    agree(model, tmp_path / "m.onnx", batch=False)
    nodes = [node("Add", "x c", "r"), node("Gather", "r i", "y", axis=1)]
    model = model_of(nodes, (3,), row, batch=None, outputs=(1, 2))
    agree(model, tmp_path / "m.onnx", batch=False)


def shape_chains():
    """Targets that the graph computes from the shape of a value."""
    flat = node("Reshape", "x target", "y")
    size = [node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0)]
    kept = {"zero": np.array(0), "zeros": numbers(0), "rest": numbers(-1), "one": numbers(1)}
    end = node("Concat", "n1 rest", "target", axis=0)
    yield "view", 13, [*size, node("Unsqueeze", "n zeros", "n1"), end, flat], kept
    yield "view of old opsets", 9, [*size, node("Unsqueeze", "n", "n1", axes=[0]), end, flat], kept
    part = node("Slice", "s zeros one", "n1")
    yield "Slice of a shape", 13, [node("Shape", "x", "s"), part, end, flat], kept
    cast = [node("Cast", "s", "f", to=1), node("Floor", "f", "g"), node("Cast", "g", "h", to=7),
            node("Slice", "h zeros one", "n1")]  # fmt: skip
    yield "Cast", 13, [node("Shape", "x", "s"), *cast, end, flat], kept
    product = [node("Shape", "x", "s"), node("Slice", "s one big", "r"),
               node("ReduceProd", "r", "p", axes=[0], keepdims=1),
               node("Concat", "rest p", "target", axis=0), flat]  # fmt: skip
    yield "ReduceProd", 13, product, kept | {"big": numbers(2**40)}
    yield "Shape from an axis", 15, [node("Shape", "x", "n1", start=0, end=1), end, flat], kept
    ints = [node("Constant", "", "n1", value_ints=[1]), end, flat]
    yield "value_ints", 13, ints, kept
    whole = [node("Constant", "", "i", value_int=1), node("Unsqueeze", "i zeros", "n1"), end, flat]
    yield "value_int", 13, whole, kept
    zeros = [node("Shape", "x", "s"), node("ConstantOfShape", "s", "o"), node("Add", "x o", "a"),
             node("Flatten", "a", "y")]  # fmt: skip
    yield "ConstantOfShape", 13, zeros, kept


@pytest.mark.parametrize(("opset", "nodes", "kept"), [c[1:] for c in shape_chains()],
                         ids=[c[0] for c in shape_chains()])  # fmt: skip
def test_chains_that_only_compute_a_shape(opset, nodes, kept, tmp_path):
    model = model_of(nodes, (2, 3, 4), kept, opset=opset)
    read = agree(model, tmp_path / "m.onnx", dynamic=True)
    assert read.n_outputs == 24
    assert kinds(read.module)[-1:] == ["Flatten"]


def opset(version, *nodes, **constants):
    return version, list(nodes), constants


ENDS = {"a": numbers(3, -1), "b": numbers(0, 2**31 - 1), "axes": numbers(1, -1)}
SCALARS = {"low": np.float32(0.2), "high": np.float32(0.6), "inf": np.float32(np.inf)}
# Of values (N, 3, 4, 5).
CASES = {
    "Transpose": opset(13, node("Transpose", "x", "y", perm=[0, 3, 1, 2])),
    "Transpose of the batch and back": opset(
        13, node("Transpose", "x", "t"), node("Transpose", "t", "y", perm=[3, 0, 1, 2])),
    "Slice back": opset(13, node("Slice", "x a b axes c", "y"), c=numbers(-2, 2), **ENDS | {
        "a": numbers(2, 0), "b": numbers(-(2**31), 2**31)}),
    "Slice back from before the start": opset(
        13, node("Slice", "x a b axes c", "y"), a=numbers(-9, 1), b=numbers(-(2**31), 2),
        c=numbers(-2, 1), axes=numbers(2, 3)),
    "Slice without axes": opset(13, node("Slice", "x a b", "y"), a=numbers(0, 1),
                                b=numbers(2**40, -1)),
    "Slice of old opsets": opset(9, node("Slice", "x", "y", axes=[2], starts=[-3], ends=[99])),
    "Gather one": opset(13, node("Gather", "x i", "y", axis=2), i=np.array(-1)),
    "Gather some": opset(13, node("Gather", "x i", "y", axis=1), i=numbers(2, 0, 0)),
    "Gather a table": opset(13, node("Gather", "x i", "y", axis=-1), i=numbers([1, 2], [0, -1])),
    "Split": opset(13, node("Split", "x s", "a b", axis=1), node("Concat", "b x a", "y", axis=1),
                   s=numbers(1, 2)),
    "Split evenly": opset(18, node("Split", "x", "a b", axis=3, num_outputs=2),
                          node("Neg", "b", "y")),
    "Split of old opsets": opset(11, node("Split", "x", "a b", axis=2, split=[3, 1]),
                                 node("Mul", "a b", "y")),
    "Squeeze": opset(13, node("Unsqueeze", "x i", "u"), node("Squeeze", "u i", "y"),
                     i=numbers(-1, 2)),
    "Squeeze of old opsets": opset(11, node("Unsqueeze", "x", "u", axes=[2]),
                                   node("Squeeze", "u", "y", axes=[2])),
    "Concat with a constant": opset(13, node("Concat", "c x", "y", axis=3),
                                    **weights(c=(1, 3, 4, 2))),
    "Pad": opset(13, node("Pad", "x p low", "y"), p=numbers(0, 1, 0, 2, 0, -1, 3, 0), **SCALARS),
    "Pad some axes": opset(18, node("Pad", "x p  i", "y"), p=numbers(1, 0), i=numbers(-1)),
    "Pad of old opsets": opset(9, node("Pad", "x", "y", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.3)),
    "Pad by reflection": opset(13, node("Pad", "x p", "y", mode="reflect"),
                               p=numbers(0, 0, 1, 2, 0, 0, 0, 3)),
    "Pad by the edge": opset(13, node("Pad", "x p", "y", mode="edge"),
                             p=numbers(0, 0, 5, 2, 0, 0, 0, 3)),
    "Pad of the last axis": opset(13, node("Pad", "x p", "y", mode="edge"),
                                  p=numbers(0, 0, 0, 1, 0, 0, 0, 0)),
    "Pad for a pool": opset(13, node("Pad", "x p minus", "q"),
                            node("MaxPool", "q", "y", kernel_shape=[2, 2]),
                            p=numbers(0, 0, 1, 0, 0, 0, 0, 1), minus=np.float32(-np.inf)),
    "Conv with uneven pads": opset(13, node("Conv", "x w b", "y", pads=[0, 1, 2, 3]),
                                   **weights(w=(2, 3, 3, 2), b=(2,))),
    "Conv SAME_LOWER": opset(13, node("Conv", "x w", "y", auto_pad="SAME_LOWER", strides=[2, 1]),
                             **weights(w=(2, 3, 2, 4))),
    "Conv VALID": opset(13, node("Conv", "x w", "y", auto_pad="VALID"), **weights(w=(2, 3, 2, 2))),
    "Conv of computed weights": opset(13, node("Mul", "w g", "v"), node("Conv", "x v", "y"),
                                      **weights(w=(2, 3, 2, 2), g=(2, 1, 1, 1))),
    "ConvTranspose": opset(13, node("ConvTranspose", "x w b", "y", strides=[2, 3],
                                    pads=[1, 0, 1, 0], output_padding=[1, 0], group=3),
                           **weights(w=(3, 2, 3, 2), b=(6,))),
    "ConvTranspose with uneven pads": opset(
        13, node("ConvTranspose", "x w", "y", pads=[0, 1, 2, 0]), **weights(w=(3, 2, 3, 2))),
    "MaxPool with uneven pads": opset(13, node("Neg", "x", "n"), node(
        "MaxPool", "n", "y", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0])),
    "MaxPool with wide pads": opset(13, node("Neg", "x", "n"), node(
        "MaxPool", "n", "y", kernel_shape=[3, 3], pads=[2, 2, 2, 2])),
    "MaxPool SAME_UPPER": opset(13, node("Neg", "x", "n"), node(
        "MaxPool", "n", "y", kernel_shape=[2, 2], strides=[3, 2], auto_pad="SAME_UPPER")),
    "MaxPool in ceil mode": opset(13, node("Neg", "x", "n"), node(
        "MaxPool", "n", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, storage_order=0)),
    "MaxPool whose last window would start in the padding": opset(
        13, node("Neg", "x", "n"), node("MaxPool", "n", "y", kernel_shape=[2, 2], strides=[3, 3],
                                        pads=[1] * 4, ceil_mode=1)),
    "AveragePool with uneven pads": opset(13, node(
        "AveragePool", "x", "y", kernel_shape=[3, 2], pads=[0, 1, 2, 0])),
    "AveragePool with uneven pads counted": opset(13, node(
        "AveragePool", "x", "y", kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1)),
    "AveragePool in ceil mode": opset(13, node(
        "AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1,
        count_include_pad=1)),
    "AveragePool SAME_LOWER": opset(13, node(
        "AveragePool", "x", "y", kernel_shape=[2, 4], strides=[2, 1], auto_pad="SAME_LOWER")),
    "GlobalMaxPool": opset(13, node("GlobalMaxPool", "x", "y")),
    "BatchNormalization of old opsets": opset(
        7, node("BatchNormalization", "x s b m v", "y", spatial=1, momentum=0.9),
        **weights(s=(3,), b=(3,), m=(3,), v=np.full(3, 0.4, "f4"))),
    "BatchNormalization of flat values": opset(
        7, node("Flatten", "x", "f"),
        node("BatchNormalization", "f s b m v", "y", spatial=0),
        **weights(s=(60,), b=(60,), m=(60,), v=np.full(60, 0.4, "f4"))),
    "BatchNormalization out of training": opset(
        15, node("BatchNormalization", "x s b m v", "y", training_mode=0),
        **weights(s=(3,), b=(3,), m=(3,), v=np.full(3, 0.4, "f4"))),
    "LayerNormalization": opset(17, node("LayerNormalization", "x s b", "y", axis=-2),
                                **weights(s=(4, 5), b=(4, 5))),
    "GroupNorm as torch exports it": opset(
        13, node("Reshape", "x g", "r"), node("InstanceNormalization", "r s b", "i"),
        node("Reshape", "i whole", "y"), g=numbers(0, 2, -1), whole=numbers(-1, 3, 4, 5),
        **weights(s=(2,), b=(2,))),
    "LRN": opset(13, node("LRN", "x", "y", size=3, alpha=0.5, beta=0.6, bias=2.0)),
    "Dropout with a mask": opset(7, node("Dropout", "x", "y mask", ratio=0.3)),
    "Dropout with a flag": opset(13, node("Dropout", "x r t", "y"), r=np.float32(0.5),
                                 t=np.array(False)),
    "Clip": opset(13, node("Clip", "x low high", "y"), **SCALARS),
    "Clip above": opset(13, node("Clip", "x  high", "y"), **SCALARS),
    "Clip to infinity": opset(13, node("Clip", "x low inf", "y"), **SCALARS),
    "Clip of old opsets": opset(9, node("Clip", "x", "y", min=0.3)),
    "PRelu": opset(13, node("Sub", "x c", "d"), node("PRelu", "d s", "y"),
                   **weights(c=(3, 1, 1), s=(3, 1, 1))),
    "PRelu of each value": opset(13, node("Sub", "x c", "d"), node("PRelu", "d s", "y"),
                                 **weights(c=(3, 1, 1), s=(4, 5))),
    "Max and Min": opset(13, node("Max", "x c x", "a"), node("Min", "d a", "y"),
                         **weights(c=(5,), d=(1, 1, 4, 1))),
    "Sum": opset(13, node("Sum", "x c x", "y"), **weights(c=(3, 1, 1))),
    "Pow": opset(13, node("Pow", "x two", "y"), two=np.float32(2)),
    "Div by a constant": opset(13, node("Constant", "", "c", value_floats=[1.0, 2, 3, 4, 5]),
                               node("Div", "x c", "y")),
    "a number": opset(13, node("Constant", "", "c", value_float=0.3), node("Sub", "c x", "y")),
    "HardSigmoid": opset(13, node("Sub", "x x", "z"), node("HardSigmoid", "x", "y", alpha=0.4)),
    "Erf": opset(13, node("Erf", "x", "y")),
    "Gelu": opset(20, node("Gelu", "x", "y", approximate="tanh")),
    "Softmax of images": opset(13, node("Softmax", "x", "y", axis=1)),
    "Softmax of old opsets": opset(11, node("Softmax", "x", "y", axis=2)),
    "Expand": opset(13, node("ReduceMax", "x", "m", axes=[3]), node("Expand", "m s", "y"),
                    s=numbers(1, 1, 4, 2)),
    "ReduceSum": opset(13, node("ReduceSum", "x i", "y", keepdims=0), i=numbers(-1)),
    "ReduceMean of channels": opset(18, node("ReduceMean", "x i", "y"), i=numbers(1)),
    "ReduceL2": opset(11, node("ReduceL2", "x", "n", axes=[1]), node("Div", "x n", "y")),
    "attention": opset(13, node("Transpose", "x", "t", perm=[0, 1, 3, 2]),
                       node("MatMul", "x t", "p"), node("Softmax", "p", "s", axis=-1),
                       node("MatMul", "s x", "y")),
    "weights on the left": opset(13, node("MatMul", "w x", "h"), node("Add", "h b", "y"),
                                 **weights(w=(2, 4), b=(2, 1))),
    "a dead branch": opset(13, node("NonZero", "x", "nowhere"), node("Relu", "x", "y")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_dialect_agrees_with_onnxruntime(name, tmp_path):
    version, nodes, constants = CASES[name]
    nodes = [*nodes, node("Flatten", "y", "flat")]
    model = model_of(nodes, (3, 4, 5), constants, opset=version, output="flat")
    # The two constants have one row; torch's instance norm takes no empty batch.
    dynamic, empty = name not in ("Expand", "Concat with a constant"), "GroupNorm" not in name
    agree(model, tmp_path / "m.onnx", dynamic=dynamic, empty=empty)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"transA": 1}, {"w": (1, 4), "c": (6, 1)}),
        ({"transB": 1, "alpha": 0.5, "beta": 3.0}, {"w": (4, 6), "c": (4,)}),
        ({}, {"w": (6, 4), "c": ()}),
    ],
)
def test_every_form_of_gemm(options, shapes, tmp_path):
    nodes = [node("Gemm", "x w c", "h", **options), node("Flatten", "h", "y", axis=0)]
    agree(model_of(nodes, (6,), weights(**shapes), batch=1), tmp_path / "m.onnx")
    if options.get("transB"):  # W x^T, then back
        nodes = [node("Gemm", "w x c", "h", **options), node("Transpose", "h", "y")]
        constants = weights(w=(4, 6), c=(4, 1))
        agree(model_of(nodes, (6,), constants, batch=1), tmp_path / "m.onnx")


ORDINARY = {
    "Max with zero": ([node("Max", "x zero", "y")], "ReLU"),
    "Clip at zero": ([node("Clip", "x zero", "y")], "ReLU"),
    "Clip from 0 to 6": ([node("Clip", "x zero six", "y")], "ReLU6"),
    "one slope": ([node("PRelu", "x six", "y")], "PReLU"),
    "a cast": ([node("Cast", "x", "d", to=1), node("Neg", "d", "y")], "Identity"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_layer_where_it_is_equal(name, tmp_path):
    nodes, kind = ORDINARY[name]
    constants = {"zero": np.float32(0), "six": np.float32(6)}
    read = agree(model_of(nodes, (5,), constants), tmp_path / "m.onnx", dynamic=True)
    assert kinds(read.module)[0] == kind


@pytest.mark.parametrize("ir", [3, 8])
def test_old_files_list_their_weights_as_inputs(ir, tmp_path):
    nodes = [node("Flatten", "x", "h"), node("Gemm", "h w c", "y")]
    model = model_of(nodes, (2, 3), weights(w=(6, 4), c=(4,)), opset=7, ir=ir, listed=True)
    agree(model, tmp_path / "m.onnx", dynamic=True)
    if ir == 3:  # or do not, against the rules of their time
        model = model_of(nodes, (2, 3), weights(w=(6, 4), c=(4,)), opset=7, ir=ir)
        onnx.save(model, tmp_path / "m.onnx")
        assert reader.read(tmp_path / "m.onnx").n_outputs == 4


def test_answers_of_more_dimensions_are_flattened(tmp_path):
    model = model_of([node("GlobalAveragePool", "x", "y")], (3, 4, 4), {}, outputs=list("abcd"))
    assert agree(model, tmp_path / "m.onnx", dynamic=True).n_outputs == 3


def double(scale):
    constants = {k: v.astype("f8") for k, v in weights(w=(6, 4), b=(4,)).items()}
    constants["far"] = np.array(scale)
    nodes = [node("Add", "x far", "h"), node("Sub", "h far", "i"), node("MatMul", "i w", "j"),
             node("Add", "j b", "y")]  # fmt: skip
    return model_of(nodes, (6,), constants, kind=TensorProto.DOUBLE)


def test_float64_is_computed_in_float32_and_it_is_said_where_that_matters(tmp_path, recwarn):
    agree(double(0.5), tmp_path / "m.onnx", dynamic=True)
    assert not [w for w in recwarn if "float64" in str(w.message)]
    onnx.save(double(1e6), tmp_path / "m.onnx")
    with pytest.warns(UserWarning, match=r"in float64, the workbench in float32: .* change by up"):
        read = reader.read(tmp_path / "m.onnx")
    assert not any(t.dtype == torch.float64 for t in read.module.state_dict().values())


def test_float64_weights_in_a_float32_graph(tmp_path):
    nodes = [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("MatMul", "d w", "m"),
             node("Cast", "m", "y", to=TensorProto.FLOAT)]  # fmt: skip
    constants = {"w": weights(w=(6, 4))["w"] * np.pi}
    agree(model_of(nodes, (6,), {"w": constants["w"].astype("f8")}), tmp_path / "m.onnx")


@pytest.mark.parametrize("cast", [False, True])
def test_half_precision_is_computed_in_float32(cast, tmp_path):
    constants = {"w": weights(w=(6, 4))["w"].astype("f2")}
    if cast:
        nodes = [node("Cast", "w", "v", to=1), node("MatMul", "x v", "y")]
        agree(model_of(nodes, (6,), constants), tmp_path / "m.onnx")
    else:
        model = model_of([node("MatMul", "x w", "y")], (6,), constants, kind=TensorProto.FLOAT16)
        agree(model, tmp_path / "m.onnx", atol=5e-3)
