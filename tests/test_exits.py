"""Exits: closed forms of decisions and costs; the attack on what they save."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import attacks, data, models, robustness, treatments
from workbench.treatments import Exits, MultiExit, cost_curve, leaving, routed, slow_down
from workbench.treatments.exits import exit_costs, exit_logits


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")[:200]


@pytest.fixture(scope="module")
def net():
    return models.load("digits/cnn")


@pytest.fixture(scope="module")
def dynamic(net):
    return Exits(epochs=3)(net, data.load("digits", "train")).model


def test_an_exit_is_sure_by_the_log_odds_of_its_confidence():
    body = MultiExit(torch.nn.Identity(), ["a", "b"], 0.75)
    p = torch.tensor([[[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]]])
    odds = torch.tensor([[0.5 / 0.5, 0.8 / 0.2]]) / (0.75 / 0.25)
    torch.testing.assert_close(body.sure(p.log()), odds.log())
    assert body.taken(p.log()).tolist() == [1]  # the first is not sure enough, the second is
    assert body.taken(p.log(), 0.4).tolist() == [0]
    assert body.taken(p.log(), 0.9).tolist() == [2]


def test_costs_by_hand(dynamic):
    """Convolutions of 4x4 at 4x4 and 2x2 places, a head on each, pooled to no more than 4x4."""
    assert dynamic.body.layers == ["relu1", "flatten"]  # nearest to a third and two thirds
    first, second, rest = 32 * 16 * 16, 64 * 4 * 32 * 16, 256 * 100 + 100 * 10
    heads = 32 * 16 * 10, 64 * 4 * 10
    costs = [first + heads[0], first + second + sum(heads), first + second + rest + sum(heads)]
    assert exit_costs(dynamic).tolist() == costs
    assert models.cost(dynamic).macs == costs[-1]


def test_the_network_stays_and_its_answers_are_the_last_exit(net, dynamic, digits):
    whole = exit_logits(dynamic, digits.images)
    torch.testing.assert_close(whole[:, -1], net.predict(digits.images).logits)
    never = models.private_copy(dynamic, share=True)
    never.body.threshold = 1 - 1e-7  # float32 rounds anything nearer to 1
    taken = never.body.taken(whole)
    torch.testing.assert_close(
        never.predict(digits.images).logits, whole[torch.arange(len(whole)), taken]
    )
    assert bool((taken == 2).any())
    assert not bool(dynamic.body.taken(whole, 1e-6).any())


def test_who_leaves_where_is_counted(dynamic, digits):
    rows, costs = routed(dynamic, digits.images), exit_costs(dynamic)
    assert rows["macs"].tolist() == costs[rows["exit"].tolist()].tolist()
    said = dynamic.predict(digits.images)
    assert rows["predicted"].tolist() == [dynamic.classes[k] for k in said.label.tolist()]
    early = rows[rows["exit"] < 2]
    assert len(early)
    assert (early["confidence"] > dynamic.body.threshold).all()


def test_the_curve_is_what_each_threshold_gives(dynamic, digits):
    curve = cost_curve(dynamic, digits, (0.5, 0.99))
    other = models.private_copy(dynamic, share=True)
    for _, row in curve.iterrows():
        other.body.threshold = row["threshold"]
        rows = routed(other, digits.images)
        right = other.predict(digits.images).label == digits.labels
        assert row["accuracy"] == pytest.approx(float(right.float().mean()))
        assert row["macs"] == pytest.approx(rows["macs"].mean())
        assert row["exit 0"] == pytest.approx((rows["exit"] == 0).mean())
    assert curve["macs"].is_monotonic_increasing


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 0.99))
def test_the_largest_logit_of_leaving_is_the_decision(seed, threshold):
    """Over exits of random logits, in place of those of a network."""
    draw = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(20, 4, 3, generator=draw)
    body = MultiExit(torch.nn.Identity(), ["a", "b", "c"], threshold)
    body.every = lambda x: logits
    card = models.wrap(torch.nn.Flatten(), input_shape=(1, 1, 3), classes=3).card
    said = treatments.exits.Leaving(models.Classifier(body, card))(torch.zeros(20, 1, 1, 3))
    exits, last = body.taken(logits), logits[:, -1].argmax(1)
    assert torch.equal(said.argmax(1), torch.where(exits < 3, exits, 3 + last))


def test_softened_all_exits_move_the_answer(dynamic, digits):
    soft, before = robustness.softened(dynamic), routed(dynamic, digits.images[:4])
    assert (before["exit"] < 2).any()  # where the decision moves by one exit alone
    weights = [*(head.weight for head in soft.body.heads), soft.body.network.fc2.weight]
    slopes = torch.autograd.grad(soft(digits.images[:1])[:, 0].sum(), weights)
    assert all(float(slope.abs().sum()) > 0 for slope in slopes)
    hard = dynamic(digits.images[:1])[:, 0].sum()
    slopes = torch.autograd.grad(hard, [head.weight for head in dynamic.body.heads])
    assert [float(slope.abs().sum()) > 0 for slope in slopes].count(True) == 1


@pytest.mark.parametrize("attack", [None, attacks.Square(eps=0.1, n_queries=60)])
def test_slowed_images_leave_last_with_the_answer_that_they_had(dynamic, digits, attack):
    x, before = digits.images[:60], routed(dynamic, digits.images[:60])
    result = slow_down(dynamic, x, attack)
    after = routed(dynamic, result.x_adv)
    assert float((result.x_adv - x).abs().max()) <= 0.1 + 1e-6
    done = result.success.numpy()
    assert (after["exit"][done] == 2).all()
    assert (after["predicted"][done] == before["predicted"][done]).all()
    assert after["macs"].mean() > 1.5 * before["macs"].mean()
    assert (after["exit"] == 2).sum() > (before["exit"] == 2).sum()


def test_bad_input_is_said(net, dynamic, digits):
    few = digits[:5]
    for treatment, model, images, said in (
        (Exits(), net, few, "expected at least 20 images with labels, got 5"),
        (Exits(), dynamic, digits, "the model has exits"),
        (Exits(exits=9), net, digits, "expected at most 3, the costs that its layers are at"),
        (Exits(layers=("conv9",)), net, digits, "unknown layer that runs once a pass 'conv9'"),
    ):
        with pytest.raises(ValueError, match=said):
            treatment(model, images)
    with pytest.raises(
        ValueError, match=r"digits/cnn has no exits; make some by treatments\.Exits"
    ):
        routed(net, digits.images)
    with pytest.raises(ValueError, match="thresholds: expected numbers between 0 and 1, got 1"):
        cost_curve(dynamic, digits, (0.5, 1.0))
    assert Exits(layers=("relu2", "conv1"), epochs=1)(net, digits).model.body.layers == [
        "conv1",
        "relu2",
    ]


def test_where_an_image_leaves_is_a_class_like_others(dynamic, digits):
    watched = leaving(dynamic)
    assert watched.classes[:3] == ("leaves at relu1", "leaves at flatten", "last: 0")
    rows = routed(dynamic, digits.images)
    assert watched.predict(digits.images).label.clamp(max=2).tolist() == rows["exit"].tolist()
