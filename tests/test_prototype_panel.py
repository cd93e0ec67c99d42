"""The prototype panel and its figures, without a browser."""

import math
import re

import pytest
import torch
from panel_kit import pick, settle
from workbench.widgets import PrototypePanel, prototype_panel

from workbench import data, figures, models, prototypes
from workbench.data import ImageDataset


@pytest.fixture
def panel():
    panel = PrototypePanel("digits", index=3)
    panel.run()
    assert panel.widget is not None
    return panel


@pytest.fixture(scope="module")
def prob():
    return models.load("digits/prob-prototypes")


@pytest.fixture(scope="module")
def found():
    return prototypes.explain(models.load("digits/prototypes"), data.load("digits").images[:5])


def between(model, index, k, share):
    """What the API says of the image on the way to prototype `k`."""
    x = data.load("digits").images[index : index + 1]
    with torch.no_grad():
        z, p = model.encode(x), model.prototypes[k]
        return model.decode((1 - share) * z + share * p)


# The figures.


def test_the_grid_goes_from_near_to_far_and_its_bars_add_up(found):
    pictures = models.load("digits/prototypes").prototype_images()
    picture = figures.prototype_grid(found, pictures, 2, chosen=7, pick=True)
    shown = re.findall(r"#(\d+) for (\d), distance ([\d.]+), adds ([-+][\d.]+)", picture.alt)
    assert [int(j) for j, *_ in shown] == found.order[2].tolist()
    assert [int(vote) for _, vote, *_ in shown] == found.votes[found.order[2]].tolist()
    assert [float(d) for _, _, d, _ in shown] == sorted(float(d) for _, _, d, _ in shown)
    assert sum(float(a) for *_, a in shown) == pytest.approx(float(found.logits[2].max()), abs=0.1)
    assert picture.html.count("<img ") == picture.html.count("<img alt=") == len(pictures)
    assert re.findall(r'data-pick="prototype:(\d+)"[^>]*aria-pressed="true"', picture.html) == ["7"]
    assert "data-pick" not in figures.prototype_grid(found, pictures).html


def test_bars_left_of_zero_take_away(found):
    pictures = models.load("digits/prototypes").prototype_images()
    shown = figures.prototype_grid(found, pictures, 3).html
    bars = re.findall(r"left:([\d.]+)px;width:([\d.]+)px;[^>]*background:(#\w+)", shown)
    label = int(found.logits[3].argmax())
    adds = found.contributions[3, found.order[3], label]
    assert len(bars) == len(adds)
    for (left, width, colour), add in zip(bars, adds.tolist(), strict=True):
        assert float(width) == pytest.approx(42 * abs(add) / float(adds.abs().max()), abs=0.06)
        ends = float(left) + float(width) * (add < 0)
        assert ends == pytest.approx(42, abs=0.11)
        assert colour == (figures.CLASSES[0] if add < 0 else figures.CLASSES[3])
        assert f"{'−' if add < 0 else '+'}{abs(add):.2f}" in shown


def test_uncertainty_bars_tell_all_five(prob):
    found = prototypes.uncertainty(prob, data.load("digits").images[:9])
    picture = figures.uncertainty_bars(found, 8)
    shares = [float(w) for w in re.findall(r'style="width:([\d.]+)%;height', picture.html)]
    mosts = [math.log(10)] * 3 + [1, 1]
    for name, share, most in zip(found.MEASURES, shares, mosts, strict=True):
        value = float(getattr(found, name)[8])
        assert share == pytest.approx(100 * value / most, abs=0.1)
        assert f"{name} {value:.2f}" in picture.alt
    assert picture.html.count("<th ") == 5


def test_figures_refuse_what_is_not_there(found, prob):
    pictures = models.load("digits/prototypes").prototype_images()
    with pytest.raises(ValueError, match=r"i: expected an image in 0\.\.4, got 5"):
        figures.prototype_grid(found, pictures, 5)
    with pytest.raises(ValueError, match="images: expected 15, one a prototype, got 3"):
        figures.prototype_grid(found, pictures[:3])
    with pytest.raises(ValueError, match="i: expected"):
        figures.uncertainty_bars(prototypes.uncertainty(prob, data.load("digits").images[:2]), -1)


def test_class_names_are_no_markup(found):
    names = tuple(f"<b>{k}" for k in range(10))
    marked = prototypes.Explanation(
        *(found.distances, found.contributions, found.logits, found.order, found.votes, names)
    )
    shown = figures.prototype_grid(marked, torch.zeros(15, 1, 8, 8), pick=True).html
    assert "<b><b>" not in shown
    assert "&lt;b&gt;0" in shown


# What is shown.


def test_a_prototype_model_is_chosen_and_explained(panel):
    assert panel.selection.model == "digits/prototypes"
    own = prototypes.explain(models.load("digits/prototypes"), data.load("digits").images[3:4])
    assert torch.equal(panel.result.explanation.distances, own.distances)
    assert panel.result.summary()["nearest"] == int(own.order[0, 0])
    shown = panel.view.value
    assert re.findall(r'"prototype:(\d+)"', shown) == [str(j) for j in own.order[0].tolist()]
    assert shown.count("<img ") == shown.count("<img alt=")
    assert "looked up once you choose" in shown


def test_the_first_prototype_gone_to_is_the_nearest_of_another_class(panel):
    found = panel.result.explanation
    label = int(found.logits.argmax())
    others = [j for j in found.order[0].tolist() if int(found.votes[j]) != label]
    assert f"on the way to prototype #{others[0]}<" in panel.view.value


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_the_slider_decodes_the_way_and_asks_the_model(panel, share):
    model = models.load("digits/prototypes")
    pick(panel, "prototype:8")
    panel.form.controls["share"].value = share
    settle(panel)
    image = between(model, 3, 8, share)
    prediction = model.predict(image)
    caption = f"{share:.0%} of the way, decoded"
    assert figures.img_tag(image[0], caption, height=120) in panel.view.value
    table = figures.confidence_table(prediction.probabilities[0], model.classes).html
    assert table in panel.view.value
    names = {}
    exec(panel.code(), names)
    assert torch.allclose(names["prediction"].logits, prediction.logits, atol=1e-5)


def test_a_move_of_the_slider_asks_of_one_image(panel, monkeypatch):
    asked, plain = [], prototypes.PrototypeClassifier.encode
    monkeypatch.setattr(
        prototypes.PrototypeClassifier, "encode", lambda m, x: asked.extend(x) or plain(m, x)
    )
    panel.form.controls["share"].value = 0.8
    assert "80% of the way" in panel.view.value
    assert len(asked) == 1
    panel.redraw()
    assert len(asked) == 1


def test_a_choice_brings_the_nearest_training_images(panel):
    assert panel.result.near is None
    pick(panel, "prototype:5", key="Enter")
    settle(panel)
    training = data.load("digits", "train")
    indices, distances = prototypes.nearest_images(
        models.load("digits/prototypes"), training.images, prototype_panel.NEAR
    )
    assert torch.equal(panel.result.near[1], indices)
    assert torch.allclose(panel.result.near[2], distances)
    vote = int(panel.result.explanation.votes[5])
    same = int((training.labels[indices[5]] == vote).sum())
    assert f"{same} of 5 have the class it speaks for, {vote}; " in panel.view.value
    names = {}
    exec(panel.code(), names)
    assert torch.equal(names["near"], indices)
    before = panel.result.near
    panel.selection.index = 7
    settle(panel)
    assert panel.result.near is before  # of the model, not of the image


def test_nearest_images_do_not_depend_on_the_chunks(panel, monkeypatch):
    pick(panel, "prototype:5")
    settle(panel)
    near = panel.result.near
    monkeypatch.setattr(prototype_panel, "CHUNK", 203)
    again = PrototypePanel("digits", chosen=5)
    assert torch.equal(again.run().near[1], near[1])


def test_arrows_choose_nothing(panel):
    pick(panel, "prototype:5", key="ArrowLeft")
    assert panel.params.chosen == -1


def test_the_five_uncertainties_of_a_probabilistic_model(prob):
    panel = PrototypePanel("digits", prob, 5)
    panel.run()
    doubts = prototypes.uncertainty(prob, data.load("digits").images[5:6])
    assert figures.uncertainty_bars(doubts).html in panel.view.value
    assert "doubts = prototypes.uncertainty(model, x)" in panel.code()


def test_an_ordinary_model_is_said_and_others_offered():
    panel = PrototypePanel("digits", "digits/cnn", 3)
    shown = panel._repr_mimebundle_()["text/html"]
    assert panel.form.controls["share"].disabled
    assert "digits/cnn has no prototypes" in shown
    assert "Or train one: " in shown
    exec(panel.code(), {})
    pick(panel, "model:digits/prototypes")
    settle(panel)
    assert panel.selection.model == "digits/prototypes"
    assert panel.result.explanation is not None
    assert not panel.form.controls["share"].disabled
    without = PrototypePanel("shapes")
    shown = without._repr_mimebundle_()["text/html"]
    assert "shapes/resnet has no prototypes to compare an image with. No model here fits" in shown
    assert "Or train one: <code>TreatmentPanel(&#x27;shapes&#x27;, " in shown


def test_own_data_without_training_images_is_said():
    images = data.load("digits")
    own = ImageDataset(images.images[:20], images.labels[:20], images.classes, "mine")
    panel = PrototypePanel(own, "digits/prototypes", chosen=1)
    panel.run()
    assert "There are no training images of this data set at hand" in panel.view.value
    assert panel.params.chosen == 1
    given = PrototypePanel(own, "digits/prototypes", training=own, chosen=1)
    given.run()
    assert given.result.near is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"chosen": 15}, r"chosen: expected a prototype of digits/prototypes in 0\.\.14"),
        ({"share": 1.5}, "share"),
        ({"model": "digits/prototype"}, "Did you mean 'digits/prototypes'"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        PrototypePanel("digits", **arguments)


def test_clicks_in_a_row_are_never_lost(panel):
    for i in range(12):
        panel.picker.step(1)
        pick(panel, f"prototype:{i}")
    settle(panel)
    assert panel.selection.index == panel.result.index == 15
    assert "on the way to prototype #11<" in panel.view.value
