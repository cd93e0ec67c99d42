"""Nested networks: a member is the masked network, gradients stay inside, what is refused."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from workbench import data, models, proofs, treatments
from workbench.models import Recipe, checkpoints, cost, fit
from workbench.treatments import Elastic, Narrow, units
from workbench.treatments.elastic import first, masks, recalibrate

PLANS = {
    "mlp": Recipe(dataset="digits", architecture="mlp", options={"hidden": (16, 8)}, epochs=2),
    "cnn": Recipe(
        dataset="digits", architecture="cnn", options={"channels": (4, 8), "hidden": 16}, epochs=2
    ),
    "resnet": Recipe(dataset="digits", architecture="resnet", options={"width": 4}, epochs=1),
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:300]


@pytest.mark.parametrize("name", PLANS)
def test_a_member_is_the_network_with_the_others_masked(name, digits):
    model = fit(PLANS[name], digits).model
    made = Narrow(width=0.5)(model, digits).model
    masked = {
        n: dict(model.named_parameters())[n] * m
        for n, m in masks(model, units(model), first(units(model), 0.5)).items()
    }
    recalibrate(made, digits.images)
    recalibrated = models.private_copy(model, share=False)
    for n, p in recalibrated.named_parameters():
        p.data = masked.get(n, p).detach()
    recalibrate(recalibrated, digits.images)
    torch.testing.assert_close(
        made(digits.images), recalibrated(digits.images), atol=1e-4, rtol=1e-4
    )
    assert cost(made).macs < 0.5 * cost(model).macs + cost(model).macs / 8


def test_widths_are_nested_and_their_order_is_that_of_the_rows(digits):
    model = fit(PLANS["mlp"], digits).model
    small = Narrow(width=0.25)(model, digits).model
    assert small.body.fc1.weight.shape == (4, 64)
    assert torch.equal(small.body.fc1.weight, model.body.fc1.weight[:4])
    assert torch.equal(small.body.fc2.weight, model.body.fc2.weight[:2, :4])
    assert torch.equal(small.body.fc3.bias, model.body.fc3.bias)


def test_a_step_of_a_narrow_width_fills_no_gradient_of_the_others(digits):
    model = fit(PLANS["mlp"], digits).model
    some = {
        n: dict(model.named_parameters())[n] * m
        for n, m in masks(model, units(model), first(units(model), 0.25)).items()
    }
    model.zero_grad()
    functional_call(model, some, (digits.images,)).logsumexp(1).sum().backward()
    assert not bool(model.body.fc1.weight.grad[4:].any())
    assert not bool(model.body.fc2.weight.grad[2:].any() or model.body.fc2.weight.grad[:, 4:].any())
    assert bool(model.body.fc1.weight.grad[:4].any())


def test_one_width_alone_is_the_plain_training_to_the_bit(digits):
    plain, elastic = (
        fit(PLANS["cnn"], digits, treatments=t).model for t in ([], [Elastic(widths=(1.0,))])
    )
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), elastic.parameters(), strict=True)
    )


@pytest.mark.parametrize("rule", ["random", "sandwich", "taught"])
def test_members_are_variants_and_a_family(rule, digits, tmp_path):
    treatment = Elastic(widths=(0.25, 0.5, 1.0), rule=rule)
    made = treatment(PLANS["mlp"].changed(epochs=30, lr=1e-2, batch_size=30), digits)
    assert list(made.variants) == ["width 0.25", "width 0.5", "width 1"]
    family = treatments.family(made.variants, digits)
    table = family.frame()
    assert table["macs"].is_monotonic_increasing
    assert table["accuracy"].min() > 0.4  # four and two units; chance is 0.1
    assert torch.equal(family.at("width 1")(digits.images), made.model(digits.images))
    name = family.at("width 0.5").card.name
    assert name == f"my model | {treatment.code()} | Narrow()"
    with pytest.raises(ValueError, match=r"no member is inside; .* 'width 0.25'"):
        family.within(macs=1)
    checkpoints.save(family.at("width 0.5"), tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again(digits.images), family.at("width 0.5")(digits.images))
    assert not any(part._forward_hooks for part in family.at("width 0.5").modules())
    made.variants["width 0.25"].body.fc1.weight.data.zero_()  # weights of its own
    assert bool(made.model.body.fc1.weight.any())


def test_a_sandwich_costs_four_passes(digits):
    spent = {
        r: Elastic(rule=r)(PLANS["mlp"], digits).ledger.backwards for r in ("random", "sandwich")
    }
    assert spent["sandwich"] == 4 * spent["random"]


def test_statistics_are_the_means_over_the_images(digits):
    body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
    model = models.wrap(body, input_shape=(1, 8, 8), classes=10)
    recalibrate(model, digits.images[:200])
    body = model.body
    torch.testing.assert_close(body[1].running_mean, digits.images[:200].flatten(1).mean(0))
    torch.testing.assert_close(body[1].running_var, digits.images[:200].flatten(1).var(0))
    assert body[1].momentum == 0.1
    assert not body[1].training


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widths": (0.5,)}, r"Elastic: widths: .*the largest of them 1"),
        ({"widths": (0.0, 1.0)}, "Elastic: widths: .*above 0"),
        ({"widths": ()}, "Elastic: widths"),
        ({"rule": "both"}, "Elastic: rule"),
    ],
)
def test_bad_settings_are_said(values, said):
    with pytest.raises(ValueError, match=said):
        Elastic(**values)


def test_what_cannot_be_narrowed_is_named(digits):
    with pytest.raises(
        ValueError, match=r"width=0.05 would leave nothing of fc\d, which has 8 units"
    ):
        Elastic(widths=(0.05, 1.0))(PLANS["mlp"].changed(options={"hidden": (16, 8)}), digits)
    linear = PLANS["mlp"].changed(options={"hidden": ()})
    with pytest.raises(ValueError, match="no layer can be cut; fc1: its output is an answer"):
        Elastic()(linear, digits)
    plan = Recipe(dataset="digits", architecture="prototypes", epochs=1)
    with pytest.raises(ValueError, match="prototypes has an objective of its own"):
        Elastic()(plan, digits)


def test_a_member_can_be_proved(digits):
    model = fit(PLANS["mlp"].changed(epochs=20, lr=1e-2), digits).model
    member, x = Narrow(width=0.5)(model, digits).model, digits.images[0]
    label = int(member.predict(x[None]).label)
    answer = proofs.prove(member, proofs.local_robustness(member, x, label, 1e-4))
    assert answer.verdict == "proved"
