"""What every panel promises, in one table: a new panel gets these tests by one row of `ROWS`."""

import json
import re
import threading
from functools import cache, partialmethod

import pandas as pd
import pytest
import torch
from panel_kit import Gate, settle
from pydantic import Field
from workbench.widgets import (
    AttackPanel,
    CompressionPanel,
    ConceptPanel,
    DebatePanel,
    DefencePanel,
    EpsPanel,
    EvaluationPanel,
    ForgettingPanel,
    LevelSetPanel,
    ModelPanel,
    Panel,
    PatternPanel,
    ProofPanel,
    PrototypePanel,
    ReasoningPanel,
    RegionPanel,
    SearchPanel,
    TrainingPanel,
    TreatmentPanel,
)

from workbench import widgets
from workbench.params import Parameters
from workbench.steps import Step

# A panel: its options; what its code makes, by name, beside what it shows.
ROWS = {
    ModelPanel: (
        {"method": "occlusion", "target": "8", "compare": "digits/mlp"},
        lambda v: {
            "prediction.logits": v.looks[0].prediction.logits,
            "prediction2.logits": v.looks[1].prediction.logits,
            "pixels.values": vars(v.looks[0].saliency)["values"],
        },
    ),
    AttackPanel: (
        {"eps": 0.1, "n_steps": 20, "target": "8", "method": "gradient"},
        lambda v: {"result.x_adv": v.result.x_adv, "result.target": v.result.target},
    ),
    EvaluationPanel: (
        {"n": 10, "eps": [0.05, 0.1], "attacks": ["FGSM", "PGD(n_steps=4)"]},
        lambda v: {
            "result.frame()": v.evaluation.frame(),
            "health.summary()": v.diagnosis.summary(),
        },
    ),
    LevelSetPanel: (
        {"target": 9, "n_steps": 20, "side": 33},
        lambda v: {"way.images": v.traversal.images, "plane.predicted": v.plane.predicted},
    ),
    RegionPanel: (
        {"extent": 0.03, "plane": "two images", "compare": "digits/mlp"},
        lambda v: {
            "regions.vertices": torch.tensor(v.regions["digits/cnn"].vertices),
            "other.vertices": torch.tensor(v.regions["digits/mlp"].vertices),
        },
    ),
    PrototypePanel: (
        {"model": "digits/prob-prototypes", "chosen": 5, "share": 0.35},
        lambda v: {
            "explanation.logits": v.explanation.logits,
            "prediction.logits": v.way.prediction.logits,
            "near": v.near[1],
            "doubts.summary()": v.doubts.summary(),
        },
    ),
    ConceptPanel: (
        {"n_concepts": 4, "n_crops": 100},
        lambda v: {
            "extracted.dictionary.bank": v.extracted.dictionary.bank,
            "counts.scores": v.importance.scores,
        },
    ),
    PatternPanel: (
        {"kind": "box", "switch": "on", "n_train": 500},
        lambda v: {
            "quality.follows": v.quality.follows,
            "score": torch.tensor([v.score]),
            "top[0]": v.top[0],
            "logits[0]": v.held[1],
        },
    ),
    EpsPanel: (
        {"eps": 0.2, "attack": "PGD(n_steps=8)", "compare": "digits/mlp"},
        lambda v: {
            "breaking.images": v.breaking[0].images,
            "other.probabilities": v.breaking[1].probabilities,
        },
    ),
    CompressionPanel: (
        {"treatment": "Quantise", "chosen": 4, "n": 20, "timed": False},
        lambda v: {
            "result.frame()['accuracy'].to_list()": [m.member.accuracy for m in v.looked],
            "result.frame()['bytes'].to_list()": [m.member.cost.bytes for m in v.looked],
        },
    ),
    DefencePanel: (
        {
            "defences": ["digits/cnn-robust", "digits/mlp"],
            "n": 10,
            "n_steps": 5,
            "n_queries": 20,
        },
        lambda v: {"result.frame()": v.table.frame(), "result.summary()": v.table.summary()},
    ),
    ForgettingPanel: (
        {
            "n_tasks": 2,
            "epochs": 1,
            "learners": ["FineTune()", "Importance(kind='l2')"],
        },
        lambda v: {
            f"results[{name!r}].accuracy": result.accuracy for name, result in v.results.items()
        },
    ),
    DebatePanel: (
        {"k": 9, "way": "consultancy", "wrong": True, "compare": "digits/mlp", "square": 2},
        lambda v: {
            "held.shares": v.debate.shares,
            "held.order": v.debate.order,
            "held.claims": v.debate.claims,
        },
    ),
    ReasoningPanel: (
        {"world": "twentyfour", "problem": 2, "solution": 1, "n": 4},
        lambda v: {"found": v.found, "path": v.path},
    ),
    SearchPanel: (
        {"searcher": "Evolution", "settings": {"population": 5}, "budget": 30, "seed": 2},
        lambda v: {"result.frame()": v.search.frame(), "result.best.key": v.search.best.key},
    ),
    TrainingPanel: (
        {
            "ways": ["digits/mlp", "digits/mlp | GradientNoise(eta=0.1)"],
            "model": "digits/mlp",
            "epochs": 1,
        },
        lambda v: {
            f"ways[{name!r}].models[4].body.fc1.weight": way.looks[4].body.fc1.weight
            for name, way in v.ways.items()
        },
    ),
    TreatmentPanel: (
        {"treatment": "Prune", "settings": {"share": 0.6}, "seed": 3},
        lambda v: {"model.body[0].weight": v.model.body[0].weight},
    ),
    ProofPanel: (
        {"model": "digits/mlp", "eps": 0.05, "pattern": True, "delta": 0.9},
        lambda v: {"answer.verdict": v.answer.verdict, "answer.branches": v.answer.branches},
    ),
}
EACH = pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)


def made(kind):
    """A panel of the table, on which nothing was run."""
    of = {"dataset": "digits", "model": "digits/cnn", "index": 3} if kind.follows else {}
    return kind(**of | ROWS[kind][0])


@cache
def ran(kind):
    """A panel that was run, for tests that change nothing."""
    panel = made(kind)
    panel.run()
    assert panel.widget is not None
    return panel


def held(kind, monkeypatch):
    """A panel of the table whose work is held by the gate."""
    panel, gate = made(kind), Gate(kind.steps)
    assert panel.widget is not None
    monkeypatch.setattr(kind, "steps", partialmethod(lambda self: gate.steps(self)))
    return panel, gate


def without_time(html):
    """A picture in which no time is told."""
    return re.sub(r"\d+\.\d s<", "s<", html)


def equal(one, other):
    """Whether two values are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(torch.as_tensor(other), one)
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


def test_every_panel_has_its_row():
    names = [name for name in widgets.__all__ if name.endswith("Panel") and name != "Panel"]
    assert {kind.__name__ for kind in ROWS} == set(names)
    assert all(issubclass(kind, Panel) for kind in ROWS)


@EACH
def test_code_gives_the_same_to_the_bit(kind):
    panel, names = ran(kind), {}
    exec(panel.code(), names)
    for name, shown in ROWS[kind][1](panel.result).items():
        assert equal(shown, eval(name, names)), name


@EACH
def test_state_goes_through_json_and_brings_the_same_back(kind):
    panel = ran(kind)
    again = kind.from_state(json.loads(json.dumps(panel.state())))
    assert again.params == panel.params
    again.run()
    assert without_time(again.to_html()) == without_time(panel.to_html())


@EACH
def test_drawing_asks_no_model_and_the_static_twin_is_what_is_seen(kind, monkeypatch):
    panel = ran(kind)
    values = [step.value for step in panel.steps() if step.value is not None]

    def refuse(*_, **__):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    for value in (values[0], values[len(values) // 2], values[-1]):
        picture = panel.draw(panel.updated(value))
        assert picture.count("<img ") == picture.count("<img alt=")
    panel.view.value += " "  # as when it was turned to something else
    assert panel.draw(panel.result) == panel.view.value[:-1]
    static = panel.to_html()
    panel.view.value = panel.view.value[:-1]
    assert static == panel.to_html()
    assert panel.view.value in static
    assert panel.title in static
    assert "<script" not in static
    assert "http" not in static


@EACH
def test_showing_it_takes_a_first_look_and_follows_the_selection(kind):
    panel = made(kind)
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert panel.view.value in bundle["text/html"]
    other = ModelPanel(selection=panel.selection)
    other.run()
    if "index" in kind.follows:
        panel.picker.step(2)
        settle(panel)
        assert panel.result.index == 5
    elif not kind.follows:
        assert panel.picker is None, "there is nothing to be chosen that it would not show"
    else:
        before = panel.result
        panel.picker.model.value = "digits/mlp"
        settle(panel)
        assert panel.result is not before
    settle(other)
    assert other.result.index == panel.selection.index


@EACH
def test_a_click_returns_at_once_and_cancel_leaves_it_usable(kind, monkeypatch):
    panel, gate = held(kind, monkeypatch)
    click = threading.Thread(target=panel.start, name="subshell-1")
    click.start()
    click.join(60)
    assert gate.reached()
    assert panel.job.state == "running"  # while the click is long over
    panel.cancel()
    gate.open()
    assert panel.wait(60)
    assert panel.job.state == "cancelled"
    assert gate.yielded <= 2
    assert "Cancelled" in panel.message.value
    panel.start()
    settle(panel)
    summary, other = panel.result.summary(), ran(kind).result.summary()
    assert all(summary[name] == other[name] for name in summary if name != "seconds")


# What a panel has found while its work is still under way.
PARTS = {
    AttackPanel: lambda v: v.result is not None and v.result.queries["backwards"].max() > 2,
    EvaluationPanel: lambda v: v.evaluation is not None,
    LevelSetPanel: lambda v: v.traversal is not None and 0 < v.traversal.moments[-1] < 20,
}


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_cancel_keeps_what_was_found(kind, monkeypatch):
    panel, plain = made(kind), kind.steps
    assert panel.widget is not None

    def cancelled(self):
        for step in plain(self):
            yield step
            if PARTS[kind](step.value):
                self.cancel()

    monkeypatch.setattr(kind, "steps", cancelled)
    panel.start()
    assert panel.wait(60)
    assert panel.job.state == "cancelled"
    assert "Cancelled" in panel.message.value
    assert PARTS[kind](panel.result)


@EACH
def test_what_is_superseded_is_shown_no_more(kind, monkeypatch):
    panel, gate = held(kind, monkeypatch)
    panel.start()
    first = panel.job
    assert gate.reached()
    panel.start(panel.peek() if kind.peek is not Panel.peek else iter([]))
    second = panel.job
    assert second.wait(60)
    shown = panel.view.value
    gate.open()
    assert first.wait(60)
    assert (first.state, second.state) == ("cancelled", "done")
    assert panel.view.value == shown
    assert panel.progress.layout.display == "none"


@EACH
def test_a_failure_stays_in_its_frame_and_passes(kind, monkeypatch):
    panel = made(kind)
    assert panel.widget is not None
    other = ModelPanel(selection=panel.selection)

    def broken(*_):
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(kind, "draw", broken)
        assert str(panel.attempt()) == "broken on purpose"
        for place in (panel.message.value, panel.to_html()):
            assert "panel-failure" in place
            assert "broken on purpose" in place
        panel.start(panel.peek())
        assert panel.wait(60)
        assert panel.job.state == "failed"
        assert (panel.result, panel.view.value) == (None, "")
    other.run()
    assert other.message.value == ""
    panel.start(panel.peek())
    settle(panel)
    assert panel.result is not None


@EACH
def test_code_is_made_where_it_is_looked_at(kind, monkeypatch):
    panel, counted = made(kind), []
    plain = kind.code
    monkeypatch.setattr(kind, "code", lambda self: counted.append(self) or plain(self))
    panel._repr_mimebundle_()
    panel.look()
    assert counted == []
    panel.below.selected_index = 0
    assert counted == [panel]
    assert "from workbench" in panel.code_view.value
    panel.look()
    assert counted == [panel, panel]  # it is kept up to date
    panel.below.selected_index = None
    panel.look()
    assert counted == [panel, panel]
    assert panel.code_view.value == ""


class Brightness(Parameters):
    scale: float = Field(1.0, ge=0, le=2, description="what the mean is multiplied by")


class BrightnessPanel(Panel):
    """As short as a panel can be: the rest has defaults."""

    Params = Brightness
    title = "Brightness"

    def steps(self):
        images, index = self.image()
        yield Step(1, 1, "measured", float(images.images[index].mean()) * self.params.scale)

    def draw(self, result):
        return f"<p>{result:.4f}</p>"

    def code(self):
        lines = self.code_head("from workbench import data, models")
        mean = f"float(images.images[{self.selection.index}].mean())"
        return "\n".join([*lines, f"result = {mean} * {self.params.scale}"])


def test_a_panel_of_one_form_needs_steps_a_drawing_and_code():
    panel, names = BrightnessPanel("digits", "digits/cnn", 3), {}
    panel._repr_mimebundle_()
    before = panel.result
    panel.form.controls["scale"].value = 2
    settle(panel)
    assert panel.result == 2 * before > 0
    panel.selection.index = 4
    settle(panel)
    exec(panel.code(), names)
    assert names["result"] == panel.result != 2 * before
    again = BrightnessPanel.from_state(panel.state())
    again.run()
    assert again.to_html() == panel.to_html()


def test_code_that_fails_says_so_beside_the_picture(monkeypatch):
    panel = made(ModelPanel)
    panel._repr_mimebundle_()
    monkeypatch.setattr(ModelPanel, "code", lambda self: 1 / 0)
    panel.below.selected_index = 0
    assert "ZeroDivisionError" in panel.message.value
    assert panel.result is not None
    assert "<img" in panel.view.value


def test_undo_takes_back_parameters_and_image_one_by_one():
    panel = AttackPanel("digits", "digits/cnn", 3, eps=0.1, n_steps=5)
    panel._repr_mimebundle_()
    states = []
    for change in (
        lambda: setattr(panel.form.controls["attack"], "value", "FGSM"),
        lambda: panel.picker.step(2),
        lambda: setattr(panel.attack_form.controls["eps"], "value", 0.2),
        lambda: setattr(panel.form.controls["target"], "value", "8"),
        lambda: setattr(panel.picker.model, "value", "digits/mlp"),
    ):
        states.append(panel.state())
        change()
        settle(panel)
        assert panel.state() != states[-1]
    while states:
        panel.undo()
        settle(panel)
        assert panel.state() == states.pop()
        assert panel.attack_form.controls["eps"].value == panel.attack.eps
        assert panel.form.controls["target"].value == panel.params.target
        assert panel.result.index == panel.selection.index
    panel.undo()  # there is nothing left to take back
    assert panel.state()["attack"] == "PGD"


@EACH
def test_the_controls_that_matter_are_in_view_and_no_more_than_three_of_the_form(kind):
    panel = made(kind)
    assert panel.widget is not None
    form = getattr(panel, "form", None)
    if form is not None:
        shown = [c for c in form.first.children if c is not form.message]
        assert 1 <= len(shown) <= 3
        assert not set(shown) & set(form.rest.children)
        assert set(shown) | set(form.rest.children) == set(form.controls.values())


def test_folds_open_by_a_click_or_a_key_and_say_so():
    panel = made(ModelPanel)
    assert panel.widget is not None
    below = panel.below
    assert below.buttons.value.count('aria-expanded="false"') == len(below.titles)
    below.buttons.picked = {"name": "0", "key": "Enter", "turn": 1}
    assert below.selected_index == 0
    assert below.buttons.value.count('aria-expanded="true"') == 1
    assert list(below.body.children) == [panel.code_view]
    below.buttons.picked = {"name": "0", "key": "ArrowDown", "turn": 2}
    assert below.selected_index == 0
    below.buttons.picked = {"name": "0", "key": " ", "turn": 3}
    assert below.selected_index is None
    assert list(below.body.children) == []


def ends(html):
    """The values at the upper ends of the scales of maps."""
    return re.findall(r"linear-gradient[^>]*></div>([\d.e+-]+)</div>", html)


@pytest.mark.parametrize("method", ["gradient", "integrated gradients"])
def test_maps_that_are_compared_share_their_scale(method):
    panel = ModelPanel("digits", "digits/cnn", 3, method=method, compare="digits/cnn-robust")
    maps = [vars(look.saliency)["values"] for look in panel.run().looks]
    most = max(float(values.abs().max()) for values in maps)
    assert ends(panel.view.value) == [f"{most:.3g}"] * 2
    attack = AttackPanel("digits", "digits/cnn", 3, method=method)
    most = max(float(vars(m)["values"].abs().max()) for m in attack.run().maps)
    assert ends(attack.view.value) == [f"{most:.3g}"] * 2
    concepts = made(ConceptPanel)
    concepts.run()
    most = f"{float(concepts.result.codes.max()):.3g}"
    for k in range(4):
        concepts.params = concepts.params.changed(chosen=k)
        assert ends(concepts.draw(concepts.result)) == [most]
