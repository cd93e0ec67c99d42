"""The verify panel without a browser."""

import threading

import pytest
import torch
from workbench.widgets import ProofPanel, proof_panel

from workbench import data, models


def settle(panel):
    assert panel.wait(60)
    assert panel.job is None or panel.job.state == "done", panel.job.error
    assert panel.message.value == ""


def test_it_asks_first_and_proves_when_told():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.02)
    panel._repr_mimebundle_()
    assert panel.result.answer is None
    assert "Is every image within 0.02 of image 3 called 0?" in panel.view.value
    assert "Press <b>Verify</b>" in panel.view.value
    panel.start()
    settle(panel)
    assert panel.result.answer.verdict == "verified"
    assert "Proved" in panel.view.value
    assert panel.result.summary()["verdict"] == "verified"


def test_a_counterexample_is_shown_and_is_one():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.3)
    answer = panel.run().answer
    assert answer.verdict == "falsified"
    model, x = models.load("digits/mlp"), data.load("digits").images[3]
    assert float((answer.counterexample - x).abs().max()) <= 0.3 + 1e-5
    called = int(model.predict(answer.counterexample[None]).label)
    assert called != int(model.predict(x[None]).label)
    assert f"counterexample: {called}, Linf 0.3 away" in panel.view.value
    assert panel.view.value.count("<img ") == panel.view.value.count("<img alt=") == 3


def test_copied_code_gives_the_same_answer():
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.05, pattern=True, delta=0.9)
    answer = panel.run().answer
    assert answer.verdict != "unknown"
    names = {}
    exec(panel.code(), names)
    assert names["answer"].verdict == answer.verdict
    if answer.counterexample is not None:
        assert torch.equal(names["answer"].counterexample, answer.counterexample)
    assert f"The pattern fixes {len(panel.mined().of(panel.result.label))} of" in panel.view.value


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


@pytest.mark.parametrize("where", ["main", "subshell"])
def test_a_click_returns_at_once_and_cancel_keeps_what_is_known(monkeypatch, where):
    reached, gate = threading.Event(), threading.Event()
    original = proof_panel.prove.steps

    def slow(*arguments, **options):
        for step in original(*arguments, **options):
            yield step
            reached.set()
            assert gate.wait(20)

    monkeypatch.setattr(proof_panel.prove, "steps", slow)
    panel = ProofPanel("digits", "digits/mlp", 3, eps=0.1)
    panel._repr_mimebundle_()
    if where == "main":
        panel.start()
    else:
        thread = threading.Thread(target=panel.start, name="subshell-1")
        thread.start()
        thread.join(20)
    assert reached.wait(20)
    panel.cancel()
    gate.set()
    assert panel.wait(20)
    assert panel.job.state == "cancelled"
    assert "Cancelled" in panel.message.value
