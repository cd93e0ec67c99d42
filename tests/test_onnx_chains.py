"""Random chains of nodes: what is read equals onnxruntime, or is refused for one of few reasons."""

import contextlib
import math
import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime", reason="needs onnxruntime to compare with")
import torch
from onnx import helper, numpy_helper
from onnx_graphs import model_of, numbers, session

from workbench.models import onnx as reader

SHAPES = [(1, 2, 5, 4), (1, 3, 6), (1, 6), (1, 4, 1), (5,), (4, 3), (3, 4, 4), (1, 2, 3, 4, 3)]
REASONS = "would mix the batch|[Oo]utput size"  # the second: a window larger than the image
UNARY = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "LeakyRelu", "Elu", "HardSigmoid", "Dropout",
         "Identity", "Sign", "Softplus"]  # fmt: skip


class SkipStep(Exception):
    """A node does not fit where it would stand."""


def need(condition):
    if not condition:
        raise SkipStep


class Chain:
    """Nodes one after the other, each tried by onnxruntime on one image."""

    def __init__(self, draw, shape, opset):
        self.draw, self.shape, self.opset, self.last = draw, shape, opset, "x"
        self.nodes, self.constants = [], {}
        image = np.random.default_rng(0).uniform(size=shape)
        self.values = {"x": image.astype("f4")}

    def __repr__(self):
        nodes = [helper.printable_node(made) for made in self.nodes]
        return "\n".join([str(self.values["x"].shape), *nodes, str(self.constants)])

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def number(self, low, high):
        return self.draw(st.integers(low, high))

    def axis(self):
        """Any axis but a batch of one."""
        return self.number(int(len(self.shape) > 1 and self.shape[0] == 1), len(self.shape) - 1)

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weights(self, *shape):
        values = np.random.default_rng(self.number(0, 99)).normal(size=shape, scale=0.5)
        return self.constant(values.astype("f4"))

    def add(self, op, *inputs, outputs=1, pick=0, **attributes):
        """Add a node, if onnxruntime takes it and what it makes is small."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        made = helper.make_node(op, inputs, names, **attributes)
        used = {name: self.values[name] for name in inputs if name in self.values}
        kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in used.items()}
        graph = helper.make_graph(
            [made],
            "one",
            [helper.make_tensor_value_info(k, kinds[k], v.shape) for k, v in used.items()],
            [onnx.ValueInfoProto(name=name) for name in names],
            [numpy_helper.from_array(c, k) for k, c in self.constants.items() if k in inputs],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        try:
            result = session(model).run(names, used)[pick]
        except Exception:
            raise SkipStep from None
        whole = result.dtype.kind == "i"
        need(whole or (result.ndim and 0 < result.size <= 600 and np.abs(result).max() < 1e3))
        self.nodes.append(made)
        self.values[names[pick]] = result
        if not whole:
            self.last, self.shape = names[pick], result.shape
        return names[pick]

    def follow(self, op, *values, since=13, names=(), **attributes):
        """A node on the last value; `values` are inputs since an opset, attributes before it."""
        if self.opset < since:
            return self.add(op, self.last, **dict(zip(names, values, strict=True)), **attributes)
        return self.add(op, self.last, *(self.constant(numbers(*v)) for v in values), **attributes)


def unary(chain):
    chain.add(chain.pick(*UNARY), chain.last)


def clip(chain):
    if chain.opset < 11:
        chain.add("Clip", chain.last, min=-0.25, max=0.5)
    else:
        low, high = (chain.constant(np.float32(v)) for v in (-0.25, 0.5))
        chain.add("Clip", chain.last, *chain.pick([low, high], ["", high], [low]))


def binary(chain):
    op, rank = chain.pick("Add", "Sub", "Mul", "Max", "Min", "PRelu"), len(chain.shape)
    sizes = [chain.pick(n, 1) for n in chain.shape[chain.number(0, rank) :]]
    both = [chain.last, chain.weights(*sizes)]
    chain.add(op, *(both if op == "PRelu" else chain.pick(both, both[::-1])))


def meet(chain):
    floats = [name for name, value in chain.values.items() if value.dtype == np.float32]
    chain.add(chain.pick("Add", "Mul", "Sum"), chain.last, chain.pick(*floats))


def transpose(chain):
    chain.add("Transpose", chain.last, perm=chain.draw(st.permutations(range(len(chain.shape)))))


def reshape(chain):
    count = math.prod(chain.shape)
    n = chain.pick(*(n for n in range(1, count + 1) if count % n == 0))
    target = chain.pick([], [1]) + chain.pick([n, -1], [-1, n], [n, 1, -1], [-1])
    chain.add("Reshape", chain.last, chain.constant(numbers(*target)))


def flatten(chain):
    chain.add("Flatten", chain.last, axis=chain.number(0, len(chain.shape)))


def view(chain):
    """`x.view(x.size(0), -1)`, with the size from the graph."""
    value, size = chain.last, chain.add("Shape", chain.last)
    first = chain.add("Gather", size, chain.constant(np.array(0)), axis=0)
    zeros = [chain.constant(numbers(0))] if chain.opset >= 13 else []
    first = chain.add("Unsqueeze", first, *zeros, **({} if zeros else {"axes": [0]}))
    target = chain.add("Concat", first, chain.constant(numbers(-1)), axis=0)
    chain.add("Reshape", value, target)


def squeeze(chain):
    rank = len(chain.shape)
    ones = [i for i, n in enumerate(chain.shape) if n == 1]
    if chain.pick(True, False) or not ones:
        axis = chain.number(0 if chain.opset < 11 else -rank - 1, rank)
        chain.follow("Unsqueeze", [axis], names=["axes"])
    else:
        chain.follow("Squeeze", [chain.pick(*ones)], names=["axes"])


def slice_(chain):
    axis, names = chain.axis(), ["starts", "ends", "axes"]
    n = chain.shape[axis]
    start, end, step = (
        chain.number(-n - 2, n + 2),
        chain.number(-n - 2, n + 2),
        chain.pick(1, 2, -1, -2),
    )
    end = chain.pick(end, 2**31 - 1 if step > 0 else -(2**31) + 1)
    steps = [[step]] if chain.opset >= 10 else []
    chain.follow("Slice", [start], [end], [axis], *steps, since=10, names=names)


def gather(chain):
    axis = chain.axis()
    place = st.integers(-chain.shape[axis], chain.shape[axis] - 1)
    places = chain.draw(st.one_of(place, st.lists(place, min_size=1, max_size=3)))
    chain.add("Gather", chain.last, chain.constant(np.array(places)), axis=axis)


def split(chain):
    axis = chain.axis()
    need(chain.shape[axis] > 1)
    n = chain.number(1, chain.shape[axis] - 1)
    sizes, pick = [n, chain.shape[axis] - n], chain.pick(0, 1)
    chain.follow("Split", sizes, names=["split"], axis=axis, outputs=2, pick=pick)


def concat(chain):
    both = [chain.last, chain.pick(chain.last, chain.weights(*chain.shape))]
    chain.add("Concat", *chain.pick(both, both[::-1]), axis=chain.axis())


def pad(chain):
    rank, mode = len(chain.shape), chain.pick("constant", "edge", "reflect")
    batch = int(rank > 1 and chain.shape[0] == 1)
    need(mode == "constant" or (rank in (3, 4) and batch))
    still = 2 if mode != "constant" else batch  # torch reflects what is spatial
    sides = [chain.number(-1 if mode == "constant" else 0, 2) for _ in range(2 * (rank - still))]
    pads = [0] * still + sides[: rank - still] + [0] * still + sides[rank - still :]
    chain.follow("Pad", pads, since=11, names=["pads"], mode=mode)


def reduce_(chain):
    op = chain.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")
    axes, keep = sorted({chain.axis(), chain.axis()}), chain.pick(0, 1)
    since = 13 if op == "ReduceSum" else 99
    chain.follow(op, axes, since=since, names=["axes"], keepdims=keep)


def matmul(chain):
    m, column = chain.number(1, 6), len(chain.shape) > 1
    if chain.pick(True, False) or (len(chain.shape) == 2 and chain.shape[0] == 1):
        product = chain.add("MatMul", chain.last, chain.weights(chain.shape[-1], m))
        bias = chain.pick((m,), (1, m))
    else:
        k = chain.shape[-2] if column else chain.shape[0]
        product = chain.add("MatMul", chain.weights(m, k), chain.last)
        bias = (m, 1) if column else (m,)
    if chain.pick(True, False):
        chain.add("Add", product, chain.weights(*bias))


def gemm(chain):
    need(len(chain.shape) == 2)
    m, a, b = chain.number(1, 5), chain.pick(0, 1), chain.pick(0, 1)
    if chain.pick(True, False):
        k, rows, columns = chain.shape[b], m, chain.shape[1 - b]
        both = [chain.weights(*((k, m) if a else (m, k))), chain.last]
    else:
        k, rows, columns = chain.shape[1 - a], chain.shape[a], m
        both = [chain.last, chain.weights(*((m, k) if b else (k, m)))]
    bias = chain.pick(None, (), (columns,), (1, columns), (rows, 1), (rows, columns))
    both += [] if bias is None else [chain.weights(*bias)]
    options = {"alpha": chain.pick(1.0, 0.5), "beta": chain.pick(1.0, -2.0)}
    chain.add("Gemm", *both, transA=a, transB=b, **options)


def window(chain):
    n = len(chain.shape) - 2
    need(n in (1, 2, 3) and chain.shape[0] == 1)
    size = [chain.number(1, 3) for _ in range(n)]
    options = {"kernel_shape": size, "strides": [chain.number(1, 3) for _ in range(n)]}
    auto = chain.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto == "NOTSET":
        return options | {"pads": [chain.number(0, k - 1) for k in (*size, *size)]}
    return options | {"auto_pad": auto}


def conv(chain):
    options, back = window(chain), chain.pick(True, False, False)
    size, automatic = options["kernel_shape"], "auto_pad" in options
    c, m = chain.shape[1], chain.number(1, 3)
    group = chain.pick(1, c)
    if back:
        need(not automatic)
        weight = chain.weights(c, m, *size)
    else:
        weight = chain.weights(m * group, c // group, *size)
    if not automatic:
        options["dilations"] = [chain.number(1, 2) for _ in size]
    op = "ConvTranspose" if back else "Conv"
    chain.add(op, chain.last, weight, chain.weights(m * group), group=group, **options)


def pool(chain):
    options, op = window(chain), chain.pick("MaxPool", "AveragePool")
    if chain.opset >= 10 and "auto_pad" not in options:
        options["ceil_mode"] = chain.pick(0, 1)
    if op == "AveragePool":
        options["count_include_pad"] = chain.pick(0, 1)
    chain.add(op, chain.last, **options)


def norm(chain):
    need(2 <= len(chain.shape) <= 5 and chain.shape[0] == 1)
    c = chain.shape[1]
    parts = [chain.weights(c) for _ in range(3)] + [chain.constant(np.full(c, 0.7, "f4"))]
    chain.add("BatchNormalization", chain.last, *parts, epsilon=1e-3)


def softmax(chain):
    chain.add(chain.pick("Softmax", "LogSoftmax"), chain.last, axis=chain.axis())


STEPS = [unary, clip, binary, meet, transpose, reshape, flatten, view, squeeze, slice_, gather,
         split, concat, pad, reduce_, matmul, gemm, conv, pool, norm, softmax]  # fmt: skip


@st.composite
def chains(draw):
    chain = Chain(draw, draw(st.sampled_from(SHAPES)), draw(st.sampled_from([9, 11, 13])))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        with contextlib.suppress(SkipStep):
            step(chain)
    chain.add("Flatten", chain.last, axis=0)
    return chain


def model(chain):
    shape = list(chain.values["x"].shape)
    end = {"output": chain.last, "outputs": list(chain.shape)}
    return model_of(chain.nodes, shape, chain.constants, batch=None, opset=chain.opset, **end)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(chain=chains())
@pytest.mark.filterwarnings("ignore:.*no batch dimension")
def test_a_random_chain_equals_onnxruntime(chain, tmp_path_factory):
    path, shape = tmp_path_factory.mktemp("chain") / "m.onnx", chain.values["x"].shape
    path.write_bytes(model(chain).SerializeToString())
    try:
        read = reader.read(path)
    except ValueError as error:
        assert re.search(REASONS, str(error)), str(error)  # noqa: PT017
        return
    images = np.random.default_rng(1).uniform(-1, 1, size=(3, *read.input_shape)).astype("f4")
    run = session(model(chain))
    expected = [run.run(None, {"x": image.reshape(shape)})[0].ravel() for image in images]
    with torch.no_grad():
        ours = read.module(torch.from_numpy(images))
    np.testing.assert_allclose(ours, expected, atol=1e-3, rtol=1e-3)
