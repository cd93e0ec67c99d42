"""Figures: exact pixels, true words, colours that stay apart, nothing from the network."""

import base64
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from workbench import figures
from workbench.figures.inputs import percent

EVIL = '<img src=x onerror=alert(1)>"&'
NAMES = ["a", EVIL, "c"]
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [2.0, 1.0, 0.5],
        "accuracy": [0.5, 0.75, 0.875],
        "robust_accuracy": [np.nan, 0.25, np.nan],
    }
)
BINS = pd.DataFrame(
    {"confidence": [0.55, np.nan, 0.95], "accuracy": [0.5, np.nan, 0.9], "count": [10, 0, 30]}
)
MATRIX = [[8, 2, 0], [0, 10, 0], [0, 5, 5]]
X = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])


class Page(HTMLParser):
    """The tags, attributes and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def decode(src: str) -> np.ndarray:
    head, data = src.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))))


def alt(figure: go.Figure) -> str:
    return figure.layout.meta["alt"]


def every_picture() -> list[figures.Picture]:
    return [
        figures.image_grid(X, Y, Y.flip(0), torch.full((3,), 0.5), NAMES, title=EVIL),
        figures.image_grid(X[:0], title=EVIL),
        figures.heat_overlay(X[0], X[1, 0] - 0.5, title=EVIL),
        figures.confidence_table([0.2, 0.7, 0.1], NAMES, label=2),
    ]


def every_figure() -> list[go.Figure]:
    return [
        figures.confusion_matrix(MATRIX, NAMES, title=EVIL),
        figures.learning_curves(HISTORY),
        figures.reliability(BINS, ece=0.05),
        figures.empty_figure("nothing yet"),
    ]


# Images and maps


@given(
    pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=40, deadline=None)
def test_png_gives_back_every_8_bit_value(pixels, channels):
    levels = np.stack([pixels, pixels[::-1], pixels // 2][:channels])
    # Less than half a level off: rounded to the nearest.
    values = (torch.from_numpy(levels).float() / 255 + 0.4 / 255).clamp(max=1)
    decoded = np.asarray(Image.open(BytesIO(figures.png(values))))
    assert np.array_equal(decoded, levels[0] if channels == 1 else levels.transpose(1, 2, 0))


@given(data=st.data(), n=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_grid_says_in_words_what_the_numbers_are(data, n):
    draw = st.lists(st.integers(0, 9), min_size=n, max_size=n)
    labels, predicted = torch.tensor(data.draw(draw)), torch.tensor(data.draw(draw))
    share = st.integers(0, 100).map(lambda v: v / 100)
    confidence = data.draw(st.lists(share, min_size=n, max_size=n))
    grid = figures.image_grid(X[:n], labels, predicted, torch.tensor(confidence))
    page = Page(grid.html)
    told = [
        re.fullmatch(r"(\d) predicted as (\d) with confidence (\d+)%", image["alt"])
        for image in page.all("img")
    ]
    assert [int(t[1]) for t in told] == labels.tolist()
    assert [int(t[2]) for t in told] == predicted.tolist()
    assert [int(t[3]) / 100 for t in told] == confidence
    mistakes = int((labels != predicted).sum())
    assert page.text.count("✗") == mistakes
    assert f", {mistakes or 'none'} of them mistaken" in grid.alt


def test_grid_shows_each_image_and_no_more_than_is_known():
    grid = figures.image_grid(X, Y, Y.flip(0), torch.full((3,), 0.71), ["cat", "dog", "emu"])
    page = Page(grid.html)
    for image, tag in zip(X, page.all("img"), strict=True):
        assert np.array_equal(decode(tag["src"]), (image[0] * 255).round().byte().numpy())
        assert "height:96px;width:auto" in tag["style"]  # enlarged by CSS, not by resampling
    assert "✗ emu, is cat · 71%" in page.text
    assert grid.alt == "3 images, 2 of them mistaken"
    words = {"text/html": figures.image_grid(X).html, "text/plain": "3 images"}
    assert figures.image_grid(X)._repr_mimebundle_() == words
    assert Page(figures.image_grid(X, Y).html).all("img")[2]["alt"] == "class 2"
    only_guess = figures.image_grid(X, predicted=Y)
    assert Page(only_guess.html).all("img")[2]["alt"] == "predicted as 2"
    assert "✗" not in only_guess.html
    assert figures.image_grid(X[:0]).alt == "no images to show"


def test_heat_overlay_colours_zero_white_and_says_its_limits():
    values = torch.tensor([[-0.5, 0.0], [0.25, 0.125]])
    image, heat = Page(figures.heat_overlay(X[0], values).html).all("img")
    colours = decode(heat["src"])
    assert colours[0, 1].tolist() == [255, 255, 255]
    assert colours[0, 0, 2] > colours[0, 0, 0]  # negative is blue
    assert colours[1, 0, 0] > colours[1, 0, 2]  # positive is orange
    assert decode(image["src"]).shape == (4, 4)
    assert "from -0.5 to 0.25, strongest -0.5 at row 0, column 0" in heat["alt"]
    assert "symmetric about zero, to ±0.5" in heat["alt"]
    assert len(Page(figures.heat_overlay(None, values).html).all("img")) == 1


# Palettes


def test_a_map_lies_over_its_image_as_much_as_its_slider_says():
    picture = figures.heat_overlay(X[0], X[1, 0], "sequential", limits=(0, 1), over=True)
    page = Page(picture.html)
    (slider,) = page.all("input")
    (layer,) = [d for d in page.all("div") if d.get("data-kind") == "opacity"]
    (said,) = [s for s in page.all("span") if s.get("role") == "status"]
    shares, words = json.loads(layer["data-frames"]), json.loads(said["data-frames"])
    assert len(shares) == len(words) == int(slider["max"]) + 1
    assert (shares[0], shares[-1], words[0], words[-1]) == (0, 1, "0% map", "100% map")
    now = int(slider["value"])
    assert f"opacity:{shares[now]}" in layer["style"]
    assert slider["aria-valuetext"] == words[now]
    image, heat = page.all("img")
    assert np.array_equal(decode(image["src"]), (X[0, 0] * 255).round().byte().numpy())
    assert np.array_equal(decode(heat["src"]), figures.colourise(X[1, 0], limits=(0, 1)))
    assert "map of 4×4" not in page.text, "numbers are in alt and hover"
    assert page.all("figure")[0]["title"] == picture.alt == heat["alt"]


def test_colourise_meets_its_anchors_and_clamps_beyond():
    anchors = [list(bytes.fromhex(colour[1:])) for colour in figures.SEQUENTIAL]
    assert figures.colourise(torch.linspace(0, 1, 10)[None])[0].tolist() == anchors
    far = figures.colourise(torch.tensor([[-9.0, 9.0]]), limits=(0, 1))
    assert far[0].tolist() == [anchors[0], anchors[-1]]
    assert figures.class_colour(3) == figures.class_colour(13) == figures.CLASSES[3]
    # A flat map has no two colours.
    assert (figures.colourise(torch.zeros(2, 3), "diverging") == 255).all()
    assert (figures.colourise(torch.ones(2, 3)) == anchors[0]).all()


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of a linear RGB colour; L in 0..100, and a difference of 2 is just visible."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ rgb.clip(0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# What is seen without one kind of cone (Machado et al. 2009, full severity, linear RGB).
EYES = {
    "normal": np.eye(3),
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("eyes", EYES)
def test_class_colours_stay_apart_from_each_other_and_from_white_and_dark_pages(eyes, capsys):
    seen = [lab(EYES[eyes] @ linear(colour)) for colour in figures.CLASSES]
    pairs = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    white, dark = (
        min(np.linalg.norm(a - lab(EYES[eyes] @ linear(page))) for a in seen)
        for page in ("#ffffff", "#111111")
    )
    with capsys.disabled():
        print(f"\n{eyes}: least {pairs:.1f} between classes, {white:.1f} white, {dark:.1f} dark")
    assert pairs > 15
    assert white > 20
    assert dark > 25


def test_whoever_draws_with_plotly_has_the_colours_of_the_house_on_clear_paper():
    code = (
        "import plotly.express as px\nfrom workbench import figures\n"
        "bars = px.bar(x=['a', 'b'], y=[1, 2], color=['a', 'b'])\n"
        "print([bar.marker.color for bar in bars.data], bars.layout.template.layout.paper_bgcolor)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{list(figures.CLASSES[:2])} rgba(0,0,0,0)"


@pytest.mark.parametrize("eyes", EYES)
def test_scales_order_values_by_lightness(eyes):
    def lightness(scale):
        return [lab(EYES[eyes] @ linear(colour))[0] for colour in scale]

    assert (np.diff(lightness(figures.SEQUENTIAL)) > 0).all()
    middle = len(figures.DIVERGING) // 2
    steps = np.diff(lightness(figures.DIVERGING))
    assert (steps[:middle] > 5).all()
    assert (steps[middle:] < -5).all()
    # The two sides are told apart by hue at every strength.
    for low, high in zip(figures.DIVERGING[:middle], figures.DIVERGING[:middle:-1], strict=True):
        assert np.linalg.norm(lab(EYES[eyes] @ linear(low)) - lab(EYES[eyes] @ linear(high))) > 25


# Confidences


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
    top=st.integers(1, 12),
    at=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_confidences_are_told_in_order_and_with_the_true_class(weights, top, at):
    p = torch.tensor(weights).softmax(0)
    label = at.draw(st.integers(0, len(weights) - 1))
    names = [f"c{k}" for k in range(len(weights))]
    table = figures.confidence_table(p, names, label=label, top=top)
    told = re.findall(r"c(\d+) ([<>]?\d+%)", table.alt.split(": ")[1])
    assert str(label) in {k for k, _ in told}
    assert all(share == percent(float(p[int(k)])) for k, share in told)
    shares = [float(p[int(k)]) for k, _ in told[:top]]
    assert shares == sorted(p.tolist(), reverse=True)[: len(shares)]


def test_confidence_table_is_a_table_with_headers():
    table = figures.confidence_table([0.05, 0.65, 0.3], ["a", "b", "c"], label=2, top=1)
    page = Page(table.html)
    assert [head.get("scope") for head in page.all("th")] == ["col"] * 2 + ["row"] * 2
    assert len(page.all("caption")) == 1
    assert "Predicted b with confidence 65%, but it is c" in page.text
    assert "◀ answer" in page.text
    assert "✓ true" in page.text
    assert "width:65.0%" in table.html
    other = figures.confidence_table([0.05, 0.65, 0.3], ["a", "b", "c"], predicted=0, top=1)
    assert other.alt == "Predicted a with confidence 5%; of 3 classes: b 65%, a 5%"


def test_numbers_never_round_to_certainty():
    shown = [percent(v) for v in (0, 0.0004, 0.005, 0.713, 0.995, 0.9996, 1)]
    assert shown == ["0%", "<1%", "<1%", "71%", ">99%", ">99%", "100%"]


# Charts


def test_confusion_matrix_tells_the_most_frequent_confusions():
    figure = figures.confusion_matrix(torch.tensor(MATRIX), ["1", "1", "07"])
    assert alt(figure) == (
        "confusion matrix of 3 classes and 30 images, accuracy 0.767, 7 mistakes; most often "
        "07 predicted as 1 (5), 1 predicted as 1 (2)"
    )
    assert figure.data[0].text.tolist() == [["8", "2", ""], ["", "10", ""], ["", "5", "5"]]
    assert figure.layout.yaxis.title.text == "true class"
    # Row 0 at the top, as in the matrix; equal and number-like names stay apart.
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert list(figure.layout.xaxis.ticktext) == ["1", "1", "07"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert "0 mistakes; most often none" in alt(figures.confusion_matrix([[7]], ["only"]))


def test_learning_curves_tell_where_they_start_and_end():
    figure = figures.learning_curves(HISTORY)
    assert alt(figure) == (
        "learning curves over 3 epochs: training loss from 2 to 0.5, "
        "training accuracy from 0.5 to 0.875, robust accuracy from 0.25 to 0.25"
    )
    assert [trace.line.dash for trace in figure.data] == ["solid", "solid", "dot"]
    assert [len(trace.x) for trace in figure.data] == [3, 3, 1]  # only what was measured


def test_reliability_tells_each_bin_with_images():
    figure = figures.reliability(BINS, ece=0.05)
    assert alt(figure) == (
        "reliability of 40 images in 2 bins, expected calibration error 0.05: "
        "confidence 0.550, accuracy 0.500, 10 images; confidence 0.950, accuracy 0.900, 30 images"
    )
    assert "ECE 0.050" in figure.layout.title.text
    assert list(figure.data[1].text) == [10, 30]


@pytest.mark.parametrize(
    ("draw", "arguments", "words"),
    [
        (figures.confusion_matrix, ([[0]], ["a"]), "no predictions were counted"),
        (figures.learning_curves, (HISTORY[:0],), "no epochs yet"),
        (figures.reliability, (BINS[1:2],), "no predictions were binned"),
    ],
)
def test_empty_results_say_what_is_missing(draw, arguments, words):
    figure = draw(*arguments)
    assert alt(figure) == figure.layout.annotations[0].text == words


# Bad input


def bad(draw, *arguments, says: str, **named):
    return pytest.param(draw, arguments, named, says, id=f"{draw.__name__}-{says}")


@pytest.mark.parametrize(
    ("draw", "arguments", "named", "says"),
    [
        bad(figures.png, X[0, 0], says=r"image: expected shape \(C, H, W\)"),
        bad(figures.png, torch.zeros(2, 8, 8), says="image: expected 1 or 3 channels"),
        bad(figures.png, torch.zeros(1, 0, 8), says="image: expected 1 or 3 channels of pixels"),
        bad(figures.png, X[0] + 1, says=r"image: expected values in \[0, 1\]"),
        bad(figures.png, X[0] * torch.nan, says=r"image: expected values in \[0, 1\], got \[nan"),
        bad(figures.png, X[0].byte(), says="image: expected float32"),
        bad(figures.png, X[0].numpy(), says="image: expected a torch.Tensor"),
        bad(figures.image_grid, X, Y[:1], says="labels: expected 3 labels"),
        bad(figures.image_grid, X, None, Y, None, "ab", says="predicted: expected values in 0..1"),
        bad(figures.image_grid, X, confidence=Y, says="confidence: expected predicted as well"),
        bad(figures.image_grid, X, Y, Y, Y * 2, says="confidence: expected 3 values"),
        bad(figures.image_grid, X, Y, Y, Y[:2], says="confidence: .* an image, got 2 in"),
        bad(figures.image_grid, X, columns=0, says="columns"),
        bad(figures.image_grid, X, height=0, says="height"),
        bad(figures.heat_overlay, X[0], X[0], says="values: expected 2 dimension"),
        bad(figures.colourise, Y[None], "divergent", says="unknown scale .* mean 'diverging'"),
        bad(figures.colourise, torch.zeros(0, 2), says="values: .* a value at least"),
        bad(figures.colourise, X[0, 0] * torch.nan, says="values: expected finite"),
        bad(figures.colourise, X[0, 0], limits=(1, 0), says="limits: expected"),
        bad(figures.colourise, X[0, 0], limits=(0, float("nan")), says="limits: .*nan"),
        bad(figures.colourise, X[0, 0], "diverging", (0, 1), says=r"limits: .* \(-a, a\)"),
        bad(figures.class_colour, -1, says="k: expected a whole number"),
        bad(figures.confidence_table, [2.0, -1.0], NAMES, says="probabilities: .* logits need"),
        bad(figures.confidence_table, [0.5, 0.6], NAMES, says="sum 1.1"),
        bad(figures.confidence_table, [], [], says="probabilities: .* a value at least"),
        bad(figures.confidence_table, ["x"], ["a"], says="probabilities: expected a tensor"),
        bad(figures.confidence_table, [1.0], NAMES, says="classes: expected 1 names"),
        bad(figures.confidence_table, [0.5, 0.5], "ab", says="classes: expected 2 names"),
        bad(figures.confidence_table, [1.0], ["a"], 1, says=r"label: .* in 0\.\.0, got 1"),
        bad(figures.confusion_matrix, [[1, 2]], ["a"], says="matrix: .* in shape"),
        bad(figures.confusion_matrix, [[0.5]], ["a"], says="matrix: expected whole counts"),
        bad(figures.confusion_matrix, [[-1]], ["a"], says="matrix: expected whole counts of"),
        bad(figures.confusion_matrix, MATRIX, ["a"], says="classes: expected 3 names"),
        bad(figures.learning_curves, [1, 2], says="history: expected a pandas DataFrame"),
        bad(figures.learning_curves, BINS, says="history: no column .*'loss'"),
        bad(figures.learning_curves, HISTORY.assign(accuracy=98.0), says="history: expected val"),
        bad(figures.reliability, HISTORY, says="bins: no column .*'count'"),
        bad(figures.reliability, BINS.assign(confidence=-0.1), says="bins: expected values in"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(draw, arguments, named, says):
    with pytest.raises((TypeError, ValueError), match=says):
        draw(*arguments, **named)


# All of them


@pytest.mark.parametrize("picture", every_picture())
def test_pictures_have_alt_text_run_nothing_and_fetch_nothing(picture):
    page = Page(picture.html)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert EVIL in page.text
    assert all(image["alt"] for image in page.all("img"))
    assert all(decode(image["src"]).size for image in page.all("img"))
    assert not re.search(r"(?:https?:)?//[a-z]|@import|url\(|<script|<link", picture.html)


@pytest.mark.parametrize("figure", every_figure())
def test_figures_are_valid_styled_have_alt_text_and_fetch_nothing(figure):
    again = pio.from_json(figure.to_json())  # validates every property
    assert alt(again) == alt(figure) != ""
    assert list(again.layout.template.layout.colorway) == list(figures.CLASSES)
    assert pio.templates.default == "plotly"
    drawn = json.loads(figure.to_json())
    del drawn["layout"]["meta"]  # plain words, never markup
    assert "<img" not in json.dumps(drawn)
    assert "http" not in json.dumps(drawn)


def test_import_is_lazy_and_pictures_need_no_plotly():
    code = (
        "import sys, workbench.figures as f; assert 'torch' not in sys.modules; f.image_grid; "
        "f.confidence_table; bad = {'plotly', 'matplotlib', 'ipywidgets'} & set(sys.modules); "
        "assert not bad, bad; f.confusion_matrix; "
        "bad = {'matplotlib', 'ipywidgets'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def curve(**columns):
    rows = {
        "attack": ["FGSM", "FGSM", "PGD", "PGD"],
        "eps": [0.1, 0.2, 0.1, 0.2],
        "robust_accuracy": [0.9, 0.8, 0.6, 0.25],
        "low": [0.8, 0.7, 0.5, 0.1],
        "high": [1.0, 0.9, 0.7, 0.4],
        "failed": [0, 0, 0, 0],
    }
    return pd.DataFrame({**rows, **columns})


def test_two_answers_stand_beside_each_other_class_by_class():
    one, other = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.6])
    pair = figures.confidence_pair(one, other, NAMES, ("as it is", "attacked"), label=1, top=2)
    page = Page(pair.html)
    widths = re.findall(r"width:(\d+\.\d)%", pair.html)
    assert widths == ["70.0", "10.0", "10.0", "60.0", "20.0", "30.0"], "likeliest in either first"
    assert page.text.count("✓") == 1
    said = f"a 70%, then 10%; c 10%, then 60%; {EVIL} 20%, then 30%"
    assert pair.alt == f"confidence, as it is and attacked: {said}"
    assert EVIL in page.text, "names are words, not markup"
    assert len(page.all("img")) == 0


def test_a_chart_names_its_axes_and_says_its_values_where_one_points():
    page = Page(figures.confidence_curve({"a": [0.5, 0.25], "b": [0.5, 0.75]}).html)
    for words in ("step of the attack", "confidence", "0%", "50%", "100%", "b: 0.75 at 1"):
        assert words in page.text
    assert len(page.all("title")) == len(page.all("circle")) == 4
    many = figures.confidence_curve({"a": [0.5] * 200})
    assert len(Page(many.html).all("circle")) == 0, "too near each other to be pointed at"


def test_robustness_curve_draws_points_where_their_numbers_are():
    picture = figures.robustness_curve(curve())
    assert picture.alt == (
        "robust accuracy over eps: FGSM 90% at 0.1, 80% at 0.2; PGD 60% at 0.1, 25% at 0.2"
    )
    lines = re.findall(r'points="([^"]+)"[^>]*stroke-width="2"', picture.html)
    (x1, y1), (x2, y2) = ([float(v) for v in p.split(",")] for p in lines[1].split())
    frame = re.findall(r'<polyline points="([\d.]+),([\d.]+) ([\d.]+),', picture.html)
    left, bottom, right = (float(v) for v in frame[0])
    top = float(frame[1][1])
    assert (y1 - top) / (bottom - top) == pytest.approx(0.4, abs=1e-3)
    assert (y2 - top) / (bottom - top) == pytest.approx(0.75, abs=1e-3)
    assert (x1 - left) / (right - left) == pytest.approx(0.5, abs=1e-3)
    assert x2 == right
    assert picture.html.count('opacity="0.6"') == 4  # an interval a point


def test_robustness_curve_says_what_failed_and_what_is_missing():
    picture = figures.robustness_curve(curve(failed=[0, 0, 5, 5]))
    assert picture.alt.endswith("PGD failed")
    with pytest.raises(ValueError, match="curve: expected at least one point, got none"):
        figures.robustness_curve(curve().iloc[:0])


def test_health_table_shows_alarms_in_full_and_folds_the_rest():
    said = [
        ("calm", "green", "nothing"),
        ("alarm", "red", "0.5 <of> the images"),
        ("unasked", "not applicable", "no budget"),
        ("worry", "amber", "few"),
    ]
    found = [
        SimpleNamespace(name=n, level=v, says=s, why="because", remedy="do this")
        for n, v, s in said
    ]
    table = figures.health_table(found)
    assert table.alt == (
        "health of the evaluation: 1 red, 1 amber, 1 green, 1 not applicable; "
        "red: alarm; amber: worry"
    )
    shown, folded = table.html.split("<details>")
    assert shown.index("alarm") < shown.index("worry")
    assert "0.5 &lt;of&gt; the images" in shown
    assert shown.count("<i>Try:</i> do this") == 2
    assert "2 indicators without alarm" in folded
    assert "unasked" in folded
    assert "no indicator asked yet" in figures.health_table([]).alt
