"""What people bring to the bench: panels that fail, images without labels, other classes."""

import re

import pytest
import torch
from torch import nn
from workbench.widgets import (
    AttackPanel,
    Bench,
    ConceptPanel,
    EvaluationPanel,
    LevelSetPanel,
    ModelPanel,
    PatternPanel,
    ProofPanel,
    RegionPanel,
    Selection,
)
from workbench.widgets import bench as bench_module

from workbench import data, models

PANELS = [AttackPanel, LevelSetPanel, ModelPanel, PatternPanel, RegionPanel, ProofPanel]
ON_PURPOSE = "broken on purpose"


def breaks(method):
    """A panel one method of which raises."""

    def raises(self, *_, **__):
        raise RuntimeError(ON_PURPOSE)

    return type("BrokenPanel", (LevelSetPanel,), {method: raises})


@pytest.mark.parametrize(
    "method", ["__init__", "check", "unfit", "peek", "draw", "code", "controls", "shown"]
)
def test_a_panel_that_fails_says_so_in_its_own_frame(method, monkeypatch):
    monkeypatch.setitem(bench_module.PANELS, "level set", breaks(method))
    bench = Bench("digits", "digits/cnn", 3, auto=False)
    static = bench._repr_mimebundle_()["text/html"]
    failed = bench.panels["level set"]
    for name, panel in bench.panels.items():
        assert (panel.result is not None) or name == "level set"
        assert ON_PURPOSE not in panel.message.value or name == "level set"
    if method in ("controls", "shown"):  # these are made where one opens it
        assert failed.result is not None
        bench.show("level set")
        assert "panel-failure" in failed.message.value
        assert ON_PURPOSE in failed.message.value
    elif method in ("check", "unfit", "code"):  # not needed to show something
        assert failed.result is not None
        assert (f"# no code: {ON_PURPOSE}" in bench.code()) == (method == "code")
    else:
        assert ON_PURPOSE in failed.message.value
        assert "panel-failure" in failed.message.value
        assert ON_PURPOSE in static
        assert failed.view.value == ""  # no picture of something else stays
    bench.selection.index = 4
    assert bench.wait(60)
    assert bench.panels["model"].result.index == 4
    assert failed.result is None or failed.result.index == 4
    assert "level set" in bench.to_html()
    assert "from workbench import" in bench.code()


def test_a_panel_that_fails_leaves_the_others_to_be_run(monkeypatch):
    monkeypatch.setitem(bench_module.PANELS, "level set", breaks("draw"))
    summary = Bench("digits", "digits/cnn", auto=False).run().summary()
    assert summary["level set"] == {"error": ON_PURPOSE}
    assert summary["attack"]["success_rate"] in (0, 1)


def test_a_picture_of_the_image_before_does_not_stay(monkeypatch):
    panel = ModelPanel("digits", "digits/cnn")
    panel.run()
    monkeypatch.setattr(ModelPanel, "draw", breaks("draw").draw)
    panel.selection.index = 5
    assert panel.wait(60)
    assert panel.view.value == ""
    assert ON_PURPOSE in panel.message.value


@pytest.fixture(scope="module")
def strangers():
    """Pictures without labels, and a model of many classes."""
    generator = torch.Generator().manual_seed(0)
    images = data.ImageDataset.from_arrays(torch.rand(6, 3, 16, 16, generator=generator), name="x")
    conv = nn.Conv2d(3, 4, 3)
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 100)).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.05, generator=generator)
    names = [f"thing {k}" for k in range(100)]
    return images, models.wrap(net, input_shape=(3, 16, 16), classes=names, name="many")


@pytest.mark.parametrize("kind", PANELS)
def test_no_label_is_no_class(strangers, kind):
    panel = kind(*strangers, index=2)
    panel.look()
    shown = panel.to_html() + panel.view.value
    panel.run()
    shown += panel.to_html()
    assert "which is right" not in shown
    assert "but it is" not in shown
    assert "✓" not in shown
    # -1 must not be the last class: nothing is called so unless the model says it.
    images, model = strangers
    answers = {int(k) for k in model.predict(images.images).label}
    assert 99 not in answers
    assert not re.search(r"labelled thing|<b>thing 99</b>", shown)


def test_a_bench_for_pictures_without_labels(strangers):
    bench = Bench(*strangers, auto=False)
    bench.run()
    assert not [panel for panel in bench.panels.values() if "panel-failure" in panel.to_html()]
    assert "Changed its answer" in bench.panels["attack"].to_html()
    panel = EvaluationPanel(*strangers, attacks=("FGSM",), n=4)
    panel.run()
    assert "nothing is right or wrong" in panel.to_html()
    summary = panel.result.summary()
    assert (summary["images"], summary["clean_accuracy"]) == (4, None)


def test_names_of_the_folders_are_kept_where_the_model_has_others(strangers):
    images, model = strangers
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    named = data.ImageDataset(images.images, labels, ("my cat", "my cup"), "mine")
    panel = ModelPanel(named, model, index=1)
    panel.run()
    assert panel.result.summary()["label"] == "my cup"
    assert "labelled my cup" in panel.view.value
    assert "my cup is no class of this model" in panel.view.value
    assert "which is right" not in panel.view.value
    known = data.ImageDataset(images.images, labels, ("thing 7", "my cup"), "half")
    panel = ModelPanel(known, model, index=0)
    panel.run()
    assert panel.result.looks[0].label == 7


def test_code_of_other_classes_gives_the_same(strangers):
    images, model = strangers
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    mine = data.ImageDataset(images.images, labels, ("thing 7", "thing 3"), "mine")
    panel = AttackPanel(mine, model, index=1, attack="FGSM", target="thing 9")
    panel.run()
    assert "models.matched(my_dataset, my_model)" in panel.code()
    space = {"my_dataset": mine, "my_model": model}
    exec(panel.code(), space)
    assert torch.equal(space["result"].x_adv, panel.result.result.x_adv)
    assert space["result"].labels.tolist() == [3]


def test_two_models_that_order_their_classes_otherwise():
    digits, model = data.load("digits", limit=60), models.load("digits/cnn")
    names = [str(k) for k in range(9, -1, -1)]
    turned = nn.Sequential(model, Turned()).eval()
    other = models.wrap(turned, input_shape=(1, 8, 8), classes=names, name="turned")
    selection = Selection(digits, model)
    selection.add(other)
    panel = ModelPanel(selection=selection, index=0, compare="turned")
    result = panel.run()
    assert [look.label for look in result.looks] == [int(digits.labels[0]), 9 - digits.labels[0]]
    assert panel.view.value.count("which is right") == 2
    selection.model = "turned"
    assert panel.wait(60)
    assert panel.view.value.count("which is right") == 1
    attack = AttackPanel(selection=selection)
    attack.run()
    assert int(attack.result.result.labels[0]) == 9 - digits.labels[0]


class Turned(nn.Module):
    """The classes in the opposite order."""

    def forward(self, logits):
        return logits.flip(1)


@pytest.mark.parametrize("target", ["", "7"])
def test_an_image_that_is_wrong_anyway_is_not_fooled(target):
    digits, model = data.load("digits"), models.load("digits/cnn")
    wrong = (model.predict(digits.images).label != digits.labels).nonzero().flatten()
    panel = AttackPanel(digits, model, index=int(wrong[0]), target=target)
    panel.look()
    panel.run()
    if target:
        assert panel.result.result is not None
    else:
        assert "Already wrong: this is" in panel.view.value
        assert "Fooled" not in panel.view.value
        assert panel.result.result is None


def test_a_drawing_without_a_label():
    panel = ModelPanel("digits", "digits/cnn")
    attack = AttackPanel(selection=panel.selection)
    panel.selection.draw(data.load("digits").images[3])
    assert panel.wait(60)
    assert "without a label" in panel.view.value
    assert "no answer is right or wrong" in panel.view.value
    assert "which is right" not in panel.view.value
    attack.run()
    assert "changed its answer" in attack.view.value.lower()
    state = attack.state()
    assert state["meant"] == ""
    again = AttackPanel.from_state(state)
    again.run()
    assert torch.equal(again.result.result.x_adv, attack.result.result.x_adv)
    space = {}
    exec(attack.code(), space)
    assert torch.equal(space["result"].x_adv, attack.result.result.x_adv)


def test_a_thousand_classes_are_searched():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000)).eval()
    many = models.wrap(net, input_shape=(1, 8, 8), name="thousand")
    panel = AttackPanel("digits", "digits/cnn")
    panel.widget  # noqa: B018
    assert "Dropdown" in type(panel.form.controls["target"]).__name__
    panel.selection.add(many)
    panel.selection.model = "thousand"
    assert panel.wait(60)
    control = panel.form.controls["target"]
    assert type(control).__name__ == "Combobox"
    assert len(control.options) == 1000
    assert "type to search" in control.placeholder
    control.value = "123"
    assert panel.params.target == "123"
    assert panel.selection.towards == "123"
    panel.selection.model = "digits/cnn"
    assert panel.wait(60)
    assert panel.params.target == ""
    assert "Dropdown" in type(panel.form.controls["target"]).__name__


def test_concepts_of_pictures_without_labels(strangers):
    panel = ConceptPanel(*strangers, n_crops=50, n_concepts=2)
    panel.run()
    assert "thing 99" not in panel.to_html()
