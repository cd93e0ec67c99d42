"""The map of image space: what it shows at a point is the image there and the model's answer."""

import itertools
import json
import re

import nbformat
import numpy as np
import pytest
import torch
from browsers import MARKS
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_kit import pick, settle
from workbench.widgets import LevelSetPanel, RegionPanel

from workbench import data, figures, levelsets, models, reports
from workbench.figures.maps import Labels, box
from workbench.figures.planes import Frame
from workbench.files import LIVE, STYLE

FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
PIXELS = """() => {
    const canvas = document.querySelector('[data-image] canvas');
    const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, ...all.data];
}"""
SETS = {"digits/cnn": ("digits", 33), "shapes/resnet": ("shapes", 17)}


def plane_of(name, n, others=()):
    """A plane of n x n points through three images, of each model on the same slice."""
    images = data.load(SETS[name][0]).images
    at = levelsets.span(images[3], images[0], images[9], 0.2)
    planes = {m: levelsets.plane(models.load(m), at, n) for m in (name, *others)}
    return planes if others else planes[name]


def answer(name, at, points):
    with torch.no_grad():
        return models.load(name)(at.images(points)).softmax(1)


def shares(at, point):
    """A point in shares of the map, from the upper left."""
    left, right, bottom, top = at.window
    return (float(point[0]) - left) / (right - left), (top - float(point[1])) / (top - bottom)


def opened(page, html):
    """Show HTML on a page with what panels and reports bring, and wait for it to be live."""
    head = f"<!DOCTYPE html><style>{STYLE.read_text()}</style>"
    page.set_content(f'{head}<main>{html}</main><script type="module">{LIVE}</script>')
    page.locator(".wb-cross").first.wait_for(state="attached")


def point_to(page, x, y, which=0):
    """Move the pointer to shares of a map's width and height."""
    size = page.locator("[data-map] svg[role=img]").nth(which).bounding_box()
    page.mouse.move(size["x"] + x * size["width"], size["y"] + y * size["height"])
    page.evaluate(FRAMES)


def numbers(page):
    return [float(text) for text in page.locator("[data-number]").all_inner_texts()]


class TestInABrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize("name", SETS)
    def test_at_a_point_of_the_grid_it_is_the_models_answer_and_the_image(self, page, name):
        n = SETS[name][1]
        plane = plane_of(name, n)
        at, points = plane.slice, plane.slice.grid(n)
        opened(page, figures.plane_map(plane).html)
        asked = len(page.requested)
        draw = torch.Generator().manual_seed(0)
        for row, column in torch.randint(1, n - 1, (12, 2), generator=draw).tolist():
            i = row * n + column
            point_to(page, *shares(at, points[i]))
            assert page.locator("[data-note]").inner_text().endswith("as the model says")
            expected = answer(name, at, points[i : i + 1])[0]
            assert numbers(page) == pytest.approx(expected.tolist(), abs=1e-3)
            image = at.images(points[i : i + 1])[0]
            height, width, *levels = page.evaluate(PIXELS)
            seen = np.array(levels).reshape(height, width, 4)[..., : len(image)] / 255
            wanted = image.clamp(0, 1).permute(1, 2, 0).numpy()
            assert np.abs(seen - wanted).max() <= 1 / 255
            lost = float((image - image.clamp(0, 1)).norm())
            words = f"clipped by L2 {lost:.2f}" if lost >= 0.005 else "inside [0, 1]"
            assert page.locator("[data-note]").inner_text().startswith(words)
            best = int(expected.argmax())
            said = page.locator("[data-said]").inner_text()
            assert said.startswith(f"here: {plane.classes[best]}, ")
        assert len(page.requested) == asked
        assert page.problems == []

    def test_between_points_it_is_interpolated_and_says_so(self, page):
        plane = plane_of("digits/cnn", 33)
        opened(page, figures.plane_map(plane).html)
        grid = plane.probabilities[None].permute(0, 3, 1, 2)
        for x, y in ((0.33, 0.41), (0.705, 0.66), (0.52, 0.13)):
            point_to(page, x, y)
            assert page.locator("[data-note]").inner_text().endswith("interpolated")
            where = torch.tensor([[[[2 * x - 1, 1 - 2 * y]]]])
            bilinear = torch.nn.functional.grid_sample(grid, where, align_corners=True).flatten()
            # The browser rounds the pointer's place to a fraction of a pixel.
            assert numbers(page) == pytest.approx(bilinear.tolist(), abs=0.02)

    def test_keys_move_the_point_by_steps_of_the_grid_and_keep_it(self, page):
        plane = plane_of("digits/cnn", 33)
        opened(page, figures.plane_map(plane).html)
        svg = page.locator("[data-map] svg[role=img]")
        start = int(plane.slice.grid(33).square().sum(1).argmin())  # nearest to the origin
        row, column = divmod(start, 33)
        svg.focus()
        keys = ("ArrowRight", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowUp", "ArrowLeft")
        for key in keys:
            page.keyboard.press(key)
        page.evaluate(FRAMES)
        here = plane.probabilities[row + 6, column + 5]
        assert numbers(page) == pytest.approx(here.tolist(), abs=1e-3)
        assert page.locator("[data-note]").inner_text().endswith("as the model says")
        page.keyboard.press("Enter")
        kept = float(svg.get_attribute("data-x")), float(svg.get_attribute("data-y"))
        assert kept == pytest.approx(((column + 5) / 32, 1 - (row + 6) / 32))
        point_to(page, 0.1, 0.1)
        assert numbers(page) != pytest.approx(here.tolist(), abs=1e-3)
        page.mouse.move(5, 700)  # off the map, what was kept is shown again
        page.evaluate(FRAMES)
        assert numbers(page) == pytest.approx(here.tolist(), abs=1e-3)

    def test_two_models_have_one_pointer(self, page):
        names = ("digits/cnn", "digits/mlp")
        planes = plane_of(names[0], 33, names[1:])
        at = planes[names[0]].slice
        opened(page, figures.plane_map(planes).html)
        point = at.grid(33)[500]
        for which in (0, 1):
            point_to(page, 0.9, 0.1, which)
            point_to(page, *shares(at, point), which)
            expected = torch.stack([answer(n, at, point[None])[0] for n in names], 1)
            assert numbers(page) == pytest.approx(expected.flatten().tolist(), abs=1e-3)
            lines = page.locator("[data-said]").inner_text().splitlines()
            assert [line.partition(":")[0] for line in lines] == list(names)
            crosses = page.locator(".wb-cross").evaluate_all(
                "all => all.map(n => n.style.transform)"
            )
            assert crosses[0] == crosses[1] != ""

    def test_nothing_moves_when_it_comes_to_life_and_without_it_it_is_a_picture(self, page):
        plane = plane_of("digits/cnn", 33)
        head = f"<!DOCTYPE html><style>{STYLE.read_text()}</style>"
        page.set_content(f"{head}<main>{figures.plane_map(plane).html}</main>")
        parts = page.locator("svg, [data-image], [data-said], table, figcaption")
        still = [each.bounding_box() for each in parts.all()]
        words, values = page.locator("[data-said]").inner_text(), numbers(page)
        assert page.locator("figure img").evaluate("node => node.naturalWidth") == 33
        opened(page, figures.plane_map(plane).html)
        assert [each.bounding_box() for each in parts.all()] == still
        assert page.locator("[data-said]").inner_text() == words
        assert numbers(page) == values

    @pytest.mark.parametrize("width", [1000, 600, 380])
    def test_labels_keep_apart(self, page, width):
        page.set_viewport_size({"width": width, "height": 900})
        plane = plane_of("digits/cnn", 33)
        images = data.load("digits").images
        marks = dict(zip("abc", plane.slice.points(images[[3, 0, 9]]), strict=True))
        near = plane.slice.points(images[[9]])[0] + torch.tensor([0.03, 0.02])
        opened(page, figures.plane_map(plane, marks={**marks, "reached": near}).html)
        spans = page.locator("[data-map] figure span").all()
        assert len(spans) > len(marks) + 2  # the marks, the scale, and a class or more
        for one, other in itertools.combinations([span.bounding_box() for span in spans], 2):
            apart = [
                one[at] + one[size] <= other[at] + 1 or other[at] + other[size] <= one[at] + 1
                for at, size in (("x", "width"), ("y", "height"))
            ]
            assert any(apart), (one, other)
        svg = page.locator("[data-map] svg[role=img]").bounding_box()
        assert svg["width"] <= min(560, width)

    @pytest.mark.parametrize("width", [993, 720])
    def test_what_stands_below_the_map_stays_where_it_is(self, page, width):
        page.set_viewport_size({"width": width, "height": 900})
        panel = LevelSetPanel("digits", "digits/cnn", 3, target=9, n_steps=20, side=17)
        panel.look()
        assert panel.widget is not None
        states = [panel.draw(panel.result)]  # nothing yet
        panel.run()
        states.append(panel.view.value)  # the plane
        pick(panel, "plane", x=0.7, y=0.2)
        states.append(panel.view.value)  # a point kept
        panel.scrub.value = 0
        states.append(panel.view.value)  # a step of the way
        panel.run()
        panel.start(panel.peek())  # the pair, while the last plane waits for its successor
        settle(panel)
        states.append(panel.view.value)
        places = []
        for html in states:
            page.set_content(
                f"<!DOCTYPE html><style>{STYLE.read_text()}</style><main>{html}</main>"
            )
            places.append(page.locator(".wb-targets").bounding_box()["y"])
        assert max(places) - min(places) <= 4, places

    @pytest.mark.parametrize("kind", [LevelSetPanel, RegionPanel])
    def test_it_is_live_in_a_report(self, page, tmp_path, kind):
        given = {"n_steps": 20, "side": 17} if kind is LevelSetPanel else {"extent": 0.05}
        panel = kind("digits", "digits/mlp", 3, **given)
        panel.run()
        output = nbformat.v4.new_output("display_data", {"text/html": panel.to_html()})
        cells = [nbformat.v4.new_markdown_cell("# A map"), nbformat.v4.new_code_cell("1")]
        cells[1].outputs = [output]
        path = tmp_path / "report.html"
        path.write_text(reports.to_html(nbformat.v4.new_notebook(cells=cells)))
        page.goto(path.as_uri())
        page.locator(".wb-cross").first.wait_for(state="attached")
        before = page.locator("[data-image] canvas").evaluate("node => node.toDataURL()")
        point_to(page, 0.8, 0.2)
        assert page.locator("[data-image] canvas").evaluate("node => node.toDataURL()") != before
        if kind is RegionPanel:
            assert page.locator("[data-region]").inner_text().startswith("region ")
        assert [p for p in page.problems if "Content Security Policy" not in p] == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3.0))
def test_the_hatching_is_where_no_images_are(seed, extent):
    draw = torch.Generator().manual_seed(seed)
    x, (u, v) = torch.rand(1, 3, 3, generator=draw), torch.randn(2, 1, 3, 3, generator=draw)
    at = levelsets.through(x, u, v, extent)
    polygon, points = box(at), at.grid(21)
    images = at.images(points).flatten(1)
    depth = torch.minimum(images, 1 - images).amin(1)  # above 0 inside [0, 1]
    edges = np.roll(polygon, -1, 0) - polygon
    offset = points.numpy()[:, None] - polygon[None]
    inside = (edges[:, 0] * offset[..., 1] - edges[:, 1] * offset[..., 0] >= -1e-6).all(1)
    clear = depth.abs() > 1e-4  # not on the edge, where rounding tells
    assert np.array_equal(inside[clear], (depth > 0).numpy()[clear])


def test_lengths_are_true_and_very_long_windows_are_stretched_and_say_so():
    frame = Frame.of((0, 10, 0, 5))
    assert (frame.width, frame.height) == (560, 280)
    labels = Labels(frame)
    labels.scale()
    assert re.search(r"width:20\.00%.*>L2 2<", labels.parts[0])
    labels = Labels(Frame.of((0, 100, 0, 1)))
    labels.scale()
    assert "L2 20 across" in labels.parts[0]


def test_of_many_classes_those_that_lead_have_a_bar_and_the_rest_one():
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 40))
    model = models.wrap(body, input_shape=(1, 3, 3), classes=[f"c{i}" for i in range(40)])
    x = torch.rand(1, 3, 3)
    at = levelsets.through(x, torch.randn(1, 3, 3), torch.randn(1, 3, 3), 3.0)
    plane = levelsets.plane(model, at, 9)
    html = figures.plane_map(plane).html
    names = re.findall(r"</i> ([^<]+)</th>", html)
    assert len(names) == 12
    assert names[-1] == "others"
    shown = json.loads(re.search(r'data-map="([^"]+)"', html)[1].replace("&quot;", '"'))
    assert sum(shown["here"][2][0]) == pytest.approx(1, abs=1e-5)
    most = plane.predicted.flatten().bincount(minlength=40).argmax()
    assert plane.classes[int(most)] in names


def test_planes_that_do_not_belong_together_are_refused():
    one, other = plane_of("digits/cnn", 17), plane_of("digits/cnn", 17)
    with pytest.raises(ValueError, match="plane: expected some of one slice"):
        figures.plane_map({"a": one, "b": other})
    with pytest.raises(ValueError, match="plane: expected some of one slice"):
        figures.plane_map({"a": None})
    with pytest.raises(ValueError, match="unknown colour 'red'"):
        figures.plane_map(one, colour="red")
    assert "being computed" in figures.plane_map({"a": one, "b": None}).html
    assert "data-map" not in figures.plane_map(one, waiting="wait").html
