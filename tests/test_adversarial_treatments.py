"""Trainings against attacks: old weights, a rate by accuracy, experts, natural moves."""

import pytest
import torch
from torch import nn

from workbench import attacks, data, models, steps
from workbench.models import Recipe, Run, checkpoints, cost, fit, private_copy
from workbench.models.learning import Hooks
from workbench.treatments import (
    AccuracyGradient,
    AdversarialTraining,
    NaturalTraining,
    RobustExperts,
    experts,
    get,
    natural,
)

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


# Router and experts


@pytest.fixture(scope="module")
def routed(digits):
    return RobustExperts(n=3)(PLAN.changed(lr=1e-2), digits).model


def forced(model, expert):
    """The model whose router sends all images to one expert."""
    twin = private_copy(model, share=False)
    last = twin.body.router[-1]
    last.weight.data.zero_()
    last.bias.data = 10.0 * torch.eye(len(last.bias))[expert]
    return twin


def test_each_image_gets_what_its_expert_says(routed, digits):
    x = digits.images[:60]
    with torch.no_grad():
        chosen = routed.body.router(routed.normalised(x)).argmax(1)
        each = torch.stack([forced(routed, k)(x) for k in range(3)])
        assert len(chosen.unique()) > 1
        assert torch.allclose(routed(x), each[chosen, torch.arange(60)], atol=1e-5)
    # Where a gradient is asked for, every expert computes, and the one chosen counts.
    assert torch.allclose(routed(x).detach(), each[chosen, torch.arange(60)], atol=1e-5)
    alone = torch.cat([routed.predict(one[None]).logits for one in x])
    assert torch.allclose(alone, routed.predict(x).logits, atol=1e-5)


def test_an_expert_is_an_ordinary_network(routed, digits):
    first = models.architectures.build("cnn", (1, 8, 8), 10, **PLAN.options)
    weights = forced(routed, 0).body.body.state_dict()
    weights = {k: t[: len(t) // 3] if k.startswith("conv") else t for k, t in weights.items()}
    first.load_state_dict(weights)
    x = routed.normalised(digits.images[:20])
    assert torch.allclose(first(x), forced(routed, 0)(digits.images[:20]), atol=1e-5)


def test_an_image_costs_one_expert_and_the_router(routed, digits):
    plain = fit(PLAN, digits).model
    of_router = 64 * 32 + 32 * 3
    assert cost(routed).macs == cost(plain).macs + of_router
    convs = sum(p.numel() for n, p in plain.body.named_parameters() if n.startswith("conv"))
    more = 2 * convs + of_router + 32 + 3
    assert cost(routed).parameters == cost(plain).parameters + more == routed.card.parameters


def test_the_gradient_goes_through_the_choice(routed, digits):
    x = digits.images[:20].clone().requires_grad_()
    routed(x).logsumexp(1).sum().backward()
    assert float(routed.body.router[2].weight.grad.abs().max()) > 0
    routed.zero_grad()


def test_the_router_learns_in_its_own_turn(digits):
    class Turns(Hooks):
        def gradients(self, run):
            body = run.model.body
            seen.append(
                [any(p.grad is not None for p in part.parameters()) for part in parts(body)]
            )

        def after(self, run):
            body = run.model.body
            seen.append(
                [any(p.grad is not None for p in part.parameters()) for part in parts(body)]
            )

    def parts(body):
        return body.body, body.router

    for turns, expected in ((True, [[True, False], [False, True]]), (False, [[True, True]] * 2)):
        seen: list[list[bool]] = []
        fit(PLAN.changed(epochs=1), digits, treatments=[RobustExperts(turns=turns), Turns()])
        assert seen[:2] == expected


def test_the_router_learns_its_classes(digits):
    plan = PLAN.changed(epochs=12, lr=1e-2, batch_size=32)
    made = RobustExperts(alpha=20, beta=1)(plan, digits)
    with torch.no_grad():
        chosen = made.model.body.router(made.model.normalised(digits.images)).argmax(1)
    assert float((chosen == digits.labels % 2).float().mean()) > 0.9
    assert 0 <= made.history[-1]["flips"] < 0.5


def test_one_expert_is_a_plain_network_that_answers_alike_under_attack(digits):
    plan = PLAN.changed(epochs=10, lr=1e-2, batch_size=32)
    trades = RobustExperts(n=1, eps=0.15)(plan, digits).model
    plain = fit(plan, digits).model
    assert list(trades.state_dict()) == list(plain.state_dict())
    attack = attacks.PGD(eps=0.1, n_steps=10)
    kept = [
        float((~attack(model, digits.images, digits.labels).success).float().mean())
        for model in (trades, plain)
    ]
    assert kept[0] > kept[1] + 0.1


def test_attacks_stay_in_their_ball_and_find_divergence(digits, routed):
    x, run = digits.images[:40], Run(PLAN, digits, [], 1, "cpu")
    run.model = routed
    treatment = RobustExperts(eps=0.07, n_steps=3)
    moved = treatment.attacked(run, x)
    assert float((moved - x).abs().max()) <= 0.07 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    noise = 0.07 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
    with torch.no_grad():
        before = experts.answers(routed, x)
        found, drawn = (experts.answers(routed, z) for z in (moved, (x + noise).clamp(0, 1)))
        assert experts.apart(found, before) > 2 * experts.apart(drawn, before)


def test_it_is_kept_resumed_and_made_of_a_resnet(digits, tmp_path):
    plan = PLAN.changed(architecture="resnet", options={"width": 4}, epochs=2)
    treatment, keep = RobustExperts(n_steps=1), tmp_path / "unfinished"
    whole = treatment(plan, digits[:64]).model
    begun = treatment.steps(plan, digits[:64], keep=keep)
    for step in begun:
        if step.message == "epoch 1 done":
            break
    begun.close()
    assert same(steps.run(treatment.steps(plan, digits[:64], keep=keep)).model, whole)
    checkpoints.save(whole, tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again.predict(digits.images).logits, whole.predict(digits.images).logits)
    assert "body.stage1_block1" in whole.layers()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (PLAN.changed(architecture="mlp", options={}), "'mlp' has no convolution"),
        (PLAN.changed(architecture="prototypes", options={}), "or an objective of its own"),
    ],
)
def test_experts_say_where_they_do_not_fit(digits, plan, said):
    with pytest.raises(ValueError, match=f"RobustExperts: the architecture .*{said}.*take another"):
        RobustExperts()(plan, digits)
    with pytest.raises(ValueError, match=said):
        fit(plan, digits, treatments=[RobustExperts()])


def test_groups_do_not_fit(digits, monkeypatch):
    def grouped(input_shape, n_classes):
        convs = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(64, n_classes))

    monkeypatch.setitem(models.architectures.ARCHITECTURES, "grouped", grouped)
    with pytest.raises(ValueError, match=r"'grouped' has Conv2d\(4, 4, .*groups=4"):
        RobustExperts()(PLAN.changed(architecture="grouped", options={}), digits)


def test_a_start_needs_a_router(digits, routed):
    plain = fit(PLAN.changed(epochs=1), digits).model
    with pytest.raises(ValueError, match="RobustExperts: start: it has no router"):
        fit(PLAN, digits, treatments=[RobustExperts()], start=plain)
    fit(PLAN.changed(epochs=1), digits, treatments=[RobustExperts(n=3)], start=routed)


# Natural moves


def test_directions_by_hand():
    """The first pixel tells two classes apart; within them the second varies most."""
    steps_ = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    rows = [[k, 0.1 * a, 0.02 * b, 0.0] for k in (0.0, 1.0) for a in steps_ for b in steps_]
    images = torch.tensor(rows).view(-1, 1, 2, 2)
    labels = torch.arange(2).repeat_interleave(16)
    ways = natural.variation(images, labels, 2).flatten(1)
    deviation = float(steps_.square().mean().sqrt())
    expected = torch.diag(torch.tensor([0.0, 0.1, 0.02, 0.0]) * deviation)[1:3]
    assert torch.allclose(ways.abs(), expected, atol=1e-5)


def test_no_direction_moves_between_classes():
    some = data.load("digits", "train")[:500]
    ways = natural.variation(some.images, some.labels, 12).flatten(1)
    means = torch.stack([some.images[some.labels == k].mean(0).flatten() for k in range(10)])
    assert float((ways @ (means - means[0]).T).abs().max()) < 1e-4
    products = ways @ ways.T
    assert torch.allclose(products, products.diag().diag(), atol=1e-5)
    assert (products.diag().diff() <= 1e-6).all()  # the longest first
    within = torch.cat([some.images[some.labels == k].flatten(1) - means[k] for k in range(10)])
    along = within @ (ways / ways.norm(dim=1, keepdim=True)).T
    assert torch.allclose(along.square().mean(0).sqrt(), ways.norm(dim=1), rtol=1e-3)


class Drawn(Hooks):
    """Keeps the batches that were learned."""

    def loss(self, run, x, y):
        SEEN.append((x, y, run.model))
        return super().loss(run, x, y)


SEEN = []


def test_the_worst_of_some_moves_is_learned(digits):
    SEEN.clear()
    plan = PLAN.changed(epochs=6, lr=1e-2)
    fit(plan, digits, treatments=[NaturalTraining(tries=1), Drawn()])
    mild = [float(nn.functional.cross_entropy(m(x), y).detach()) for x, y, m in SEEN[-2:]]
    SEEN.clear()
    made = fit(plan, digits, treatments=[NaturalTraining(tries=16), Drawn()])
    hard = [float(nn.functional.cross_entropy(m(x), y).detach()) for x, y, m in SEEN[-2:]]
    assert sum(hard) > sum(mild)
    assert made.ledger.forwards == 17 * made.ledger.images
    assert made.ledger.backwards == made.ledger.images
    assert all(0 <= float(x.min()) <= float(x.max()) <= 1 for x, _, _ in SEEN)


def test_no_move_is_no_treatment(digits):
    SEEN.clear()
    fit(PLAN.changed(epochs=1), digits, treatments=[NaturalTraining(size=0), Drawn()])
    rows = torch.cat([x for x, _, _ in SEEN]).flatten(1)
    assert torch.allclose(torch.cdist(rows, digits.images.flatten(1)).amin(1), torch.zeros(256))


@pytest.mark.parametrize(
    ("n", "directions", "most"), [(256, 56, 55), (20, 11, 10), (256, 1000, 55)]
)
def test_more_directions_than_there_are_are_refused(digits, n, directions, most):
    with pytest.raises(
        ValueError, match=f"directions: the data has at most {most}, got {directions}"
    ):
        NaturalTraining(directions=directions)(PLAN, digits[:n])
    with pytest.raises(ValueError, match="NaturalTraining: directions"):
        fit(PLAN, digits[:n], treatments=[NaturalTraining(directions=directions)])
