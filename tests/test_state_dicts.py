import argparse
import datetime
import json
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
import torch
from foreign_nets import resnet20
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from workbench.data.readers import read_cifar10
from workbench.models import state_dicts


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def save(weights, path):
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors"])
def test_what_was_saved_is_read(suffix, tmp_path):
    weights = net().state_dict()
    assert same(state_dicts.read(save(weights, tmp_path / f"w{suffix}")), weights)


KEYS = ["state_dict", "model", "model_state_dict", "net", "model_state", "ema", "weights", "G"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_common_prefixes_are_dropped(key, prefix, tmp_path):
    weights = net().state_dict()
    wrapped = {key: {prefix + k: v for k, v in weights.items()}, "epoch": 3}
    assert same(state_dicts.read(save(wrapped, tmp_path / "w.pt")), weights)


def trained(steps=2):
    """A network and its optimiser after a few steps."""
    module = net()
    optimiser = torch.optim.Adam(module.parameters())
    for _ in range(steps):
        module(torch.rand(4, 1, 4, 4)).sum().backward()
        optimiser.step()
    return module, optimiser


def test_what_training_leaves_beside_weights_is_passed_over(tmp_path):
    module, optimiser = trained()
    weights = module.state_dict()
    content = {
        "epoch": 3,
        "net": weights,
        "optimizer": optimiser.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimiser, 1).state_dict(),
        "rng_state": torch.get_rng_state(),
        "best": np.float64(0.9),
        "history": np.arange(3.0),
        "metrics": {"accuracy": torch.tensor(0.5)},
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
        "when": datetime.datetime(2020, 1, 1),
        "class_to_idx": {"cat": 0},
    }
    path = save(content, tmp_path / "checkpoint.pth.tar")
    assert same(state_dicts.read(path), weights)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert same(state_dicts.read(path), weights)


def test_weights_two_levels_down_are_found(tmp_path):
    weights = net().state_dict()
    path = save({"run": {"state": {"net": weights}}, "step": 1}, tmp_path / "w.pt")
    assert same(state_dicts.read(path), weights)
    assert same(state_dicts.read(f"{path}#run.state.net"), weights)
    circle = {"epoch": 1}
    circle["self"] = circle
    with pytest.raises(ValueError, match="got dict with epoch, self"):
        state_dicts.read(save(circle, tmp_path / "circle.pt"))


TWO = [("G", "D"), ("model", "model_ema"), ("teacher", "student"), ("state_dict", "ema_state_dict")]


@pytest.mark.parametrize("keys", TWO)
def test_of_several_models_one_is_chosen(keys, tmp_path):
    first, second = net(), net()
    content = {keys[0]: first.state_dict(), keys[1]: second.state_dict(), "epoch": 3}
    path = save(content, tmp_path / "w.pt")
    words = rf"holds several models: {keys[0]}, {keys[1]}; .*behind a #, as in w.pt#{keys[0]}"
    with pytest.raises(ValueError, match=words):
        state_dicts.read(path)
    with pytest.raises(ValueError, match=rf"several models.*those that fit: {', '.join(keys)}"):
        state_dicts.load_into(net(), path)
    assert same(state_dicts.read(f"{path}#{keys[1]}"), second.state_dict())
    with pytest.raises(ValueError, match=f"unknown model in .* 'nope'.*Known: {keys[0]}, "):
        state_dicts.read(f"{path}#nope")


def test_of_several_models_the_one_that_fits_is_taken(tmp_path):
    source, target = net(), net()
    content = {"critic": nn.Linear(3, 1).state_dict(), "actor": source.state_dict()}
    state_dicts.load_into(target, save(content, tmp_path / "w.pt"))
    assert same(target.state_dict(), source.state_dict())
    with pytest.raises(ValueError, match="critic, actor; say which"):
        state_dicts.load_into(nn.Linear(9, 9), tmp_path / "w.pt")


def prefixed(weights, prefix):
    return {prefix + name: weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "backbone.", "encoder.module.", "module.net."]
)
def test_a_prefix_that_makes_names_fit_is_dropped(prefix, tmp_path):
    source, target = net(), net()
    lightning = {"state_dict": prefixed(source.state_dict(), prefix), "hyper_parameters": {"lr": 1}}
    path = save(lightning, tmp_path / "last.ckpt")
    state_dicts.load_into(target, path)
    assert same(target.state_dict(), source.state_dict())


def test_what_has_another_prefix_is_passed_over_and_named(tmp_path):
    source, target = net(), net()
    weights = prefixed(source.state_dict(), "model.") | {"criterion.weight": torch.ones(3)}
    with pytest.warns(UserWarning, match=r"under 'model\.' fit; passed over: criterion\.weight"):
        state_dicts.load_into(target, save(weights, tmp_path / "w.ckpt"))
    assert same(target.state_dict(), source.state_dict())


def test_two_prefixes_that_fit_are_named_and_one_can_be_chosen(tmp_path):
    teacher, student, target = net(), net(), net()
    weights = prefixed(teacher.state_dict(), "teacher.") | prefixed(
        student.state_dict(), "student."
    )
    path = save({"state_dict": weights}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=r"several models: teacher, student; .*w\.ckpt#teacher"):
        state_dicts.load_into(target, path)
    state_dicts.load_into(target, f"{path}#student")
    assert same(target.state_dict(), student.state_dict())
    assert same(state_dicts.read(f"{path}#teacher"), teacher.state_dict())


def test_a_prefix_of_the_module_is_added(tmp_path):
    source, target = net(), nn.Sequential(nn.Identity(), net())
    state_dicts.load_into(target, save(source.state_dict(), tmp_path / "w.pt"))
    assert same(target[1].state_dict(), source.state_dict())


def shards(weights, folder, kind="safetensors"):
    """Weights in two files and an index, as transformers writes them."""
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    places = {}
    for i, names in enumerate((list(weights)[::2], list(weights)[1::2]), start=1):
        file = f"{stem}-0000{i}-of-00002.{kind}"
        save({name: weights[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(kind, tmp_path):
    weights = net().state_dict()
    index = shards(weights, tmp_path, kind)
    assert same(state_dicts.read(index), weights)
    if kind == "safetensors":
        assert same(state_dicts.read(tmp_path), weights)


def test_a_folder_with_one_file_is_that_file(tmp_path):
    weights = net().state_dict()
    save(weights, tmp_path / "best.pth")
    (tmp_path / "notes.txt").write_text("")
    assert same(state_dicts.read(tmp_path), weights)
    save(weights, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"got best\.pth, last\.pth; name the file"):
        state_dicts.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
            FileNotFoundError,
            "fetch it",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), ValueError, "no index"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "../other/model.safetensors"}})
            ),
            ValueError,
            "no file of weights beside it",
        ),
        (
            lambda f: save({"x": torch.ones(1)}, f / "model-00002-of-00002.safetensors"),
            ValueError,
            "is not in model-00002",
        ),
    ],
)
def test_damaged_shards_are_named(change, error, words, tmp_path):
    index = shards(net().state_dict(), tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=words):
        state_dicts.read(index)


class Payload:
    """A pickle that would make a folder when it is opened."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["torch", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_code_is_refused_and_not_run(how, protocol, tmp_path):
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    if how == "torch":
        torch.save({"w": torch.ones(1), "x": Payload(trace)}, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(Payload(trace), protocol=protocol))
    with pytest.raises(ValueError, match=r"w\.pt is refused.*nothing is unpickled.*torch\.save"):
        state_dicts.read(path)
    assert not trace.exists()


def test_a_whole_module_is_refused_by_name(tmp_path):
    torch.save(net(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"it holds torch\.nn\.modules"):
        state_dicts.read(tmp_path / "w.pt")


NOT_WEIGHTS = [
    ([torch.ones(1)], "expected named tensors, got list"),
    ({}, "expected named tensors, got dict"),
    ({"a": torch.ones(1), "b": 3}, "got int under 'b'"),
    ({"a": {"b": 1}, "c": 2}, "expected named tensors, got dict with a, c"),
    ({"a": torch.ones(1), "b": {"c": 1}}, "got dict under 'b'"),
    ({"a": torch.ones(1), "b": np.float64(1)}, "got scalar under 'b'"),
    ({"w": torch.tensor([1.0, float("nan")])}, "'w' holds NaN or infinity"),
    ({"w": torch.tensor([1.0, float("inf")], dtype=torch.float16)}, "'w' holds NaN or infinity"),
    ({"w": torch.eye(2).to_sparse()}, "'w' is sparse"),
]


@pytest.mark.parametrize(("content", "message"), NOT_WEIGHTS)
def test_other_things_than_weights_are_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        state_dicts.read(save(content, tmp_path / "w.pt"))


def test_no_file_and_an_unknown_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        state_dicts.read(tmp_path / "nowhere.pt")
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"w\.h5: expected a file of weights \(\.pt, "):
        state_dicts.read(tmp_path / "w.h5")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights in three formats, for cutting and spoiling."""
    folder = tmp_path_factory.mktemp("saved")
    weights = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}
    save(weights, folder / "zip.pt")
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)
    save(weights, folder / "w.safetensors")
    return [folder / name for name in ("zip.pt", "old.pt", "w.safetensors")]


@settings(max_examples=150, deadline=None)
@given(kind=st.integers(0, 2), share=st.floats(0, 0.99), flip=st.integers(0, 255))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received")
def test_cut_and_spoiled_files_are_read_or_value_errors(saved, kind, share, flip):
    content = bytearray(saved[kind].read_bytes())
    at = int(share * len(content))
    content[at] ^= flip
    path = saved[kind].with_stem("spoiled")
    path.write_bytes(content if flip else content[:at])
    try:
        weights = state_dicts.read(path)
    except ValueError as error:
        assert "spoiled" in str(error)  # noqa: PT017
    else:
        assert all(isinstance(w, torch.Tensor) for w in weights.values())


def safetensors_bytes(header, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * 8


def one_tensor(dtype, shape, *offsets):
    return safetensors_bytes({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


HOSTILE = {
    "huge length": safetensors_bytes({}, length=2**63),
    "length past the end": safetensors_bytes({}, length=10**6),
    "not JSON": safetensors_bytes(b"import os"),
    "not an object": safetensors_bytes([1]),
    "offsets past the end": one_tensor("F32", [200], 0, 800),
    "offsets backwards": one_tensor("F32", [2], 8, 0),
    "shape that overflows": one_tensor("F32", [2**40, 2**40], 0, 8),
    "shape that lies": one_tensor("F32", [3], 0, 8),
    "unknown type": one_tensor("F99", [2], 0, 8),
    "type torch lacks here": one_tensor("F4", [16], 0, 8),
    "empty": b"",
    "text": b"hello world, these are no weights",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_headers_are_value_errors(name, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=str(path)):
        state_dicts.read(path)


def test_load_into_copies_in_place(tmp_path):
    source, target = net(), net()
    path = save(source.state_dict(), tmp_path / "w.pt")
    parameter = target[0].weight
    state_dicts.load_into(target, path)
    assert same(target.state_dict(), source.state_dict())
    assert target[0].weight is parameter
    assert parameter.requires_grad


def test_load_into_a_wrapped_module(tmp_path):
    source, target = net(), nn.DataParallel(net())
    state_dicts.load_into(target, save(source.state_dict(), tmp_path / "w.pt"))
    assert same(target.module.state_dict(), source.state_dict())


MISFITS = [
    (lambda w: w.pop("3.bias"), "missing: 3.bias"),
    (lambda w: w.update(extra=torch.ones(1)), "unexpected: extra"),
    (lambda w: w.update({"3.bias": torch.ones(4)}), r"3.bias \(4,\) in the file, \(3,\) in the"),
    (lambda w: w.update({f"x{i}": torch.ones(1) for i in range(7)}), "x4 and 2 more"),
    (lambda w: w.update({"3.bias": torch.tensor([0, 0, float("nan")])}), "'3.bias' holds NaN"),
    (lambda w: w.update({"3.bias": torch.full((3,), 1e300, dtype=torch.double)}), "infinity"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_a_misfit_leaves_the_module_as_it_was(change, message, tmp_path):
    weights = net().state_dict()
    change(weights)
    target = net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        state_dicts.load_into(target, save(weights, tmp_path / "w.pt"))
    assert same(target.state_dict(), before)


def test_weights_without_the_batch_counter_load(tmp_path):
    weights = {k: v for k, v in net().state_dict().items() if "num_batches" not in k}
    state_dicts.load_into(net(), save(weights, tmp_path / "w.pt"))


def test_the_real_resnet20_reaches_its_accuracy(real_data):
    """925 of the first 1000 test images; 0.9173 over all 10,000."""
    path, net = real_data / "nets" / "resnet20-12fca82f.th", resnet20()
    if not path.is_file():
        pytest.skip("needs the real CIFAR-10 network")
    state_dicts.load_into(net, path)
    images, labels = read_cifar10(real_data / "cifar10/cifar-10-batches-bin/test_batch.bin", 1000)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (torch.from_numpy(images.copy()).float() / 255 - mean) / std
    with torch.no_grad():
        predicted = torch.cat([net(batch).argmax(1) for batch in x.split(250)])
    assert abs(int((predicted == torch.from_numpy(labels)).sum()) - 925) <= 1
