"""Forms, jobs and the model panel, without a browser: in a cell, a callback, a thread."""

import threading
import time
from typing import Literal

import ipywidgets as ipw
import pytest
import torch
from panel_kit import settle
from pydantic import Field
from workbench.widgets import Form, Job, ModelPanel, Selection

from workbench import data, models
from workbench.params import Parameters
from workbench.steps import Step

# Forms


class Example(Parameters):
    eps: float = Field(0.1, ge=0, le=1, description="radius")
    c: float = Field(1.0, ge=1e-3, le=1e3, json_schema_extra={"log": True})
    steps: int = Field(10, ge=1, le=100)
    many: int = Field(10, ge=1, le=10**6)
    open: float = 2.0
    norm: Literal["Linf", "L2"] = "Linf"
    random: bool = True
    note: str = ""


def test_every_field_gets_the_control_that_fits():
    kinds = {name: type(c) for name, c in Form(Example()).controls.items()}
    assert kinds == {
        "eps": ipw.FloatSlider,
        "c": ipw.FloatLogSlider,
        "steps": ipw.IntSlider,
        "many": ipw.BoundedIntText,
        "open": ipw.FloatText,
        "norm": ipw.Dropdown,
        "random": ipw.Checkbox,
        "note": ipw.Text,
    }


def test_bounds_help_and_names_reach_the_controls():
    form = Form(Example())
    eps, c = form.controls["eps"], form.controls["c"]
    assert (eps.min, eps.max, eps.tooltip, eps.description) == (
        *(0, 1, "radius", "largest change (eps)"),
    )
    assert (c.min, c.max, c.value) == (-3, 3, 1)
    assert all(control.description for control in form.controls.values())


def test_a_change_gives_listeners_valid_values():
    form, seen = Form(Example()), []
    form.observe(seen.append)
    form.controls["eps"].value = 0.2
    assert seen == [Example(eps=0.2)]
    assert form.values == Example(eps=0.2)


def test_a_bad_value_is_said_and_not_passed_on():
    class Even(Parameters):
        n: int = Field(2, multiple_of=2)

    form, seen = Form(Even()), []
    form.observe(seen.append)
    form.controls["n"].value = 3
    assert "multiple of 2, got 3" in form.message.value
    assert 'role="alert"' in form.message.value
    assert (seen, form.values) == ([], Even())
    form.controls["n"].value = 4
    assert (form.message.value, form.values) == ("", Even(n=4))


def test_set_shows_values_without_calling_listeners():
    form, seen = Form(Example()), []
    form.observe(seen.append)
    form.set(Example(eps=0.5, norm="L2"))
    assert (form.controls["eps"].value, form.controls["norm"].value, seen) == (0.5, "L2", [])


# Jobs


def drive(steps, **options):
    seen, ended = [], []
    job = Job(steps, seen.append, ended.append, **options)
    return job, seen, ended


def test_a_job_shows_the_first_and_the_last_step():
    job, seen, ended = drive((Step(i + 1, 100, "", i) for i in range(100)), interval=60)
    assert job.wait(5)
    assert [step.value for step in seen] == [0, 99]
    assert (job.state, ended) == ("done", [job])


def test_cancel_stops_at_the_next_step_and_closes_the_generator():
    closed, gate = threading.Event(), threading.Semaphore(1)

    def endless():
        try:
            for i in range(10**9):
                gate.acquire()
                yield Step(i, 10**9, "", i)
        finally:
            closed.set()

    job, _, ended = drive(endless())
    job.cancel()
    gate.release(2)
    assert job.wait(5)
    assert job.state == "cancelled"
    assert closed.is_set()
    assert ended == [job]


def test_a_failure_is_kept_and_logged(caplog):
    def fails():
        yield Step(1, 2, "", 1)
        raise ValueError("eps: too large")

    job, seen, _ = drive(fails())
    assert job.wait(5)
    assert job.state == "failed"
    assert str(job.error) == "eps: too large"
    assert len(seen) == 1
    assert "Exception in job" in caplog.text


def test_the_time_left_follows_the_pace():
    job, _, _ = drive(iter([Step(25, 100, "", 0)]))
    job.wait(5)
    job.started = time.monotonic() - 10
    assert job.seconds_left == pytest.approx(30, rel=0.01)


# The model panel


@pytest.fixture
def panel():
    panel = ModelPanel("digits", "digits/cnn", 3)
    panel.run()
    assert panel.widget is not None
    return panel


def test_the_first_frame_is_the_prediction(panel):
    prediction = models.load("digits/cnn").predict(data.load("digits").images[3:4])
    assert torch.equal(panel.result.looks[0].prediction.logits, prediction.logits)
    summary = panel.result.summary()
    assert summary["index"] == 3
    assert summary["digits/cnn"]["confidence"] == pytest.approx(float(prediction.confidence))
    assert 'alt="index 3 of digits, labelled' in panel.view.value


def test_stepping_follows_the_order_and_wraps(panel):
    panel.picker.step(-4)
    settle(panel)
    assert panel.result.index == 359
    assert panel.picker.place.value == 360
    panel.picker.step(1)
    settle(panel)
    assert panel.selection.index == 0
    panel.picker.place.value = 11
    settle(panel)
    assert panel.result.index == 10


def test_browsing_mistakes_and_doubts(panel):
    images, model = data.load("digits"), models.load("digits/cnn")
    answers = model.predict(images.images)
    wrong = (answers.label != images.labels).nonzero().flatten().tolist()
    panel.form.controls["browse"].value = "mistakes"
    settle(panel)
    assert panel.result.order.tolist() == wrong
    assert panel.selection.index == wrong[0]
    panel.form.controls["browse"].value = "least confident first"
    settle(panel)
    assert panel.result.order[0] == int(answers.confidence.argmin())
    panel.form.controls["only"].value = "7"
    settle(panel)
    assert set(images.labels[panel.result.order].tolist()) == {7}


def test_no_mistakes_is_an_empty_state():
    images, model = data.load("digits"), models.load("digits/cnn")
    images = images[model.predict(images.images).label == images.labels]
    panel = ModelPanel(images, model, browse="mistakes")
    panel.run()
    assert "makes no mistake" in panel.to_html()
    assert panel.code().endswith("my_dataset")


@pytest.mark.parametrize("method", ["gradient", "integrated gradients", "occlusion", "Grad-CAM"])
def test_saliency_is_shown_for_the_class_asked_for(panel, method):
    panel.set(method=method, target="8")
    settle(panel)
    found = panel.result.looks[0].saliency
    assert found.target.tolist() == [8]
    assert found.method in panel.view.value


def test_two_models_look_at_the_same_image(panel):
    panel.form.controls["compare"].value = "digits/mlp"
    settle(panel)
    assert [look.model.card.name for look in panel.result.looks] == ["digits/cnn", "digits/mlp"]
    assert "digits/mlp" in panel.view.value
    assert "digits/mlp" in panel.card_view.value
    assert "relu2" in panel.layer_view.value


def test_other_data_bring_a_model_that_fits(panel):
    panel.set(compare="digits/mlp", only="7")
    settle(panel)
    panel.picker.data.value = "shapes"
    settle(panel)
    assert panel.selection.model.startswith("shapes/")
    assert panel.result.images.name == "shapes"
    assert [value for _, value in panel.picker.model.options] == panel.selection.models_for(
        "shapes"
    )
    assert panel.params.compare == panel.params.only == ""


def test_your_own_module_and_arrays():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    mine = models.wrap(module, input_shape=(1, 8, 8), name="mine")
    images = data.ImageDataset.from_arrays(torch.rand(6, 8, 8), [0, 1, 2, 3, 4, 9])
    panel = ModelPanel(images, mine, compare="digits/cnn", method="gradient")
    panel.run()
    assert [look.model.card.name for look in panel.result.looks] == ["mine", "digits/cnn"]
    assert "my_model" in panel.code()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "digts"}, "Did you mean 'digits'"),
        ({"dataset": "digits", "model": "digits/cn"}, "Did you mean 'digits/cnn'"),
        (
            {"dataset": "digits", "model": "shapes/resnet"},
            r"shapes.resnet takes \(3, 32, 32\) images",
        ),
        ({"dataset": "digits", "method": "gradients"}, "Did you mean 'gradient'"),
        ({"dataset": "digits", "only": "ten"}, "unknown only 'ten'"),
        ({"dataset": "digits", "index": 360}, "index"),
        ({"dataset": "digits", "browse": "backwards"}, "browse"),
        ({"dataset": "digits", "colour": "red"}, "colour: no such parameter"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ModelPanel(**arguments)


def test_run_raises_and_start_shows_the_error():
    panel = ModelPanel("digits", "digits/mlp", method="Grad-CAM")
    with pytest.raises(ValueError, match="has no convolution"):
        panel.run()
    panel.start()
    assert panel.wait(10)
    assert "has no convolution" in panel.message.value
    labels = [label for label, _ in panel._method_choices()]
    assert "Grad-CAM (not here: digits/mlp has no convolution)" in labels


# The three thread situations: a cell or old kernel's callback (main thread), a subshell
# thread of a newer kernel, and the panel's own job.


def test_callbacks_work_in_a_foreign_thread_while_the_main_thread_is_busy(panel):
    errors = []

    def click():
        try:
            panel.form.controls["method"].value = "gradient"
            panel.picker.step(2)
            panel.wait(20)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=click, name="subshell-1")
    thread.start()
    models.load("digits/mlp").predict(data.load("digits").images)
    thread.join(20)
    assert errors == []
    settle(panel)
    assert panel.result.index == 5
    assert panel.result.looks[0].saliency is not None


def test_clicks_in_a_row_are_never_lost(panel):
    """A click while a job draws: neither undoes the other."""
    for i in range(40):
        panel.picker.step(1)
        if i % 3 == 0:
            panel.picker.model.value = ["digits/cnn-robust", "digits/cnn"][i % 2]
        if i % 5 == 0:
            panel.wait()
    settle(panel)
    assert panel.selection.index == panel.result.index == 43


def test_panels_in_two_threads_do_not_wait_for_each_other_for_ever(panel):
    other = ModelPanel(selection=panel.selection)
    other.run()
    assert other.widget is not None

    def click(which, by):
        for _ in range(25):
            which.picker.step(by)

    threads = [
        threading.Thread(target=click, args=a, daemon=True) for a in [(panel, 1), (other, 2)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    settle(panel)
    settle(other)
    assert panel.result.index == other.result.index == panel.selection.index


def test_no_thread_is_left_behind(panel):
    for _ in range(20):
        panel.picker.step(1)
    settle(panel)
    assert panel.wait(10)
    for thread in [t for t in threading.enumerate() if t.name == "workbench-job"]:
        thread.join(60)
        assert not thread.is_alive()


def test_selection_refuses_what_is_neither_name_nor_model():
    with pytest.raises(TypeError, match=r"models\.wrap"):
        Selection("digits", torch.nn.Linear(2, 2))
