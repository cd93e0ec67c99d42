"""Classifiers, wrapping and weights files."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.models import checkpoints
from workbench.models.architectures import ARCHITECTURES, build
from workbench.models.classifier import Classifier
from workbench.models.model_card import ModelCard


def linear(n_in=64, n_out=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(n_in, n_out))


def wrapped(module=None, **options):
    return models.wrap(module or linear(), **{"input_shape": (1, 8, 8), "classes": 10, **options})


# Architectures


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_architectures_map_images_to_logits(name, shape):
    net = build(name, shape, 7).eval()
    assert net(torch.rand(2, *shape)).shape == (2, 7)


def test_resnet_has_the_depth_it_says():
    weighted = [m for m in build("resnet", (3, 32, 32), 10, depth=14).modules()]
    convolutions = [m for m in weighted if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 14


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cn", {}, "Did you mean 'cnn'"),
        ("cnn", {"widths": 3}, "unknown option of cnn"),
        ("resnet", {"depth": 9}, "6n \\+ 2"),
        ("vit", {"patch": 5}, "divisor"),
        ("vit", {"heads": 3}, "heads"),
    ],
)
def test_architectures_refuse_what_they_cannot_build(name, options, words):
    with pytest.raises(ValueError, match=words):
        build(name, (3, 32, 32), 10, **options)


# The classifier


def test_normalisation_is_inside():
    module = nn.Flatten()
    model = models.wrap(module, input_shape=(3, 1, 1), mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.4))
    x = torch.rand(5, 3, 1, 1)
    expected = (x.flatten(1) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.3, 0.2, 0.4])
    assert torch.allclose(model(x), expected)


def test_predict_is_the_same_in_any_batches_and_takes_none():
    model = models.load("digits/cnn")
    x = data.load("digits").images[:50]
    whole, parts = model.predict(x), model.predict(x, batch_size=7)
    assert torch.allclose(whole.logits, parts.logits, atol=1e-5)
    assert torch.equal(whole.confidence, whole.probabilities.max(1).values)
    assert len(whole.frame()) == 50
    assert model.predict(x[:0]).logits.shape == (0, 10)
    assert model.predict(x[:0]).summary() == {"images": 0, "mean_confidence": None}


def test_predict_refuses_a_model_in_train_mode():
    model = wrapped(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)))
    model.body[1].train()
    with pytest.raises(ValueError, match=r"body.1 is in train mode.*model.eval\(\)"):
        model.predict(torch.rand(1, 1, 8, 8))


def test_layers_are_listed_in_the_order_they_run():
    model = models.load("digits/cnn")
    layers = model.layers()
    assert list(layers) == ["conv1", "relu1", "conv2", "relu2", "flatten", "fc1", "relu3", "fc2"]
    assert layers["conv1"].shape == (32, 4, 4)
    assert sum(layer.parameters for layer in layers.values()) == model.card.parameters
    for name in layers:
        assert isinstance(model.layer(name), nn.Module)
    assert not any(m._forward_hooks for m in model.modules())


def test_an_unknown_layer_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'conv1'"):
        models.load("digits/cnn").layer("conv11")


# Wrapping


def test_wrap_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout())
    module.train()
    module[1].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="eval mode"):
        model = wrapped(module)
    model.predict(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    model.layers()
    assert all(m.training for m in module.modules())
    assert not module[1].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    after = module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_wrap_says_that_it_looks_at_a_module_in_eval_mode(recwarn):
    wrapped(linear().train())
    assert not recwarn
    with pytest.warns(UserWarning, match="Sequential is in train mode"):
        wrapped(nn.Sequential(linear(), nn.Dropout()).train())


def test_a_wrapped_module_that_is_trained_further_is_seen():
    module = linear()
    model = wrapped(module)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        module[1].bias += 1
    assert torch.equal(model(x), module(x))


def test_wrapping_twice_and_from_threads_gives_the_same_answers():
    module, x = linear(), torch.rand(4, 1, 8, 8)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(wrapped(module).predict(x).logits))
        for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 4
    assert all(torch.equal(a, answers[0]) for a in answers)


class Uncopyable(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        return x.flatten(1)


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("inside")


@pytest.mark.parametrize(
    ("module", "options", "error", "words"),
    [
        (lambda x: x, {}, TypeError, "nn.Module, got function"),
        (linear(63), {}, ValueError, r"failed on a batch of shape \(3, 1, 8, 8\)"),
        (Fails(), {}, ValueError, "KeyError"),
        (nn.Identity(), {}, ValueError, r"logits of shape \(3, K\)"),
        (linear(64, 1), {}, ValueError, "2 classes or more"),
        (linear(), {"classes": ["a", "b"]}, ValueError, "expected 10 names"),
        (linear(), {"classes": 3}, ValueError, "expected 10 names"),
        (linear(), {"input_shape": (8, 8)}, ValueError, "channels, height, width"),
        (linear(), {"mean": (0.1, 0.2)}, ValueError, "mean: expected 1 finite"),
        (linear(), {"std": 0.0}, ValueError, "std: expected positive"),
        (Uncopyable(), {}, ValueError, "cannot be copied"),
    ],
)
def test_wrap_refuses(module, options, error, words):
    with pytest.raises(error, match=words):
        wrapped(module, **options)


def test_wrap_refuses_nan_weights_by_name():
    module = linear()
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1\.weight holds NaN"):
        wrapped(module)


def test_wrap_warns_of_probabilities_and_of_randomness():
    with pytest.warns(UserWarning, match="look like probabilities"):
        wrapped(nn.Sequential(linear(), nn.Softmax(1)))

    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1) + torch.rand(64)

    with pytest.warns(UserWarning, match="differently each time"):
        wrapped(Noisy(), classes=64)


# Weights files


@pytest.fixture
def saved(tmp_path):
    module = build("cnn", (1, 8, 8), 10)
    card = ModelCard(
        name="x/cnn", classes=tuple("0123456789"), input_shape=(1, 8, 8), architecture="cnn"
    )
    path = tmp_path / "x" / "cnn.safetensors"
    model = Classifier(module, card, (0.3,), (0.2,))
    checkpoints.save(model, path)
    return path, model


def rewrite(path, change):
    """Put another header before the same tensors."""
    content = path.read_bytes()
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + n :])


def test_save_and_restore_give_the_same_model(saved):
    path, model = saved
    again = models.load(f"file:{path}")
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(x), again(x))
    assert again.card == model.card
    assert not again.training
    assert [p.name for p in path.parent.iterdir()] == ["cnn.safetensors"]


def test_a_file_cut_anywhere_is_refused(saved):
    path, _ = saved
    whole = path.read_bytes()
    for n in [0, 4, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=str(path.name)):
            checkpoints.restore(path)


@pytest.mark.parametrize("length", [0, 1, 2**62, 2**64 - 1, 99_999_999])
def test_a_hostile_header_length_is_refused(saved, length):
    path, _ = saved
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoints.restore(path)


def test_a_card_that_lies_about_the_architecture_is_refused(saved):
    path, _ = saved

    def lie(**changes):
        def change(header):
            card = json.loads(header["__metadata__"]["card"])
            header["__metadata__"]["card"] = json.dumps(card | changes)

        rewrite(path, change)

    lie(architecture="mlp")
    with pytest.raises(ValueError, match="do not fit the mlp"):
        checkpoints.restore(path)
    lie(architecture="cnn", options={"hidden": 10**9})  # would be gigabytes
    with pytest.raises(ValueError, match="do not fit the cnn"):
        checkpoints.restore(path)
    lie(options={}, architecture="nothing")
    with pytest.raises(ValueError, match="unknown architecture"):
        checkpoints.restore(path)
    lie(input_shape="big")
    with pytest.raises(ValueError, match="card is damaged"):
        checkpoints.restore(path)


def test_weights_without_a_card_say_how_to_load_them(saved):
    path, _ = saved
    rewrite(path, lambda header: header.pop("__metadata__"))
    with pytest.raises(ValueError, match="state_dict:"):
        models.load(f"file:{path}")


def test_bad_offsets_and_nan_weights_are_refused(saved):
    path, model = saved

    def shift(header):
        key = next(k for k in header if k != "__metadata__")
        header[key]["data_offsets"] = [0, 10**12]

    whole = path.read_bytes()
    rewrite(path, shift)
    with pytest.raises(ValueError, match="truncated, corrupt"):
        checkpoints.restore(path)
    path.write_bytes(whole)
    with torch.no_grad():
        model.body.fc1.weight[0, 0] = float("nan")
    checkpoints.save(model, path)
    with pytest.raises(ValueError, match=r"fc1\.weight holds NaN"):
        checkpoints.restore(path)


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ValueError, match="not a safetensors file"):
        models.load(f"file:{path}")


# The zoo


def test_every_shipped_model_loads_and_has_a_full_card():
    names = models.available()
    assert {
        "digits/mlp",
        "digits/cnn",
        "digits/cnn-robust",
        "mnist/mlp",
        "mnist/cnn",
        "mnist/cnn-robust",
        "fashion_mnist/cnn",
        "fashion_mnist/cnn-robust",
        "shapes/resnet",
        "shapes/resnet-robust",
        "shapes/vit",
    } <= set(names)
    for path in checkpoints.SHIPPED.glob("*/*.safetensors"):
        card = models.card(f"{path.parent.name}/{path.stem}")
        assert card.name == f"{path.parent.name}/{path.stem}"
        assert None not in (card.accuracy, card.robust_accuracy, card.eps, card.seed)
        assert card.training
        assert card.licence
        assert len(card.data_sha256) == 64
        model = models.load(card.name)
        assert sum(p.numel() for p in model.parameters()) == card.parameters
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_shipped_weights_stay_small():
    total = sum(path.stat().st_size for path in checkpoints.SHIPPED.glob("*/*.safetensors"))
    assert total < 10_000_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist/cn", "Did you mean 'mnist/cnn'"),
        ("nope:x", "unknown kind of model 'nope'"),
        ("state_dict:", r"say which, as in state_dict:PATH\.pth"),
        ("hf:", "say which, as in hf:OWNER/MODEL"),
        ("nets/best.pth.tar", "looks like a file or folder; say state_dict:nets/best.pth.tar"),
        ("net.onnx", "say onnx:net.onnx"),
        ("kmnist/cnn", "workbench train kmnist/cnn"),
    ],
)
def test_unknown_models(name, words, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=words):
        models.load(name)


def test_embedded_cards_are_true_to_the_last_image():
    """Cards of models of embedded data, checked by a fresh evaluation."""
    for name in ("digits/mlp", "digits/cnn", "digits/cnn-robust", "shapes/resnet"):
        model = models.load(name)
        test = data.load(model.card.dataset)
        assert test.sha256() == model.card.data_sha256
        eps = model.card.eps if model.card.dataset == "digits" else None
        fresh = models.measure(model, test, eps=eps)
        assert {k: getattr(model.card, k) for k in fresh} == fresh


@pytest.mark.parametrize(
    ("name", "least"),
    [("mnist/cnn", 0.99), ("mnist/cnn-robust", 0.98), ("fashion_mnist/cnn", 0.91)],
)
def test_real_cards_are_true_to_the_last_image(real_set, name, least):
    model = models.load(name)
    test = real_set(model.card.dataset)
    fresh = models.measure(model, test)
    assert fresh["test_correct"] == model.card.test_correct
    assert model.card.accuracy >= least


def test_evaluate_refuses_data_that_do_not_fit():
    with pytest.raises(ValueError, match=r"digits/cnn takes \(1, 8, 8\)"):
        models.measure(models.load("digits/cnn"), data.load("shapes", limit=5))


def test_a_state_dict_goes_into_a_named_architecture(tmp_path):
    module = build("mlp", (1, 8, 8), 10, hidden=(16,))
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, path)
    model = models.load(
        f"state_dict:{path}",
        architecture="mlp",
        architecture_options={"hidden": (16,)},
        input_shape=(1, 8, 8),
        classes=10,
    )
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(x), module(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"architecture= \(a module, or one of mlp, cnn.*input_shape= .*classes= "),
        ({"architecture": "mlp", "classes": 10}, r"give input_shape= \(channels, height, width\)$"),
        ({"architecture": "mlp", "input_shape": (1, 8, 8)}, r"give classes= "),
        ({"architecture": linear()}, r"give input_shape= \(channels, height, width\)$"),
        ({"architecture": "mlp", "input_shape": (8, 8), "classes": 10}, "input_shape: expected"),
    ],
)
def test_weights_alone_say_what_is_missing(options, words, tmp_path):
    torch.save(linear().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=words):
        models.load(f"state_dict:{tmp_path / 'w.pt'}", **options)


def test_weights_in_a_module_of_ones_own_need_no_classes(tmp_path):
    source, target = linear(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    path = tmp_path / "run.pth.tar"
    torch.save({"epoch": 3, "G": linear(64, 4).state_dict(), "D": source.state_dict()}, path)
    x = torch.rand(2, 1, 8, 8)
    for name in (f"state_dict:{path}", f"state_dict:{path}#D"):
        model = models.load(name, architecture=target, input_shape=(1, 8, 8))
        torch.testing.assert_close(model(x), source(x))
        assert (model.card.name, len(model.classes)) == (name, 10)
    named = models.load(
        f"state_dict:{path}#D", architecture=target, input_shape=(1, 8, 8), classes=np.int64(10)
    )
    torch.testing.assert_close(named(x), source(x))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("state_dict:w.pt", {"arch": "cnn"}, r"unknown option of state_dict: 'arch'.*architecture"),
        ("file:w.safetensors", {"classes": 3}, "unknown option of file: 'classes'. Known: none"),
        ("hf:owner/model", {"means": 0.5}, "Did you mean 'mean'"),
        ("digits/cnn", {"mean": 0.5}, "takes no options"),
    ],
)
def test_options_that_a_kind_of_model_does_not_take(name, options, words):
    with pytest.raises(TypeError, match=words):
        models.load(name, **options)


def test_predictions_agree_with_numpy():
    model = wrapped()
    x = torch.rand(6, 1, 8, 8)
    w, b = (t.detach().numpy().astype(np.float64) for t in model.body[1].parameters())
    logits = x.flatten(1).numpy().astype(np.float64) @ w.T + b
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(model.predict(x).probabilities.numpy(), expected, atol=1e-6)


def test_layers_are_those_of_its_own_pass_while_another_thread_asks():
    model, stop = models.load("digits/prototypes"), threading.Event()

    def decode():
        while not stop.is_set():
            model.decode(model.prototypes)

    alone = list(model.layers())
    other = threading.Thread(target=decode)
    other.start()
    try:
        assert all(list(model.layers()) == alone for _ in range(100))
    finally:
        stop.set()
        other.join()


def test_no_model_loads_the_compiler_of_torch(tmp_path):
    code = (
        "import sys; from workbench import models\n"
        "for name in models.available(): models.load(name)\n"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules), 'seconds for each kernel'"
    )
    shipped = {**os.environ, "WORKBENCH_DATA": str(tmp_path)}  # and none that somebody keeps
    subprocess.run([sys.executable, "-c", code], check=True, env=shipped)
