"""DefencePanel: what can be compared, what a click opens, and what it says of bad input."""

import pytest
import torch
from panel_kit import pick
from torch import nn
from workbench.widgets import DefencePanel

from workbench import data, models, treatments

QUICK = {"n": 12, "n_steps": 5, "n_queries": 20, "health": False}


pytestmark = pytest.mark.usefixtures("home")  # what a panel makes is kept there


@pytest.fixture(scope="module")
def ran():
    panel = DefencePanel("digits", "digits/cnn", **QUICK)
    assert panel.widget is not None
    panel.run()
    return panel


def test_the_robust_sibling_is_compared_where_nothing_is_chosen(ran):
    assert ran.params.defences == ("digits/cnn-robust",)
    assert list(ran.result.made) == ["digits/cnn", "digits/cnn-robust"]
    assert "digits/cnn-robust" in ran.view.value


def test_the_table_fills_before_it_is_whole():
    panel = DefencePanel("digits", "digits/cnn", **QUICK)
    tables = [step.value.table for step in panel.steps() if step.value.table is not None]
    assert len(tables[1].cells) < len(tables[-1].cells)
    assert "…" in panel.draw(next(s.value for s in panel.steps() if s.value.table is not None))


@pytest.mark.parametrize("key", ["", "Enter"])
def test_a_click_shows_the_images_and_opens_the_bench(key):
    panel = DefencePanel("digits", "digits/cnn", **QUICK)
    assert panel.widget is not None
    panel.run()
    pick(panel, "cell:digits/cnn|knowing", key)
    assert not panel.message.value
    panel.bench.stop()
    assert panel.bench.wait(60)
    cell = panel.result.table.cells["digits/cnn", "knowing"]
    (shown,) = panel.opened.children
    assert panel.below.titles[panel.below.selected_index] == "On the bench"
    assert shown is not None
    bench = panel.open()
    bench.stop()
    assert bench.wait(60)
    assert bench.selection.dataset == "digits, knowing"
    assert torch.equal(bench.selection.images().images, cell.images)
    assert not bool(cell.right[bench.selection.index])  # the first that is fooled
    assert "worst of the attacks that know it" in panel.view.value


def test_an_arrow_key_opens_nothing(ran):
    pick(ran, "cell:digits/cnn|clean", "ArrowLeft")
    assert ran.result.cell is None
    with pytest.raises(RuntimeError, match="no cell was picked: run the panel"):
        ran.open()


def test_ones_own_model_and_images_with_a_change():
    digits = data.load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    own = models.wrap(net, input_shape=(1, 8, 8), classes=digits.classes, name="mine")
    other = models.load("digits/mlp")
    panel = DefencePanel(digits, own, defences=["Quantise(bits=3)", other], **QUICK)
    panel.run()
    assert list(panel.result.made) == ["mine", "mine | Quantise(bits=3)", "digits/mlp"]


@pytest.mark.parametrize(
    ("defences", "said"),
    [
        (["Quantize(bits=4)"], "unknown treatment 'Quantize'. Did you mean 'Quantise'"),
        (["Quantise(bits=99)"], "bits"),
        (["digits/cnn-robst"], "digits/cnn-robust"),
    ],
)
def test_what_is_not_there_is_said(defences, said):
    with pytest.raises(ValueError, match=said):
        DefencePanel("digits", "digits/cnn", defences=defences, **QUICK).run()


def test_a_training_of_a_model_without_a_recipe_is_said():
    own = models.load("digits/cnn")
    own.card = own.card.model_copy(update={"name": "mine"})
    panel = DefencePanel("digits", own, defences=["AdversarialTraining()"], **QUICK)
    with pytest.raises(ValueError, match="it trains by a recipe, and 'mine', given as an object"):
        panel.run()


def test_defences_are_offered_that_fit_the_data():
    offered = [name for _, name in DefencePanel("digits", "digits/cnn").choices()["defences"]]
    assert "digits/cnn-robust" in offered
    assert "AdversarialTraining" in offered
    assert all(treatments.get(n).defends for n in offered if "/" not in n)
