"""The region panel without a browser."""

import re

import numpy as np
import pytest
import torch
from panel_kit import settle
from workbench.widgets import RegionPanel

from workbench import data, figures, levelsets, models

SMALL = {"extent": 0.05}


@pytest.fixture
def panel():
    panel = RegionPanel("digits", "digits/cnn", 3, **SMALL)
    panel.run()
    assert panel.widget is not None
    return panel


@pytest.mark.parametrize("plane", ["random", "gradient"])
def test_copied_code_gives_the_same_regions(plane):
    panel = RegionPanel("digits", "digits/mlp", 3, plane=plane, **SMALL)
    view, names = panel.run(), {}
    exec(panel.code(), names)
    shares = view.planes["digits/mlp"].probabilities
    assert torch.equal(shares, names["plane"].probabilities)
    assert np.array_equal(view.regions["digits/mlp"].vertices, names["regions"].vertices)
    assert view.summary()["digits/mlp"]["regions"] == len(names["regions"])


def test_every_region_is_drawn_with_its_words(panel):
    (found,) = panel.result.regions.values()
    html = panel.view.value
    assert html.count("<polygon ") == html.count("<title>region ") == len(found)
    assert f"; {len(found)} linear regions, mean" in html
    home = int(found.locate(torch.zeros(1, 2))[0])
    (words,) = re.findall(rf"<title>region {home}: ([^<]*)</title>", html)
    prediction = models.load("digits/cnn").predict(data.load("digits").images[3:4])
    assert words.startswith(f"{int(prediction.label)}, area")
    assert "other than at the image" not in words
    assert html.count("<img ") == html.count("<img alt=")


def test_the_polygons_are_where_their_numbers_are(panel):
    (found,) = panel.result.regions.values()
    drawn = re.findall(r'<polygon points="([^"]+)"', panel.view.value)
    corners = np.array([[float(v) for v in p.split(",")] for p in " ".join(drawn).split()])
    left, right, bottom, top = panel.result.at.window
    expected = np.concatenate(found.polygons)
    side = panel.view.value.partition('viewBox="0 0 ')[2].partition(" ")[0]
    expected = (expected - [left, top]) / [right - left, bottom - top] * float(side)
    assert np.allclose(corners, expected, atol=0.06)


def test_a_model_that_is_not_piecewise_linear_is_refused_with_a_reason():
    panel = RegionPanel("shapes", "shapes/vit", 0, **SMALL)
    view = panel.run()
    assert view.regions == {}
    assert set(view.planes) == {"shapes/vit"}, "what it says there can be seen all the same"
    assert "levelsets.plane" in panel.view.value
    assert 'role="alert"' in panel.view.value


def test_another_colour_draws_the_same_regions_anew(panel):
    before, result = panel.view.value, panel.result
    panel.form.controls["colour"].value = "class"
    assert panel.result is result
    assert panel.view.value != before
    assert panel.view.value.count("<polygon ") == before.count("<polygon ")
    for colour in ("class", "region"):
        figures.region_map(*result.regions.values(), result.at.window, colour)
    with pytest.raises(ValueError, match="unknown colour 'red'"):
        figures.region_map(*result.regions.values(), result.at.window, "red")


def test_another_image_and_another_model_are_followed(panel):
    panel.selection.index = 5
    settle(panel)
    assert panel.result.index == 5
    panel.form.controls["compare"].value = "digits/mlp"
    settle(panel)
    assert set(panel.result.regions) == {"digits/cnn", "digits/mlp"}
    one, other = panel.result.planes.values()
    assert one.slice is other.slice
    assert '["digits/cnn", "digits/mlp"]' in panel.view.value.replace("&quot;", '"')


def test_regions_are_drawn_over_the_plane_of_the_level_set_panel():
    from workbench.widgets import LevelSetPanel

    small = {"target": 9, "n_steps": 20, "extent": 0.0, "side": 33}
    panel = LevelSetPanel("digits", "digits/mlp", 3, regions=True, **small)
    view = panel.run()
    assert f"{len(view.regions):,} linear regions" in panel.view.value
    assert panel.view.value.count("<polygon ") == len(view.regions)
    names = {}
    exec(panel.code(), names)
    assert len(names["regions"]) == len(view.regions)
    assert isinstance(view.regions, levelsets.Regions)
    panel = LevelSetPanel("shapes", "shapes/vit", 0, n_steps=2, regions=True, side=17)
    panel.run()
    assert "levelsets.plane" in panel.view.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compare": "digits/cnm"}, "Did you mean 'digits/cnn'"),
        ({"plane": "round"}, "plane"),
        ({"extent": 0}, "extent"),
        ({"model": "digits/cnm"}, "Did you mean"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        RegionPanel(**{"dataset": "digits", **arguments})
