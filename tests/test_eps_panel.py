"""Budgets under which an answer breaks: by a closed form, and as a figure that is dragged."""

import json
import re
from html import unescape

import pytest
import torch
from browsers import MARKS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from workbench.widgets import EpsPanel

from workbench import attacks, data, figures, models, reports, robustness


def halves(gap):
    """Two classes, by the sum of four pixels; at grey it prefers the first by `gap`."""
    layer = torch.nn.Linear(4, 2)
    layer.weight.data = torch.tensor([[1.0] * 4, [-1.0] * 4])
    layer.bias.data = torch.tensor([gap / 2 - 2, 2 - gap / 2])
    body = torch.nn.Sequential(torch.nn.Flatten(), layer)
    return models.wrap(body, input_shape=(1, 2, 2), classes=("more", "less"), name="sum")


GREY = torch.full((1, 1, 2, 2), 0.5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 2.0))
def test_a_linear_answer_breaks_where_the_margin_is_used_up(gap):
    """Each pixel moves by eps, so that the gap falls by 8 eps: it breaks from gap / 8 on."""
    found = robustness.breaking(halves(gap), GREY, attacks.PGD(eps=0.3, n_steps=5), radii=60)
    assume(float((found.radii - gap / 8).abs().min()) > 1e-4)  # a tie is for rounding to break
    expected = found.radii[found.radii > gap / 8]
    assert found.breaks == (pytest.approx(float(expected[0])) if len(expected) else None)
    moved = (found.images - GREY).abs().amax((1, 2, 3))
    assert bool((moved <= found.radii + 1e-6).all())
    own = found.probabilities[:, 0]
    assert bool((own[1:] <= own[:-1]).all()), "a larger budget does no less harm"


def test_what_is_shown_is_what_the_model_says():
    model, x = models.load("digits/cnn"), data.load("digits").images[3:4]
    found = robustness.breaking(model, x, attacks.PGD(eps=0.2, n_steps=10))
    assert torch.equal(found.images[0], x[0])
    torch.testing.assert_close(found.probabilities, model.predict(found.images).probabilities)
    table = found.frame()
    assert len(table) == 13
    assert table["eps"].tolist() == found.radii.tolist()
    assert found.summary()["breaks_at"] == found.breaks


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"attack": attacks.DeepFool()}, TypeError, "expected one with a budget, .*DeepFool"),
        ({"attack": attacks.PGD(eps=0)}, ValueError, "attack.eps: expected a budget above 0"),
        ({"x": GREY.repeat(2, 1, 1, 1)}, ValueError, "x: expected one image"),
        ({"radii": 0}, ValueError, "radii: expected"),
    ],
)
def test_bad_arguments_are_named(change, error, said):
    values = {"x": GREY, "attack": attacks.PGD(), **change}
    with pytest.raises(error, match=said):
        robustness.breaking(halves(1.0), **values)


def test_the_figure_starts_where_it_breaks_and_says_so():
    weak, strong = (
        robustness.breaking(halves(gap), GREY, attacks.PGD(eps=0.3, n_steps=5)) for gap in (0.5, 9)
    )
    picture = figures.drag_eps([weak, strong])
    frame = int(re.search(r'value="(\d+)"', picture.html)[1])
    assert float(weak.radii[frame]) == weak.breaks
    assert f"sum breaks at eps {weak.breaks:.3g}" in picture.alt
    assert "sum keeps its answer up to eps 0.3" in picture.alt
    assert "no longer more" in picture.html
    assert "<script" not in picture.html
    assert f">breaks at eps {weak.breaks:.3g}</text>" in picture.html  # marked on the curve, once
    assert picture.html.count(">breaks at") == 1
    with pytest.raises(ValueError, match="results: expected some of the same radii, got 0"):
        figures.drag_eps([])


def test_the_curve_of_many_images_says_the_share_and_its_interval_at_each_eps():
    """Against counting by hand: the sum model breaks from gap / 8 on, here for a known share."""
    grey = torch.linspace(0.3, 0.7, 20).reshape(20, 1, 1, 1).expand(20, 1, 2, 2)
    model = halves(0.0)
    images = data.ImageDataset(grey.clone(), model.predict(grey).label, model.classes)
    found = robustness.evaluate(
        model, images, [attacks.FGSM(), attacks.PGD()], eps=[0.05, 0.1, 0.15]
    )
    curve = found.curve()
    picture = figures.drag_curve(curve)
    frames = json.loads(
        unescape(re.search(r'role="status"[^>]*data-frames="([^"]*)"', picture.html)[1])
    )
    assert len(frames) == 3
    for words, eps in zip(frames, (0.05, 0.1, 0.15), strict=True):
        left = int(((grey[:, 0, 0, 0] - 0.5).abs() > eps).sum())  # each pixel moves by eps
        low, high = robustness.wilson(left, 20)
        assert words.startswith(
            f"At eps {eps:.3g}: {left / 20:.0%} of 20 images are still right in the worst case "
        )
        assert f"({low:.0%} to {high:.0%}); under FGSM " in words
    assert picture.html.count("<polygon") == 1
    assert picture.alt == frames[1]
    two = curve.loc[curve.index.repeat(2)].assign(model=["one", "other"] * len(curve))
    both = figures.drag_curve(two[two["attack"] == "worst case"])
    assert both.html.count("<polygon") == both.html.count("<polyline") == 2
    share = f"{left / 20:.0%} of 20 images right in the worst case ({low:.0%} to {high:.0%})"
    assert f"At eps 0.15: one keeps {share}. other keeps {share}." in unescape(both.html)
    with pytest.raises(ValueError, match=r"expected two eps or more .* got 1"):
        figures.drag_curve(curve[curve["eps"] == 0.1])
    with pytest.raises(ValueError, match="got 0"):
        figures.drag_curve(curve.assign(failed=1))


def test_an_answer_that_is_wrong_anyway_is_said():
    model, images = models.load("fashion_mnist/cnn"), data.load("fashion-sample")
    answers = model.predict(images.images).label
    wrong = int((answers != images.labels).nonzero()[0])
    panel = EpsPanel("fashion-sample", "fashion_mnist/cnn", wrong)
    panel.run()
    said = f"fashion_mnist/cnn says {model.classes[answers[wrong]]} before anything is changed."
    assert said in panel.view.value
    panel.selection.index = int((answers == images.labels).nonzero()[0])
    panel.run()
    assert "before anything is changed" not in panel.view.value


def test_colours_are_told_in_levels():
    panel = EpsPanel("shapes", "shapes/resnet", 2)
    panel.run()
    assert panel.result.breaking[0].radii[-1] == pytest.approx(16 / 255)
    assert "/255" in panel.view.value
    assert panel.widget is not None
    assert panel.form.values.eps == pytest.approx(16 / 255)  # and not 0, which stands for it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attack": "DeepFool"}, "unknown attack with a budget 'DeepFool'"),
        ({"attack": "PGD(n_stps=3)"}, "n_stps: no such parameter"),
        ({"compare": "digits/cn"}, "Did you mean 'digits/cnn'"),
        ({"eps": -1}, "eps"),
    ],
)
def test_bad_parameters_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        EpsPanel("digits", "digits/cnn", **arguments)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A page with the figure of two models, without a kernel."""
    from nbformat import v4

    weak, strong = (
        robustness.breaking(halves(gap), GREY, attacks.PGD(eps=0.3, n_steps=5)) for gap in (0.5, 9)
    )
    shown = figures.drag_eps([weak, strong])
    output = v4.new_output("display_data", {"text/html": shown.html, "text/plain": shown.alt})
    cells = [v4.new_markdown_cell("# It moves"), v4.new_code_cell("1", outputs=[output])]
    path = tmp_path_factory.mktemp("still") / "page.html"
    path.write_text(reports.to_html(v4.new_notebook(cells=cells)))
    return path.as_uri(), weak


class TestInABrowser:
    pytestmark = MARKS

    @pytest.fixture
    def figure(self, still, page):
        page.goto(still[0])
        return page.locator(".wb-headline [data-drag]")

    def test_it_stands_at_the_head_and_moves_by_the_keyboard(self, figure, page, still):
        status, slider = figure.locator("[role=status]"), figure.locator("input[type=range]")
        bar = figure.locator("[data-kind=width]").first
        slider.focus()
        page.keyboard.press("Home")
        assert status.inner_text().startswith("At eps 0:")
        first = bar.evaluate("node => node.style.width")
        page.keyboard.press("End")
        assert status.inner_text().startswith("At eps 0.3:")
        assert bar.evaluate("node => node.style.width") != first
        assert slider.get_attribute("aria-valuetext") == status.inner_text()
        other = page.locator(".jp-OutputArea [data-drag] [role=status]")
        assert other.inner_text().startswith(f"At eps {still[1].breaks:.3g}:"), "each by itself"
        assert page.problems == []
        assert page.requested == [still[0]], "it asks nothing of the network"

    def test_the_pointer_over_the_curve_says_the_eps(self, figure, page):
        box = figure.locator("[data-plot]").bounding_box()
        words, slider = figure.locator("[role=status]"), figure.locator("input[type=range]")
        for frame in (0, 5, 12):
            page.mouse.move(box["x"] + 1 + (box["width"] - 2) * frame / 12, box["y"] + 20)
            assert slider.input_value() == str(frame)
            assert words.inner_text().startswith(f"At eps {0.3 * frame / 12:.3g}:")
        thumb = slider.bounding_box()
        y = thumb["y"] + thumb["height"] / 2
        page.mouse.move(thumb["x"] + thumb["width"] - 8, y)
        page.mouse.down()
        page.mouse.move(thumb["x"] + 8, y, steps=5)
        page.mouse.up()
        assert words.inner_text().startswith("At eps 0:")

    def test_it_plays_to_its_end_and_pauses(self, figure, page):
        figure.locator("input[type=range]").focus()
        for _ in range(2):
            page.keyboard.press("End")
            page.keyboard.press("ArrowLeft")
        play = figure.locator("[data-do=play]")
        play.click()
        figure.get_by_text("▶ Play").wait_for()  # it was at the last but one: over by itself
        assert figure.locator("input[type=range]").input_value() == "12"
        play.click()
        figure.get_by_text("Pause").wait_for()
        play.click()
        assert play.inner_text() == "▶ Play"

    def test_who_wants_no_motion_has_one_frame_a_press(self, figure, page):
        page.emulate_media(reduced_motion="reduce")
        slider, play = figure.locator("input[type=range]"), figure.locator("[data-do=play]")
        before = int(slider.input_value())
        play.focus()
        for _ in range(2):
            page.keyboard.press("Enter")
        assert (int(slider.input_value()), play.inner_text()) == (before + 2, "▶ Play")

    def test_what_is_saved_moves_by_itself_and_is_a_picture(self, figure, page, tmp_path):
        with page.expect_download() as waiting:
            figure.locator("[data-do=page]").click()
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
        with page.expect_download() as waiting:
            figure.locator("[data-do=picture]").click()
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
        with Image.open(tmp_path / "drag-eps.png") as picture:
            levels = picture.convert("RGB").getcolors(10**6)
            assert min(picture.size) > 300
        assert len(levels) > 20, "bars, curves and words"
        page.goto((tmp_path / "drag-eps.html").as_uri())
        page.locator("input[type=range]").focus()
        page.keyboard.press("Home")
        assert page.locator("[role=status]").inner_text().startswith("At eps 0:")
        assert page.problems == []

    def test_a_panel_moves_in_a_report_without_a_kernel(self, tmp_path, page):
        import nbformat

        code = "from workbench.widgets import EpsPanel\nEpsPanel('digits', 'digits/cnn', 3)"
        cells = [nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
        report = reports.execute(tmp_path / "n.ipynb", {}, tmp_path / "out")
        page.goto(report.html.as_uri())
        page.locator("section [data-drag] input[type=range]").focus()
        page.keyboard.press("End")
        status = page.locator("section [data-drag] [role=status]")
        assert status.inner_text().startswith("At eps 0.3:")
        assert page.problems == []
