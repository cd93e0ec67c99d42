"""Trainings against attacks: old weights, a rate by accuracy, experts, natural moves."""

import pytest
import torch

from workbench import data, steps
from workbench.models import Recipe, fit
from workbench.models.learning import Hooks
from workbench.treatments import AccuracyGradient, AdversarialTraining, get

PLAN = Recipe(
    dataset="digits", architecture="cnn", options={"channels": (4, 8), "hidden": 16}, epochs=2
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:256]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# Attacks on the weights of some steps ago


class Watched(AdversarialTraining):
    """Keeps which weights were attacked, and which were learned."""

    def target(self, run):
        target = super().target(run)
        now = run.aside.setdefault("now", [])
        now.append(run.model(run.data.images[:3]).detach())
        run.aside.setdefault("attacked", []).append(target(run.data.images[:3]).detach())
        run.aside.setdefault("kept", []).append(len(run.state(self).get("past", [])))
        WATCHED.update(run.aside)
        return target


WATCHED = {}


@pytest.mark.parametrize("stale", [0, 1, 3])
def test_the_attack_asks_the_weights_of_some_steps_ago(digits, stale):
    fit(PLAN.changed(epochs=3, lr=1e-2), digits, treatments=[Watched(n_steps=1, stale=stale)])
    now, attacked = WATCHED["now"], WATCHED["attacked"]
    assert len(now) == 6
    assert all(torch.equal(attacked[step], now[max(0, step - stale)]) for step in range(len(now)))
    assert not torch.equal(now[1], now[2])  # the rate of the very first step is 0
    assert WATCHED["kept"] == [min(step, stale) + 1 if stale else 0 for step in range(6)]


def test_fresh_weights_are_no_part_of_the_name():
    assert AdversarialTraining(stale=0).code() == "AdversarialTraining()"
    assert get("AdversarialTraining(stale=2)").stale == 2


def test_old_weights_are_kept_with_a_cancelled_training(digits, tmp_path):
    treatment, keep = AdversarialTraining(n_steps=1, stale=3), tmp_path / "unfinished"
    plan = PLAN.changed(epochs=4, lr=1e-2)
    whole = treatment(plan, digits)
    begun = treatment.steps(plan, digits, keep=keep)
    for step in begun:
        if step.message == "epoch 2 done":
            break
    begun.close()
    resumed = steps.run(treatment.steps(plan, digits, keep=keep))
    assert resumed.ledger.images == whole.ledger.images
    assert same(resumed.model, whole.model)
    assert not same(whole.model, AdversarialTraining(n_steps=1)(plan, digits).model)


def test_batch_statistics_of_old_weights_are_old_too(digits):
    plan = PLAN.changed(architecture="resnet", options={"width": 4}, epochs=1)
    fit(plan, digits, treatments=[Watched(n_steps=1, stale=1)])
    assert torch.equal(WATCHED["attacked"][1], WATCHED["now"][0])


# The rate by accuracy


@pytest.mark.parametrize(
    ("accuracies", "falls"),
    [
        ([], 0),
        ([0.5] * 6, 0),  # fewer means than the window and one more
        ([0.5] * 7, 1),
        ([0.5] * 11, 1),  # quiet after a fall
        ([0.5] * 12, 2),
        ([0.5] * 17, 3),
        ([0.02 * n for n in range(30)], 0),  # it rises by 2 points a pass
        ([0.004 * n for n in range(7)], 1),  # it rises, and too little
        ([0.02 * min(n, 20) for n in range(40)], 4),  # its mean rises until pass 23
    ],
)
def test_falls_on_a_made_trace(accuracies, falls):
    assert AccuracyGradient().falls(accuracies) == falls


def test_falls_by_hand():
    rule = AccuracyGradient(window=2, wait=1, rise=0.1)
    # Means .1, .2, .4, .55, .6, .6: they rise by .1, .2, .15, .05, 0; passes 4, 5, 6 are looked at.
    trace = [0.1, 0.3, 0.5, 0.6, 0.6, 0.6]
    assert [rule.falls(trace[:n]) for n in range(7)] == [0, 0, 0, 0, 0, 1, 2]
    assert AccuracyGradient(window=2, wait=2, rise=0.1).falls(trace) == 1


def test_the_optimiser_takes_the_rate(digits):
    class Rates(Hooks):
        def after(self, run):
            seen.append(run.optimiser.param_groups[0]["lr"])

    seen: list[float] = []
    rule = AccuracyGradient(window=1, wait=1, rise=1.0, factor=0.5, least=3e-4)
    fit(PLAN.changed(epochs=6), digits, treatments=[rule, Rates()])
    # The mean never rises by 1: a fall after passes 3, 4, 5, to the least; two steps a pass.
    expected = [2e-3] * 6 + [1e-3, 1e-3, 5e-4, 5e-4, 3e-4, 3e-4]
    assert seen == pytest.approx(expected)


def test_a_rate_is_one_slot(digits):
    with pytest.raises(ValueError, match="AccuracyGradient has the slot 'rate' of the training"):
        fit(PLAN, digits, treatments=[AccuracyGradient(), AccuracyGradient(factor=0.5)])


def test_with_attacks_it_watches_accuracy_under_attack(digits):
    both = [AdversarialTraining(n_steps=1, warmup=0), AccuracyGradient()]
    attacked = fit(PLAN.changed(epochs=6, lr=1e-2), digits, treatments=both).history
    plain = fit(PLAN.changed(epochs=6, lr=1e-2), digits, treatments=both[1:]).history
    assert attacked[-1]["accuracy"] < plain[-1]["accuracy"]
