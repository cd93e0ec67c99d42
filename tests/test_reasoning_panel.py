"""ReasoningPanel and DebatePanel: what is clicked, what it costs, and what a judge is shown."""

import json

import pytest
import torch
from panel_kit import pick, settle
from workbench.widgets import DebatePanel, ReasoningPanel

from workbench import data
from workbench.reasoning import Chain, Found


@pytest.fixture
def panel():
    """A panel on a solution whose third step is wrong, after a first look."""
    made = ReasoningPanel(solution=1)
    assert made.widget is not None
    made.look()
    return made


def test_rolling_out_fills_one_cell_and_counts_its_calls(panel):
    assert panel.view.value.count("Roll out 8<") == 8, "the end leads nowhere"
    pick(panel, "look:5")
    settle(panel)
    right, n = panel.result.looks[5]
    assert (n, panel.result.spent) == (8, 8 * 3), "three steps were left"
    assert f"{right} of 8" in panel.view.value
    pick(panel, "look:7", "Enter")
    settle(panel)
    assert set(panel.result.looks) == {5, 7}
    assert panel.result.spent == 8 * 3 + 8
    pick(panel, "look:2", "ArrowDown")
    assert set(panel.result.looks) == {5, 7}


def test_the_first_error_is_shown_beside_the_truth(panel):
    view = panel.run()
    assert view.truth == 3
    assert view.summary() == {
        "right": False,
        "found": view.found.step,
        "truth": 3,
        "calls": view.found.spent,
    }
    assert panel.view.value.count("◀ first error found") == 1
    assert f"First error found: step {view.found.step}" in panel.view.value
    pick(panel, "look:7")
    settle(panel)
    assert panel.result.found is view.found, "what was found stays"


def test_a_solution_that_is_right_has_no_error_to_be_found():
    panel = ReasoningPanel(slip=0)
    assert panel.run().summary()["right"]
    assert "there is no error to be found" in panel.view.value


def test_calls_that_run_out_leave_what_is_known():
    panel = ReasoningPanel(solution=1, calls=10)
    view = panel.run()
    assert view.found.step is None
    assert view.spent <= 10
    assert "as far as was looked" in panel.view.value


def test_a_beam_is_led_by_the_truth_or_by_a_judge_of_ones_own(panel):
    pick(panel, "beam")
    settle(panel)
    assert len(panel.result.levels) == 8
    assert "of 5 kept at the end are right" in panel.view.value
    world = Chain(3, 5)
    own = ReasoningPanel(
        world, judges={"low": lambda s: torch.tensor([-float(x.value) for x in s])}
    )
    own.set(lead="low")
    own.look()
    own.start(own.led())
    settle(own)
    for level in own.result.levels:
        assert isinstance(level, Found)
        values = [path[-1].value for path in level.paths]
        assert values == sorted(values)
    assert [round(v) for v in own.result.scores["low"]] == [-s.value for s in own.result.path[1:]]
    assert "<b>low</b>" in own.view.value


def test_another_problem_starts_anew_and_other_settings_do_not(panel):
    pick(panel, "look:5")
    settle(panel)
    panel.form.controls["n"].value = 3
    settle(panel)
    assert set(panel.result.looks) == {5}
    assert "Roll out 3<" in panel.view.value
    panel.form.controls["problem"].value = 4
    settle(panel)
    assert panel.result.looks == {}
    panel.undo()
    settle(panel)
    assert (panel.params.problem, panel.params.n) == (0, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world": "checkers"}, "world"),
        ({"lead": "nobody"}, "lead"),
        ({"width": 9, "samples": 4}, "width: expected at most as many as are sampled, 4"),
        ({"calls": 0}, "calls"),
    ],
)
def test_what_does_not_fit_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        ReasoningPanel(**options)


def test_it_is_saved_without_images_and_found_again(panel, tmp_path):
    state = json.loads(json.dumps(panel.state()))
    assert state == {"world": "chain", "solution": 1}
    assert ReasoningPanel.from_state(state).look().path == panel.result.path
    panel.saver.file.value = str(tmp_path / "saved.ipynb")
    saved = json.loads(panel.saver.save().read_text())
    assert "".join(saved["cells"][0]["source"]) == "# Reasoning panel"


def test_a_judge_of_ones_own_is_shown_what_was_shown():
    seen = []

    def judge(x, masks):
        seen.append((x, masks))
        return torch.zeros(len(x), 10)

    panel = DebatePanel("digits", "digits/cnn", 3, k=5, judge=judge)
    view = panel.run()
    assert view.debate.shares.tolist() == [0.5] * 6
    assert view.judge == "your judge"
    assert "judge=judge" in panel.code()
    x, masks = seen[0]
    images = data.load("digits").images
    assert torch.equal(x[-1], torch.where(masks[-1] > 0, images[3], images.mean(0)))


def test_an_image_without_a_label_is_debated_by_what_the_expert_says():
    images = data.load("digits")
    own = data.ImageDataset.from_arrays(
        images.images[:5], torch.full((5,), -1), classes=images.classes, name="mine"
    )
    panel = DebatePanel(own, "digits/cnn", 3)
    assert panel.run().claims[0] == "0"


def test_colours_of_images_are_shown_in_squares():
    panel = DebatePanel("shapes", "shapes/resnet", 3, k=10)
    view = panel.run()
    assert view.debate.masks[-1].sum() == 10 * 4, "two pixels a side of 32"
    assert panel.tile(view)[0].startswith("square or ")
