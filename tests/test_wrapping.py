"""Modules that people bring: what is found out about them when they are wrapped."""

import threading
import warnings
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from workbench import models
from workbench.models.architectures import build

SHAPE = (1, 8, 8)


def net(n_out=10):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, n_out)
    ).eval()


def wrap(module, **options):
    return models.wrap(module, **{"input_shape": SHAPE, **options})


def images(n=5, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


class Does(nn.Module):
    """`change(logits or images)` after or before a network."""

    def __init__(self, after=lambda z: z, before=lambda x: x, body=None):
        super().__init__()
        self.body, self.after, self.before = body or net(), after, before

    def forward(self, x):
        return self.after(self.body(self.before(x)))


@pytest.fixture
def quiet():
    """No warning may come."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# An answer belongs to its image


def scaled(x, how):
    return x / how(x)


class Attention(nn.Module):
    """Attention over the images of the batch, for it takes (length, batch, features)."""

    def __init__(self):
        super().__init__()
        self.mix = nn.MultiheadAttention(64, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.reshape(len(x), 1, 64)
        return self.head(self.mix(x, x, x)[0][:, 0])


BATCH_BOUND = {
    "statistics": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(),
        nn.Linear(144, 10),
    ),
    "functional statistics": Does(lambda z: F.batch_norm(z, None, None, training=True)),
    "softmax": nn.Sequential(net(), nn.Softmax(dim=0)),
    "maximum": Does(before=lambda x: scaled(x, torch.max)),
    "minimum": Does(before=lambda x: x - x.min()),
    "mean": Does(before=lambda x: x - x.mean()),
    "mean over the batch": Does(before=lambda x: x - x.mean(0)),
    "group norm": Does(lambda z: F.group_norm(z.T[None], 10)[0].T),
    "attention": Attention(),
    "cumulative": Does(lambda z: z.cumsum(0)),
    "cumulative backwards": Does(lambda z: z.flip(0).cumsum(0).flip(0)),
    "shuffled": Does(lambda z: z.roll(1, 0)),
    "the highest": Does(lambda z: z * (z == z.amax(0))),
    "a guard": Does(before=lambda x: x / 2 if x.max() > 0.95 else x),
}  # fmt: skip


@pytest.mark.parametrize("kind", BATCH_BOUND)
def test_what_mixes_the_images_of_a_batch_is_refused(kind):
    with pytest.raises(ValueError, match=r"mixes the images of a batch.*one image at a time"):
        wrap(BATCH_BOUND[kind].eval())


ELSEWHERE = {
    "by size": Does(lambda z: z * len(z)),
    "a little by size": Does(lambda z: z * (1 + 0.001 * len(z))),
    "by place": Does(lambda z: z + torch.arange(len(z))[:, None]),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_what_depends_on_the_place_in_the_batch_is_refused(kind):
    with pytest.raises(ValueError, match="otherwise alone, or in another place"):
        wrap(ELSEWHERE[kind].eval())


def test_the_first_module_that_mixes_is_named():
    module = BATCH_BOUND["statistics"]
    with pytest.raises(ValueError, match=r"module: 1 \(BatchNorm2d\) mixes"):
        wrap(module.eval())
    deep = nn.Sequential(
        net(16), nn.Sequential(nn.ReLU(), Does(torch.nn.Softmax(0), body=net_of(16)))
    )
    with pytest.raises(ValueError, match=r"module: 1\.1\.after \(Softmax\) mixes"):
        wrap(deep.eval())
    with pytest.raises(ValueError, match=r"module: mix \(MultiheadAttention\) mixes"):
        wrap(Attention().eval())


def net_of(n):
    return nn.Linear(n, 10)


def test_asked_one_at_a_time_a_module_is_welcome(quiet):
    body = BATCH_BOUND["statistics"].eval()

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = body

        def forward(self, x):
            return torch.cat([self.net(image[None]) for image in x])

    model, x = wrap(Single().eval()), images()
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 40),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 2**16),
)
def test_rounding_is_no_mixing(width, scale, offset, seed):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36 * width, 5),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(Does(lambda z: z * scale + offset, body=body).eval())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "vit"])
def test_our_networks_pass(name, quiet):
    wrap(build(name, (3, 16, 16), 7).eval(), input_shape=(3, 16, 16))


def test_a_constant_answer_is_an_answer():
    with pytest.warns(UserWarning, match="no gradient"):
        wrap(Does(lambda z: torch.ones(len(z), 3)))


class Counts(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.net, self.where = net(), where
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.past = 0, []

    def forward(self, x):
        self.seen += 1
        self.calls += 1
        self.past.append(x.mean())
        return (
            self.net(x)
            * {"seen": self.seen, "calls": self.calls, "past": len(self.past), "": 1}[self.where]
        )


@pytest.mark.parametrize("where", ["seen", "calls", "past"])
def test_what_answers_by_a_state_that_it_keeps_is_refused(where):
    module = Counts(where)
    with pytest.raises(ValueError, match=rf"keeps .*{where}.* from call to call"):
        wrap(module.eval())
    assert (float(module.seen), module.calls, module.past) == (0, 0, [])


def test_a_state_without_effect_is_welcome(quiet):
    module = Counts("")
    wrap(module.eval())
    assert (float(module.seen), module.calls, module.past) == (0, 0, [])


class Momentum(nn.Module):
    """Standardises by an average that it goes on with in eval mode."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.register_buffer("average", torch.zeros(1, 1, 8, 8))

    def forward(self, x):
        with torch.no_grad():
            self.average.lerp_(x.mean(0, keepdim=True), 0.01)
        return self.net(x - self.average)


def test_a_running_average_in_eval_mode_is_refused_and_stays_as_it_was():
    module = Momentum().eval()
    with pytest.raises(ValueError, match="average"):
        wrap(module)
    assert not module.average.any()


class Remembers(nn.Module):
    def __init__(self, key):
        super().__init__()
        self.net, self.key, self.known = net(), key, {}

    def forward(self, x):
        return self.known.setdefault(self.key(x), self.net(x))


@pytest.mark.parametrize(
    "key", [lambda x: 0, lambda x: x.shape, lambda x: float(x[len(x) // 2].sum())]
)
def test_an_answer_that_is_remembered_for_other_images_is_refused(key):
    with pytest.raises(ValueError, match=r"answers one image alone with|another place"):
        wrap(Remembers(key).eval())


class Overwrites(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.out = net(), torch.zeros(64, 10)

    def forward(self, x):
        with torch.no_grad():
            return self.out[: len(x)].copy_(self.net(x))


def test_an_answer_that_the_next_call_writes_over_is_refused():
    with pytest.raises(ValueError, match=r"writes each answer over the one before.*clone"):
        wrap(Overwrites().eval())


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (lambda x: x.reshape(1, 1, 8, 8), "answers a batch of 1, but not one of 3"),
        (lambda x: x.reshape(8, 1, 8, 8), "answers a batch of 8, but not one of 3"),
        (lambda x: x.squeeze()[:, None], "fails on one alone"),
    ],
)
def test_a_fixed_number_of_images_is_named(before, words):
    with pytest.raises(ValueError, match=words):
        wrap(Does(before=before))


def test_an_exported_module_with_a_fixed_batch_is_named():
    exported = torch.export.export(net(), (torch.rand(2, *SHAPE),))
    with pytest.raises(ValueError, match=r"answers a batch of 2, but not one of 3.*dynamic batch"):
        wrap(exported.module())
    with pytest.raises(TypeError, match=r"give its \.module\(\)"):
        wrap(exported)


def test_a_squeeze_of_the_batch_is_found():
    with pytest.raises(ValueError, match=r"one image alone with \(10,\), expected \(1, 10\)"):
        wrap(Does(lambda z: z.squeeze()))


# Random answers: a warning, and the global generator stays as it was


@pytest.mark.parametrize(
    "noisy",
    [
        Does(lambda z: F.dropout(z, 0.5)),
        Does(lambda z: z + torch.from_numpy(np.random.default_rng().random((len(z), 10))).float()),
    ],
)
def test_randomness_is_a_warning_and_draws_nothing(noisy):
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="differently each time"):
        wrap(noisy.eval())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_random_module_that_mixes_images_is_refused():
    with pytest.raises(ValueError, match="mixes the images"):
        wrap(Does(lambda z: F.dropout(z - z.mean(0), 0.5)).eval())


# Images are not changed


class Data(nn.Module):
    def forward(self, x):
        x.data.sub_(0.5)
        return x.flatten(1)


IN_PLACE = {
    "minus": Does(before=lambda x: x.sub_(0.5)),
    "under data": Data(),
    "normalise": Does(before=lambda x: x.sub_(0.1).div_(0.3)),
    "relu": nn.Sequential(nn.ReLU(inplace=True), net()),
    "asks for a gradient": Does(before=lambda x: x.requires_grad_() if x.is_leaf else x),
    "hidden in a view": Does(before=lambda x: x.view(-1).mul_(2).view(-1, *SHAPE)),
}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_module_that_writes_to_its_images_gets_a_copy(kind):
    module = IN_PLACE[kind].eval()
    with pytest.warns(UserWarning, match="in place: it gets a copy"):
        model = wrap(module)
    x = images()
    before, expected = x.clone(), module(x.clone())
    assert torch.equal(model(x), expected)
    assert torch.equal(model.predict(x).logits, expected)
    with models.heard([model.body], lambda *_: None):
        model(x)
    assert torch.equal(x, before)
    assert (x._version, x.requires_grad) == (0, False)
    leaf = x.clone().requires_grad_()
    model(leaf).sum().backward()
    assert leaf.grad.any()


def test_normalised_images_are_copies_anyway(quiet):
    model, x = wrap(IN_PLACE["minus"].eval(), mean=(0.2,)), images()
    before = x.clone()
    model(x)
    assert torch.equal(x, before)


# Modes


class Odd(nn.Module):
    """Answers otherwise in train mode by its own code."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x) if not self.training else -self.net(x)


def test_what_answers_otherwise_in_train_mode_by_its_own_code_is_said():
    module = Odd().train()
    with pytest.warns(UserWarning, match="Odd is in train mode"):
        model = wrap(module)
    assert torch.equal(model(images()), module.net(images()))
    assert module.training
    part = nn.Sequential(Odd()).eval()
    part[0].train()
    with pytest.warns(UserWarning, match="is in train mode"):
        wrap(part)


def test_train_mode_without_effect_is_not_worth_a_word(quiet):
    wrap(net().train())


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [nn.Dropout(), {"a": net()}]

    def forward(self, x):
        return self.parts[1]["a"](self.parts[0](x))


def test_modules_in_a_plain_list_are_named_and_looked_at_in_eval_mode():
    module = Listed().eval()
    with pytest.warns(UserWarning, match=r"keeps a Dropout in a plain attribute \('parts'\)"):
        model = wrap(module)
    torch.testing.assert_close(model(images()), net()(images()))
    assert module.parts[0].training


def test_a_module_that_will_not_leave_train_mode_is_refused():
    class Stuck(nn.Sequential):
        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(ValueError, match=r"module: 0 stays in train mode after eval\(\)"):
        wrap(nn.Sequential(Stuck(net())))


# What comes out


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


Pair = namedtuple("Pair", "out features")

TAKEN = {
    "dataclass": (Output, "['logits']"),
    "namedtuple": (lambda z: Pair(z, z.new_zeros(len(z), 7)), "[0]"),
    "tuple": (lambda z: (z.sum(), z), "[1]"),
    "list of one": (lambda z: [z], "[0]"),
    "dict": (lambda z: {"features": z[:, :5], "prediction": z}, "['prediction']"),
    "logits beside the like": (lambda z: {"aux_logits": -z, "logits": z, "y": z}, "['logits']"),
    "nested": (lambda z: {"a": {"b": [z]}}, "['a']['b'][0]"),
    "object": (lambda z: SimpleNamespace(scores=z, loss=z.mean()), "['scores']"),
    "dict of one unknown name": (lambda z: {"whatever": z, "n": 3}, "['whatever']"),
    "by the number of classes": (lambda z: (z[:, :4], z), "[1]"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_logits_are_found_and_it_is_said_which(kind):
    after, path = TAKEN[kind]
    module = Does(after).eval()
    with pytest.warns(UserWarning, match="taken to be") as caught:
        model = wrap(module, classes=10)
    (said,) = [str(warning.message) for warning in caught]
    assert f"taken to be output{path}, of shape (3, 10)" in said
    torch.testing.assert_close(model(images()), net()(images()))


def test_a_map_of_one_pixel_is_read_flat():
    with pytest.warns(
        UserWarning, match=r"answers with \(3, 10, 1, 1\), which is read as \(3, 10\)"
    ):
        model = wrap(Does(lambda z: z[..., None, None]))
    torch.testing.assert_close(model(images()), net()(images()))


REFUSED = {
    "two of a kind": (lambda z: (z, z), r"\[0\] \(3, 10\), \[1\] \(3, 10\).*not clear"),
    "a backbone": (
        lambda z: {"pooler_output": z},
        r"\['pooler_output'\] \(3, 10\).*head is missing",
    ),
    "a segmenter": (lambda z: {"out": z[..., None, None].expand(-1, -1, 8, 8)}, "for each pixel"),
    "a detector": (
        lambda z: [{"boxes": z[:3, :4], "labels": z[0].long(), "scores": z[0]} for _ in z],
        "looks like a detector",
    ),
    "tokens": (lambda z: z[:, None].expand(-1, 4, -1), r"\(3, 4, 10\)"),
    "nothing": (lambda z: None, "got NoneType with no tensor"),
    "text": (lambda z: "cat", "got str"),
    "labels": (lambda z: z.argmax(1), "torch.int64; as floating-point numbers, before any argmax"),
    "sparse": (lambda z: z.to_sparse(), r"\(3, 10\)"),
    "one score": (lambda z: z[:, 0], r"\(0, s\)"),
    "one score each": (lambda z: {"out": z[:, :1]}, r"\(0, s\)"),
    "transposed": (lambda z: z.T, r"\(10, 3\)"),
    "numpy": (lambda z: z.detach().numpy(), "ndarray"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_outputs_without_logits_are_listed(kind):
    after, words = REFUSED[kind]
    with pytest.raises(ValueError, match=f"(?s)expected logits of shape.*{words}"):
        wrap(Does(after).eval())


# Heads, and numbers for normalisation


def test_independent_probabilities_are_said():
    with pytest.warns(UserWarning, match="independent probabilities.*remove the final sigmoid"):
        wrap(nn.Sequential(net(), nn.Sigmoid()))
    with pytest.warns(UserWarning, match="independent probabilities"):
        wrap(Does(lambda z: (5 * z - 4).sigmoid()))
    with pytest.warns(UserWarning, match="look like probabilities, not logits: remove"):
        wrap(Does(lambda z: z.double().softmax(1).half()))


@pytest.mark.parametrize(
    "after", [lambda z: z.log_softmax(1), lambda z: z.tanh(), lambda z: z / 100 + 0.5, F.relu]
)
def test_other_heads_are_not_taken_for_probabilities(after, quiet):
    wrap(Does(after))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            "mean=.*in 0..255.*divide mean by 255",
        ),
        ((0.5, 0.5, 0.5), (127.5, 127.5, 127.5), "std=.*divide std by 255"),
        (np.array([33.3, 33.3, 33.3]), None, "divide mean by 255"),
        ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406), "in each other's place"),
        ((-0.485, -0.456, -0.406), (0.2, 0.2, 0.2), "is it -mean"),
        ((0.0019, 0.0018, 0.0016), (0.0009, 0.0009, 0.0009), "divided by 255 twice"),
    ],
)
def test_odd_means_and_deviations_are_said(mean, std, words):
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    with pytest.warns(UserWarning, match=words):
        models.wrap(body, input_shape=(3, 4, 4), mean=mean, std=std)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.1307,), (0.3081,)),
        ((0.5,), (0.5,)),
        ((0.0,), (1.0,)),
        ((0.485, 0.456, 0.406), (1 / 255,)),
        (0.5, None),
    ],
)
def test_usual_means_and_deviations_are_not(mean, std, quiet):
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    models.wrap(body, input_shape=(3, 4, 4), mean=mean, std=std)


# Input shapes


def test_shapes_of_numpy_and_of_torch(quiet):
    for shape in (np.array([1, 8, 8]), [np.int64(1), 8, 8], torch.Size([1, 8, 8])):
        assert wrap(net(), input_shape=shape).input_shape == (1, 8, 8)


@pytest.mark.parametrize("shape", [(8, 8), 8, (1, 8.0, 8), (1, 0, 8), "188", None, (1, 8, "8")])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="input_shape: expected"):
        wrap(net(), input_shape=shape)


def test_channels_come_first():
    with pytest.raises(ValueError, match=r"channels come first: input_shape=\(3, 224, 224\)\?"):
        wrap(nn.Conv2d(3, 4, 3), input_shape=(224, 224, 3))
    with pytest.raises(ValueError, match=r"has 224 channels, mean 3; channels come first"):
        wrap(nn.Conv2d(3, 4, 3), input_shape=(224, 224, 3), mean=(0.4, 0.5, 0.6))
    body = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 3, 4))
    with pytest.warns(UserWarning, match=r"has 8 channels; channels come first"):
        wrap(body, input_shape=(8, 8, 3))


# Modules of every make


def normed(change, module=None):
    module = module or net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(module[3])
    return module


class Computed(nn.Module):
    """Keeps tensors that were computed from its weights, in an attribute and in a list."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.twice, self.more = self.net[3].weight * 2, [self.net[3].weight * 3]

    def forward(self, x):
        return F.linear(self.net[:3](x), self.twice + self.more[0])


MAKES = {
    "weight_norm": lambda: normed(weight_norm),
    "parametrised": lambda: normed(parametrizations.weight_norm),
    "spectral_norm": lambda: normed(spectral_norm),
    "pruned": lambda: normed(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
    "pruned twice": lambda: normed(
        lambda m: [prune.random_unstructured(m, "weight", 0.5) for _ in range(2)]
    ),
    "computed": Computed,
    "scripted": lambda: torch.jit.script(net()),
    "traced": lambda: torch.jit.trace(net(), torch.rand(1, *SHAPE)),
    "graph": lambda: torch.fx.symbolic_trace(net()),
    "compiled": lambda: torch.compile(net(), backend="eager"),
    "parallel": lambda: nn.DataParallel(net()),
    "frozen": lambda: net().requires_grad_(False),
    "exported": lambda: torch.export.export(
        net(), (torch.rand(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("n")},)
    ).module(),
}


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_modules_of_every_make_are_welcome(make):
    module, x = MAKES[make](), images()
    expected = module(x).detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = wrap(module)
    assert torch.allclose(model(x), expected, atol=1e-6)
    leaf = x.clone().requires_grad_()
    model(leaf).sum().backward()
    assert leaf.grad.any()
    again = models.private_copy(model, share=False)
    assert torch.allclose(again(x), expected, atol=1e-6)
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_a_module_traced_in_train_mode_is_random_for_good():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = nn.Sequential(net(), nn.Dropout()).train()
        traced = torch.jit.trace(body, images(1), check_trace=False)
    with pytest.warns(UserWarning, match="differently each time"):
        wrap(traced)


@pytest.mark.parametrize("make", ["weight_norm", "pruned"])
def test_a_module_with_computed_weights_shares_those_it_learns(make):
    module = MAKES[make]()
    model, x = wrap(module), images()
    with torch.no_grad():
        next(iter(module[3].parameters())).add_(1)
    assert torch.allclose(model(x), module(x), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.half, torch.bfloat16, torch.double])
def test_weights_of_another_type_are_copied_as_float32(kind):
    module, x = net().to(kind), images()
    with pytest.warns(UserWarning, match=f"has {str(kind)[6:]} weights.*float32 copy"):
        model = wrap(module)
    assert model(x).dtype == torch.float32
    assert torch.allclose(model(x).double(), module(x.to(kind)).double(), atol=0.02)
    assert module[3].weight.dtype == kind


def test_a_module_that_casts_by_itself_is_asked_as_it_is(quiet):
    module = Does(before=lambda x: x.bfloat16(), body=net().bfloat16()).eval()
    model, x = wrap(module), images()
    assert torch.equal(model(x), module(x).float())
    assert model(x).dtype == torch.float32
    assert model.body.model.body[3].weight is module.body[3].weight


def test_weights_made_in_inference_mode_are_copied():
    with torch.inference_mode():
        module = net()
    with pytest.warns(UserWarning, match="inference-mode weights"):
        model = wrap(module)
    x = images().requires_grad_()
    model(x).sum().backward()
    assert x.grad.any()


def test_answers_without_gradient_are_said():
    with pytest.warns(UserWarning, match="have no gradient.*will find nothing"):
        wrap(Does(torch.no_grad()(lambda z: z.detach().round(decimals=1))))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "1.weight is lazy and has no weights yet"),
        (nn.Linear(64, 3, device="meta"), "on the meta device, without values"),
    ],
)
def test_modules_without_weights_are_refused(module, words):
    with pytest.raises(ValueError, match=words):
        wrap(module)


def test_what_cannot_be_copied_is_named():
    module = net()
    module[1].guard = [threading.Lock()]
    with pytest.raises(ValueError, match=r"cannot be copied .* for its attribute '1\.guard'"):
        wrap(module)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (nn.Flatten, r"got type; make one first: Flatten\(\)"),
        (net().state_dict(), "weights alone are no model"),
        ("digits/cnn", "models.load reads names"),
        (lambda x: x, "got function"),
    ],
)
def test_what_is_no_module_is_refused(given, words):
    with pytest.raises(TypeError, match=words):
        wrap(given)


def test_wrapping_in_inference_mode_gives_a_model_to_attack():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.inference_mode():
        model = models.wrap(module, input_shape=(1, 8, 8), classes=10)
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x)[0, 3], x)
    torch.testing.assert_close(slope.flatten(), module[1].weight[3].detach())
