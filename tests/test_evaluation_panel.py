"""The evaluation panel without a browser."""

import threading

import pytest
from workbench.widgets import EvaluationPanel

from workbench import attacks, data, models, robustness


@pytest.fixture
def panel():
    panel = EvaluationPanel("digits", "digits/cnn", n=30, eps=[0.05, 0.1], health=False)
    panel.run()
    assert panel.widget is not None
    return panel


def settle(panel):
    assert panel.wait(20)
    assert panel.job is None or panel.job.state == "done", panel.job.error
    assert panel.message.value == ""


def test_the_figures_are_those_of_evaluate(panel):
    battery = {"FGSM": attacks.FGSM(), "PGD": attacks.PGD()}
    images = data.load("digits")[:30]
    own = robustness.evaluate(models.load("digits/cnn"), images, battery, eps=[0.05, 0.1])
    assert panel.result.evaluation.curve().equals(own.curve())
    for point in own.curve().itertuples():
        assert f"{point.attack} " in panel.view.value
        assert f"{point.robust_accuracy:.1%}<br>" in panel.view.value


def test_every_step_of_an_evaluation_can_be_drawn(panel):
    drawn = [panel.draw(step.value) for step in panel.steps()]
    assert any("not yet run" in picture for picture in drawn)
    assert drawn[-1] == panel.view.value


def test_copied_code_gives_the_same_figures():
    panel = EvaluationPanel("digits", "digits/cnn", n=20, eps="0.1", attacks=["PGD(n_steps=9)"])
    view = panel.run()
    names = {}
    exec(panel.code(), names)
    assert names["result"].frame().equals(view.evaluation.frame())
    assert names["health"].summary() == view.diagnosis.summary()


def test_state_brings_the_same_view_back(panel):
    again = EvaluationPanel.from_state(panel.state())
    assert again.run().evaluation.frame().equals(panel.result.evaluation.frame())
    assert again.draw(again.result) == panel.view.value


def test_health_is_asked_of_the_strongest_attack_and_shown_beside_the_curve():
    panel = EvaluationPanel("digits", "digits/cnn-robust", n=20, eps=[0.1])
    view = panel.run()
    assert view.diagnosis.attack == "PGD(eps=0.1)"
    assert "Can it be trusted?" in panel.view.value
    assert "enough images" in panel.view.value
    assert view.summary()["health"] == "red"  # twenty images are too few


def test_controls_change_what_is_evaluated(panel):
    panel.form.controls["attacks"].value = ("FGSM",)
    settle(panel)
    assert "Press <b>Evaluate</b>" in panel.view.value
    panel.form.controls["eps"].value = "0.2, 0.1"
    panel.start()
    settle(panel)
    curve = panel.result.evaluation.curve()
    assert set(curve["attack"]) == {"FGSM", "worst case"}
    assert sorted(set(curve["eps"])) == [0.1, 0.2]
    assert "worst case" not in panel.view.value  # of one attack


def test_the_norm_decides_which_attacks_there_are(panel):
    offered = {name for _, name in panel.form.controls["attacks"].options}
    assert {"FGSM", "PGD", "APGD", "Cascade", "Square", "FMN"} <= offered
    assert not {"Spatial", "QuadAttacK", "DDN", "Transfer", "FeatureGuided"} & offered
    panel.form.controls["attacks"].value = ("PGD", "FMN")
    panel.form.controls["norm"].value = "L2"
    settle(panel)
    assert "DDN" in {name for _, name in panel.form.controls["attacks"].options}
    assert panel.params.attacks == ("PGD", "FMN")
    assert panel.battery(panel.params)["PGD"].norm == "L2"


def test_a_bad_radius_is_said_beside_the_form(panel):
    for value in ("0.1, x", "-0.1", "3", ""):
        panel.form.controls["eps"].value = value
        assert "eps" in panel.form.message.value, value
        assert panel.params.eps == (0.05, 0.1)


def test_another_model_is_not_attacked_before_it_is_asked_for(panel):
    panel.selection.model = "digits/mlp"
    settle(panel)
    assert panel.result.evaluation is None
    assert "96.7% of 30 test images" in panel.view.value or "Press" in panel.view.value


def test_an_attack_that_raises_is_said(panel, monkeypatch):
    def broken(self, problem):
        raise RuntimeError("no luck")
        yield

    monkeypatch.setattr(attacks.FGSM, "search", broken)
    panel.run()
    assert "An attack failed: RuntimeError: no luck" in panel.view.value
    assert "not known: it failed on 30 images" in panel.view.value


def test_cancel_keeps_the_runs_that_ended(panel, monkeypatch):
    reached, gate = threading.Event(), threading.Event()
    plain = EvaluationPanel.steps

    def slow(self):
        seen = False
        for step in plain(self):
            if seen:  # the last step with a value has been shown
                reached.set()
                gate.wait(20)
            yield step
            seen = step.value.evaluation is not None

    monkeypatch.setattr(EvaluationPanel, "steps", slow)
    panel.start()
    assert reached.wait(10)
    panel.cancel()
    gate.set()
    assert panel.wait(10)
    assert panel.job.state == "cancelled"
    assert "Cancelled" in panel.message.value
    assert panel.result.evaluation is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attacks": ["PDG"]}, "Did you mean 'PGD'"),
        ({"attacks": ["PGD(n_steps=)"]}, "a call such as PGD"),
        ({"attacks": ["PGD(__import__('os'))"]}, "a call such as PGD"),
        ({"attacks": ["PGD(step=3)"]}, "step: no such parameter"),
        ({"attacks": []}, "at least 1 item"),
        ({"attacks": ["DDN"]}, "DDN: it does not keep Linf small"),
        ({"eps": [2]}, "from 0 to 1"),
        ({"n": 0}, "n: "),
        ({"norm": "L3"}, "norm"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        EvaluationPanel("digits", "digits/cnn", **arguments)
