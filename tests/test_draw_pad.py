"""The draw pad without a browser, and ink centred as MNIST does it."""

import fnmatch
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate
from workbench.widgets import DrawPad

from workbench import data, models

ROOT = Path(__file__).resolve().parent.parent


def moved(images, scale, right, down):
    """Images made smaller or larger, then moved by so many pixels."""
    _, _, h, w = images.shape
    way = [[1 / scale, 0, -2 * right / w / scale], [0, 1 / scale, -2 * down / h / scale]]
    grid = affine_grid(torch.tensor([way]).expand(len(images), 2, 3), images.shape, False)
    return grid_sample(images, grid, align_corners=False).clamp(0, 1)


def box(image):
    """First row, first column, and those after the last, of what is not black."""
    rows, columns = (image[0].amax(k).nonzero() for k in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def draw(pad, image):
    """What the browser sends when this is on its canvas; image: (C, H, W) of the grid."""
    levels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes()
    pad.set_state({"pixels": memoryview(levels)})


# Centring


def test_a_rectangle_is_scaled_to_twenty_pixels_and_put_in_the_middle():
    image = torch.zeros(1, 28, 28)
    image[0, 2:12, 3:8] = 0.5  # 10 x 5, so 20 x 10
    found = data.centred(image)
    assert box(found) == (4, 9, 24, 19)
    assert torch.allclose(found[0, 4:24, 9:19], torch.tensor(0.5))
    assert torch.equal(data.centred(found), found)
    wide = data.centred(image.transpose(1, 2))
    assert torch.equal(wide, found.transpose(1, 2))


def test_the_centre_of_mass_is_in_the_middle_not_that_of_the_box():
    image = torch.zeros(1, 28, 28)
    image[0, 4:24, 4:8] = 1
    image[0, 4:8, 4:24] = 1
    found = data.centred(image)
    top, left, bottom, right = box(found)
    assert (bottom - top, right - left) == (20, 20)
    assert top > 4
    mass = found[0].sum(1)
    assert float(mass @ torch.arange(28.0) / mass.sum()) == pytest.approx(14, abs=0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 9), st.floats(0.1, 1), st.integers(0, 99)
)
def test_centring_keeps_shape_range_and_place(height, width, dots, fill, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, height, width)
    for _ in range(dots):
        row, column = (int(torch.randint(n, (), generator=generator)) for n in (height, width))
        image[0, row, column] = torch.rand((), generator=generator)
    before = image.clone()
    found = data.centred(image, fill)
    assert torch.equal(image, before)
    assert found.shape == image.shape
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert bool(found.any()) == bool((image > 0.5 / 255).any())


def test_black_stays_black_and_a_dot_is_found():
    assert not data.centred(torch.zeros(1, 28, 28)).any()
    assert not data.centred(torch.full((1, 28, 28), 1e-30)).any()
    image = torch.zeros(1, 28, 28)
    image[0, 0, 27] = 1
    found = data.centred(image)
    assert found.isfinite().all()
    assert box(found)[2] - box(found)[0] == 20


@pytest.mark.parametrize(
    ("image", "fill", "error", "words"),
    [
        (torch.zeros(3, 8, 8), 1, ValueError, "one grey image"),
        (torch.zeros(1, 1, 8, 8), 1, ValueError, r"images\[0\]"),
        (torch.full((1, 8, 8), 2.0), 1, ValueError, r"\[0, 1\]"),
        (torch.full((1, 8, 8), np.nan), 1, ValueError, r"\[0, 1\]"),
        (torch.zeros(1, 8, 8).byte(), 1, TypeError, "float32"),
        (torch.zeros(1, 8, 8), 0, ValueError, "fill"),
        (torch.zeros(1, 8, 8), 1.1, ValueError, "fill"),
    ],
)
def test_what_cannot_be_centred_is_said(image, fill, error, words):
    with pytest.raises(error, match=words):
        data.centred(image, fill)


def test_mnist_stays_as_it_is_to_the_bit(real_set):
    images = real_set("mnist", limit=500).images
    assert torch.equal(torch.stack([data.centred(image) for image in images]), images)


@pytest.mark.parametrize(
    ("scale", "right", "down"), [(1, 3, 2), (0.6, 5, 4), (0.75, -3, 2), (1.2, 1, -1)]
)
def test_a_digit_moved_and_scaled_comes_back(real_set, scale, right, down):
    images = real_set("mnist").sample(200, seed=0).images
    model = models.load("mnist/cnn")
    away = moved(images, scale, right, down)
    back = torch.stack([data.centred(image) for image in away])
    same = model.predict(back).label == model.predict(images).label
    assert same.float().mean() >= 0.95
    assert (back - images).abs().mean() < 0.5 * (away - images).abs().mean()


# The pad


def test_what_is_drawn_is_the_value():
    pad, seen, changes = DrawPad(centre=False), [], []
    pad.on_drawn(seen.append)
    pad.observe(changes.append, "value")
    assert pad.value.shape == (1, 28, 28)
    assert not pad.value.any()
    image = (torch.arange(784).reshape(1, 28, 28) % 256) / 255
    draw(pad, image)
    assert torch.equal(pad.value, image)
    assert torch.equal(seen[0], image)
    assert len(seen) == len(changes) == 1
    pad.image = None
    assert not pad.value.any()
    assert (len(seen), len(changes)) == (1, 2)  # on_drawn tells of the browser's changes only


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 8, 8), (1, 5, 40)])
def test_an_image_laid_on_the_pad_is_there_in_256_levels(shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    pad = DrawPad(image=image, centre=False)
    assert pad.shape == shape
    assert torch.allclose(pad.image, (image * 255).round() / 255, atol=1e-6)
    assert torch.allclose(pad.value, pad.image)
    assert pad.value.dtype == torch.float32
    rows, columns = shape[1] * pad.grain, shape[2] * pad.grain
    assert min(rows, columns) >= 28
    assert len(pad.pixels) == rows * columns * shape[0]
    pad.image = image.flip(2)
    assert torch.allclose(pad.value, (image.flip(2) * 255).round() / 255, atol=1e-6)


def test_grey_is_centred_and_colour_is_not():
    corner = torch.zeros(1, 28, 28)
    corner[0, 1:6, 1:6] = 1
    pad = DrawPad(image=corner)
    assert torch.equal(pad.value, data.centred(corner))
    assert torch.equal(pad.image, corner)
    colour = DrawPad(image=corner.expand(3, -1, -1).contiguous())
    assert torch.equal(colour.value[0], corner[0])


def test_small_images_are_centred_before_they_are_scaled_down():
    digits = data.load("digits")
    model = models.load("digits/cnn")
    before = model.predict(digits.images).label
    fine = interpolate(digits.images, scale_factor=4, mode="bilinear").clamp(0, 1)
    pad, drawn, as_it_is = DrawPad((1, 8, 8)), [], []
    for image in moved(fine, 0.75, -2, 2)[:120]:
        draw(pad, image)
        drawn.append(pad.value)
        as_it_is.append(pad.image)
    assert torch.allclose(pad.image, avg_pool2d((image * 255).round() / 255, 4), atol=1e-6)
    same = [
        float((model.predict(torch.stack(x)).label == before[:120]).float().mean())
        for x in (drawn, as_it_is)
    ]
    assert same[0] >= 0.95
    assert same[1] < 0.8  # without centring
    kept = []
    for image in digits.images[:120]:
        pad.image = image
        kept.append(pad.value)
    assert (model.predict(torch.stack(kept)).label == before[:120]).float().mean() >= 0.95


def test_a_listeners_error_is_shown_until_it_works_again():
    pad, calls = DrawPad(), []

    def fail_once(value):
        calls.append(value)
        if len(calls) == 1:
            raise ValueError("no model is chosen")

    pad.on_drawn(fail_once)
    draw(pad, torch.rand(1, 28, 28))
    assert pad.message == "no model is chosen"
    draw(pad, torch.rand(1, 28, 28))
    assert pad.message == ""
    assert len(calls) == 2


@pytest.mark.parametrize("shape", [(28, 28), (2, 28, 28), (1, 0, 28), (1, 28.0, 28), (1, 1, 8, 8)])
def test_a_shape_that_is_none_says_what_one_is(shape):
    with pytest.raises(ValueError, match=r"shape: expected \(C, H, W\) with 1 or 3"):
        DrawPad(shape)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (torch.zeros(1, 8, 8), ValueError, r"expected a tensor of shape \(1, 28, 28\), got \(1, 8"),
        (torch.zeros(4, 1, 28, 28), ValueError, r"images\[0\]"),
        (torch.full((1, 28, 28), 1.5), ValueError, r"\[0, 1\]"),
        (torch.full((1, 28, 28), np.nan), ValueError, r"\[0, 1\]"),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), TypeError, "divide by 255"),
        (np.zeros((1, 28, 28), np.float32), TypeError, "torch.Tensor"),
        ([[0.0]], ValueError, "got list"),
    ],
)
def test_an_image_that_does_not_fit_is_said_and_changes_nothing(image, error, words):
    pad = DrawPad(image=torch.ones(1, 28, 28))
    with pytest.raises(error, match=f"image: .*{words}"):
        pad.image = image
    assert pad.image.all()
    with pytest.raises(error, match="image: "):
        DrawPad((1, 28, 28), image)


def test_the_static_twin_says_how_much_ink_and_where():
    image = torch.zeros(1, 28, 28)
    image[0, 4:8, 9:11] = 1
    pad = DrawPad(image=image, centre=False)
    assert pad.summary() == pytest.approx({"ink": 8 / 784, "row": 6.5, "column": 10.5})
    page = pad._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in page
    alt = "drawing, 28 rows of 28 pixels: ink 0.0102, row 6.5, column 10.5"
    assert f'alt="{alt}"' in page["text/html"]
    assert page["text/plain"] == "DrawPad((1, 28, 28))"
    pad.image = None
    assert pad.summary() == {"ink": 0.0}
    assert 'alt="drawing, 28 rows of 28 pixels: ink 0"' in pad.to_html()


def test_what_the_browser_needs_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["workbench.widgets"]
    for path in (ROOT / "widgets").glob("*.*"):
        kept = any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
        assert path.suffix == ".py" or kept, f"{path.name} is in no wheel"


def test_the_script_asks_nothing_of_the_network():
    script = (ROOT / "widgets" / "draw_pad.js").read_text()
    assert not [word for word in ("import ", "http", "fetch(") if word in script]
    assert DrawPad()._esm == script
