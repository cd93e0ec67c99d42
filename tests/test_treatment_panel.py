"""TreatmentPanel: treat, train, cancel, resume, join, and open on the bench."""

import pytest
import torch
from panel_kit import Gate, settle
from workbench.widgets import Bench, ModelPanel, TreatmentPanel

from workbench import data, models, treatments
from workbench.data import ImageDataset
from workbench.models.recipes import RECIPES
from workbench.treatments import GradientNoise, Prune


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    """A model of a recipe that trains in a second."""
    monkeypatch.setitem(RECIPES, "digits/tiny", RECIPES["digits/mlp"].changed(epochs=4))
    models.train("digits/tiny")
    return "digits/tiny"


def digits(n=200, **changes):
    some = data.load("digits", "train")[:n]
    return ImageDataset(some.images, some.labels, some.classes, **{"name": "mine", **changes})


def test_a_model_is_treated_and_its_name_says_how():
    panel = TreatmentPanel("digits", "digits/cnn", 3, treatment="Prune", share=0.7)
    view = panel.run()
    name = "digits/cnn | Prune(share=0.7)"
    assert view.model.card.name == name
    assert torch.equal(models.load(name)(view.images.images), view.model(view.images.images))
    told = view.summary()
    assert told["after"]["nonzero"] < 0.35 * told["before"]["nonzero"]
    assert told["before"]["parameters"] == told["after"]["parameters"]
    assert told["before"]["accuracy"] == pytest.approx(models.card("digits/cnn").accuracy)
    assert panel.code() == f"from workbench import models\n\nmodel = models.load({name!r})"
    assert "kilobytes, compressed" in panel.view.value
    assert "of 360 images right" in panel.view.value


def test_it_joins_the_selection_and_opens_beside_its_parent():
    panel = TreatmentPanel("digits", "digits/cnn", 3, share=0.9)
    other = ModelPanel(selection=panel.selection)
    other.run()
    with pytest.raises(RuntimeError, match="nothing was made yet: press Start"):
        panel.join()
    panel.run()
    assert panel.widget is not None
    bench = panel.open()
    assert isinstance(bench, Bench)
    assert bench.wait(60)
    settle(other)
    names = [look.model.card.name for look in bench.panels["model"].result.looks]
    assert names == ["digits/cnn | Prune(share=0.9)", "digits/cnn"]
    assert other.result.looks[0].model is panel.result.model
    assert not panel.selection.is_own(names[0])  # anybody can load it by its name
    assert panel.opened.children == (bench.widget,)


def test_ones_own_model_on_ones_own_data_is_treated():
    own = models.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
                      input_shape=(1, 8, 8), name="net")  # fmt: skip
    panel = TreatmentPanel(digits(), own, treatment=Prune(criterion="taylor"), training=digits(100))
    panel.run()
    assert panel.name is None
    names = {"my_model": own, "my_training": digits(100), "my_dataset": digits()}
    exec(panel.code(), names)
    for one, two in zip(names["model"].parameters(), panel.result.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert panel.join() == "net | Prune(criterion='taylor')"
    assert panel.selection.is_own("net | Prune(criterion='taylor')")


def test_a_recipe_is_trained_on_ones_own_data_and_joins():
    options = {"treatment": "none", "recipe": "digits/prototypes", "epochs": 2, "seed": 4}
    panel = TreatmentPanel(digits(), training=digits(), **options)
    view = panel.run()
    assert view.before is None
    assert [row["epoch"] for row in view.history] == [1, 2]
    names = {"my_training": digits()}
    exec(panel.code(), names)
    assert torch.equal(names["model"].prototypes, view.model.prototypes)
    assert panel.join() == "mine/digits-prototypes-1"
    panel.run()
    assert panel.join() == "mine/digits-prototypes-2"
    assert view.model.card.dataset == "mine"


def test_a_recipe_with_a_treatment(tiny):
    panel = TreatmentPanel("digits", tiny, treatment=GradientNoise(eta=0.2), epochs=1)
    view = panel.run()
    assert panel.name is None  # another number of epochs has no name
    names = {}
    exec(panel.code(), names)
    images = view.images.images
    assert torch.equal(names["model"](images), view.model(images))


def test_images_without_labels_are_no_reason_to_fail():
    some = data.load("digits")[:20]
    unknown = ImageDataset(some.images, torch.full((20,), -1), some.classes, "unknown")
    panel = TreatmentPanel(unknown, models.load("digits/mlp"), training=data.load("digits"))
    assert panel.run().after.accuracy is None
    assert panel.join().startswith("digits/mlp | Prune")


def test_cancel_and_resume_come_to_the_same_weights(tiny, monkeypatch):
    straight = models.load(f"{tiny} | GradientNoise()")
    treatments.naming.path_of(f"{tiny} | GradientNoise()").unlink()
    panel = TreatmentPanel("digits", tiny, treatment="GradientNoise")
    gate = Gate(models.fit.steps, at=30)
    assert panel.widget is not None
    with monkeypatch.context() as patched:
        patched.setattr(models.fit, "steps", gate.steps)
        panel.start()
        assert gate.reached()
        assert all(button.disabled for button in panel.buttons)
        panel.cancel()
        gate.open()
        assert panel.wait(60)
    assert "Cancelled" in panel.message.value
    resume, on_bench = panel.buttons
    assert (resume.disabled, on_bench.disabled) == (False, True)
    assert "image" in panel.view.value  # what was reached is shown
    before = panel.result.course
    resume.click()
    settle(panel)
    assert panel.result.course[: len(before)] == before
    assert torch.equal(panel.result.model.body[1].weight, straight.body[1].weight)
    assert (resume.disabled, on_bench.disabled) == (True, False)
    on_bench.click()
    assert panel.message.value == ""
    assert panel.opened.children


def test_the_way_there_is_shown(tiny):
    panel = TreatmentPanel("digits", tiny, treatment="GradientNoise", seed=3)
    views = [step.value for step in panel.steps()]
    assert len({panel.draw(view) for view in views}) > 5
    assert 5 < len(views[-1].course) <= 42
    assert "accuracy on 300 test images" in panel.draw(views[-1])


def test_another_treatment_brings_its_form_and_another_setting_a_first_look():
    panel = TreatmentPanel("digits", "digits/cnn", 3)
    panel._repr_mimebundle_()
    panel.form.controls["treatment"].value = "Quantise"
    settle(panel)
    assert panel.params.settings == {}
    bits = panel.treatment_form.controls["bits"]
    assert panel.main.children[0].children[0] is bits, "what matters most stays in view"
    bits.value = 6
    settle(panel)
    assert panel.stage == "Quantise(bits=6)"
    assert panel.result.after is None
    assert TreatmentPanel.from_state(panel.state()).stage == "Quantise(bits=6)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"treatment": "Prun"}, "unknown treatment 'Prun'. Did you mean 'Prune'?"),
        ({"share": 2}, "Prune: share: input should be less than 1, got 2"),
        ({"recipe": "digits/prototype"}, "Did you mean 'digits/prototypes'"),
        ({"treatment": "none"}, "none, and no recipe to train by: there is nothing to do"),
        ({"sher": 1}, "sher: no such parameter"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        TreatmentPanel("digits", "digits/cnn", **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"treatment": "GradientNoise", "model": "own"}, "'own' has no recipe to train by; choose"),
        (
            {"recipe": "digits/mlp"},
            "training: no training images of 'mine'; give them to the panel",
        ),
        ({"of": "units"}, "Prune: data: it needs training images, got none"),
        ({"criterion": "lrp"}, "criterion 'lrp' is of units: of='units'"),
    ],
)
def test_what_cannot_be_done_is_said_in_the_panel(arguments, words):
    own = models.load("digits/mlp")
    own.card = own.card.model_copy(update={"name": "own"})
    panel = TreatmentPanel(digits(), own, **{k: v for k, v in arguments.items() if k != "model"})
    panel.start()
    assert panel.wait(60)
    assert words in panel.message.value.replace("&#x27;", "'")
