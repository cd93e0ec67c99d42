"""TrainingPanel: ways side by side, and the slider over training time that sets the model."""

import pytest
import torch
from workbench.widgets import RegionPanel, TrainingPanel

from workbench import data, models

NOISY = "digits/mlp | GradientNoise(eta=0.1)"


@pytest.fixture
def ran():
    panel = TrainingPanel("digits", "digits/mlp", 3, ways=["digits/mlp", NOISY], epochs=1)
    assert panel.widget is not None
    panel.run()
    return panel


def test_the_recipe_of_the_model_is_the_way_where_none_is_named():
    panel = TrainingPanel("digits", "digits/cnn")
    assert panel.params.ways == ("digits/cnn",)
    offered = [name for _, name in panel.choices()["ways"]]
    assert {"digits/mlp", "digits/cnn | GradientNoise()"} <= {*offered}


def test_ways_come_forward_in_turns():
    panel = TrainingPanel("digits", "digits/mlp", ways=["digits/mlp", NOISY], epochs=1)
    half = [step.value for step in panel.steps() if step.value.ways][15]
    assert all(1 < len(way.rows) < 10 for way in half.ways.values())


def test_the_slider_sets_the_model_that_other_views_follow(ran):
    region = RegionPanel(selection=ran.selection)
    ran.open().stop()
    ran.way.value, ran.time.value = NOISY, 1
    view = ran.result
    assert view.chosen == (NOISY, 1)
    assert ran.selection.model == f"{NOISY}, step {view.step}"
    assert region.selection.classifier() is view.model
    before = view.model
    ran.time.value = len(ran.time.options) - 1
    assert ran.selection.classifier() is not before
    last = ran.result.ways[NOISY].rows[-1]
    images = data.load("digits")[:300]
    counts = models.measure(ran.selection.classifier(), images)
    assert counts["test_correct"] / 300 == pytest.approx(last["accuracy"])


def test_a_second_training_is_another_model_for_those_that_follow(ran):
    ran.open().stop()
    first, name = ran.selection.classifier(), ran.selection.model
    ran.open().stop()
    assert ran.selection.model == name
    ran.accept(ran.params.changed(seed=5))
    ran.wait(60)
    ran.run()
    heard = []
    ran.selection.observe(lambda change: heard.append(change["new"]), "model")
    ran.open().stop()
    assert heard == [f"{name} (2)"]
    assert ran.selection.classifier() is ran.result.model is not first
    assert ran.selection.classifier(name) is first


def test_what_the_strip_shows_of_a_layer_can_be_chosen_without_training(ran, monkeypatch):
    monkeypatch.setattr(TrainingPanel, "steps", None)
    before = ran.view.value
    ran.accept(ran.params.changed(strip="nearest mean"))
    assert ran.view.value != before
    assert "nearest to the mean of their class" in ran.view.value


def test_another_image_ends_no_training_and_is_answered(ran):
    ran.selection.index = 7
    assert ran.result.index == 7
    assert ran.result.ways
    expected = ran.result.model.predict(data.load("digits").images[7:8])
    torch.testing.assert_close(ran.result.prediction.logits, expected.logits)


def test_other_ways_bring_a_first_look_alone(ran):
    ran.accept(ran.params.changed(epochs=2))
    assert ran.wait(60)
    assert not ran.result.ways


def test_a_way_that_diverges_says_so_and_the_others_go_on(monkeypatch):
    panel = TrainingPanel("digits", "digits/mlp", ways=["digits/mlp", NOISY], epochs=1)
    real = panel.plan

    class Wild(models.Hooks):
        def rate(self, run):
            return 1e30

    def plan(name, params):
        made, hooks = real(name, params)
        return (made, [*hooks, Wild()]) if name == NOISY else (made, hooks)

    monkeypatch.setattr(panel, "plan", plan)
    panel.run()
    noisy, plain = panel.result.ways[NOISY], panel.result.ways["digits/mlp"]
    assert "at a learning rate of 1e+30" in noisy.trouble
    assert not plain.trouble
    assert plain.rows[-1]["step"] > noisy.rows[-1]["step"]
    assert "at a learning rate of 1e+30" in panel.view.value


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (
            ["digits/mlp | Prune(share=0.5)"],
            "Prune.* changes a model that is trained.*TreatmentPanel",
        ),
        (["digits/mpl"], "unknown recipe 'digits/mpl'. Did you mean 'digits/mlp'"),
        (["digits/mlp"] * 5, "at most 4"),
    ],
)
def test_ways_that_are_none_are_named(ways, words):
    with pytest.raises(ValueError, match=words):
        TrainingPanel("digits", "digits/mlp", ways=ways)


def test_nothing_is_opened_before_something_is_trained():
    panel = TrainingPanel("digits", "digits/mlp")
    with pytest.raises(RuntimeError, match="press Train"):
        panel.open()


def test_images_and_a_network_of_ones_own():
    digits = data.load("digits")
    own = data.ImageDataset(digits.images, digits.labels, digits.classes, name="own")
    training = data.load("digits", "train", limit=200)
    model = models.wrap(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        input_shape=(1, 8, 8), classes=own.classes, name="mine",
    )  # fmt: skip
    panel = TrainingPanel(own, model, training=training, epochs=1)
    assert {"shapes/resnet", "digits/cnn"} <= {name for _, name in panel.choices()["ways"]}
    (way,) = panel.run().ways.values()
    assert way.ledger.images == 200
    assert "my_training" in panel.code()


@pytest.mark.parametrize("n", [0, 1])
def test_few_images_with_a_label(n):
    digits = data.load("digits")[:20]
    labels = torch.where(torch.arange(20) < n, digits.labels, -1)
    own = data.ImageDataset(digits.images, labels, digits.classes, name="own")
    training = data.load("digits", "train", limit=100)
    panel = TrainingPanel(own, "digits/mlp", training=training, epochs=1)
    if n == 0:
        with pytest.raises(ValueError, match="none of 'own' has a label"):
            panel.run()
    else:
        assert panel.run().ways["digits/mlp"].rows[-1]["accuracy"] in (0, 1)


def test_a_recipe_of_prototypes_has_one_for_each_class_of_the_data():
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 20
    own = data.ImageDataset(images, labels, tuple("abcdefghijklmnopqrst"), name="letters")
    panel = TrainingPanel(own, training=own, ways=["digits/prototypes"], epochs=1)
    plan, _ = panel.plan("digits/prototypes", panel.params)
    assert plan.options["prototypes"] == 20
