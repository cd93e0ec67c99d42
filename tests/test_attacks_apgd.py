"""APGD, APGD-T, Square and Cascade: closed forms, budgets, queries, presets."""

import math
import warnings
from fractions import Fraction

import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.attacks.apgd import APGD, APGDT, checkpoints
from workbench.attacks.base import MinimumNorm
from workbench.attacks.cascade import Cascade
from workbench.attacks.goals import Untargeted
from workbench.attacks.norms import size
from workbench.attacks.problem import Problem
from workbench.attacks.square import Square, bump

SHAPES = [(1, 8, 8), (3, 6, 6), (2, 5, 7)]
FAST = {"APGD": {"n_steps": 20}, "APGDT": {"n_steps": 20}, "Square": {"n_queries": 300}}


def linear(shape, n_classes, seed=0):
    """A linear model with weights of random sign: images in the middle of the box are far in."""
    draw = torch.Generator().manual_seed(seed)
    n = math.prod(shape)
    layer = nn.Linear(n, n_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_classes, n, generator=draw) / n**0.5)
        layer.bias.copy_(torch.randn(n_classes, generator=draw) / 10)
    names = [str(k) for k in range(n_classes)]
    model = models.wrap(nn.Sequential(nn.Flatten(), layer), classes=names, input_shape=shape)
    return model, layer


def closed_form(layer, x, y, norm):
    """The smallest perturbation that makes some other class as likely, where no box binds."""
    z = layer(x.flatten(1)).detach()
    apart = layer.weight.detach()[y][:, None] - layer.weight.detach()
    dual = apart.abs().sum(2) if norm == "Linf" else apart.norm(dim=2)
    ways = (z.gather(1, y[:, None]) - z) / dual.clamp(min=1e-9)
    return ways.scatter(1, y[:, None], torch.inf).amin(1)


def middle(shape, n, layer, seed=1):
    """Images near the middle of the box, and the classes that the model gives them."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.02 * (torch.rand(n, *shape, generator=draw) - 0.5)
    return x, layer(x.flatten(1)).argmax(1)


@pytest.fixture(scope="module")
def digits():
    return models.load("digits/cnn"), data.load("digits", limit=40)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_linear_closed_form(shape, n, norm, targeted):
    """Found a hair above the optimum, never found below it, and always within the ball."""
    model, layer = linear(shape, 2)
    x, y = middle(shape, n, layer)
    target = 1 - y if targeted else None
    optimum = closed_form(layer, x, y, norm)
    attacks = [APGD(norm=norm, n_steps=10, loss=loss) for loss in ("cross-entropy", "margin")]
    attacks += [] if targeted else [APGDT(norm=norm, n_steps=10, loss="margin")]
    for attack in attacks:
        enough = attack(model, x, y, target=target, eps=1.01 * optimum)
        assert enough.success.all(), attack.code()
        assert (size(enough.x_adv - x, norm) <= 1.01 * optimum + 1e-5).all()
        assert not attack(model, x, y, target=target, eps=0.98 * optimum).success.any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_t_reaches_the_nearest_of_many_classes(norm):
    """The nearest class is not always the second most likely, so all of them are tried."""
    model, layer = linear((3, 6, 6), 6)
    x, y = middle((3, 6, 6), 20, layer)
    optimum = closed_form(layer, x, y, norm)
    margin = APGDT(norm=norm, n_steps=10, loss="margin")
    assert margin(model, x, y, eps=1.01 * optimum).success.all()
    assert APGDT(norm=norm, n_steps=30)(model, x, y, eps=1.05 * optimum).success.all()
    assert not margin(model, x, y, eps=0.98 * optimum).success.any()


@pytest.mark.parametrize("attack", [APGD, APGDT, Square])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_box_and_ball_with_a_budget_an_image(attack, norm, digits):
    model, batch = digits
    scale = 0.1 if norm == "Linf" else 0.6
    eps = torch.linspace(0, 2, len(batch)) * scale
    result = attack(norm=norm, **FAST[attack.__name__])(model, batch.images, batch.labels, eps=eps)
    assert float(result.x_adv.min()) >= 0
    assert float(result.x_adv.max()) <= 1
    assert (size(result.x_adv - batch.images, norm) <= eps * (1 + 1e-5) + 1e-6).all()
    assert torch.equal(result.x_adv[0], batch.images[0])  # no budget, no change
    assert result.success.any()
    assert not result.success.all()


@pytest.mark.parametrize("n_steps", [1, 7, 20, 50, 99, 100, 1000])
def test_checkpoints_are_the_published_sequence(n_steps):
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    wanted = sorted({math.ceil(q * n_steps) for q in p[1:-1]})
    assert checkpoints(n_steps) == wanted
    if n_steps == 100:
        assert wanted == [22, 41, 57, 70, 80, 87, 93, 99]


def test_restarts_and_targets_only_where_nothing_was_found(digits):
    model, batch = digits
    once = APGD(eps=0.08, n_steps=10)(model, batch.images, batch.labels)
    thrice = APGD(eps=0.08, n_steps=10, restarts=3)(model, batch.images, batch.labels)
    fooled = once.success
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(thrice.queries["backwards"][fooled], once.queries["backwards"][fooled])
    assert (thrice.queries["backwards"][~thrice.success] == 30).all()
    assert (thrice.queries["forwards"][~thrice.success] == 1 + 3 * 11).all()
    aimed = APGDT(eps=0.08, n_steps=10, n_targets=4)(model, batch.images, batch.labels)
    assert (aimed.queries["backwards"][~aimed.success] == 40).all()
    spent = once.queries["backwards"][fooled]
    assert ((spent > 0) & (spent < 10)).any()  # and a run lets go of what it fooled


@pytest.mark.parametrize(("n_classes", "attack"), [(2, APGD), (2, APGDT), (3, APGDT)])
def test_dlr_falls_back_to_the_margin_and_says_so(n_classes, attack):
    model, layer = linear((1, 8, 8), n_classes)
    x, y = middle((1, 8, 8), 5, layer)
    with pytest.warns(UserWarning, match=f"the model has {n_classes}; the margin is used"):
        result = attack(eps=0.5, n_steps=10, loss="dlr")(model, x, y)
    assert result.success.all()


def test_three_classes_are_enough_for_untargeted_dlr():
    model, layer = linear((1, 8, 8), 3)
    x, y = middle((1, 8, 8), 5, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert APGD(eps=0.5, n_steps=10, loss="dlr")(model, x, y).success.all()


def test_a_shift_or_scale_of_the_logits_changes_nothing(digits):
    model, batch = digits
    bent = models.wrap(Bent(model), classes=model.classes, input_shape=model.input_shape)
    for attack in (APGDT(eps=0.05, n_steps=10), Square(eps=0.1, n_queries=100)):
        straight = attack(model, batch.images, batch.labels).success
        assert torch.equal(straight, attack(bent, batch.images, batch.labels).success)


class Bent(nn.Module):
    """Logits times four, less 64: exact in floating point up to rounding of the sum."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) * 4 - 64


class NoGradient(nn.Module):
    """A model that no gradient passes through."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.detach()).detach()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_needs_logits_only(norm, digits, monkeypatch):
    model, batch = digits
    blind = models.wrap(NoGradient(model), classes=model.classes, input_shape=model.input_shape)
    monkeypatch.setattr(Problem, "gradient", lambda *_: pytest.fail("asked for a gradient"))
    eps = 0.15 if norm == "Linf" else 1.0
    attack = Square(norm=norm, eps=eps, n_queries=300)
    result = attack(blind, batch.images, batch.labels)
    assert 0.2 < result.success.float().mean() < 1
    assert (result.queries["forwards"][~result.success] == 1 + 300).all()
    assert (result.queries["backwards"] == 0).all()
    assert result.queries["forwards"][result.success].min() < 200
    with pytest.raises(ValueError, match="Square"):
        APGD()(blind, batch.images, batch.labels)


def test_square_finds_the_corner_of_a_linear_model():
    """One sign everywhere is the optimum here, and the first big squares reach it."""
    shape = (1, 6, 6)
    layer = nn.Linear(36, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.ones(36), -torch.ones(36)]))
        layer.bias.copy_(torch.tensor([-35.0, 35.0]))
    wrapped = nn.Sequential(nn.Flatten(), layer)
    model = models.wrap(wrapped, classes=["light", "dark"], input_shape=shape)
    x = torch.full((3, *shape), 0.5)
    y = torch.ones(3, dtype=torch.int64)  # dark, until all values rise by 0.4722
    assert Square(eps=0.49, n_queries=500)(model, x, y).success.all()
    assert not Square(eps=0.47, n_queries=500)(model, x, y).success.any()


def test_the_l2_bump_is_a_hill_above_a_valley():
    for side in (1, 2, 3, 5, 8):
        shape = bump(side)
        assert shape.shape == (side, side)
        assert float(shape.norm()) == pytest.approx(1)
        assert (shape[: side // 2] > 0).all()
        assert (shape[side // 2 :] < 0).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_a_cascade_is_the_and_of_its_parts(preset, norm, digits, monkeypatch):
    """Robust is what survives each attack, run one by one on what is left."""
    shorten(monkeypatch)
    model, batch = digits
    cascade = Cascade(norm=norm, eps=0.1 if norm == "Linf" else 0.8, preset=preset)
    result = cascade(model, batch.images, batch.labels, seed=5)
    assert result.attack == f"Cascade ({preset})"
    robust = model.predict(batch.images).logits.argmax(1) == batch.labels
    draw = torch.Generator().manual_seed(5)
    for attack in cascade.attacks(Untargeted(batch.labels)):
        index = robust.nonzero().flatten()
        eps = torch.full((len(index),), cascade.eps)
        part = Problem(
            model, batch.images[index], Untargeted(batch.labels[index]), eps, draw,
            norm=norm, smallest=attack.smallest,
        )  # fmt: skip
        for _ in attack.search(part):
            pass
        robust[index] = ~(part.found & (size(part.best - part.x, norm) <= eps * (1 + 1e-5)))
    assert torch.equal(~result.success, robust)
    assert 0 < robust.sum() < len(robust)
    assert (size(result.x_adv - batch.images, norm) <= cascade.eps * (1 + 1e-5)).all()


def shorten(monkeypatch):
    """A cascade with the same attacks, and budgets for a test."""
    whole = Cascade.attacks

    def attacks(self, goal):
        budgets = {"n_steps": 12, "n_queries": 60}
        return [
            attack.model_copy(update={k: v for k, v in budgets.items() if hasattr(attack, k)})
            for attack in whole(self, goal)
        ]

    monkeypatch.setattr(Cascade, "attacks", attacks)


def test_standard_has_the_published_budgets():
    apgd, apgd_t, fmn, square = Cascade(eps=0.2).attacks(Untargeted(torch.zeros(1)))
    assert (apgd.n_steps, apgd.loss, apgd.restarts) == (100, "cross-entropy", 1)
    assert (apgd_t.n_steps, apgd_t.n_targets, apgd_t.loss) == (100, 9, "dlr")
    assert (type(fmn).__name__, fmn.n_steps, fmn.norm) == ("FMN", 100, "Linf")
    assert square.n_queries == 5000


def test_a_minimum_norm_attack_counts_only_inside_the_ball(digits, monkeypatch):
    model, batch = digits
    x, y = batch.images[:6], batch.labels[:6]

    class Far(MinimumNorm):
        """Finds another class for every image, half of the time too far away."""

        title = "far"
        goals = (Untargeted,)

        @property
        def distance(self):
            return "Linf"

        def search(self, problem):
            index = torch.arange(len(problem))
            grey = 1 - problem.x
            problem.offer(grey, problem.logits(grey, index), index)
            yield 1, 1

    monkeypatch.setattr(Cascade, "attacks", lambda *_: [Far()])
    near, far = (Cascade(eps=eps)(model, x, y) for eps in (0.02, 1.0))
    assert far.success.any()
    assert not near.success.any()
    assert (near.norms["Linf"] <= 0.02 + 1e-6).all()
    assert (near.queries["forwards"] == 3).all()  # the image, the attack's, the one brought in


def test_adaptive_says_what_it_left_and_why(digits, monkeypatch):
    shorten(monkeypatch)
    model, batch = digits
    result = Cascade(eps=0.05, preset="adaptive")(model, batch.images, batch.labels)
    short = 12 + 3 * 12  # gradients of the short attacks
    early = ~result.success & (result.queries["backwards"] == short)
    assert early.any()
    first, second = result.remarks
    assert first.startswith(f"{int(early.sum())} images given up before APGD(")
    assert "of their margin was left" in first
    assert second.startswith(f"{int((~result.success & ~early).sum())} images given up before Sq")
    assert Cascade(preset="quick")(model, batch.images, batch.labels).remarks == ()


def test_adaptive_does_not_take_hidden_gradients_for_robustness(digits):
    """Rounded images have no gradient; squares fool them all the same."""
    model, batch = digits
    masked = models.wrap(Rounded(model), classes=model.classes, input_shape=model.input_shape)
    result = Cascade(eps=0.25, preset="adaptive")(masked, batch.images, batch.labels)
    squares = Square(eps=0.25)(masked, batch.images, batch.labels)
    assert result.success.sum() >= squares.success.sum() - 1


class Rounded(nn.Module):
    """Images rounded to 16 levels; the gradient is zero and present."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 15).round() / 15 + 0 * x)


@pytest.mark.parametrize(
    "attack",
    [APGD(eps=0.05, n_steps=10), APGDT(eps=0.05, n_steps=5), Square(eps=0.1, n_queries=50),
     Square(norm="L2", n_queries=50), Cascade(eps=0.05, preset="quick")],
    ids=lambda attack: attack.code(),
)  # fmt: skip
def test_same_seed_same_bits(attack, digits):
    model, batch = digits
    before = torch.get_rng_state()
    first, again, other = (
        attack(model, batch.images, batch.labels, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.x_adv, again.x_adv)
    assert not torch.equal(first.x_adv, other.x_adv)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("attack", [APGD, APGDT, Square, Cascade])
def test_an_empty_batch_a_single_image_and_one_already_fooled(attack, digits):
    model, batch = digits
    few = attack(**FAST.get(attack.__name__, {"preset": "quick"}))
    assert len(few(model, batch.images[:0], batch.labels[:0]).success) == 0
    assert len(few(model, batch.images[:1], batch.labels[:1]).success) == 1
    wrong = (model.predict(batch.images[:3]).logits.argmax(1) + 1) % 10
    fooled = few(model, batch.images[:3], wrong)
    assert fooled.success.all()
    assert torch.equal(fooled.x_adv, batch.images[:3])
    assert (fooled.queries["forwards"] == 1).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: APGD(loss="hinge"), "loss"), (lambda: Square(norm="L1"), "norm"),
     (lambda: Square(p_init=0), "p_init"), (lambda: Cascade(preset="rapid"), "preset"),
     (lambda: APGD(eps=1.5), "eps"), (lambda: APGDT(n_targets=0), "n_targets")],
)  # fmt: skip
def test_bad_parameters_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
