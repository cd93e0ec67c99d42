"""The concept panel without a browser."""

import re

import pytest
import torch
from panel_kit import pick, settle
from workbench.widgets import ConceptPanel

from workbench import data, models

SMALL = {"n_concepts": 6, "n_crops": 200}


@pytest.fixture
def panel():
    panel = ConceptPanel("digits", "digits/cnn", 3, **SMALL)
    panel.run()
    assert panel.widget is not None
    return panel


def test_it_shows_the_image_first_and_searches_when_asked():
    panel = ConceptPanel("digits", "digits/cnn", 3, **SMALL)
    panel._repr_mimebundle_()
    assert panel.result.extracted is None
    assert "Find concepts" in panel.view.value
    panel.start()
    settle(panel)
    assert panel.result.importance is not None


def test_rows_are_sorted_by_importance(panel):
    rows = [int(k) for k in re.findall(r'data-pick="concept:(\d+)"', panel.view.value)]
    mean = panel.result.importance.scores.mean(0)
    assert rows == mean.argsort(descending=True).tolist()
    assert panel.view.value.count('aria-pressed="true"') == 1
    assert panel.view.value.count("<img ") == panel.view.value.count("<img alt=")


def test_a_damped_concept_moves_the_logits_and_reset_brings_them_back(panel):
    before = panel.view.value
    k = int(panel.result.importance.scores.mean(0).argmax())
    panel.slider.value = 0
    assert panel.result.factors == {k: 0}
    model, x = models.load("digits/cnn"), data.load("digits").images[3:4]
    by_hand = panel.result.extracted.steer(model, x, {k: 0})
    assert float((by_hand - model.predict(x).logits).abs().max()) > 0.1
    assert f"concept {k} × 0" in panel.view.value
    names = {}
    exec(panel.code(), names)
    assert torch.equal(names["logits"][0], panel.result.steered)
    assert f">{float(names['logits'].max()):.3g}</td>" in panel.view.value
    pick(panel, "concept:2", "Enter")
    assert panel.slider.value == 1
    panel.slider.value = 2
    assert panel.result.factors == ({k: 0, 2: 2} if k != 2 else {2: 2})
    panel._steer({})
    assert panel.result.factors == {}
    panel.params = panel.params.changed(chosen=-1)
    assert panel.draw(panel.result) == before


def test_the_concepts_stay_when_the_image_changes(panel):
    found = panel.result.extracted
    panel.selection.index = 7
    settle(panel)
    assert panel.result.index == 7
    assert panel.result.extracted is found
    panel.selection.model = "digits/mlp"
    settle(panel)
    assert panel.result.extracted is None


def test_a_layer_without_places_takes_whole_images(panel):
    panel.form.controls["layer"].value = "relu3"
    settle(panel)
    assert panel.result.extracted.layer == "relu3"
    assert panel.result.extracted.grid is None
    assert "where it is" not in panel.view.value
    names = {}
    exec(panel.code(), names)
    assert torch.equal(names["extracted"].dictionary.bank, panel.result.extracted.dictionary.bank)


def test_negative_activations_are_said_with_what_to_do(panel):
    panel.form.controls["layer"].value = "conv2"
    assert panel.wait(30)
    assert "semi-nmf" in panel.message.value
    panel.form.controls["method"].value = "semi-nmf"
    settle(panel)
    assert panel.result.extracted.dictionary.method == "semi-nmf"


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="unknown layer of digits/cnn 'zz'"):
        ConceptPanel("digits", "digits/cnn", layer="zz")
    with pytest.raises(ValueError, match="chosen: expected a concept below 10, got 12"):
        ConceptPanel("digits", "digits/cnn", chosen=12)
    with pytest.raises(ValueError, match="n_concepts"):
        ConceptPanel("digits", "digits/cnn", n_concepts=1)
