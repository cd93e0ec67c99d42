"""Small ONNX graphs for tests, and the comparison of what is read with onnxruntime."""

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from workbench.models import onnx as reader


def weights(seed=0, **shapes):
    """Arrays of random weights by name; ready arrays pass through."""
    generator = np.random.default_rng(seed)
    return {
        name: value
        if isinstance(value, np.ndarray)
        else generator.normal(size=value, scale=0.5).astype(np.float32)
        for name, value in shapes.items()
    }


def model_of(
    nodes,
    shape,
    constants,
    *,
    batch="N",
    opset=13,
    kind=TensorProto.FLOAT,
    output="y",
    outputs=("a", "b"),
    made=None,
    ir=8,
    listed=False,
):
    """A model of one input `x`; batch None: it has no such dimension. listed: as inputs too."""
    sizes = shape if batch is None else [batch, *shape]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    also = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, sizes), *(also if listed else [])],
        [helper.make_tensor_value_info(output, made or kind, outputs)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(" ") if inputs else [], output.split(), **attributes)


def numbers(*values):
    return np.array(values, dtype=np.int64)


def session(model):
    """The model in onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    content = model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def theirs(model, x):
    """What onnxruntime makes of arrays `x`, one by one, `(len(x), K)`."""
    run = session(model)
    name = run.get_inputs()[0].name
    return np.stack([run.run(None, {name: image})[0].ravel() for image in x])


def agree(model, path, *, batch=True, dynamic=False, images=4, atol=1e-5, empty=True):
    """Read `model`, compare it with onnxruntime, check its batches and its gradients."""
    onnx.save(model, path)
    read = reader.read(path)
    x = np.random.default_rng(1).uniform(size=(images, *read.input_shape)).astype(np.float32)
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    given = torch.from_numpy(x).requires_grad_()
    ours = read.module(given)
    assert ours.shape == (images, read.n_outputs)
    assert ours.dtype == torch.float32
    assert not empty or read.module(given[:0]).shape == (0, read.n_outputs)
    single = theirs(model, [image[None] if batch else image for image in x.astype(kind)])
    np.testing.assert_allclose(ours.detach(), single, atol=atol, rtol=1e-4)
    if dynamic:
        together = theirs(model, [x.astype(kind)]).reshape(single.shape)
        np.testing.assert_allclose(ours.detach(), together, atol=atol, rtol=1e-4)
    ours[0].sum().backward()
    assert not given.grad[1:].any(), "images of a batch influence each other"
    assert not any(m.training for m in read.module.modules())
    assert not any(t.dtype == torch.float64 for t in read.module.state_dict().values())
    return read


def kinds(module):
    return [type(layer).__name__ for layer in module.children()]
