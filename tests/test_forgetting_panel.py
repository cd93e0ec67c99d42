"""ForgettingPanel: the matrix fills task by task; a cell opens that model on that task."""

import pytest
import torch
from panel_kit import pick
from workbench.widgets import ForgettingPanel

from workbench import continual, data, models

QUICK = {"n_tasks": 2, "epochs": 1, "learners": ["FineTune()", "Replay(per_task=5)"]}


@pytest.fixture(scope="module")
def ran():
    panel = ForgettingPanel("digits", "digits/mlp", **QUICK)
    assert panel.widget is not None
    panel.run()
    return panel


def test_the_matrix_is_that_of_the_learner(ran):
    both = data.load("digits", "train"), data.load("digits")
    stream = continual.split(*both, 2)
    plan = models.RECIPES["digits/mlp"].changed(epochs=1)
    result = continual.Replay(per_task=5)(stream, plan)
    assert torch.equal(ran.result.results["Replay(per_task=5)"].accuracy, result.accuracy)
    assert f"{float(result.accuracy[0, 0]):.0%}" in ran.view.value


def test_a_matrix_fills_row_by_row():
    panel = ForgettingPanel("digits", "digits/mlp", **QUICK)
    views = [step.value for step in panel.steps() if step.value.results]
    assert len(views[0].results["FineTune()"].models) == 1
    assert "…" in panel.draw(views[0])
    assert "…" not in panel.draw(views[-1])


@pytest.mark.parametrize("key", ["", "Enter"])
def test_a_cell_opens_that_model_on_that_task(ran, key):
    pick(ran, "cell:FineTune()|1|0", key)
    assert not ran.message.value
    ran.bench.stop()
    assert ran.bench.wait(60)
    bench = ran.open()
    bench.stop()
    assert bench.wait(60)
    images = bench.selection.images()
    assert torch.equal(images.images, ran.result.stream[0].test.images)
    assert bench.selection.classifier() is ran.result.results["FineTune()"].models[1]
    assert "FineTune(), after task 2" in ran.view.value
    assert "length of each class" in ran.view.value
    wrong = bench.selection.index
    assert images.labels[wrong] != bench.selection.classifier().predict(images.images).label[wrong]


def test_another_way_of_counting_needs_no_training(monkeypatch):
    panel = ForgettingPanel("digits", "digits/mlp", **{**QUICK, "learners": ["FineTune()"]})
    panel.run()
    monkeypatch.setattr(ForgettingPanel, "steps", None)
    before = panel.view.value
    panel.accept(panel.params.changed(told=True))
    assert panel.view.value != before


@pytest.mark.parametrize("stream", ["permuted", "rotated"])
def test_other_tasks(stream):
    panel = ForgettingPanel("digits", "digits/mlp", stream=stream, n_tasks=3)
    tasks = panel.look().stream
    assert len(tasks) == 3
    assert len(tasks[2].train) == len(data.load("digits", "train"))


def test_what_cannot_be_learned_says_why():
    with pytest.raises(ValueError, match=r"unknown learner 'FinTune'\. Did you mean 'FineTune'"):
        ForgettingPanel("digits", "digits/mlp", learners=["FinTune()"])
    panel = ForgettingPanel("digits", "digits/mlp", n_tasks=11)
    with pytest.raises(ValueError, match="10 classes, got 11 tasks"):
        panel.look()
    panel = ForgettingPanel("digits", "digits/mlp", learners=["Replay(bytes=3)"])
    with pytest.raises(ValueError, match="room for an image"):
        panel.run()
    with pytest.raises(RuntimeError, match="press Learn"):
        panel.open()
    own = data.load("digits")[:20]
    nobody = data.ImageDataset(own.images, own.labels, own.classes, name="own")
    with pytest.raises(ValueError, match="no training images of 'own'"):
        ForgettingPanel(nobody, "digits/mlp").look()


def test_a_network_without_a_recipe_is_no_hindrance():
    own = data.load("digits")
    model = models.wrap(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        input_shape=(1, 8, 8), classes=own.classes, name="mine",
    )  # fmt: skip
    panel = ForgettingPanel(own, model, training=data.load("digits", "train"), n_tasks=2)
    assert panel.plan(panel.params).architecture == "mlp"
    assert len(panel.look().stream) == 2


def test_learners_given_as_objects_are_named():
    panel = ForgettingPanel("digits", "digits/mlp", learners=[continual.Importance(kind="l2")])
    assert panel.params.learners == ("Importance(kind='l2')",)
