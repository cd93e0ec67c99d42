"""The pattern panel without a browser."""

import re

import pytest
import torch
from panel_kit import Gate, pick, settle
from workbench.widgets import PatternPanel, Selection

from workbench import data, detectors, figures, models, patterns
from workbench.data import ImageDataset


@pytest.fixture
def panel():
    panel = PatternPanel("digits", "digits/mlp", 3)
    panel.run()
    assert panel.widget is not None
    return panel


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


@pytest.mark.parametrize("kind", ["pattern", "hamming"])
def test_copied_code_gives_the_same(panel, kind):
    panel.form.controls["kind"].value = kind
    panel.form.controls["switch"].value = "on"
    settle(panel)
    names, view = {}, panel.result
    exec(panel.code(), names)
    for name, phase in names["mined"].phases.items():
        assert torch.equal(phase, view.patterns.phases[name])
    assert torch.equal(names["quality"].follows, view.quality.follows)
    assert float(names["score"]) == view.score
    assert names["watch"].threshold == view.threshold
    assert all(map(torch.equal, names["top"], view.top))
    assert torch.equal(names["logits"][0], view.held[1])
    assert float((names["logits"][0] - view.logits).abs().max()) > 1e-3


def test_another_delta_asks_nothing_of_the_training_images(panel, monkeypatch):
    monkeypatch.setattr(patterns.mine, "steps", None)
    monkeypatch.setattr(patterns.record, "steps", None)
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
    predicted = model.predict(test.images).label
    own = found.violations(model, test.images).gather(1, predicted[:, None])[:, 0]
    panel = PatternPanel("digits", "digits/mlp", int(own.argmax()))
    panel.run()
    assert "<b>Alarm</b>" in panel.view.value
    assert panel.result.score == int(own.max())
    panel.selection.index = int(own.argmin())
    settle(panel)
    assert "<b>No alarm</b>" in panel.view.value
    assert "distance is 0," in panel.view.value


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
    names = re.findall(r"<th scope=\"row\"[^>]*>(?:<b>)?(\d)", panel.view.value)
    assert names[:10] == list("0123456789")
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


# Large networks, many classes, no labels.


class Deep(torch.nn.Module):
    """One ReLU after each of many convolutions."""

    def __init__(self, n=30, classes=1000):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu = torch.nn.Conv2d(3, 40, 3, stride=2), torch.nn.ReLU(inplace=True)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(40, 40, 1) for _ in range(n))
        self.head = torch.nn.Linear(40, classes)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for conv in self.convs:
            x = self.relu(conv(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def deep():
    names = [f"thing {k}" for k in range(1000)]
    return models.wrap(Deep().eval(), input_shape=(3, 48, 48), classes=names)  # 21,160 neurons


def photographs(n=6, label=-1):
    generator = torch.Generator().manual_seed(1)
    classes = () if label < 0 else [f"thing {k}" for k in range(label + 1)]
    labels = torch.full((n,), label)
    return ImageDataset(torch.rand(n, 3, 48, 48, generator=generator), labels, classes, "photos")


def test_photographs_without_labels_show_what_fires_and_what_is_missing(deep):
    panel = PatternPanel(photographs(), deep, 2)
    shown = panel._repr_mimebundle_()["text/html"]
    label = int(deep.predict(photographs().images[2:3]).label)
    assert f"image 2; the model says thing {label}" in shown
    assert "There are no training images of 'photos' at hand; give them to the panel" in shown
    assert "thing 999" not in shown or label == 999
    assert panel.result.summary()["predicted"] == f"thing {label}"
    panel.run()
    assert panel.result.patterns is None


def test_many_layers_are_counted_and_the_last_drawn(deep):
    panel = PatternPanel(photographs(), deep)
    panel._repr_mimebundle_()
    names = list(deep.layers_of(torch.nn.ReLU))
    assert len(names) == 31
    drawn = [name for name in names if f"{name}, 40 channels: " in panel.view.value]
    assert drawn == names[-8:]
    assert panel.view.value.count("data-pick=") == 23
    on = int(panel.result.on["relu"].sum())
    assert f"relu: {on} of 40 channels on" in panel.view.value
    assert len(panel.view.value) < 300_000
    assert panel.layers.layout.display is None
    panel.view.picked = {"name": "show:relu#4", "key": "", "x": 0, "y": 0, "turn": 1}
    settle(panel)
    assert panel.result.patterns is None, "nothing is mined to draw a layer"
    assert panel.params.layer == panel.selection.layer == panel.layers.value == "relu#4"
    assert "relu#4, 40 channels: " in panel.view.value
    assert "relu#5, 40 channels: " not in panel.view.value
    panel.layers.value = "relu#5"
    settle(panel)
    assert "relu#5, 40 channels: " in panel.view.value
    panel.layers.value = ""
    settle(panel)
    assert "relu#31, 40 channels: " in panel.view.value


def test_the_model_is_asked_once_for_a_frame(deep):
    asked = []
    handle = deep.body.register_forward_pre_hook(lambda *_: asked.append(1))
    deep.layers()
    panel = PatternPanel(photographs(), deep)
    asked.clear()
    panel._repr_mimebundle_()
    assert len(asked) == 1
    panel.selection.index = 3
    settle(panel)
    assert len(asked) == 2
    handle.remove()


def test_some_of_a_thousand_classes_are_mined(deep):
    images = photographs(12)
    training = ImageDataset(images.images, torch.arange(12) % 3, ("thing 5", "thing 8", "thing 2"))
    panel = PatternPanel(images, deep, training=training)
    view = panel.run()
    assert view.patterns.total.nonzero().flatten().tolist() == [2, 5, 8]
    assert "4 of 1,000 classes: the least violated" in panel.view.value
    assert panel.view.value.count('scope="row"') < 60
    name = f"thing {view.label}"
    assert f"no training image of class {name}, so it has no pattern" in panel.view.value
    assert "Alarm" not in panel.view.value
    assert "no label" in panel.view.value, "of the images that fire a channel most"
    assert "recall –, precision –" in panel.view.value
    layer, k = panel._neuron(view)
    assert f"{layer}, channel {k}: " in panel.view.value


def test_training_images_without_labels_are_no_training_images(deep):
    panel = PatternPanel(photographs(), deep, training=photographs(9))
    shown = panel.draw(panel.run())
    assert "The training images of 'photos' have no labels: there is no class to mine." in shown


def test_functions_are_no_layers_and_smooth_ones_do_not_fit():
    class Functional(torch.nn.Module):
        def __init__(self, act):
            super().__init__()
            self.a, self.act = torch.nn.Linear(64, 10), act

        def forward(self, x):
            return self.act(self.a(x.flatten(1))) - 0.1

    selection = Selection("digits")
    for act in (torch.relu, torch.nn.GELU(), torch.nn.Hardswish()):
        name = f"mine, {act}"
        model = models.wrap(Functional(act).eval(), input_shape=(1, 8, 8), name=name)
        selection.model = selection.add(model)
        panel = PatternPanel(selection=selection)
        assert panel.unfit() == f"{name} has no ReLU layer"
        assert " has no ReLU layer. Choose one that fits" in panel.draw(panel.look())


@pytest.mark.parametrize(
    "work", [patterns.mine, patterns.record, patterns.top_images, detectors.monitor]
)
def test_it_can_be_cancelled_between_two_passes(monkeypatch, work):
    from workbench.models import batching

    monkeypatch.setattr(batching, "VALUES", 64 * 100)  # 100 images a pass
    gate = Gate(work.steps, at=0)
    monkeypatch.setattr(work, "steps", gate.steps)
    panel = PatternPanel("digits", "digits/mlp", 3, kind="hamming")
    panel._repr_mimebundle_()
    panel.start()
    assert gate.reached()
    panel.cancel()
    gate.open()
    assert panel.wait(20)
    assert panel.job.state == "cancelled"
    assert gate.yielded == 1


def test_other_training_images_of_the_same_name_are_mined_anew(panel):
    few = data.load("digits", "train")[:200]
    panel.selection.trainings["digits"] = few
    panel.start()
    settle(panel)
    own = patterns.mine(models.load("digits/mlp"), few)
    for name, phase in own.phases.items():
        assert torch.equal(phase, panel.result.patterns.phases[name])
