"""The verify panel without a browser."""

import pytest
from panel_kit import settle
from workbench.widgets import ProofPanel

from workbench import data, models


def test_it_asks_first_and_proves_when_told():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.02)
    panel._repr_mimebundle_()
    assert panel.result.answer is None
    assert "Is every image within 0.02 of image 3 called 0?" in panel.view.value
    assert "Press <b>Verify</b>" in panel.view.value
    panel.start()
    settle(panel)
    assert panel.result.answer.verdict == "proved"
    assert "Proved" in panel.view.value
    assert panel.result.summary()["verdict"] == "proved"


def test_a_counterexample_is_shown_and_is_one():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.3)
    answer = panel.run().answer
    assert answer.verdict == "refuted"
    model, x = models.load("digits/mlp"), data.load("digits").images[3]
    assert float((answer.counterexample - x).abs().max()) <= 0.3 + 1e-5
    called = int(model.predict(answer.counterexample[None]).label)
    assert called != int(model.predict(x[None]).label)
    assert f"counterexample: the model says {called}; Linf 0.3 away" in panel.view.value
    assert panel.view.value.count("<img ") == panel.view.value.count("<img alt=") == 3


def test_only_images_that_follow_the_pattern():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.05, pattern=True, delta=0.9)
    assert panel.run().answer.verdict != "open"
    size = len(panel.mined().of(panel.result.label))
    assert f"The pattern fixes {size} of 512 neurons" in panel.view.value


def test_another_question_or_image_withdraws_the_answer():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.02)
    panel.run()
    assert panel.widget is not None
    panel.form.controls["eps"].value = 0.05
    settle(panel)
    assert panel.result.answer is None
    panel.run()
    panel.selection.index = 5
    settle(panel)
    assert panel.result.answer is None
    assert "image 5" in panel.view.value


def test_a_network_that_cannot_be_verified_is_said():
    panel = ProofPanel("shapes", "shapes/vit", 3)
    panel._repr_mimebundle_()
    panel.start()
    assert panel.wait(60)
    assert panel.job.state == "failed"
    assert 'role="alert"' in panel.message.value
    with pytest.raises(ValueError, match="eps"):
        ProofPanel("digits", "digits/mlp", eps=2)
