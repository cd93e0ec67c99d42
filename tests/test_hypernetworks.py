"""Networks that write networks: closed forms, what is written and frozen in, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench import data, models
from workbench.models import checkpoints
from workbench.treatments import Hypernetwork

FORMS = ("full", "chunked", "recurrent")
WAYS = ("plain", "encoding", "residual", "mip")


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))


def normed():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


@pytest.fixture
def x():
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def size(weights):
    return float(torch.cat([w.detach().flatten() for w in weights.values()]).norm())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("conditions", [None, 3])
def test_weights_have_names_and_shapes_of_the_target_and_all_of_it_learns(conditions, form, way, x):
    target = mlp()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    hyper = Hypernetwork(target, conditions, form=form, parametrisation=way)
    c = 1.0 if conditions is None else 2
    written = hyper.weights(c)
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in before.items()}
    assert 0.5 < size(written) / size(before) < 2  # as large as the target's, at first
    F.cross_entropy(hyper(x, c), torch.arange(7)).backward()
    learned = {k: p for k, p in hyper.named_parameters() if p.requires_grad}
    assert [k for k, p in learned.items() if p.grad is None or not bool(p.grad.abs().any())] == []
    assert not any(k.startswith("target") for k in learned)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    assert all(p.grad is None for p in target.parameters())


@pytest.mark.parametrize("g", [0.0, 0.1, 0.5])
def test_plain_weights_are_proportional_to_the_condition(g):
    """Leaky ReLUs without biases: H(g c) = g H(c) for every g >= 0."""
    hyper = Hypernetwork(mlp(), size=2, parametrisation="plain")
    c = torch.tensor([1.0, 0.4])
    once, scaled = hyper.weights(c), hyper.weights(g * c)
    assert all(torch.allclose(scaled[k], g * once[k], atol=1e-6) for k in once)
    own = torch.tensor([size(hyper.weights(g * c)), g * size(once)])
    torch.testing.assert_close(own[0], own[1])


@pytest.mark.parametrize("way", ["encoding", "mip"])
def test_an_encoded_condition_has_a_constant_norm(way):
    hyper = Hypernetwork(mlp(), size=3, parametrisation=way)
    for c in torch.rand(5, 3, generator=torch.Generator().manual_seed(0)):
        assert float(hyper.encoded(c).norm()) == pytest.approx(math.sqrt(3), abs=1e-6)
    assert hyper.encoded([0, 0.5, 1]).tolist() == pytest.approx(
        [1, math.sqrt(0.5), 0, 0, math.sqrt(0.5), 1], abs=1e-6
    )
    coded = Hypernetwork(mlp(), 4, size=8, parametrisation=way)
    with torch.no_grad():
        coded.codes[2] *= 100
    assert float(coded.encoded(2).norm()) == pytest.approx(math.sqrt(8), abs=1e-5)


def test_the_size_of_the_weights_is_steady_only_by_the_encoding():
    spread = {}
    for way in WAYS:
        hyper = Hypernetwork(mlp(), parametrisation=way)
        sizes = [size(hyper.weights(g)) for g in (0.0, 0.1, 0.5, 1.0)]
        spread[way] = min(sizes) / max(sizes)
    assert spread["plain"] == 0
    assert spread["encoding"] > 0.7
    assert min(spread["residual"], spread["mip"]) > 0.98  # weights of their own, and a little


def test_residual_weights_begin_as_the_target():
    target = mlp()
    hyper = Hypernetwork(target, 2)
    with torch.no_grad():
        hyper.out.weight.zero_()
    assert all(torch.equal(w, target.state_dict()[k]) for k, w in hyper.weights(1).items())


def test_biases_that_start_at_nought_are_written_too():
    target = mlp()
    with torch.no_grad():
        target[1].bias.zero_()
    written = Hypernetwork(target, parametrisation="plain").weights(1.0)
    assert bool((written["1.bias"] != 0).all())


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_classifier_says_what_the_hypernetwork_says(form, x, tmp_path):
    target = models.load("digits/mlp")
    hyper = Hypernetwork(target, form=form, hidden=8)
    made = {c: hyper.classifier(c) for c in (0.0, 0.7)}
    for c, model in made.items():
        torch.testing.assert_close(model(x), hyper(x, c), atol=1e-6, rtol=1e-6)
        assert model.card.name == f"digits/mlp at {c}"
        assert model.card.accuracy is None  # that was the target's
    assert not torch.equal(made[0.0](x), made[0.7](x))
    checkpoints.save(made[0.7], tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again(x), made[0.7](x))
    with torch.no_grad():
        hyper.out.weight.add_(1)  # what is frozen stays
    assert torch.equal(again(x), made[0.7](x))


def test_a_module_that_is_no_classifier_becomes_one(x):
    hyper = Hypernetwork(mlp(), 3)
    model = hyper.classifier(1, input_shape=(1, 8, 8), classes=10)
    torch.testing.assert_close(model(x), hyper(x, 1), atol=1e-6, rtol=1e-6)
    assert model.predict(x).label.shape == (7,)
    code = hyper.codes[1].detach()
    torch.testing.assert_close(hyper(x, code), hyper(x, 1))  # a code in place of its number
    assert bool((hyper(x, (code + hyper.codes[2]) / 2) != hyper(x, 1)).any())


def test_statistics_of_batches_are_shared_and_frozen_weights_stay(x):
    target = normed()
    target[4].weight.requires_grad_(False)
    hyper = Hypernetwork(target, 2).train()
    assert "4.weight" not in hyper.weights(0)
    before = hyper(x, 1)
    hyper.eval()
    assert not torch.equal(before, hyper(x, 1))  # batch statistics in training alone
    mean = hyper.target[1].running_mean
    assert bool(mean.abs().sum() > 0)
    assert bool((target[1].running_mean == 0).all())
    models_of = [hyper.classifier(c, input_shape=(1, 8, 8)) for c in (0, 1)]
    for c, model in enumerate(models_of):
        torch.testing.assert_close(model(x), hyper(x, c), atol=1e-6, rtol=1e-6)
        assert torch.equal(model.body[1].running_mean, mean)
        assert torch.equal(model.body[4].weight, target[4].weight)
        assert model.body[1].running_mean is not mean


def test_it_is_seeded_and_leaves_torchs_generator_alone():
    target = mlp()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (Hypernetwork(target, 2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.codes, other.codes)


def test_one_network_learns_two_that_contradict_each_other():
    """Under the second condition, classes 0 and 1 have changed places."""
    digits = data.load("digits", "train")
    keep = digits.labels < 2
    x, y = digits.images[keep], digits.labels[keep]
    hyper = Hypernetwork(mlp(), hidden=16)
    adam = torch.optim.Adam(hyper.parameters(), 3e-3)
    for step in range(120):
        c = step % 2
        adam.zero_grad()
        F.cross_entropy(
            hyper(x[step % 5 :: 5], float(c)), (y if c == 0 else 1 - y)[step % 5 :: 5]
        ).backward()
        adam.step()
    told = [hyper.classifier(c, input_shape=(1, 8, 8)).predict(x).label for c in (0.0, 1.0)]
    assert float((told[0] == y).float().mean()) > 0.95
    assert float((told[1] == 1 - y).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("given", "wrong", "says"),
    [
        ({"conditions": 3}, 3, "condition: expected a number from 0 to 2, got 3"),
        ({"conditions": 3}, -1, "from 0 to 2, got -1"),
        ({"conditions": 3}, 0.5, "from 0 to 2, got 0.5"),
        ({"conditions": 3}, torch.zeros(7), "expected 8 numbers, got 7"),
        ({}, 1.2, r"in \[0, 1\], got \[1.2"),
        ({}, math.nan, r"in \[0, 1\], got \[nan"),
        ({"size": 2}, 0.5, "expected 2 numbers, got 1"),
        ({}, [0.5, 0.5], "expected 1 numbers, got 2"),
    ],
)
def test_a_condition_that_is_not_there_is_refused(given, wrong, says, x):
    hyper = Hypernetwork(mlp(), **given)
    for ask in (hyper.weights, hyper.classifier, lambda c: hyper(x, c)):
        with pytest.raises(ValueError, match=says):
            ask(wrong)


def test_settings_that_make_no_sense_are_refused():
    for name, value in (("form", "fully"), ("parametrisation", "mipp")):
        with pytest.raises(ValueError, match="Did you mean"):
            Hypernetwork(mlp(), **{name: value})
    for name in ("conditions", "size", "hidden"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number"):
            Hypernetwork(mlp(), **{name: 0})
    with pytest.raises(ValueError, match="target: expected weights that need a gradient"):
        Hypernetwork(mlp().requires_grad_(False))
