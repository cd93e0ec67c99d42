import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, models
from workbench.models import onnx as reader

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime to compare with")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_graphs import agree, kinds, model_of, node, numbers, weights  # noqa: E402

ACCURACIES = {"mnist-net_256x2": 0.981, "mnist-net_256x4": 0.976, "mnist-net_256x6": 0.969}


@pytest.mark.parametrize("name", ACCURACIES)
def test_vnncomp_networks_agree_with_onnxruntime(name, real_data):
    path = real_data / "vnncomp2021_mnistfc" / f"{name}.onnx"
    if not path.is_file() or not (real_data / "mnist").is_dir():
        pytest.skip("needs MNIST and the VNN-COMP 2021 networks")
    found = reader.read(path)
    assert (found.input_shape, found.n_outputs) == ((784, 1), 10)
    assert set(kinds(found.module)) == {"Flatten", "Linear", "ReLU"}
    mnist = data.load("mnist")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = torch.rand(100, 784, 1, generator=torch.Generator().manual_seed(0))
    x = torch.cat([random, mnist.images[:100].reshape(100, 784, 1)])
    theirs = np.concatenate([session.run(None, {"0": image[None].numpy()})[0] for image in x])
    with torch.no_grad():
        np.testing.assert_allclose(found.module(x), theirs, atol=1e-5)
    model = models.load(f"onnx:{path}", input_shape=(1, 28, 28))
    assert [layer.shape for layer in model.layers().values()][-2:] == [(10,), (10,)]
    accuracy = float((model.predict(mnist.images).label == mnist.labels).float().mean())
    assert accuracy == pytest.approx(ACCURACIES[name], abs=5e-4)


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("gemm", [{}, {"transB": 1, "alpha": 0.3, "beta": -2.0}])
def test_a_convolutional_network(gemm, batch, tmp_path):
    constants = weights(w=(4, 2, 3, 3), b=(4,), scale=(4,), shift=(4,), mean=(4,), c=(5,))
    constants |= weights(1, fc=(5, 12) if gemm else (12, 5), var=np.full(4, 0.7, "f4"))
    nodes = [
        node("Conv", "x w b", "h1", kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="/block.0/Conv"),
        node("BatchNormalization", "h1 scale shift mean var", "h2", epsilon=1e-3),
        node("Relu", "h2", "h3", name="/block.0/relu"),
        node("MaxPool", "h3", "h4", kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "h4", "h5", kernel_shape=[2, 1], strides=[2, 2], name="class"),
        node("Flatten", "h5", "h6"),
        node("Gemm", "h6 fc c", "y", **gemm),
    ]
    before = torch.get_rng_state()
    model = model_of(nodes, (2, 6, 12), constants, batch=batch)
    module = agree(model, tmp_path / "m.onnx", dynamic=batch == "N").module
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: type(layer).__name__ for name, layer in module.named_children()} == {
        "block_0_Conv": "Conv2d",
        "batchnormalization_1": "BatchNorm2d",
        "block_0_relu": "ReLU",
        "maxpool_3": "MaxPool2d",
        "class": "AvgPool2d",
        "flatten_5": "Flatten",
        "gemm_6": "Linear",
    }


def residual():
    constants = weights(w=(2, 2, 3, 3), fc=(2, 3))
    nodes = [
        node("Conv", "x w", "h1", pads=[1, 1, 1, 1], name="forward"),
        node("Relu", "h1", "h2", name="/twin.0"),
        node("Add", "h2 x", "h3", name="twin/0"),
        node("GlobalAveragePool", "h3", "h4"),
        node("Flatten", "h4", "h5"),
        node("MatMul", "h5 fc", "y", name="0"),
    ]
    return model_of(nodes, (2, 5, 5), constants)


def test_a_residual_sum_and_awkward_names(tmp_path):
    found = agree(residual(), tmp_path / "m.onnx", dynamic=True)
    names = [name for name, _ in found.module.named_children()]
    assert names == ["forward_", "twin_0", "twin_0_", "globalaveragepool_3", "flatten_4", "0"]


def test_normalisation_inside_the_graph_and_a_fused_bias(tmp_path):
    constants = weights(fc=(12, 4), bias=(4,), mean=np.full((1, 3, 1, 1), 0.4, "f4"))
    constants |= {"std": np.array(0.3, "f4"), "shape": numbers(1, 12), "one": np.ones(1, "f4")}
    nodes = [
        node("Sub", "x mean", "h1"),
        node("Div", "h1 std", "h2"),
        node("Reshape", "h2 shape", "h3"),
        node("MatMul", "h3 fc", "h4", name="dense"),
        node("Add", "bias h4", "h5"),
        node("Sub", "one h5", "y"),
    ]
    model = model_of(nodes, (3, 2, 2), constants, batch=1)
    found = agree(model, tmp_path / "m.onnx")
    assert kinds(found.module) == [*["Arithmetic"] * 2, "Flatten", "Linear", "Arithmetic"]
    assert torch.equal(found.module.dense.bias, torch.from_numpy(constants["bias"]))


def test_a_bias_is_not_fused_where_the_product_is_used_twice(tmp_path):
    constants = weights(fc=(4, 4), bias=(4,))
    nodes = [node("MatMul", "x fc", "h1"), node("Add", "h1 bias", "h2"), node("Mul", "h1 h2", "y")]
    found = agree(model_of(nodes, (4,), constants), tmp_path / "m.onnx", dynamic=True)
    assert kinds(found.module) == ["Linear", "Arithmetic", "Arithmetic"]


@pytest.mark.parametrize("target", [(1, 12), (-1, 12), (1, -1), (0, -1), (0, 12), (1, 2, 6)])
def test_reshape_keeps_the_batch(target, tmp_path):
    constants = weights(fc=(target[-1] if len(target) > 2 else 12, 3))
    constants["shape"] = numbers(*target)
    nodes = [node("Reshape", "x shape", "h1"), node("MatMul", "h1 fc", "h2")]
    nodes.append(node("Flatten", "h2", "y"))
    model = model_of(nodes, (12, 1), constants, batch=1)
    agree(model, tmp_path / "m.onnx")


EXPORTED = {"mlp": (1, 8, 8), "cnn": (1, 8, 8), "resnet": (3, 16, 16)}


@pytest.mark.parametrize("architecture", EXPORTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_exports_of_our_architectures_is_read(architecture, tmp_path):
    shape, path = EXPORTED[architecture], tmp_path / "m.onnx"
    model = models.architectures.build(architecture, shape, 4).eval()
    torch.onnx.export(model, (torch.zeros(1, *shape),), path, dynamo=False)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(reader.read(path).module(x), model(x), atol=1e-5, rtol=0)


FLAT = node("Flatten", "x", "h")
LAYERS = {
    "LeakyRelu": ([node("LeakyRelu", "x", "y", alpha=0.3)], {}),
    "Sigmoid": ([node("Sigmoid", "x", "y")], {}),
    "Softmax": ([FLAT, node("Softmax", "h", "y")], {}),
    "Dropout": ([node("Dropout", "x half", "y")], {"half": np.array(0.5, "f4")}),
    "Identity": ([node("Identity", "x", "y")], {}),
    "a constant": ([node("Constant", "", "c", value=numpy_helper.from_array(np.ones(5, "f4"))),
                    node("Identity", "c", "d"), node("Sub", "d x", "y")], {}),
    "Mean": ([node("ReduceMean", "x", "y", axes=[2, 3])], {}),
    "Mean without sizes": ([node("ReduceMean", "x", "y", axes=[-1, -2], keepdims=0)], {}),
    "Flatten": ([node("Flatten", "x", "y", axis=-3)], {}),
    "MaxPool": ([node("MaxPool", "x", "y", kernel_shape=[2, 3], strides=[2, 1],
                      pads=[1, 0, 1, 0], auto_pad="NOTSET", dilations=[1, 1])], {}),
    "AveragePool": ([node("AveragePool", "x", "y", kernel_shape=[2, 2], pads=[1] * 4)], {}),
    "AveragePool pads": ([node("AveragePool", "x", "y", kernel_shape=[2, 2], pads=[1] * 4,
                               count_include_pad=1)], {}),
    "Gemm per image": ([FLAT, node("Gemm", "h w c", "y")], weights(w=(60, 3), c=(1, 3))),
    "Gemm scalar": ([FLAT, node("Gemm", "h w c", "y")], weights(w=(60, 3), c=())),
    "MatMul of rank 4": ([node("MatMul", "x w", "y")], weights(w=(5, 2))),
    "Conv groups": ([node("Conv", "x w b", "y", group=3, dilations=[2, 1])],
                    weights(w=(6, 1, 2, 2), b=(6,))),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_agrees_with_onnxruntime(name, tmp_path):
    nodes, constants = LAYERS[name]
    nodes = [*nodes, node("Flatten", "y", "flat")]
    model = model_of(nodes, (3, 4, 5), constants, output="flat")
    agree(model, tmp_path / "m.onnx", dynamic=True)


def test_images_are_arranged_as_the_graph_wants():
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))

    def same(shape):
        return reader.OnnxModel(nn.Identity(), shape, 10)

    assert reader.as_images(same((3, 4, 5)), (3, 4, 5))(x) is x
    assert torch.equal(reader.as_images(same((60, 1)), (3, 4, 5))(x), x.reshape(2, 60, 1))
    grey = x[:, :1]
    assert torch.equal(reader.as_images(same((4, 5, 1)), (1, 4, 5))(grey), grey.reshape(2, 4, 5, 1))
    last = reader.as_images(same((4, 5, 3)), (3, 4, 5))(x)  # as TensorFlow has them
    assert torch.equal(last, x.permute(0, 2, 3, 1))
    with pytest.warns(UserWarning, match=r"channels last\? Then input_shape=\(3, 4, 5\)"):
        reader.as_images(same((4, 5, 3)), (4, 5, 3))
    for shape in ((61,), (5, 4, 3), (3, 5, 4)):
        with pytest.raises(ValueError, match=r"images \(3, 4, 5\) do not fit the graph, which"):
            reader.as_images(same(shape), (3, 4, 5))


SHORT = {"kernel_shape": [2, 2]}
NODES = {
    "an unknown operation": (
        [node("Det", "x", "y", name="odd")],
        "Det node 'odd': not supported. Export .* models.wrap .* Supported: Abs, Add, Av",
    ),
    "another domain": (
        [helper.make_node("Relu", ["x"], ["y"], name="g", domain="com.x")],
        "Relu node 'g' .of com.x.: not supported",
    ),
    "a moved batch": (
        [node("Reshape", "x two", "r"), node("Softmax", "r", "s"),
         node("BatchNormalization", "s v v v v", "y", name="b")],
        r"'b': expected \(N, C, ...\), got shape \(2, 2\)",
    ),
    "a wrong shape": ([node("Reshape", "x five", "y", name="r")], "Reshape node 'r': .*size 4"),
    "a transposed batch": (
        [node("Gemm", "x w", "y", transA=1, name="g")], "'g': mat1 and mat2 shapes"
    ),
    "a constant on the left": (
        [node("MatMul", "w x", "y", name="m")], "'m': constant weights on the left of .1, 4. would"
    ),
    "weights that are computed": (
        [node("Reshape", "x square", "s"), node("Conv", "w x", "y", name="c")],
        "'c': expected a first input computed from the images and constant others",
    ),
    "a constant that widens": ([node("Add", "x wide", "y", name="a")], "constant of shape .2, 4."),
    "constants alone": ([node("Add", "w w", "y", name="a")], "'y': expected .N, classes., comp"),
    "a softmax over the batch": (
        [node("Softmax", "x", "y", axis=0, name="s")], "'s': axis 0 is the batch, whose"
    ),
    "a misfit weight": ([node("Gemm", "x bad", "y", name="g")], "Gemm node 'g': mat1 and mat2"),
    "a misfit bias": ([node("Gemm", "x w column", "y", name="g")], "Gemm node 'g': .*shape"),
    "a flat convolution": ([node("Conv", "x w", "y", name="c")], r"'c': expected \(N, C, H, W\)"),
    "a mean over all": ([node("ReduceMean", "x", "y", name="m")], "'m': axis 0 is the batch, who"),
    "a missing input": ([node("Relu", "nowhere", "y", name="r")], "nowhere"),
    "an unused image": ([node("Identity", "w", "y")], "computed from the images"),
    "outputs of rank 3": ([node("Reshape", "x square", "y")], r"'y': expected \(N, classes\)"),
    "no number": (
        [node("Constant", "", "c", value_string="1"), node("Add", "x c", "y")],
        "the constant 'c': value_string is not supported",
    ),
    "auto_pad with pads": (
        [node("Reshape", "x image", "i"),
         node("MaxPool", "i", "y", name="p", auto_pad="SAME_UPPER", pads=[0, 0, 1, 1], **SHORT)],
        r"MaxPool node 'p': pads=\[0 0 1 1\] with auto_pad=b'SAME_UPPER' are not supported",
    ),
    "auto_pad with ceil_mode": (
        [node("Reshape", "x image", "i"),
         node("AveragePool", "i", "y", name="p", auto_pad="VALID", ceil_mode=1, **SHORT)],
        "AveragePool node 'p': ceil_mode=1 with auto_pad='VALID' is not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_what_is_not_supported_is_refused_by_name(name, tmp_path):
    nodes, message = NODES[name]
    constants = weights(w=(4, 4), wide=(2, 4), bad=(5, 3), column=(4, 1)) | {
        "two": numbers(2, 2),
        "five": numbers(1, 5),
        "square": numbers(1, 2, 2),
        "image": numbers(1, 1, 2, 2),
        "v": np.ones(2, "f4"),
    }
    onnx.save(model_of(nodes, (4,), constants), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message) as caught:
        reader.read(tmp_path / "m.onnx")
    assert str(tmp_path / "m.onnx") in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {"batch": 8}, r"batch size 1 or a free one.* got \[8, 4\]"),
        ((4,), {"kind": TensorProto.INT64}, "export the model in float32"),
        ((4,), {"opset": 6}, r"expected opset 7 or later, got \[6\]"),
        ((), {}, "expected an input"),
        (("H",), {}, "expected an input"),
        ((10**5, 10**5), {}, "expected an input"),
    ],
)
def test_graphs_of_an_unfit_kind_are_refused(shape, options, message, tmp_path):
    onnx.save(model_of([node("Relu", "x", "y")], shape, {}, **options), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        reader.read(tmp_path / "m.onnx")


def test_two_inputs_or_outputs_are_refused(tmp_path):
    extra = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])
    for side, got in (("input", r"\['x', 'z'\] and \['y'\]"), ("output", r"\['y', 'z'\]")):
        model = model_of([node("Relu", "x", "y")], (4,), {})
        if side == "output":
            model.graph.node.append(node("Sigmoid", "x", "z"))
        getattr(model.graph, side).append(extra)
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ValueError, match=f"expected one input and one output, got .*{got}"):
            reader.read(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float32("nan"), "the weights 'w' hold NaN or infinity"),
        (np.float32("inf"), "the weights 'w' hold NaN or infinity"),
        (np.complex64(1), "the weights 'w' are complex64; export the model in float32"),
    ],
)
def test_unfit_weights_are_named(value, message, tmp_path):
    model = model_of([node("MatMul", "x w", "y")], (4,), {"w": np.full((4, 3), value)})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        reader.read(tmp_path / "m.onnx")


def test_weights_in_another_file_are_refused(tmp_path):
    model = model_of([node("MatMul", "x w", "y")], (4,), {"w": np.ones((4, 300), "f4")})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    with pytest.raises(ValueError, match="'w' are in another file"):
        reader.read(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"\x08\x08", b"\x80\x04K\x01.", b"PK\x03\x04"]
)
def test_files_of_another_kind_are_value_errors(content, tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(FileNotFoundError, match="No such file"):
        reader.read(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: not an ONNX file"):
        reader.read(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.onnx"
    onnx.save(residual(), path)
    return path


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 0.999), flip=st.integers(0, 255))
def test_cut_and_spoiled_files_are_read_or_value_errors(saved, share, flip):
    content = bytearray(saved.read_bytes())
    at = int(share * len(content))
    content[at] ^= flip
    path = saved.with_stem("spoiled")
    path.write_bytes(content if flip else content[:at])
    try:
        reader.read(path)
    except ValueError as error:
        assert "spoiled" in str(error)  # noqa: PT017


def test_a_missing_package_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="needs the onnx package: pip install onnx"):
        reader.read(saved)
