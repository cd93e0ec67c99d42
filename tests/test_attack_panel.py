"""The attack panel without a browser."""

import math

import pytest
import torch
from panel_kit import pick, settle
from workbench.widgets import AttackPanel, attack_panel, attacked

from workbench import attacks, data, models, robustness
from workbench.attacks import PGD

IMAGES, LABELS = data.load("digits").images, data.load("digits").labels


@pytest.fixture
def panel():
    panel = AttackPanel("digits", "digits/cnn", 3, eps=0.1, n_steps=20)
    panel.run()
    assert panel.widget is not None
    return panel


def test_the_result_is_that_of_the_attack_itself(panel):
    images = data.load("digits")[3:4]
    result = PGD(eps=0.1, n_steps=20)(models.load("digits/cnn"), images.images, images.labels)
    assert torch.equal(panel.result.result.x_adv, result.x_adv)
    assert "Fooled" in panel.view.value
    assert f"Linf {float(result.norms['Linf'][0]):.3g}" in panel.view.value
    assert panel.view.value.count("<img") == panel.view.value.count("<img alt=") == 3


def test_another_image_is_shown_at_once_and_not_attacked(panel):
    panel.picker.step(1)
    settle(panel)
    assert panel.result.result is None
    assert "Press <b>Launch</b>" in panel.view.value
    assert panel.scrub.disabled
    panel.start()
    settle(panel)
    assert panel.result.index == 4
    assert panel.result.result is not None


def test_scrubbing_shows_each_step(panel):
    assert panel.scrub.max == len(panel.result.result.trace) - 1
    panel.scrub.value = 0
    first = panel.view.value
    assert "at most 0 a pixel" in first  # the image itself: nothing was added
    panel.scrub.value = panel.scrub.max
    assert panel.view.value != first


def test_another_attack_brings_its_own_form(panel):
    panel.form.controls["attack"].value = "FGSM"
    settle(panel)
    assert set(panel.attack_form.controls) == {"norm", "eps"}
    assert panel.params.settings == {"eps": panel.attack.eps}
    panel.attack_form.controls["norm"].value = "L2"
    assert panel.attack == attacks.FGSM(norm="L2", eps=panel.attack.eps)
    assert panel.attack_form.controls["eps"].max == 10  # what fits the norm


def test_settings_stay_when_the_form_beside_them_changes(panel):
    panel.attack_form.controls["eps"].value = 0.2
    panel.form.controls["target"].value = "8"
    settle(panel)
    assert panel.state()["eps"] == panel.attack.eps == 0.2
    assert AttackPanel.from_state(panel.state()).attack == panel.attack


def test_a_bad_value_is_said_beside_the_form(panel):
    panel.attack_form.controls["norm"].value = "L2"
    panel.attack_form.controls["eps"].value = 7.0
    settle(panel)
    panel.attack_form.controls["norm"].value = "Linf"
    assert "at most 1 in Linf" in panel.attack_form.message.value
    assert panel.attack == PGD(norm="L2", eps=7.0, n_steps=20)


def test_a_budget_begins_with_what_fits_the_images_and_is_said_in_255ths():
    grey = AttackPanel("digits", "digits/cnn", 3)
    assert grey.attack.eps == models.card("digits/cnn").eps
    colour = AttackPanel("shapes", "shapes/resnet", 3)
    assert colour.attack.eps == 8 / 255
    assert colour.widget is not None
    eps = colour.attack_form.controls["eps"]
    assert (eps.description, eps.max) == ("largest change (eps), 8/255", 64 / 255)
    assert AttackPanel("digits", "digits/cnn", 3, eps=0.3).attack.eps == 0.3
    assert AttackPanel.from_state(colour.state()).attack == colour.attack
    grey.picker = None
    assert grey.widget is not None
    grey.selection.model = "digits/cnn-robust"  # a budget that nobody chose follows the model
    settle(grey)
    assert grey.attack.eps == models.card("digits/cnn-robust").eps


def test_another_budget_attacks_at_once(panel):
    before = panel.result.result
    panel.attack_form.controls["eps"].value = 0.2
    settle(panel)
    assert panel.result.result is not before
    assert 0.1 < float(panel.result.result.norms["Linf"][0]) <= 0.2001


def test_saving_checks_eight_bits(panel, tmp_path):
    from PIL import Image

    survives = panel.save(tmp_path / "attacked.png")
    pixels = torch.tensor(list(Image.open(tmp_path / "attacked.png").tobytes())) / 255
    label = int(panel.result.images.labels[3])
    answer = models.load("digits/cnn").predict(pixels.view(1, 1, 8, 8)).label
    assert survives == (int(answer[0]) != label)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attack": "PDG"}, "Did you mean 'PGD'"),
        ({"eps": -1}, "eps"),
        ({"epsilon": 0.1}, "epsilon: no such parameter"),
        ({"target": "eleven"}, "unknown target"),
        ({"method": "gradients"}, "Did you mean 'gradient'"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        AttackPanel("digits", "digits/cnn", **arguments)


def test_a_target_that_the_image_already_has_is_said(panel):
    label = data.load("digits").classes[int(panel.result.images.labels[3])]
    panel.form.controls["target"].value = label
    panel.start()
    assert panel.wait(10)
    assert f"The image is of class {label} already: choose another target." in panel.view.value
    assert panel.result.result is None


def test_showing_a_panel_attacks_nothing_by_itself():
    panel = AttackPanel("digits", "digits/cnn", n_steps=10_000)
    shown = panel._repr_mimebundle_()
    assert "Press <b>Launch</b>" in shown["text/html"]
    assert panel.result.result is None


def test_a_quick_attack_follows_the_slider_while_it_is_dragged(panel, monkeypatch):
    for frame, quick in ((math.inf, True), (0, False)):
        monkeypatch.setattr(attack_panel, "FRAME", frame)
        panel.start()
        settle(panel)
        slider, before = panel.attack_form.controls["eps"], panel.job
        assert slider.continuous_update is quick
        slider.value += 0.01
        assert (panel.job is before) is quick, "at once, or in a thread"
        settle(panel)
        assert panel.result.attack.eps == pytest.approx(slider.value)
        assert panel.result.result is not None


def test_eps_can_be_dragged_below_the_verdict(panel):
    view, moving = panel.result, '<div data-drag="eps"'
    own = robustness.breaking(view.model, view.x, panel.attack)
    assert torch.equal(view.breaking.images, own.images)
    assert float(view.breaking.radii[-1]) == pytest.approx(panel.attack.eps)
    assert panel.view.value.count(moving) == 1
    assert panel.view.value.index("Fooled") < panel.view.value.index(moving)
    panel.scrub.value = 0
    assert moving in panel.view.value


@pytest.mark.parametrize(
    "arguments", [{"attack": "DeepFool"}, {"target": "8"}, {"eps": 0.0}, {"index": -1}]
)
def test_without_a_budget_to_drag_nothing_is_said_of_it(arguments):
    wrong = int((models.load("digits/mlp").predict(IMAGES).label != LABELS).nonzero()[0])
    place = {"index": wrong} if "index" in arguments else {"index": 3}
    panel = AttackPanel("digits", "digits/mlp", **{**arguments, **place})
    view = panel.run()
    assert view.breaking is None
    assert not any(words in panel.view.value for words in ("drag", "budgets"))


def test_many_steps_are_run_at_each_budget_only_where_that_is_asked_for(monkeypatch):
    panel = AttackPanel("digits", "digits/cnn", 3, eps=0.1, n_steps=30)
    monkeypatch.setattr(attacked, "SECOND", 30 * 12 * attacked.CALL - 1)
    panel._repr_mimebundle_()
    panel.start()
    settle(panel)
    before = panel.result
    assert before.breaking is None
    assert "the attack is run at 12 budgets" in panel.view.value
    pick(panel, "drag:")
    settle(panel)
    assert panel.whole
    assert panel.result.result is before.result
    assert '<div data-drag="eps"' in panel.view.value
    own = robustness.breaking(before.model, before.x, panel.attack)
    assert torch.equal(panel.result.breaking.probabilities, own.probabilities)
    monkeypatch.setattr(attacked, "SECOND", 30 * 12 * attacked.CALL)
    assert panel.run().breaking is not None
