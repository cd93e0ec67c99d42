"""Distillation: several teachers, images without labels, and what is refused."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from workbench import data, models, treatments
from workbench.models import Recipe, fit
from workbench.treatments import AdversarialTraining, Distil
from workbench.treatments.distilling import mean_of

PLAN = Recipe(
    dataset="digits", architecture="mlp", options={"hidden": (8,)}, epochs=2, batch_size=32
)
BOTH = ("digits/cnn", "digits/mlp")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:96]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_mean_of_softened_probabilities_is_learned(digits):
    teachers = [models.load(name) for name in BOTH]
    x = digits.images[:7]
    wanted = sum((one(x) / 4).softmax(1) for one in teachers) / 2
    got = (mean_of(teachers, 4.0)(x) / 4).softmax(1)
    torch.testing.assert_close(got, wanted)


def test_a_teacher_who_is_there_twice_is_one(digits):
    once = fit(PLAN, digits, treatments=[Distil()]).model
    twice = fit(PLAN, digits, treatments=[Distil(others=("digits/cnn",))]).model
    torch.testing.assert_close(once(digits.images), twice(digits.images), atol=1e-3, rtol=1e-3)
    other = fit(PLAN, digits, treatments=[Distil(others=("digits/mlp",))]).model
    assert float((once(digits.images) - other(digits.images)).detach().abs().max()) > 0.01


def test_the_loss_by_hand(digits):
    """Of four images two have labels: these count for `hard`, the teacher for the rest."""
    student, teacher = models.load("digits/mlp"), models.load("digits/cnn")
    way = Distil(hard=0.25, temperature=2.0, unlabelled=0.5)
    x, y = digits.images[:4], torch.tensor([int(digits.labels[0]), -1, -1, 3])
    run = SimpleNamespace(model=student, aside={way: teacher}, generator=torch.Generator())
    seen, filled = way.batch(run, x, y)
    assert seen is x
    assert filled[[0, 3]].tolist() == y[[0, 3]].tolist()
    assert torch.equal(filled[1:3], teacher(x[1:3]).argmax(1))
    loss, logits = way.loss(run, x, filled)
    p = (teacher(x) / 2).softmax(1)
    each = 4 * (p * (p.log() - (student(x) / 2).log_softmax(1))).sum(1)
    right = F.cross_entropy(student(x), filled, reduction="none")
    weights = torch.tensor([0.75, 1, 1, 0.75])
    torch.testing.assert_close(loss, (weights * each + (1 - weights) * right).mean())
    assert torch.equal(logits, student(x))


def test_labels_that_are_hidden_do_not_matter(digits):
    """With `hard=1` labels are all that labelled images give: half of them are looked at."""
    wrong = replace(digits, labels=(digits.labels + 1) % 10)
    made = {
        (share, name): fit(PLAN, some, treatments=[Distil(hard=1.0, unlabelled=share)]).model
        for share in (0.5, 1.0)
        for name, some in (("right", digits), ("wrong", wrong))
    }
    assert same(made[1.0, "right"], made[1.0, "wrong"])
    assert not same(made[0.5, "right"], made[0.5, "wrong"])
    alone = fit(PLAN, digits, treatments=[Distil()]).model
    torch.testing.assert_close(
        made[1.0, "right"](digits.images), alone(digits.images), atol=1e-3, rtol=1e-3
    )


def test_images_of_another_data_set_come_in_and_the_data_stays(digits):
    before = digits.labels.clone()
    made = fit(PLAN, digits, treatments=[Distil(beside="digits", hard=0.5)])
    n = len(digits) + len(data.load("digits", "train"))
    assert made.ledger.images == 2 * n
    assert torch.equal(digits.labels, before)
    with pytest.raises(ValueError, match=r"beside: expected \(1, 8, 8\) images.*\(3, 32, 32\)"):
        fit(PLAN, digits, treatments=[Distil(beside="shapes")])


def test_attacks_on_images_without_a_label_are_away_from_the_teachers_answer(digits):
    half = Distil(unlabelled=0.5)
    made = fit(PLAN, digits, treatments=[half, AdversarialTraining(n_steps=1)])
    assert made.history[-1]["loss"] > 0
    with pytest.raises(ValueError, match="Distil: put it before AdversarialTraining"):
        fit(PLAN, digits, treatments=[AdversarialTraining(n_steps=1), half])


def test_a_cancelled_training_goes_on_to_the_bit(digits, tmp_path):
    way, keep = Distil(hard=0.5, unlabelled=0.3, others=("digits/mlp",)), tmp_path / "state"
    for step in fit.steps(PLAN, digits, treatments=[way], keep=keep):
        if step.message == "epoch 1 done":
            break
    resumed = fit(PLAN, digits, treatments=[way], keep=keep).model
    assert same(resumed, fit(PLAN, digits, treatments=[way]).model)


def test_a_student_larger_than_its_teachers_is_told_of(digits):
    large = PLAN.changed(options={"hidden": (300, 300)}, epochs=1)
    with pytest.warns(UserWarning, match=r"student has [\d,]+ parameters, digits/cnn [\d,]+: it"):
        fit(large, digits, treatments=[Distil()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(PLAN, digits, treatments=[Distil()])


def test_a_teacher_of_other_classes_is_refused(digits):
    swapped = (digits.classes[1], digits.classes[0], *digits.classes[2:])
    other = replace(digits, classes=swapped)
    told = r"digits/cnn has classes \('0', '1', .*, the data \('1', '0', "
    with pytest.raises(ValueError, match=told):
        Distil()(PLAN, other)
    with pytest.raises(ValueError, match=told):
        fit(PLAN, other, treatments=[Distil(others=("digits/mlp",))])
    numbers = replace(other, named=False)  # mere numbers stand for the names
    assert Distil().unfit(PLAN, numbers) == ""


def test_names_of_what_was_there_stay():
    assert Distil(hard=0.5).code() == "Distil(hard=0.5)"
    name = "digits/mlp | Distil(others=('digits/mlp',))"
    assert treatments.stages(name)[1][0].depends() == ("digits/cnn", "digits/mlp")
