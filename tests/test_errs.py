"""Where a person errs, a panel says so in a sentence and offers a way on."""

import re
from dataclasses import replace

import pytest
import torch
from panel_kit import settle
from workbench.widgets import AttackPanel, ModelPanel, PrototypePanel

from workbench import data, models
from workbench.data import ImageDataset

DIGITS = data.load("digits")


def offered(panel):
    """The ways on: what each button picks, and its words."""
    return dict(re.findall(r'<button[^>]*data-pick="([^"]+)"[^>]*>([^<]*)<', panel.view.value))


def press(panel, name):
    """Click a button of the view."""
    assert name in offered(panel), offered(panel)
    panel.view.picked = {"name": name, "key": "", "x": 0.5, "y": 0.5, "turn": len(name)}
    settle(panel)


def mistake(model):
    """The first image of which a model is wrong."""
    said = models.load(model).predict(DIGITS.images).label
    return int((said != DIGITS.labels).nonzero()[0, 0])


def test_an_image_that_is_wrong_already_leads_to_one_that_is_right():
    panel = AttackPanel("digits", "digits/mlp", mistake("digits/mlp"))
    panel._repr_mimebundle_()
    panel.start()
    settle(panel)
    assert "Already wrong: this is" in panel.view.value
    assert panel.result.result is None, "there is nothing to attack"
    (name,) = offered(panel)
    press(panel, name)
    view = panel.result
    assert view.index == panel.selection.index == int(name.partition(":")[2])
    assert view.label == int(DIGITS.labels[view.index])
    panel.start()
    settle(panel)
    assert panel.result.result is not None
    assert panel.run().remark == ""


def test_a_drawing_without_a_label_can_be_given_one():
    panel = ModelPanel("digits", "digits/mlp", 3)
    panel._repr_mimebundle_()
    panel.selection.draw(DIGITS.images[7])
    settle(panel)
    assert "Without a label no answer is right or wrong. This is a" in panel.view.value
    assert [words for words in offered(panel).values()] == list(DIGITS.classes)
    press(panel, "meant:4")
    assert panel.result.label == "4"
    assert panel.result.index == len(DIGITS)
    assert "Without a label" not in panel.view.value
    assert torch.equal(panel.result.images.images[-1], (DIGITS.images[7] * 255).round() / 255)


def test_images_without_labels_are_attacked_from_what_the_model_says():
    photos = ImageDataset(DIGITS.images[:5], torch.full((5,), -1), DIGITS.classes, "photos")
    panel = AttackPanel(photos, "digits/mlp", 2)
    panel._repr_mimebundle_()
    said = DIGITS.classes[panel.result.label]
    assert f"the attack starts from what the model says, {said}" in panel.view.value
    other = ModelPanel(photos, "digits/mlp", 2)
    other._repr_mimebundle_()
    assert "Without a label no answer is right or wrong." in other.view.value
    assert offered(other) == {}, "what is on disk is not labelled here"


def test_a_model_without_prototypes_leads_to_those_that_have_some():
    panel = PrototypePanel("digits", "digits/mlp", 3)
    panel._repr_mimebundle_()
    assert "digits/mlp has no prototypes to compare an image with" in panel.view.value
    press(panel, "model:digits/prototypes")
    assert panel.result.explanation is not None
    assert "no prototypes" not in panel.view.value


@pytest.mark.parametrize("browse", ["in order", "mistakes"])
def test_a_class_without_images_leads_back_to_all(browse):
    some = DIGITS[DIGITS.labels != 5]
    panel = ModelPanel(replace(some, name="no fives"), "digits/mlp", only="5", browse=browse)
    panel._repr_mimebundle_()
    assert "images of class &#x27;5&#x27;" in panel.view.value
    assert panel.result.index is None
    if browse == "mistakes":
        press(panel, "browse:least confident first")
        assert panel.params.browse == "least confident first"
    press(panel, "only:")
    assert panel.params.only == panel.form.controls["only"].value == ""
    assert panel.result.index is not None


def test_a_budget_that_never_fools_leads_to_a_larger_one_and_to_its_end():
    panel = AttackPanel("digits", "digits/cnn-robust", 3, eps=0.01)
    panel._repr_mimebundle_()
    panel.start()
    settle(panel)
    assert "Not fooled: it still says" in panel.view.value
    while not bool(panel.result.result.success[0]) and panel.attack.eps < 1:
        before = panel.attack.eps
        press(panel, next(iter(offered(panel))))
        assert panel.attack.eps == pytest.approx(min(1, 2 * before))
        assert panel.attack_form.controls["eps"].value == panel.attack.eps
    assert bool(panel.result.result.success[0])
    assert offered(panel) == {}
    steady = models.wrap(Steady(), input_shape=(1, 8, 8), classes=DIGITS.classes)
    hopeless = AttackPanel(DIGITS, steady, int((DIGITS.labels == 0).nonzero()[0]), eps=1.0)
    hopeless.run()
    assert "No change of a pixel can be larger" in hopeless.view.value
    assert offered(hopeless) == {}


class Steady(torch.nn.Module):
    """Says 0 whatever it is shown."""

    def forward(self, x):
        return 9 * torch.eye(10)[0].expand(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)
