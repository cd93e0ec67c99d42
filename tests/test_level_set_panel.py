"""The level set panel without a browser."""

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
    assert f"{held:.2f} (at first" in panel.view.value
    assert f"RMSE to the target {left:.3f}" in panel.view.value
    assert panel.result.summary()["rmse"] == pytest.approx(left)
    assert len(re.findall(r'<svg role=[^>]*aria-label="plane: [0-9]', panel.view.value)) == 1


def test_a_click_in_the_plane_shows_the_image_there(panel):
    at = panel.result.plane.slice
    left, right, bottom, top = at.window
    pick(panel, "plane", x=0.25, y=0.25)
    expected = torch.tensor([left + 0.25 * (right - left), top - 0.25 * (top - bottom)])
    assert torch.allclose(panel.point, expected, atol=1e-5)
    image = at.images(panel.point[None]).clamp(0, 1)
    share = float(models.load("digits/cnn").predict(image).confidence)
    shown = "&gt;99%" if share > 0.995 else f"{share:.0%}"
    assert "the point picked" in panel.view.value
    assert f"confidence {shown}" in panel.view.value
    before = panel.point
    pick(panel, "plane", key="ArrowUp")
    assert torch.allclose(panel.point - before, torch.tensor([0.0, 0.02 * (top - bottom)]))


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
    panel.scrub.value = 10
    assert f"step {found.moments[10]}: still" in panel.view.value
    assert f"RMSE to the target {float(found.distance[10, 0]):.3f}" in panel.view.value
    pick(panel, "plane")
    assert f"step {found.moments[10]}: still" in panel.view.value  # a click leaves it there
    panel._show(panel._current, panel.result)
    assert panel.scrub.value == 10  # and so does a picture that arrives meanwhile


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
