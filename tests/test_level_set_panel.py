"""The level set panel without a browser."""

import html
import json
import re
from dataclasses import replace

import pytest
import torch
from panel_kit import pick, settle
from workbench.widgets import LevelSetPanel
from workbench.widgets.level_set_panel import plane_of
from workbench.widgets.pick_view import PickView

from workbench import data, levelsets, models

SHORT = {"n_steps": 40, "target": 9, "side": 33}


def drawn(panel):
    """What the map on the screen gives its script."""
    (text,) = re.findall(r'data-map="([^"]+)"', panel.view.value)
    return json.loads(html.unescape(text))


@pytest.fixture
def panel():
    panel = LevelSetPanel("digits", "digits/cnn", 3, **SHORT)
    panel.run()
    assert panel.widget is not None
    return panel


def test_the_figures_are_those_of_the_api(panel):
    images = data.load("digits").images
    model = models.load("digits/cnn")
    own = levelsets.LevelSetTraversal(n_steps=40)(model, images[3:4], images[9:10])
    assert torch.equal(panel.result.traversal.images, own.images)
    held, left = float(own.confidence[-1, 0]), float(own.distance[-1, 0])
    assert f"{held:.3f} (at first" in panel.view.value
    assert f"RMSE to the target {left:.3f}" in panel.view.value
    assert panel.result.summary()["rmse"] == pytest.approx(left)
    assert len(re.findall(r'<svg role=[^>]*aria-label="plane: [0-9]', panel.view.value)) == 1


def test_a_point_picked_in_the_plane_is_kept_with_what_the_model_says_there(panel):
    at, model = panel.result.plane.slice, models.load("digits/cnn")
    left, right, bottom, top = at.window
    pick(panel, "plane", x=0.25, y=0.25)
    expected = torch.tensor([left + 0.25 * (right - left), top - 0.25 * (top - bottom)])
    assert torch.allclose(panel.point, expected, atol=1e-5)
    image = at.images(panel.point[None])
    with torch.no_grad():
        shares = model(image).softmax(1)[0]
    assert f"here: {int(shares.argmax())}, {float(shares.max()):.3f}" in panel.view.value
    place = drawn(panel)["here"]
    assert place[:2] == pytest.approx([0.25, 0.25], abs=1e-5)
    assert place[2][0] == pytest.approx(shares.tolist(), abs=1e-6)
    clipped = model.predict(image.clamp(0, 1))
    words = f"Clipped to [0, 1]: {int(clipped.label)}, {float(clipped.confidence):.3f}"
    assert words in panel.view.value
    pick(panel, "plane", key="Enter", x=0.5, y=0.75)  # the keys move the point in the browser
    assert drawn(panel)["here"][:2] == pytest.approx([0.5, 0.75], abs=1e-5)


def test_the_last_plane_stays_dimmed_until_there_is_another(panel):
    assert "data-map" in panel.view.value
    panel.selection.index = 4
    settle(panel)
    assert panel.result.plane is None
    assert "data-map" not in panel.view.value, "what is not of this pair follows no pointer"
    assert "not computed for this pair" in panel.view.value
    assert panel.view.value.count("<svg") == 1
    panel.start()
    settle(panel)
    assert "data-map" in panel.view.value


def test_a_second_model_is_beside_the_first_on_the_same_plane():
    panel = LevelSetPanel("digits", "digits/cnn", 3, compare="digits/mlp", **SHORT)
    view, names = panel.run(), {}
    assert view.compared.slice is view.plane.slice
    assert drawn(panel)["names"] == ["digits/cnn", "digits/mlp"]
    exec(panel.code(), names)
    assert torch.equal(names["other"].probabilities, view.compared.probabilities)
    assert panel.widget is not None
    pick(panel, "plane", x=0.5, y=0.5)
    assert len(panel.result.picked.probabilities) == 2
    panel.selection.model = "digits/mlp"
    assert panel.params.compare == ""
    with pytest.raises(ValueError, match="Did you mean 'digits/cnn'"):
        LevelSetPanel("digits", "digits/mlp", 3, compare="digits/cnm")


def test_a_click_on_a_class_makes_it_the_target(panel):
    (place,) = re.findall(r'data-pick="target:(\d+)"[^>]*><img alt="target: 5"', panel.view.value)
    pick(panel, f"target:{place}")
    settle(panel)
    assert panel.params.target == panel.result.target == int(place)
    assert int(panel.result.images.labels[int(place)]) == 5
    assert panel.form.controls["target"].value == int(place)
    assert panel.result.plane is not None


def test_the_slider_goes_back_along_the_path(panel):
    found = panel.result.traversal
    assert panel.scrub.max == found.moments[-1], "the slider and the words count the same steps"
    panel.scrub.value = found.moments[10]
    assert f"step {found.moments[10]}: still" in panel.view.value
    assert f"RMSE to the target {float(found.distance[10, 0]):.3f}" in panel.view.value
    pick(panel, "plane")
    assert f"step {found.moments[10]}: still" in panel.view.value  # a click leaves it there
    panel._show(panel._current, panel.result)
    assert panel.scrub.value == found.moments[10]  # and so does a picture that arrives meanwhile


def test_another_source_is_shown_and_nothing_is_run(panel):
    panel.selection.index = 4
    settle(panel)
    assert panel.result.traversal is None
    assert "source 4" in panel.view.value
    assert panel.params.target == -1
    panel.start()
    settle(panel)
    assert panel.result.traversal is not None


def test_a_bad_target_is_said_and_left(panel):
    panel.form.controls["target"].value = 3
    assert "target: expected an image other than the source 3" in panel.message.value
    assert panel.params.target == 9
    for target in (3, 10_000):
        with pytest.raises(ValueError, match="target: expected an image other"):
            LevelSetPanel("digits", "digits/cnn", 3, target=target)


def test_three_images_on_a_line_still_span_a_plane(panel):
    found = panel.result.traversal
    middle = (found.source + found.target) / 2
    at = plane_of(replace(found, images=middle), 0.2)
    assert at.off(torch.cat([found.source, found.target, middle])).max() < 1e-4


def test_a_pick_view_holds_html():
    view = PickView(value="<b>here</b>")
    assert view.value == "<b>here</b>"
    assert "data-pick" in str(view._esm)
