"""The evaluation panel without a browser."""

from typing import ClassVar

import pytest
from panel_kit import settle
from workbench.widgets import EvaluationPanel

from workbench import attacks, data, figures, models, robustness


@pytest.fixture
def panel():
    given = {"attacks": ["FGSM", "PGD(n_steps=5)"], "eps": [0.05, 0.1]}
    panel = EvaluationPanel("digits", "digits/cnn", n=30, health=False, **given)
    panel.run()
    assert panel.widget is not None
    return panel


def test_the_figures_are_those_of_evaluate(panel):
    battery = {"FGSM": attacks.FGSM(), "PGD(n_steps=5)": attacks.PGD(n_steps=5)}
    images = data.load("digits")[:30]
    own = robustness.evaluate(models.load("digits/cnn"), images, battery, eps=[0.05, 0.1])
    assert panel.result.evaluation.curve().equals(own.curve())
    for point in own.curve().itertuples():
        assert f"{point.attack} " in panel.view.value
        assert f"{point.robust_accuracy:.1%}<br>" in panel.view.value


def test_the_share_that_stays_right_can_be_dragged_where_there_are_two_points(panel):
    picture = figures.drag_curve(panel.result.evaluation.curve())
    assert panel.view.value.count('<div data-drag="eps"') == 1
    assert picture.html in panel.view.value
    assert "<details>" not in panel.view.value
    one = EvaluationPanel("digits", "digits/cnn", n=9, health=False, eps=[0.1], attacks=["FGSM"])
    one.run()
    assert "wb-drag" not in one.view.value
    assert "eps 0.1" in one.view.value


def test_the_curve_has_its_room_before_it_is_there():
    names, eps = ["FGSM", "BIM"], [0.1, 0.2, 0.3, 0.4, 0.5]
    panel = EvaluationPanel("digits", "digits/cnn", n=9, health=False, eps=eps, attacks=names)
    seen = [panel.draw(step.value) for step in panel.steps() if step.value.evaluation is not None]
    assert seen
    assert all(html.count('"wb-drag-room') == 1 for html in seen)
    assert "data-drag" not in seen[0]
    assert "<summary>All points, as a table</summary>" in seen[-1]


def test_health_is_asked_of_the_strongest_attack_and_shown_beside_the_curve():
    panel = EvaluationPanel(
        "digits", "digits/cnn-robust", n=10, eps=[0.1], attacks=["PGD(n_steps=5)"]
    )
    view = panel.run()
    assert view.diagnosis.attack == "PGD(eps=0.1, n_steps=5)"
    assert "Can it be trusted?" in panel.view.value
    assert "enough images" in panel.view.value
    assert view.summary()["health"] == "red"  # ten images are too few


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


class Twice(attacks.FGSM):
    """Offered by another package."""

    title: ClassVar[str] = "FGSM of another package"


def test_code_names_an_attack_of_another_package_as_it_is_entered(monkeypatch):
    known = {**attacks.available(), "fgsm-of-mine": Twice}
    monkeypatch.setattr("workbench.attacks.registry.available", lambda: known)
    panel = EvaluationPanel("digits", "digits/mlp", n=9, eps=[0.1], attacks=["fgsm-of-mine"])
    view, names = panel.run(), {}
    exec(panel.code(), names)
    assert type(names["battery"]["fgsm-of-mine"]) is type(names["attack"]) is Twice
    assert names["result"].frame().equals(view.evaluation.frame())
    assert names["health"].summary() == view.diagnosis.summary()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attacks": ["PDG"]}, "Did you mean 'PGD'"),
        ({"attacks": ["PGD(n_steps=)"]}, "a call such as FGSM"),
        ({"attacks": ["PGD(__import__('os'))"]}, "a call such as FGSM"),
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
