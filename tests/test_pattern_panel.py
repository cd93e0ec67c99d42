"""The pattern panel without a browser."""

import re
import threading

import pytest
import torch
from workbench.widgets import PatternPanel

from workbench import data, figures, models, patterns
from workbench.data import ImageDataset


@pytest.fixture
def panel():
    panel = PatternPanel("digits", "digits/mlp", 3)
    panel.run()
    assert panel.widget is not None
    return panel


def settle(panel):
    assert panel.wait(30)
    assert panel.job is None or panel.job.state == "done", panel.job.error
    assert panel.message.value == ""


def pick(panel, name, key="", x=0.5, y=0.5):
    panel.view.picked = {"name": name, "x": x, "y": y, "key": key, "turn": id(object())}


def looked_at(panel):
    return re.search(r"(\w+), neuron (\d+): ", panel.view.value).groups()


def test_it_shows_what_fires_first_and_mines_when_asked():
    panel = PatternPanel("digits", "digits/mlp", 3)
    panel._repr_mimebundle_()
    assert panel.result.patterns is None
    assert "Mine" in panel.view.value
    assert "data-pick" not in panel.view.value
    panel.start()
    settle(panel)
    assert panel.result.patterns.delta == 0.99


@pytest.mark.parametrize("kind", ["pattern", "hamming", "box"])
def test_copied_code_gives_the_same(panel, kind):
    panel.form.controls["kind"].value = kind
    panel.form.controls["switch"].value = "on"
    settle(panel)
    names, view = {}, panel.result
    exec(panel.code(), names)
    for name, phase in names["found"].phases.items():
        assert torch.equal(phase, view.patterns.phases[name])
    assert torch.equal(names["quality"].follows, view.quality.follows)
    assert float(names["score"]) == view.score
    assert names["watch"].threshold == view.threshold
    assert all(map(torch.equal, names["top"], view.top))
    assert torch.equal(names["logits"][0], view.held[1])
    assert float((names["logits"][0] - view.logits).abs().max()) > 1e-3


def test_another_delta_asks_nothing_of_the_training_images(panel, monkeypatch):
    monkeypatch.setattr(patterns, "mine_steps", None)
    monkeypatch.setattr(patterns, "record", None)
    model, training, test = models.load("digits/mlp"), data.load("digits", "train"), "digits"
    panel.form.controls["delta"].value = 0.95
    settle(panel)
    again = patterns.mine(model, training, 0.95)
    found = patterns.quality(again, model, data.load(test))
    assert torch.equal(panel.result.quality.recall, found.recall)
    assert f"delta 0.95: mean size {again.summary()['mean_size']:.0f}, recall" in panel.view.value
    assert f"recall {found.summary()['recall']:.1%}" in panel.view.value


def test_the_slider_counts_without_rounding_errors(panel):
    panel.form.controls["delta"].value = 0.9450000000000001
    settle(panel)
    assert panel.params.delta == 0.945


def test_the_verdict_follows_the_threshold():
    # An image that breaks the most of its class's pattern, and one that breaks nothing.
    model, test = models.load("digits/mlp"), data.load("digits")
    found = patterns.mine(model, data.load("digits", "train"))
    said = model.predict(test.images).label
    own = found.violations(model, test.images).gather(1, said[:, None])[:, 0]
    panel = PatternPanel("digits", "digits/mlp", int(own.argmax()))
    panel.run()
    assert "<b>Alarm</b>" in panel.view.value
    assert panel.result.score == int(own.max())
    panel.selection.index = int(own.argmin())
    settle(panel)
    assert "<b>No alarm</b>" in panel.view.value
    assert "distance is 0;" in panel.view.value


def test_a_click_and_the_arrows_choose_a_neuron(panel):
    pick(panel, "layer:relu1", x=10.5 / 64, y=1.5 / 4)  # 256 neurons in 4 rows of 64
    settle(panel)
    assert looked_at(panel) == ("relu1", "74")
    for key, expected in (("ArrowRight", 75), ("ArrowDown", 139), ("ArrowUp", 75)):
        pick(panel, "layer:relu1", key)
        settle(panel)
        assert looked_at(panel) == ("relu1", str(expected))
    pick(panel, "layer:relu2", "Enter")
    settle(panel)
    assert looked_at(panel) == ("relu2", "0")
    pick(panel, "layer:relu2", "ArrowLeft")
    settle(panel)
    assert looked_at(panel) == ("relu2", "0")
    pick(panel, "layer:relu2", x=1.0, y=0.999)
    settle(panel)
    assert looked_at(panel) == ("relu2", "255")


def test_a_neuron_switched_off_changes_the_logits_by_its_weights(panel):
    panel.form.controls["switch"].value = "off"
    settle(panel)
    view, (layer, k) = panel.result, panel._neuron(panel.result)
    assert layer == "relu2"
    assert float(view.values[layer][k]) == float(view.values[layer].max()) > 0
    head = view.model.linear_head().weight[:, k]
    assert torch.allclose(view.logits - view.held[1], view.values[layer][k] * head, atol=1e-4)
    assert "neuron at 0" in panel.view.value


def test_states_are_counted_in_words_and_the_class_table_has_every_class(panel):
    view = panel.result
    phase, on = view.patterns.phases["relu1"][view.label], view.values["relu1"] > 0
    wrong = int(((phase > 0) & ~on).sum() + ((phase < 0) & on).sum())
    strip = figures.pattern_strip(on, phase, "relu1")
    counted = {name: int(n) for n, name in re.findall(r"(\d+) (\w+, [\w ]+)", strip.alt)}
    assert sum(counted.values()) == 256
    assert sum(n for name, n in counted.items() if "should" in name) == wrong
    assert strip.alt in panel.view.value
    told = re.findall(r"<th scope=\"row\"[^>]*>(?:<b>)?(\d)", panel.view.value)
    assert told[:10] == list("0123456789")
    assert (
        f"of each class's pattern: 0 {int(view.broken[0])}"
        in figures.pattern_table(view.patterns, view.quality, view.broken, view.label).alt
    )
    assert panel.view.value.count("<img ") == panel.view.value.count("<img alt=")


def test_the_strip_shows_six_states_that_differ_in_grey_and_shape():
    on = torch.tensor([True, False, True, False, True, False])
    phase = torch.tensor([1, -1, -1, 1, 0, 0], dtype=torch.int8)
    from workbench.figures.patterns import PITCH, cells, states

    assert states(on, phase).tolist() == list(range(6))
    pixels = cells(states(on, phase), 6)
    assert pixels.shape == (3, PITCH + 1, 6 * PITCH + 1)
    grey = pixels.mean(0)[1:PITCH].unfold(1, PITCH, PITCH)[:, :6].transpose(0, 1).flatten(1)
    apart = torch.cdist(grey, grey, p=1) / grey.shape[1]
    assert float((apart + torch.eye(6)).min()) > 0.02
    assert float(cells(torch.zeros(3, dtype=torch.int64), 2)[:, -5, -5].min()) == 1  # no neuron


def test_patterns_stay_when_the_image_changes_and_go_with_the_model(panel):
    counts = panel.result.patterns.counts
    panel.selection.index = 7
    settle(panel)
    assert panel.result.patterns.counts is counts
    panel.selection.model = "digits/cnn"
    settle(panel)
    assert panel.result.patterns is None
    panel.start()
    settle(panel)
    assert looked_at(panel)[0] == "relu3"


def test_data_of_ones_own_needs_training_images():
    digits = data.load("digits")
    own = ImageDataset(digits.images, digits.labels, digits.classes, "mine", "test")
    panel = PatternPanel(own, "digits/mlp")
    shown = panel.draw(panel.run())
    assert "There are no training images of 'mine' at hand; give them to the panel" in shown
    panel = PatternPanel(own, "digits/mlp", training=data.load("digits", "train"))
    assert panel.run().patterns is not None
    assert "my_training[:5000]" in panel.code()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="layer: expected one of relu1, relu2, got 'linear1'"):
        PatternPanel("digits", "digits/mlp", layer="linear1")
    panel = PatternPanel("shapes", "shapes/vit")
    shown = panel.draw(panel.run())
    assert "shapes/vit has no ReLU layer. Choose one that fits" in shown
    assert 'data-pick="model:shapes/resnet"' in shown
    panel.view.picked = {"name": "model:shapes/resnet", "key": "", "x": 0.5, "y": 0.5}
    panel.wait(20)
    assert panel.selection.model == "shapes/resnet"
    assert panel.result.values
    with pytest.raises(ValueError, match="delta"):
        PatternPanel("digits", "digits/mlp", delta=0.5)
    with pytest.raises(ValueError, match=r"neuron: expected 0\.\.255 in layer relu2, got 300"):
        PatternPanel("digits", "digits/mlp", neuron=300).run()


def test_state_and_report(panel):
    panel.form.controls["switch"].value = "off"
    pick(panel, "layer:relu1")
    settle(panel)
    again = PatternPanel.from_state(panel.state())
    again.run()
    assert again.view.value == panel.view.value
    html = panel.to_html()
    assert "Pattern panel" in html
    assert "<script" not in html


@pytest.mark.parametrize("where", ["main", "subshell"])
def test_a_click_returns_at_once_and_cancel_stops(monkeypatch, where):
    reached, gate = threading.Event(), threading.Event()
    original = patterns.mine_steps

    def slow(*arguments, **options):
        for step in original(*arguments, **options):
            reached.set()
            assert gate.wait(20)
            yield step

    monkeypatch.setattr(patterns, "mine_steps", slow)
    panel = PatternPanel("digits", "digits/mlp", 3)
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
    assert panel.result.patterns is None
