"""Goals, norms and the fixed-budget gradient attacks, on models with a closed form."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import attacks, data, models
from workbench.attacks import BIM, FGSM, PGD, OrderedTopK, Targeted, Untargeted
from workbench.attacks.norms import project, project_l1_box, size, steepest

SHAPES = [(1, 4, 4), (3, 5, 5), (1, 8, 8)]
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}


def linear(shape, n_classes=4, seed=0, scale=1.0):
    """A linear model and mid-grey images far enough from the box for the budgets used here."""
    generator = torch.Generator().manual_seed(seed)
    n = shape[0] * shape[1] * shape[2]
    module = nn.Sequential(nn.Flatten(), nn.Linear(n, n_classes))
    with torch.no_grad():
        module[1].weight.copy_(scale * torch.randn(n_classes, n, generator=generator))
        module[1].bias.copy_(-module[1].weight.sum(1) / 2)  # so that grey lies on the boundary
    return models.wrap(module, input_shape=shape), module[1].weight.detach()


def images(n, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.02 * (torch.rand((n, *shape), generator=generator) - 0.5)


def distance(model, weight, x, y, norm):
    """The least perturbation of a two-class model in closed form: margin over the dual norm."""
    logits = model(x).detach()
    gap = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
    return gap / (weight[0] - weight[1]).norm(p=DUAL[norm])


# Goals


logits_lists = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=5), min_size=1, max_size=6
)


@given(logits_lists, st.integers(0, 4), st.integers(0, 4))
def test_a_margin_is_negative_exactly_where_the_goal_is_met(rows, a, b):
    logits = torch.tensor(rows)
    if any(len(set(row)) < 5 for row in rows):
        return  # ties belong to neither side
    n = len(rows)
    y, t = torch.full((n,), a), torch.full((n,), b)
    goals = [Untargeted(y)]
    if a != b:
        goals += [Targeted(y, t), OrderedTopK(y, torch.tensor([[b, a]] * n))]
    for goal in goals:
        assert torch.equal(goal.margin(logits) < 0, goal.met(logits))
        assert torch.allclose(goal.margin(logits - 50), goal.margin(logits), atol=1e-4)


def test_the_goal_of_one_ordered_class_is_the_targeted_one():
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    y, t = torch.zeros(20, dtype=torch.int64), torch.full((20,), 3)
    one, many = Targeted(y, t), OrderedTopK(y, t[:, None])
    assert torch.equal(one.met(logits), many.met(logits))
    assert torch.allclose(one.margin(logits), many.margin(logits))
    assert torch.allclose(one.cross_entropy(logits), many.cross_entropy(logits))


# Norms


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(["Linf", "L2", "L1"]), st.floats(0, 3))
def test_projections_stay_in_ball_and_box_and_keep_what_is_inside(seed, norm, radius):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 4, 4, generator=generator)
    eps = torch.full((3,), radius)
    there = project(x + torch.randn(x.shape, generator=generator), x, eps, norm)
    assert float(there.min()) >= 0
    assert float(there.max()) <= 1
    assert bool((size(there - x, norm) <= radius * (1 + 1e-4) + 1e-6).all())
    assert torch.allclose(project(there, x, eps, norm), there, atol=1e-5)


def test_the_l1_projection_is_the_nearest_point():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 2, 2, generator=generator)
    delta, eps = torch.randn(1, 1, 2, 2, generator=generator), torch.tensor([0.7])
    best = project_l1_box(delta, eps, -x, 1 - x)
    own = float((best - delta).norm())
    for _ in range(3000):
        other = (torch.rand(1, 1, 2, 2, generator=generator) - x) * torch.rand(
            1, generator=generator
        )
        if float(other.abs().sum()) <= 0.7:
            assert float((other - delta).norm()) >= own - 1e-5


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_steepest_step_has_unit_norm_and_lowers_most(norm):
    gradient = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    step = steepest(gradient, norm, torch.full_like(gradient, 0.5))
    assert torch.allclose(size(step, norm), torch.ones(5), atol=1e-5)
    gain = -(step * gradient).flatten(1).sum(1)
    assert torch.allclose(gain, gradient.flatten(1).norm(p=DUAL[norm], dim=1), rtol=1e-5)


# Fixed budgets on linear models


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_succeeds_just_above_the_closed_form_and_never_below(norm, shape, n, targeted):
    model, weight = linear(shape, n_classes=2, scale=0.05)
    x = images(n, shape)
    y = model(x).argmax(1)
    target = 1 - y if targeted else None
    least = distance(model, weight, x, y, norm)
    attack = PGD(norm=norm, n_steps=100, random_start=False)
    above = attack(model, x, y, target=target, eps=1.01 * least)
    below = attack(model, x, y, target=target, eps=0.99 * least)
    assert bool(above.success.all())
    assert not bool(below.success.any())
    # 1e-6: what float32 loses in x_adv - x, where the least distance is a few ten-thousandths
    assert bool((above.norms[norm] <= 1.01 * least * 1.0001 + 1e-6).all())


def test_fgsm_is_optimal_for_linf_on_a_linear_model():
    model, weight = linear((1, 8, 8), n_classes=2, scale=0.05)
    x = images(5, (1, 8, 8))
    y = model(x).argmax(1)
    least = distance(model, weight, x, y, "Linf")
    assert bool(FGSM()(model, x, y, eps=1.01 * least).success.all())
    assert not bool(FGSM()(model, x, y, eps=0.99 * least).success.any())


# What every attack keeps to


@pytest.fixture(scope="module")
def digits():
    images = data.load("digits")[:40]
    return models.load("digits/cnn"), images.images, images.labels


ATTACKS = [FGSM(eps=0.1), BIM(eps=0.1), PGD(eps=0.1, n_steps=10), PGD(norm="L2", eps=1.0)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.code())
def test_results_are_audited(attack, digits):
    model, x, y = digits
    result = attack(model, x, y)
    assert torch.equal(result.success, model.predict(result.x_adv).label != y)
    assert 0 <= float(result.x_adv.min()) <= float(result.x_adv.max()) <= 1
    assert bool((result.norms[attack.norm] <= attack.eps * 1.0001).all())
    assert torch.equal(result.predicted, model.predict(result.x_adv).label)
    assert len(result.frame()) == 40
    assert result.summary()["success_rate"] == float(result.success.float().mean())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.code())
def test_the_same_seed_gives_the_same_images_and_leaves_everything(attack, digits):
    model, x, y = digits
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    first, again = attack(model, x, y, seed=3), attack(model, x, y, seed=3)
    assert torch.equal(first.x_adv, again.x_adv)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_stopped_attack_keeps_the_best_and_leaves_the_model(digits):
    model, x, y = digits
    steps = PGD(eps=0.1).steps(model, x, y)
    seen = [step.value for step in itertools.islice(steps, 5)]
    steps.close()
    found = [int(result.success.sum()) for result in seen]
    assert found == sorted(found)
    last = seen[-1]
    assert torch.equal(model.predict(last.x_adv).label != y, last.success)
    assert all(p.grad is None for p in model.parameters())


def test_eps_zero_changes_nothing(digits):
    model, x, y = digits
    result = PGD(eps=0.0, n_steps=3)(model, x, y)
    assert torch.equal(result.x_adv, x)
    assert torch.equal(result.success, model.predict(x).label != y)


def test_failed_images_are_what_was_tried_never_something_else(digits):
    model, x, y = digits
    result = PGD(eps=0.01, n_steps=3)(model, x, y)
    failed = ~result.success
    assert bool(failed.any())
    assert float((result.x_adv - x)[failed].abs().max()) <= 0.01 * 1.0001


def test_images_already_fooled_are_left_alone(digits):
    model, x, y = digits
    lazy, thorough = PGD(eps=0.3)(model, x, y), PGD(eps=0.3, exhaustive=True)(model, x, y)
    assert bool(lazy.success.all())
    assert int(thorough.queries["backwards"].min()) == 40
    assert int(lazy.queries["backwards"].sum()) < 0.5 * int(thorough.queries["backwards"].sum())


def test_a_budget_for_each_image(digits):
    model, x, y = digits
    eps = torch.linspace(0, 0.2, 40)
    result = PGD(n_steps=5)(model, x, y, eps=eps)
    assert bool((result.norms["Linf"] <= eps + 1e-6).all())


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_shifting_all_logits_changes_nothing(digits, shift):
    model, x, y = digits

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            return self.inner(images) + shift

    shifted = models.wrap(Shifted(), input_shape=(1, 8, 8))
    plain = PGD(eps=0.05, loss="margin")(model, x, y)
    assert torch.equal(PGD(eps=0.05, loss="margin")(shifted, x, y).success, plain.success)


def test_many_images_go_in_batches_and_none_at_all_is_fine(digits):
    model, x, y = digits
    many = PGD(eps=0.1, n_steps=2)(model, x.repeat(15, 1, 1, 1), y.repeat(15))
    assert len(many.success) == 600
    none = PGD(eps=0.1)(model, x[:0], y[:0])
    assert none.summary() == {**none.summary(), "images": 0, "success_rate": None}
    assert len(none.frame()) == 0


def test_steps_of_few_images_can_be_scrubbed(digits):
    model, x, y = digits
    result = PGD(eps=0.05, n_steps=6, exhaustive=True)(model, x[:3], y[:3])
    assert [moment.step for moment in result.trace] == list(range(8))  # image, start, six steps
    assert torch.equal(result.trace[0].images, x[:3])
    for moment in result.trace:
        assert torch.allclose(model.predict(moment.images).logits, moment.logits, atol=1e-4)
    assert PGD(eps=0.05, n_steps=2)(model, x, y).trace[0].images is None


def test_a_long_trace_is_thinned_not_cut(digits):
    model, x, y = digits
    result = PGD(eps=0.01, n_steps=600, exhaustive=True)(model, x[:1], y[:1])
    steps = [moment.step for moment in result.trace]
    assert steps == list(range(0, steps[-1] + 1, 4))
    assert steps[-1] > 590


class NoGradient(nn.Module):
    """Weights that have gradients, behind images that have none."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.detach().flatten(1))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": lambda x: x * 255}, ValueError, "divide by 255"),
        ({"x": lambda x: (x * 255).byte()}, TypeError, "divide by 255"),
        ({"y": lambda y: y.int()}, TypeError, "int64"),
        ({"y": lambda y: y.float()}, TypeError, "int64"),
        ({"y": lambda y: y + 10}, ValueError, r"y: expected values in 0\.\.9"),
        ({"target": lambda y: y}, ValueError, "already has class"),
        ({"target": lambda y: y[:, None].repeat(1, 11)}, ValueError, "K from 1 to 9"),
        ({"target": lambda y: y[:, None].repeat(1, 2)}, ValueError, "different classes"),
        ({"eps": lambda y: -torch.ones(len(y))}, ValueError, "at least 0"),
        ({"eps": lambda y: torch.ones(3)}, ValueError, r"expected \(40,\)"),
    ],
)
def test_bad_input_is_refused(changes, error, words, digits):
    model, x, y = digits
    arguments = {"x": x, "y": y}
    for name, change in changes.items():
        arguments[name] = change(arguments[name if name in arguments else "y"])
    with pytest.raises(error, match=words):
        PGD(eps=0.1)(model, arguments.pop("x"), arguments.pop("y"), **arguments)


def test_bad_parameters_and_models_are_refused(digits):
    _, x, y = digits
    with pytest.raises(ValueError, match=r"eps: .*greater than or equal to 0"):
        PGD(eps=-0.1)
    with pytest.raises(ValueError, match="at most 1 in Linf"):
        PGD(eps=8.0)
    with pytest.raises(ValueError, match="Did you mean 'PGD'"):
        attacks.get("PDG")
    blind = models.wrap(NoGradient(), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="no gradient; use a black-box attack"):
        PGD(eps=0.1)(blind, x, y)


def test_rounding_below_zero_is_no_error(digits):
    model, x, y = digits
    assert len(PGD(eps=0.1, n_steps=2)(model, x - 1e-8, y).success) == 40


def test_every_attack_is_found_by_name_and_reads_back_from_its_code():
    for name, kind in attacks.available().items():
        attack = attacks.get(name)
        assert eval(attack.code(), {name: kind}) == attack
        assert kind.title
        assert kind.__doc__


def test_pgd_breaks_the_standard_mnist_model(real_set):
    images = real_set("mnist", limit=1000)
    result = PGD(eps=0.3)(models.load("mnist/cnn"), images.images, images.labels)
    assert float(result.success.float().mean()) == 1.0
