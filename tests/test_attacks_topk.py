"""Ordered top-K attacks: the quadratic programme, the search, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, models
from workbench.attacks.goals import OrderedTopK
from workbench.attacks.problem import Problem
from workbench.attacks.qp import OrderProgrammes
from workbench.attacks.topk import (
    CWK,
    AdversarialDistillation,
    QuadAttacK,
    broken_places,
    random_order,
)

MARGIN = 0.2
KINDS = (QuadAttacK, CWK, AdversarialDistillation)


def draw(seed, n=6, n_classes=10, width=24, k=5):
    """A random head, features, and an order."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    target = torch.rand(n, n_classes, generator=generator).argsort(1)[:, :k]
    return normal(n_classes, width), normal(n_classes), 2 * normal(n, width), target


def nearest(weight, bias, features, target, margin=MARGIN):
    """The solution of the programmes, and their multipliers."""
    programmes = OrderProgrammes.of(weight, target)
    found = programmes.solve(features @ weight.T + bias, margin)
    return features + programmes.spread(found) @ weight, found, programmes


@pytest.fixture(scope="module")
def digits():
    model = models.load("digits/cnn")
    images = data.load("digits").sample(40, seed=0)
    right = model.predict(images.images).label == images.labels
    return model, images.images[right][:20], images.labels[right][:20]


def linear_model(shape, n_classes=5, seed=0, shift=0.0):
    """Logits linear in the image, with an order within reach of the middle of the box."""
    size = int(np.prod(shape))
    head = nn.Linear(size, n_classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(4 * torch.randn(n_classes, size, generator=generator) / size**0.5)
        head.bias.copy_(-0.5 * head.weight.sum(1) + torch.randn(n_classes, generator=generator))
        head.bias.add_(shift)
    return models.wrap(nn.Sequential(nn.Flatten(), head), input_shape=shape)


# The quadratic programme


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_classes=st.integers(2, 14),
    extra=st.integers(0, 20),
    share=st.floats(0, 1),
)
def test_solutions_are_feasible_and_optimal(seed, n_classes, extra, share):
    k = 1 + int(share * (n_classes - 2))
    weight, bias, features, target = draw(seed, 6, n_classes, n_classes + 5 + extra, k)
    z, found, programmes = nearest(weight, bias, features, target)
    slack = programmes.differences(z @ weight.T + bias) - MARGIN
    assert slack.min() > -1e-4
    assert found.min() >= 0
    # With z = f + W' D' multipliers, this is all that optimality asks.
    assert (found * slack).abs().max() < 1e-4 * (1 + found.max())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_features_in_order_stay_where_they_are(seed, k):
    weight, bias, features, target = draw(seed, k=k)
    inside, *_ = nearest(weight, bias, features, target, margin=2 * MARGIN)
    again, found, _ = nearest(weight, bias, inside, target)
    assert torch.equal(again, inside)
    assert not found.any()


def test_two_classes_give_the_foot_of_the_perpendicular():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    z, *_ = nearest(weight, torch.zeros(2), torch.zeros(1, 2).double(), torch.tensor([[1]]))
    assert torch.allclose(z, torch.tensor([[-0.1, 0.1]], dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize(("n_classes", "width", "k"), [(10, 64, 5), (10, 5, 3), (30, 25, 9)])
def test_solutions_match_osqp(n_classes, width, k):
    osqp = pytest.importorskip("osqp", reason="osqp, the oracle, is not installed")
    import scipy.sparse as sparse

    weight, bias, features, target = draw(3, 8, n_classes, width, k)
    z, _, programmes = nearest(weight, bias, features, target)
    compared = 0
    for i in range(len(z)):
        rows = weight[programmes.higher[i]] - weight[programmes.lower[i]]
        least = MARGIN - (bias[programmes.higher[i]] - bias[programmes.lower[i]])
        solver = osqp.OSQP()
        solver.setup(
            sparse.eye(width, format="csc"),
            -features[i].numpy(),
            sparse.csc_matrix(rows.numpy()),
            least.numpy(),
            np.full(len(least), np.inf),
            verbose=False,
            eps_abs=1e-6,
            eps_rel=1e-6,
            max_iter=100_000,
        )
        answer = solver.solve(raise_error=False)
        reached = bool((rows @ z[i] >= least - 1e-4).all())
        assert reached == (answer.info.status != "primal infeasible")
        if answer.info.status == "solved":
            theirs = 0.5 * float(((answer.x - features[i].numpy()) ** 2).sum())
            ours = 0.5 * float((z[i] - features[i]).square().sum())
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
            compared += 1
    assert compared >= 2


def test_an_order_that_no_features_have_gives_finite_multipliers():
    weight, bias, features, target = draw(0)
    weight[target[0, 1]], bias[target[0, 1]] = weight[target[0, 0]], bias[target[0, 0]]
    z, found, programmes = nearest(weight, bias, features, target[:1].expand(len(features), -1))
    assert found.isfinite().all()
    broken = MARGIN - programmes.differences(z @ weight.T + bias)
    assert broken[:, 0].min() > 0.19  # two classes that are the same
    assert broken[:, 1:].max() < 0.2  # the rest is as good as it can be


def test_a_thousand_classes():
    weight, bias, features, target = draw(1, 2, 1000, 1200, 20)
    z, _, programmes = nearest(weight, bias, features, target)
    assert (programmes.differences(z @ weight.T + bias) - MARGIN).min() > -1e-4


# The losses


def test_the_gradient_is_that_of_the_squared_distance_in_feature_space(digits):
    model, x, y = digits
    target = random_order(y, 10, 5)
    problem = Problem(
        model, x, OrderedTopK(y, target), None, torch.Generator(), norm="L2", smallest=True
    )
    _, ours = problem.gradient(x, torch.arange(len(x)), QuadAttacK().loss(problem))
    head, seen = model.linear_head(), []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    leaf = x.clone().requires_grad_()
    model(leaf)
    hook.remove()
    features, weight, bias = seen[0], head.weight.detach().double(), head.bias.detach().double()
    z, *_ = nearest(weight, bias, features.detach().double(), target)
    (expected,) = torch.autograd.grad((features - z.float()).square().sum(), leaf)
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_broken_places_by_hand_and_under_a_shift():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    goal = OrderedTopK(torch.tensor([0]), torch.tensor([[1, 2]]))
    # Place 1: class 0 has 3 against 1. Place 2: class 0 has 3 against min(1, 2).
    assert broken_places(goal, logits).tolist() == [2.0]
    assert broken_places(goal, logits - 50).tolist() == [2.0]
    assert broken_places(goal, torch.tensor([[0.0, 3.0, 2.0, 1.0]])).tolist() == [0.0]


# The search


@pytest.mark.parametrize("kind", KINDS)
def test_success_means_the_exact_order(digits, kind):
    model, x, y = digits
    target = random_order(y, 10, 5, seed=1)
    result = kind()(model, x, y, target=target)
    assert result.success.float().mean() >= 0.9
    order = model.predict(result.x_adv).logits.argsort(1, descending=True)[:, :5]
    assert torch.equal((order == target).all(1), result.success)


def test_nine_places_are_reached_on_the_digits(digits):
    model, x, y = digits
    assert QuadAttacK()(model, x, y, target=random_order(y, 10, 9)).success.float().mean() >= 0.9


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 4), (2, 8, 8)])
def test_norms_near_the_optimum_of_linear_models(n, shape):
    model = linear_model(shape)
    x = torch.full((n, *shape), 0.5)
    y = model.predict(x).label
    target = random_order(y, 5, 2, seed=n)
    attack = QuadAttacK(n_steps=100, alpha=0.01, weight=200, margin=0.02)
    result = attack(model, x, y, target=target)
    head = model.linear_head()
    programmes = OrderProgrammes.of(head.weight.detach(), target)
    moved = programmes.spread(programmes.solve(model.predict(x).logits, 1e-9)).float()
    best = (moved @ head.weight.detach()).norm(dim=1)
    assert result.success.all()
    assert (result.norms["L2"] <= 1.25 * best).all()
    assert (result.norms["L2"] >= 0.999 * best).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_of_the_logits_changes_nothing(kind):
    x = torch.full((4, 1, 4, 4), 0.5)
    results = []
    for shift in (0.0, -50.0):
        model = linear_model((1, 4, 4), shift=shift)
        y = model.predict(x).label
        results.append(kind()(model, x, y, target=random_order(y, 5, 3)))
    assert torch.equal(results[0].success, results[1].success)
    assert torch.allclose(results[0].norms["L2"], results[1].norms["L2"], rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_images_and_leaves_all_else(digits, kind):
    model, x, y = digits
    target = random_order(y[:3], 10, 3)
    state = torch.get_rng_state()
    first, again, other = (
        kind(n_steps=7)(model, x[:3], y[:3], target=target, seed=seed).last for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_cancelled_midway_it_keeps_the_best_and_leaves_no_hook(digits):
    model, x, y = digits
    running = QuadAttacK().steps(model, x, y, target=random_order(y, 10, 1))
    best = [next(running).value for _ in range(40)][-1]
    running.close()
    assert best.success.any()
    assert not any(module._forward_hooks for module in model.modules())


def test_equal_classes_end_without_success():
    model = linear_model((1, 4, 4))
    head = model.linear_head()
    with torch.no_grad():
        head.weight[1], head.bias[1] = head.weight[0], head.bias[0]
    x = torch.full((2, 1, 4, 4), 0.5)
    labels = torch.tensor([4, 4])
    result = QuadAttacK()(model, x, labels, target=torch.tensor([[1, 0], [1, 0]]))
    assert not result.success.any()
    assert result.x_adv.isfinite().all()


# What is refused


@pytest.mark.parametrize(
    "after",
    [[nn.ReLU(inplace=True)], [nn.LogSoftmax(dim=1)], [nn.Unflatten(1, (5, 1, 1)), nn.Flatten()]],
)
def test_a_layer_after_the_linear_one_is_no_head(after):
    layers = [nn.Flatten(), nn.Linear(16, 5), *after]
    model = models.wrap(nn.Sequential(*layers), input_shape=(1, 4, 4))
    found = model.linear_head()
    same = isinstance(after[-1], nn.Flatten)  # only another view of the same logits
    assert (found is not None) == same


def test_without_a_linear_head_only_quadattack_is_refused():
    body = nn.Sequential(nn.Conv2d(1, 5, 4), nn.Flatten())
    model = models.wrap(body, input_shape=(1, 4, 4))
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model.predict(x).label
    target = random_order(y, 5, 2)
    with pytest.raises(ValueError, match=r"not the output of an nn\.Linear.*use CWK"):
        QuadAttacK()(model, x, y, target=target)
    for kind in (CWK, AdversarialDistillation):
        assert kind(n_steps=3)(model, x, y, target=target).x_adv.shape == x.shape


def test_only_an_order_will_do(digits):
    model, x, y = digits
    with pytest.raises(ValueError, match="its goal is OrderedTopK, not Targeted"):
        QuadAttacK()(model, x, y, target=(y + 1) % 10)
    with pytest.raises(ValueError, match="K from 1 to 9"):
        QuadAttacK()(model, x, y, target=torch.arange(10).expand(len(y), -1))


def test_hooks_go_even_when_the_model_fails(digits):
    model = linear_model((1, 4, 4))
    model.body[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.linear_head()
    assert not linear_model((1, 4, 4)).body[1]._forward_hooks
    assert not model.body[1]._forward_hooks


@given(k=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_random_orders_hold_different_classes_without_the_label(k, seed):
    labels = torch.arange(10)
    order = random_order(labels, 10, k, seed=seed)
    assert order.shape == (10, k)
    assert (order != labels[:, None]).all()
    assert all(len(row.unique()) == k for row in order)


@pytest.mark.parametrize("k", [0, 10, 2.5])
def test_random_orders_refuse_what_is_not_there(k):
    with pytest.raises(ValueError, match="k: expected"):
        random_order(torch.arange(3), 10, k)
