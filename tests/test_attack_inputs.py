"""What every attack makes of bad input: a clear error or a stated correction, and nothing left.

For what one attack shows for all (255-range and integer images, labels of other types, rounding
below zero) see test_attacks.py; for DLR of two classes test_attacks_apgd.py; for models that
give probabilities, or NaN from the start, test_models.py.
"""

import copy
import itertools
import math

import pytest
import torch
from test_peer_defects import changed, fragile, state
from torch import nn

from workbench import attacks, data, models
from workbench.attacks import (
    CW,
    DDN,
    FMN,
    PGD,
    DeepFool,
    GradientAscent,
    MapElites,
    OrderedTopK,
    Square,
    Targeted,
    Untargeted,
    random_order,
)
from workbench.data import ImageDataset
from workbench.robustness import evaluate, specimens

SHORT = {
    "n_steps": 3,
    "n_queries": 5,
    "searches": 1,
    "preset": "quick",
    "plays": 1,
    "tries": 5,
    "n_angles": 3,
    "n_shifts": 1,
    "surrogate": "digits/mlp",
}
EVERY = [
    kind(**{name: value for name, value in SHORT.items() if name in kind.model_fields})
    for kind in attacks.available().values()
]


def each(which):
    return pytest.mark.parametrize("attack", which, ids=lambda attack: type(attack).__name__)


def aim(attack, y, n_classes=10):
    """An order, for the attacks that only go for one."""
    return random_order(y, n_classes, 2) if attack.goals == (OrderedTopK,) else None


@pytest.fixture(scope="module")
def digits():
    images = data.load("digits")[:6]
    return models.load("digits/cnn"), images.images, images.labels


# Images, labels and budgets


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: 2 * x - 1, r"got \[-1, 1\]; normalisation belongs inside the model"),
        (lambda x: (x - 0.3) / 0.35, "normalisation belongs inside the model"),
        (lambda x: x.masked_fill(x == 0, torch.nan), r"got \[nan, nan\]"),
        (lambda x: x - 1e-5, "normalisation"),
        (lambda x: x[0], r"a single image needs a batch dimension: x\[None\]"),
        (lambda x: x[:, :, 1:], r"x: expected images of shape \(1, 8, 8\), got \(1, 7, 8\)"),
    ],
)
def test_images_that_are_none_are_refused(change, words, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match=words):
        PGD()(model, change(x), y)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda y: y - 1 - y.max(),
            r"y: expected values in 0\.\.9, or -1 where the class is not known, got -10",
        ),
        (lambda y: y[:3], "y: expected 6 labels, one an image, got 3"),
        (lambda y: y[:, None], r"y: expected shape \(N,\), got \(6, 1\)"),
    ],
)
def test_labels_that_are_none_are_refused(change, words, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match=words):
        PGD()(model, x, change(y))


@pytest.mark.parametrize("eps", [math.nan, math.inf, 1.01])
def test_a_budget_for_each_image_is_no_larger_than_the_box(eps, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match="eps: expected"):
        PGD()(model, x, y, eps=torch.full((6,), eps))
    with pytest.raises(ValueError, match="eps: "):
        PGD(eps=eps)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_in_other_norms_a_large_budget_still_ends_at_the_box(norm, digits):
    model, x, y = digits
    result = PGD(norm=norm, eps=1000.0, n_steps=3)(model, x, y)
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1


def test_a_grid_of_budgets_is_no_larger_than_the_box(digits):
    model, x, y = digits
    with pytest.raises(ValueError, match="eps"):
        evaluate(model, ImageDataset(x, y, model.classes), [PGD(n_steps=2)], eps=[8.0])


@each([DeepFool(), CW(), DDN(), FMN()])
def test_a_budget_for_the_smallest_is_refused(attack, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match=r"eps: .* has no budget; it looks for the smallest"):
        attack(model, x, y, eps=torch.full((6,), 0.1))


# Targets


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda y: y[:, None], "already has class"),
        (lambda y: torch.stack([y, (y + 1) % 10], 1), "already has class"),
        (lambda y: Targeted(y, y), "already has class"),
        (lambda y: Targeted(y, y + 10), r"target: expected values in 0\.\.9"),
        (lambda y: Targeted((y + 1) % 10, y), "expected a goal for the labels y"),
        (lambda y: Untargeted(y[:3]), "expected a goal for the labels y"),
        (lambda y: OrderedTopK(y, torch.arange(10).expand(6, -1)), "K from 1 to 9"),
        (lambda y: (y + 1)[:3] % 10, "target: expected 6 labels"),
    ],
)
def test_targets_that_make_no_sense_are_refused(target, words, digits):
    model, x, y = digits
    with pytest.raises(ValueError, match=words):
        PGD()(model, x, y, target=target(y))


def test_a_goal_is_a_target(digits):
    model, x, y = digits
    target = (y + 1) % 10
    goal, plain = (PGD()(model, x, y, target=t) for t in (Targeted(y, target), target))
    assert torch.equal(goal.x_adv, plain.x_adv)


# Few images


@each(EVERY)
def test_no_images_and_one_image(attack, digits):
    model, x, y = digits
    for n in (0, 1):
        result = attack(model, x[:n], y[:n], target=aim(attack, y[:n]))
        assert result.x_adv.shape == result.last.shape == (n, 1, 8, 8)
        assert result.success.shape == result.predicted.shape == (n,)
        assert len(result.frame()) == n
        assert result.summary()["images"] == n


# Models


@each(EVERY)
def test_a_model_without_gradient_is_for_black_boxes_only(attack, digits):
    model, x, y = digits
    hidden = specimens.MODELS["broken graph"](model)
    if attack.needs_gradient:
        with pytest.raises(ValueError, match="no gradient; use a black-box attack such as Square"):
            attack(hidden, x, y, target=aim(attack, y))
    else:
        assert len(attack(hidden, x, y).success) == 6


@each(EVERY)
def test_a_model_that_says_nan_is_neither_fooled_nor_robust(attack, digits):
    model, x, y = digits
    broken = copy.deepcopy(model)
    with torch.no_grad():
        list(broken.parameters())[-1].fill_(torch.nan)
    with pytest.raises(ValueError, match=r"model: it says NaN .* image 0 .*\(6 images in all\)"):
        attack(broken, x, y, target=aim(attack, y))


class NanWhereBright(nn.Module):
    """Two classes by the sum of the image; NaN where that is above `limit`."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        total = x.flatten(1).sum(1)
        total = total.where(total <= self.limit, torch.nan)
        return torch.stack([9 - total, total - 9], 1)


@each([PGD(eps=0.5, n_steps=5), CW(), DDN(), FMN(), Square(eps=0.5, n_queries=50)])
def test_nan_on_the_way_is_no_success(attack):
    x = torch.full((3, 1, 4, 4), 0.5)
    y = torch.zeros(3, dtype=torch.int64)
    model = models.wrap(NanWhereBright(torch.inf), input_shape=(1, 4, 4))
    model.body.limit = 8.9  # NaN comes before the other class
    with pytest.raises(ValueError, match="NaN"):
        attack(model, x, y)
    model.body.limit = 15.9  # some steps reach NaN, others the class
    if isinstance(attack, Square):
        return  # it may begin at NaN
    result = attack(model, x, y)
    assert result.success.all()
    assert result.logits.isfinite().all()


def test_nan_is_an_error_and_not_robust_in_an_evaluation(digits):
    model, x, y = digits
    broken = copy.deepcopy(model)
    with torch.no_grad():
        list(broken.parameters())[-1].fill_(torch.nan)
    found = evaluate(broken, ImageDataset(x, y, model.classes), [PGD(n_steps=2)], eps=[0.1])
    assert found.rows["robust"].isna().all()
    assert "NaN" in found.summary()["errors"][0]


# Interrupts


@each([attack for attack in EVERY if type(attack).__name__ != "Transfer"])
def test_an_interrupt_at_any_query_leaves_everything(attack):
    model, x, y = fragile()
    before = state(model)
    for queries in range(6):
        model.body.fuse = queries
        try:
            attack(model, x, y, target=aim(attack, y, 4))
        except KeyboardInterrupt:
            assert not changed(before, model), changed(before, model)
    model.body.fuse = math.inf
    attack(model, x, y, target=aim(attack, y, 4))
    assert not changed(before, model), changed(before, model)


@each(EVERY)
def test_a_cancelled_attack_leaves_everything_and_the_best_so_far(attack, digits):
    model, x, y = digits
    before = state(model)
    work = attack.steps(model, x, y, target=aim(attack, y))
    best = list(itertools.islice(work, 2))[-1].value
    work.close()
    assert not changed(before, model), changed(before, model)
    assert best.x_adv.shape == x.shape
    assert 0 <= best.x_adv.min() <= best.x_adv.max() <= 1


@pytest.mark.parametrize("method", [GradientAscent(n_steps=9), MapElites(generations=9)])
def test_interrupted_fooling_leaves_everything(method):
    model, _, _ = fragile()
    before = state(model)
    for queries in range(4):
        model.body.fuse = queries
        with pytest.raises(KeyboardInterrupt):
            method(model)
        assert not changed(before, model), changed(before, model)
