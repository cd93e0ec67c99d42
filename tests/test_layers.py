"""Layers as they run: each call has its name, and what cannot be read says why."""

import copy
from threading import Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from workbench.widgets import PatternPanel

from workbench import data, detectors, models, patterns
from workbench.models import batch_size, batching, edited, outputs
from workbench.models.hooks import unheard


class Shared(nn.Module):
    """One activation after each of three layers; `times` of them run."""

    def __init__(self, act=None, times=3):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.act, self.times = act or nn.ReLU(), times

    def forward(self, x):
        x = x.flatten(1)
        for layer in (self.a, self.b, self.c)[: self.times]:
            x = self.act(layer(x))
        return x - 0.5


def wrap(body, shape=(1, 2, 2)):
    return models.wrap(body, input_shape=shape)


def pictures(n=5, shape=(1, 2, 2), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


# Calls.


@pytest.mark.parametrize("inplace", [False, True])
def test_each_call_of_a_shared_activation_has_its_name_and_its_output(inplace):
    model, x = wrap(Shared(nn.ReLU(inplace=inplace))), pictures()
    assert list(model.layers()) == ["a", "act", "b", "act#2", "c", "act#3"]
    assert model.layer("act#3") is model.layer("act") is model.body.act
    first = model.body.a(x.flatten(1)).relu()
    second = model.body.b(first).relu()
    with outputs(model, ["b", "act#2", "act"]) as ask, torch.no_grad():
        logits, seen = ask(x)
    assert list(seen) == ["b", "act#2", "act"]
    assert torch.equal(seen["act"], first)
    assert torch.equal(seen["b"], model.body.b(first))
    assert torch.equal(seen["act#2"], second)
    assert torch.equal(logits, model(x))
    assert not hooks(model)


def test_one_call_alone_is_changed():
    model, x = wrap(Shared()), pictures()
    with edited(model, {"act#2": torch.zeros_like}) as ask, torch.no_grad():
        logits = ask(x)
    expected = model.body.c(torch.zeros(5, 4)).relu() - 0.5
    assert torch.allclose(logits, expected)


def test_patterns_of_a_shared_activation_are_those_of_one_for_each_call():
    shared = Shared()
    twin = nn.Sequential(nn.Flatten(), shared.a, nn.ReLU(), shared.b, nn.ReLU(), shared.c)
    one, other = wrap(shared), wrap(nn.Sequential(twin, nn.ReLU(), Minus()))
    images = data.ImageDataset(pictures(40), torch.arange(40) % 4, tuple("0123"))
    found, expected = patterns.mine(one, images), patterns.mine(other, images)
    assert list(found.phases) == ["act", "act#2", "act#3"]
    for mine, theirs in zip(found.counts.values(), expected.counts.values(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="act runs 3 times a pass, got 'act#4'"):
        patterns.record(one, images, ["act#4"])


class Minus(nn.Module):
    def forward(self, x):
        return x - 0.5


class Tied(nn.Module):
    """The same layer under two names."""

    def __init__(self, again):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.last, self.again = self.a, again

    def forward(self, x):
        x = self.a(x.flatten(1))
        return self.last(x) if self.again else x


def test_a_layer_with_two_names_is_listed_by_the_first():
    model = wrap(Tied(False))
    assert list(model.layers()) == ["a"]
    assert model.layer("last") is model.layer("a")
    with outputs(model, ["last"]) as ask, torch.no_grad():
        logits, seen = ask(pictures())
    assert torch.equal(seen["last"], logits)
    model = wrap(Tied(True))
    assert list(model.layers()) == ["a", "a#2"]
    with pytest.raises(ValueError, match="last is a under another name, which runs 2 times"):
        model.layer("last")


class Dim(nn.Module):
    """Its activation runs once more for bright images, and `rare` for those alone."""

    def __init__(self):
        super().__init__()
        self.act, self.rare = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.act(x.flatten(1) - 0.1)
        return self.rare(self.act(x - 0.1)) if float(x.detach().mean()) > 0.5 else x


def test_what_runs_more_often_on_some_images_is_not_read_by_halves():
    model = wrap(Dim())
    with outputs(model, ["act"]) as ask, torch.no_grad():
        ask(0.3 * torch.ones(2, 1, 2, 2))
        with pytest.raises(ValueError, match="act ran 2 times on these images and 1 times on a"):
            ask(torch.ones(2, 1, 2, 2))
    with pytest.raises(ValueError, match="rare does not run when my model is asked"):
        patterns.top_images(model, data.load("digits", limit=2), "rare", [0])
    assert not hooks(model)


class Sequence(nn.Module):
    """A recurrent layer, an attention, windows of an image and a constant."""

    def __init__(self):
        super().__init__()
        self.lstm, self.attention = (
            nn.LSTM(2, 4, batch_first=True),
            nn.MultiheadAttention(4, 2, batch_first=True),
        )
        self.windows, self.bias, self.head = nn.Linear(4, 4), Constant(), nn.Linear(4, 3)

    def forward(self, x):
        x, _ = self.lstm(x[:, 0])
        x, _ = self.attention(x, x, x)
        x = self.windows(x.flatten(0, 1)).view_as(x)
        return self.head(x.mean(1) + self.bias())


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 4))

    def forward(self):
        return 2 * self.table


def test_what_is_no_tensor_of_a_row_an_image_is_left_out_and_says_so():
    model = wrap(Sequence())
    assert {"lstm", "attention", "windows"}.isdisjoint(model.layers())
    assert "head" in model.layers()
    for name, reason in (
        ("lstm", "lstm gives a tuple, not a tensor"),
        ("windows", r"windows gives \(10, 4\) for 5 images, not a row for each"),
        ("bias", r"bias gives \(1, 4\) for 5 images"),
    ):
        with pytest.raises(ValueError, match=f"layer: {reason}"), outputs(model, [name]) as ask:
            ask(pictures())
    assert not hooks(model)


# Compiled models.


def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


COMPILED = {
    "traced": lambda net: torch.jit.trace(net, torch.rand(2, 1, 8, 8)),
    "scripted": torch.jit.script,
    "inside": lambda net: nn.Sequential(torch.jit.script(net), nn.Identity()),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", COMPILED)
def test_a_compiled_model_says_what_to_do(kind):
    model = wrap(COMPILED[kind](small()), (1, 8, 8))
    sentence = "is compiled .*wrap the module as it was before torch.jit or torch.compile"
    with pytest.raises(ValueError, match=sentence):
        model.layers()
    assert unheard(model) == model_error(model)
    digits = data.load("digits", limit=4)
    panel = PatternPanel(digits, model)
    assert unheard(model) in panel.draw(panel.run())
    assert panel.unfit() == unheard(model)


def model_error(model):
    with pytest.raises(ValueError, match="model: ") as caught:
        model.layers()
    return str(caught.value)


def test_a_model_compiled_later_says_so_and_one_compiled_before_is_wrapped_without():
    model = wrap(torch.compile(small(), backend="eager"), (1, 8, 8))
    assert list(model.layers()) == ["0", "1", "2", "3"]
    model.body = torch.compile(model.body, backend="eager")
    with pytest.raises(ValueError, match=r"is compiled \(OptimizedModule\)"):
        model.layers()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_part_is_left_out():
    body = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())))
    body.extend([nn.Flatten(), nn.Linear(144, 10), nn.ReLU()])
    model = wrap(body.eval(), (1, 8, 8))
    assert list(model.layers()) == ["1", "2", "3"]
    assert unheard(model) == ""
    assert list(patterns.mine(model, data.load("digits", limit=50)).phases) == ["3"]
    for name in ("0", "0.1"):
        with pytest.raises(ValueError, match=f"layer: {name} does not run .* or is compiled"):
            patterns.top_images(model, data.load("digits", limit=2), name, [0])


# What is kept of a listing.


def passes(model):
    """A list that grows by one at every pass."""
    counted = []
    model.body.register_forward_pre_hook(lambda *_: counted.append(1))
    return counted


def test_layers_are_listed_once_and_anew_when_the_model_changes():
    model = wrap(Shared())
    counted = passes(model)
    for _ in range(3):
        model.layers()
    assert len(counted) == 1
    model.body.times = 2  # a plain attribute
    assert list(model.layers()) == ["a", "act", "b", "act#2"]
    model.body.act = nn.Tanh().eval()
    assert model.layers()["act"].kind == "Tanh"
    twin = copy.deepcopy(model)
    twin.body.times = 1
    assert list(twin.layers()) == ["a", "act"]
    assert list(model.layers()) == ["a", "act", "b", "act#2"]
    model.body.settings = {"depth": [1]}
    model.layers()
    n = len(counted)
    model.body.settings["depth"].append(2)  # changed in place, inside
    model.layers()
    assert len(counted) == n + 1
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        model.layers()


class Gated(Shared):
    def __init__(self):
        super().__init__()
        self.register_buffer("gate", torch.zeros(()))

    def forward(self, x):
        x = self.a(x.flatten(1))
        return self.act(x) if float(self.gate) > 0 else x


def test_a_weight_changed_in_place_lists_anew():
    model = wrap(Gated())
    assert list(model.layers()) == ["a"]
    model.body.gate.fill_(1)
    assert list(model.layers()) == ["a", "act"]


class Chatty(Shared):
    """Its activation is run by another thread too."""

    def forward(self, x):
        thread = Thread(target=self.act, args=(x,))
        thread.start()
        thread.join()
        return super().forward(x)


def test_calls_of_other_threads_do_not_count():
    body = Chatty()
    model, x = wrap(body), pictures()
    assert list(model.layers()) == ["a", "act", "b", "act#2", "c", "act#3"]
    with outputs(model, ["act#3"]) as ask, torch.no_grad():
        logits, seen = ask(x)
    assert torch.equal(seen["act#3"] - 0.5, logits)


class Half(nn.Module):
    """Works in bfloat16 or half inside."""

    def __init__(self, dtype):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
        self.net.to(dtype)

    def forward(self, x):
        return self.net(x.to(self.net[1].weight.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_patterns_of_half_precision(dtype):
    model, digits = wrap(Half(dtype).eval(), (1, 8, 8)), data.load("digits", limit=60)
    found, seen = patterns.mine(model, digits), patterns.record(model, digits)
    assert torch.equal(
        found.violations(model, digits.images) == 0, found.follows(model, digits.images)
    )
    assert seen.layers["net.2"].mean.dtype == torch.float32
    watch = detectors.monitor(model, digits, digits)
    assert bool(watch.score(model, digits.images).isfinite().all())


# How many images a pass.


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 700), st.integers(1, 700)),
    st.integers(1, 600),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_pass_holds_what_fits_and_one_image_at_least(shape, most, copies):
    n = batch_size(shape, most, copies=copies)
    pixels = shape[0] * shape[1] * shape[2] * copies
    assert 1 <= n <= most
    assert n == 1 or n * pixels <= batching.VALUES
    assert n == most or (n + 1) * pixels > batching.VALUES


def test_small_images_keep_their_batches_and_large_ones_go_in_parts(monkeypatch):
    for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32)):
        assert batch_size(shape) == 500
        assert batch_size(shape, 512) == 512
    assert batch_size((3, 224, 224)) == 13
    monkeypatch.setattr(batching, "VALUES", 4 * 7)
    model, x = wrap(Shared()), pictures(20)
    sizes = []
    model.body.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    logits = model.predict(x).logits
    assert sizes == [7, 7, 6]
    assert torch.allclose(logits, model(x), atol=1e-6)
    assert model.predict(x, batch_size=20).logits.shape == (20, 4)
    assert sizes[-1] == 20
