"""Optimisers, rates over time and by layer: on a quadratic with known steps, then in the loop."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, models, treatments
from workbench.models import Recipe, fit
from workbench.models.learning import Hooks
from workbench.models.plain import learning_rate
from workbench.treatments.gradient_noise import GradientNoise
from workbench.treatments.optimisers import Adan, Layerwise, Optimiser, Schedule, dual

NAMES = ["sgd", "adam", "adamw", "nadam", "rmsprop", "muon", "adan"]
PLAN = Recipe(
    dataset="digits", architecture="mlp", options={"hidden": (12,)}, epochs=2, batch_size=64
)
CONSTANT = Schedule(kind="constant", warm_up=0.0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:256]


class Bowl(Hooks):
    """In place of the loss a quadratic of the weights: the gradient is `curve` times them."""

    def __init__(self, curve=1.0):
        self.curve, self.seen = curve, []

    def fill(self, run, x, y):
        for p in run.model.parameters():
            p.grad = self.curve * p.detach().clone()
        self.seen.append([p.detach().clone() for p in run.model.parameters()])
        return torch.tensor(0.0), run.model(x).detach()


def walked(digits, *treatments, curve=1.0, lr=0.1, epochs=2, **changes):
    """The weights before each step, and after the last."""
    bowl = Bowl(curve)
    plan = PLAN.changed(lr=lr, epochs=epochs, **changes)
    model = fit(plan, digits, treatments=[bowl, *treatments]).model
    return [*bowl.seen, [p.detach().clone() for p in model.parameters()]]


def close(a, b, **how):
    return all(torch.allclose(x, y, **how) for x, y in zip(a, b, strict=True))


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 3), st.floats(0.01, 0.3))
def test_gradient_descent_in_a_bowl(curve, lr):
    """w shrinks by 1 - lr curve each step: away from the minimum once lr > 2 / curve."""
    some = data.load("digits", "train")[:256]
    steps = walked(some, Optimiser(name="sgd", momentum=0.0), CONSTANT, curve=curve, lr=lr)
    for t, weights in enumerate(steps):
        shrunk = [(1 - lr * curve) ** t * w for w in steps[0]]
        assert close(weights, shrunk, rtol=1e-3, atol=1e-5)


def test_momentum_in_a_bowl(digits):
    """b <- m b + g, w <- w - lr b."""
    steps = walked(digits, Optimiser(name="sgd", momentum=0.5), CONSTANT, lr=0.2)
    w, b = steps[0], [0.0] * 4
    for weights in steps[1:]:
        b = [0.5 * b_ + w_ for b_, w_ in zip(b, w, strict=True)]
        w = [w_ - 0.2 * b_ for b_, w_ in zip(b, w, strict=True)]
        assert close(weights, w, rtol=1e-4, atol=1e-6)


def test_three_steps_of_adan_by_hand():
    w = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
    adan = Adan([w], lr=0.1, betas=(0.9, 0.8, 0.7), weight_decay=0.5)
    gradients = torch.tensor([[1.0, -2.0, 0.1], [0.5, -3.0, 0.1], [0.0, 1.0, 0.1]]).double()
    at, m, v, n = w.detach().double(), 0.0, 0.0, 0.0
    before = gradients[0]
    for t, g in enumerate(gradients, 1):
        w.grad = g.float()
        adan.step()
        d, before = g - before, g
        m, v = 0.9 * m + 0.1 * g, 0.8 * v + 0.2 * d
        n = 0.7 * n + 0.3 * (g + 0.8 * d) ** 2
        step = m / (1 - 0.9**t) + 0.8 * v / (1 - 0.8**t)
        at = (at - 0.1 * step / ((n / (1 - 0.7**t)).sqrt() + 1e-8)) / (1 + 0.1 * 0.5)
        assert torch.allclose(w.detach(), at.float(), atol=1e-6)


@given(st.floats(1e-3, 1e3))
def test_adan_does_not_know_the_scale_of_the_loss(scale):
    ends = []
    for factor in (1.0, scale):
        w = torch.tensor([1.0, 3.0], requires_grad=True)
        adan = Adan([w], lr=0.05)
        for _ in range(5):
            w.grad = factor * torch.tensor([1.0, 0.2]) * w.detach()
            adan.step()
        ends.append(w.detach())
    assert torch.allclose(*ends, atol=1e-3)


def test_without_changes_of_the_gradient_adan_goes_the_rate_a_step():
    w = torch.zeros(2, requires_grad=True)
    adan = Adan([w], lr=0.01)
    for _ in range(7):
        w.grad = torch.tensor([3.0, -0.1])
        adan.step()
    assert torch.allclose(w, torch.tensor([-0.07, 0.07]), atol=1e-6)


def test_adamw_by_name_is_the_plain_loop(digits):
    plain = fit(PLAN, digits).model.state_dict()
    named = fit(PLAN, digits, treatments=[Optimiser(name="adamw")]).model.state_dict()
    assert all(torch.equal(plain[key], named[key]) for key in plain)


def test_muon_makes_steps_with_equal_singular_values(digits):
    lr = 0.01
    before, after = walked(digits, Optimiser(name="muon"), CONSTANT, lr=lr, epochs=1)[:2]
    for old, new in zip(before, after, strict=True):
        step = (old - new) / lr
        if step.ndim == 2:  # five iterations bring them near 1; then the mean square is Adam's
            values = torch.linalg.svdvals(step) / (0.2 * max(step.shape) ** 0.5)
            assert bool(((values > 0.6) & (values < 1.3)).all())
        else:  # the first step of Adam is the sign of the gradient
            assert torch.allclose(step, old.sign(), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_noise_and_an_optimiser_each_do_what_they_do(name, digits):
    """The noise is on the gradient that the optimiser reads, and the optimiser is the named."""
    noise, optimiser = GradientNoise(eta=0.2), Optimiser(name=name)
    read = []

    class Reader(Hooks):
        def gradients(self, run):
            read.append([p.grad.clone() for p in run.model.parameters()])

    steps = walked(digits, optimiser, noise, Reader(), CONSTANT, lr=0.01)
    weights = [nn.Parameter(w.clone()) for w in steps[0]]
    model = nn.Module()
    model.w = nn.ParameterList(weights)
    alone = optimiser.optimiser(model, PLAN.changed(lr=0.01))
    for gradients, after in zip(read, steps[1:], strict=True):
        for p, g in zip(weights, gradients, strict=True):
            p.grad = g.clone()
        alone.step()
        assert close([p.detach() for p in weights], after, atol=1e-6)
    apart = torch.cat([(g - w).flatten() for g, w in zip(read[0], steps[0], strict=True)])
    assert float(apart.std()) == pytest.approx(0.2**0.5, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_cancelled_and_gone_on_with_it_is_the_same_to_the_bit(name, digits, tmp_path):
    treatments = [Layerwise(), Optimiser(name=name), Schedule(), GradientNoise(eta=0.01)]
    plan, at = PLAN.changed(epochs=3), tmp_path / "state"
    straight = fit(plan, digits, treatments=treatments).model.state_dict()
    work = fit.steps(plan, digits, treatments=treatments, keep=at)
    next(step for step in work if step.message == "epoch 2 done")
    work.close()
    went_on = fit(plan, digits, treatments=treatments, keep=at).model.state_dict()
    assert all(torch.equal(straight[key], went_on[key]) for key in straight)


def rates(kind, warm_up, total=100):
    class At:
        plan = PLAN.changed(lr=0.5)

    found = []
    for step in range(total):
        At.progress = step / total
        found.append(Schedule(kind=kind, warm_up=warm_up).rate(At))
    return found


def test_schedules_by_hand():
    assert rates("constant", 0.0) == [0.5] * 100
    cycle = [learning_rate(PLAN.changed(lr=0.5), step / 100) for step in range(100)]
    assert rates("cycle", 0.2) == pytest.approx(cycle)
    cosine = rates("cosine", 0.2)
    assert cosine[:21] == pytest.approx([0.5 * step / 20 for step in range(21)])
    assert cosine[60] == pytest.approx(0.25)
    assert cosine[99] == pytest.approx(0.25 * (1 + math.cos(math.pi * 79 / 80)))


@given(st.sampled_from(["cycle", "cosine", "constant"]), st.floats(0, 0.9))
def test_every_schedule_stays_between_nothing_and_the_rate(kind, warm_up):
    found = rates(kind, warm_up)
    assert 0 <= min(found) <= max(found) <= 0.5 + 1e-9
    peak = max(range(100), key=found.__getitem__)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_where_gradients_do_not_change_layers_go_as_without(name, digits):
    class Slope(Hooks):
        def fill(self, run, x, y):
            for p in run.model.parameters():
                p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
            return torch.tensor(0.0), run.model(x).detach()

    optimiser = Optimiser(name=name)
    plain = fit(PLAN, digits, treatments=[Slope(), optimiser]).model
    layered = fit(PLAN, digits, treatments=[Slope(), optimiser, Layerwise()]).model
    assert close(plain.parameters(), layered.parameters(), rtol=0, atol=0)


def test_the_ratios_by_hand(digits):
    layers, seen = Layerwise(alpha=0.3, memory=0.6), []

    class Reader(Hooks):
        def after(self, run):
            gradients = {n: p.grad.clone() for n, p in run.model.named_parameters()}
            weights = {n: p.detach().clone() for n, p in run.model.named_parameters()}
            seen.append((gradients, weights, run.kept["0"]["ratios"]))

    fit(PLAN, digits, treatments=[layers, Reader(), Optimiser(name="sgd", momentum=0.0), CONSTANT])
    noise = dict.fromkeys(seen[0][0], 0.0)
    for (last, before, _), (now, after, ratios) in itertools.pairwise(seen):
        share = {}
        for n in now:
            change = (now[n] - last[n]).double()
            norm = torch.linalg.svdvals(change).sum() if change.ndim > 1 else change.abs().sum()
            noise[n] = 0.6 * noise[n] + 0.4 * float(norm) ** 2
            share[n] = 0.3 / (0.09 + noise[n]) ** 0.5
        for n in now:
            group = [share[o] for o in now if (now[o].ndim > 1) == (now[n].ndim > 1)]
            assert ratios[n] == pytest.approx((share[n] / max(group)) ** 0.5, rel=1e-4)
            step = -PLAN.lr * ratios[n] * now[n]
            assert torch.allclose(after[n] - before[n], step, rtol=1e-3, atol=1e-7)
        assert min(ratios.values()) < 0.99 < max(ratios.values()) == 1


def test_dual_norms():
    assert dual(torch.diag(torch.tensor([3.0, -4.0]))) == pytest.approx(7)
    assert dual(torch.tensor([3.0, -4.0])) == pytest.approx(7)
    assert dual(torch.ones(2, 3, 4, 5)) == pytest.approx((2 * 60) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_learns(name, digits):
    plan = PLAN.changed(epochs=12, lr={"sgd": 0.05, "muon": 0.03}.get(name, 5e-3))
    made = fit(plan, digits, treatments=[Optimiser(name=name)])
    assert made.history[-1]["loss"] < 0.7 * made.history[0]["loss"]


def test_a_net_of_filters_alone_has_no_matrix_for_muon():
    body = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    model = models.wrap(body, input_shape=(1, 8, 8))
    moving = Optimiser(name="muon").optimiser(model, PLAN)
    assert sum(len(group["params"]) for group in moving.param_groups) == 2


def test_a_parameter_may_be_called_name():
    assert treatments.get("Optimiser", name="sgd") == Optimiser(name="sgd")
