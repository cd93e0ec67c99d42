"""Curvature: Lanczos' eigenvalues against those of the dense Hessian, and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from workbench import data, models
from workbench.levelsets.curvature import CLOSE, top_eigenvalues


def net(seed, activation=nn.Tanh):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), activation(), nn.Linear(5, 3))
    return models.wrap(body, input_shape=(1, 2, 2), classes=3)


def images(n, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 2, 2, generator=draw), torch.randint(0, 3, (n,), generator=draw)


def dense(model, x, y):
    """All eigenvalues, rising, of the Hessian by autograd, in float64."""
    shapes = {name: p.detach().double() for name, p in model.named_parameters()}
    double = models.wrap(model.body, input_shape=model.input_shape, classes=3)

    def loss(flat):
        parts = flat.split([p.numel() for p in shapes.values()])
        named = zip(shapes, parts, strict=True)
        weights = {name: part.view(shapes[name].shape) for name, part in named}
        return F.cross_entropy(functional_call(double, weights, (x.double(),)), y)

    flat = torch.cat([p.flatten() for p in shapes.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([nn.Tanh, nn.ReLU]))
def test_both_ends_are_those_of_the_dense_hessian(seed, k, activation):
    model, (x, y) = net(seed, activation), images(7, seed)
    true, found = dense(model, x, y), top_eigenvalues(model, x, y, k)
    assert torch.allclose(found.largest, true[-k:].flip(0), atol=1e-4)
    assert torch.allclose(found.smallest, true[:k], atol=1e-4)
    assert found.products <= len(true)


def test_softmax_regression_by_hand():
    """At zero weights the Hessian is (I / K - 1 / K^2) times the second moment of (x, 1)."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    body[1].weight.data.zero_(), body[1].bias.data.zero_()
    x, y = images(50, 0)
    with_one = torch.cat([x.flatten(1), torch.ones(50, 1)], 1).double()
    moment = torch.linalg.eigvalsh(with_one.T @ with_one / 50)
    found = top_eigenvalues(models.wrap(body, input_shape=(1, 2, 2), classes=3), x, y)
    assert float(found.largest) == pytest.approx(float(moment[-1]) / 3, rel=1e-5)
    assert abs(float(found.smallest)) < 1e-5  # a constant added to all logits changes nothing


def test_it_is_an_average_over_images_in_any_batches(monkeypatch):
    model, (x, y) = net(3), images(40, 3)
    once = top_eigenvalues(model, x, y, 2)
    monkeypatch.setattr("workbench.levelsets.curvature.batch_size", lambda *_: 7)
    parts = top_eigenvalues(model, x, y, 2)
    twice = top_eigenvalues(model, x.repeat(2, 1, 1, 1), y.repeat(2), 2)
    for other in (parts, twice):
        assert torch.allclose(once.largest, other.largest, rtol=1e-4)
        assert torch.allclose(once.smallest, other.smallest, rtol=1e-4)


def test_nothing_is_changed_and_the_same_seed_gives_the_same():
    model, (x, y) = net(1), images(9, 1)
    before, draws = [p.clone() for p in model.parameters()], torch.get_rng_state()
    first, second = (top_eigenvalues(model, x, y, 2, seed=4) for _ in range(2))
    assert first.summary() == second.summary()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(draws, torch.get_rng_state())


@pytest.mark.parametrize("name", ["digits/cnn", "shapes/vit"])
def test_trained_models_of_every_kind(name):
    model = models.load(name)
    some = data.load(model.card.dataset)[:20]
    found = top_eigenvalues(model, some.images, some.labels, most=12)
    assert float(found.largest) > 0 > float(found.smallest)
    assert found.products == 12 or found.residual <= CLOSE * float(found.largest)


def test_a_flat_loss_has_no_curvature():
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    body[1].weight.data.zero_(), body[1].bias.data.fill_(0)
    body[1].bias.data[0] = 500.0  # as sure as can be
    found = top_eigenvalues(
        models.wrap(body, input_shape=(1, 2, 2), classes=3), images(3, 0)[0], torch.zeros(3).long()
    )
    assert (float(found.largest), found.products) == (0.0, 1)


def test_bad_input_is_said():
    model, (x, y) = net(0), images(4, 0)
    with pytest.raises(ValueError, match="k: expected at most half of the 43 weights, got 22"):
        top_eigenvalues(model, x, y, 22)
    with pytest.raises(ValueError, match="most: expected a whole number of at least 6, got 5"):
        top_eigenvalues(model, x, y, 3, most=5)
    with pytest.raises(ValueError, match="labels"):
        top_eigenvalues(model, x, y[:3])
    with pytest.raises(ValueError, match="train mode"):
        top_eigenvalues(model.train(), x, y)
