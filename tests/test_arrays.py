"""`ImageDataset.from_arrays`: what people have is read right, or it is said what it looks like."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.datasets import load_digits

from workbench import data, models

make = data.ImageDataset.from_arrays
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8)
BYTES[0, 0, 0] = 255


def heard(*given, **options):
    """The data set, and what was said of it, which points here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = make(*given, **options)
    assert all(w.filename == __file__ for w in caught)
    return ds, " ".join(str(w.message) for w in caught)


# --- values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels",
    [
        BYTES,
        BYTES.tolist(),
        BYTES.astype(np.int64),
        BYTES.astype(">i4"),
        BYTES.astype(np.uint16) * 257,
        BYTES / 255,
        (BYTES / 255).astype(np.float16),
        torch.tensor(BYTES),
        torch.tensor(BYTES / 255, requires_grad=True),
        (torch.tensor(BYTES) / 255).bfloat16(),
        [torch.tensor(b) for b in BYTES],
        [torch.tensor(b / 255, requires_grad=True) for b in BYTES],
        [Image.fromarray(b) for b in BYTES],
    ],
    ids=lambda pixels: f"{type(pixels).__name__} {getattr(pixels, 'dtype', '')}",
)
def test_one_picture_however_it_is_held(pixels):
    ds, said = heard(pixels, [0, 1, 0, 1])
    assert said == ""
    assert ds.images.dtype == torch.float32
    assert not ds.images.requires_grad
    tolerance = 2**-8 if getattr(pixels, "dtype", None) in (torch.bfloat16, np.float16) else 1e-6
    assert np.abs(ds.images[:, 0].numpy() - BYTES / 255).max() <= tolerance


def test_pixels_are_copied():
    pixels = np.full((2, 1, 4, 4), 0.5, np.float32)
    ds = make(pixels, [0, 1])
    ds.images[:] = 0
    assert pixels.min() == 0.5
    truth = torch.full((2, 1, 4, 4), 0.5)
    make(truth).images[:] = 0
    assert truth.min() == 0.5


def test_bool_is_black_and_white():
    ds, said = heard(np.tile(np.eye(5, dtype=bool), (2, 1, 1)))
    assert (ds.images[0, 0].tolist(), said) == (np.eye(5).tolist(), "")


@pytest.mark.parametrize(
    ("pixels", "scale"),
    [
        (np.tile(np.eye(8, dtype=np.uint8), (3, 1, 1)), 1),
        (np.where(BYTES > 127, 1, 0).astype(np.uint8), 1),
        ((BYTES / 255).astype(np.uint8), 1),  # a cast in the wrong place
        (load_digits().images[:50].astype(np.uint8), 16),
        (torch.tensor(load_digits().images[:50]).byte(), 16),
        (BYTES.astype(np.uint16), 255),
        (BYTES.astype(np.uint16) * 4, 1023),
        (BYTES.astype(np.uint16) * 16, 4095),
    ],
)
def test_another_scale_is_said(pixels, scale):
    ds, said = heard(pixels)
    assert "almost black" in said
    assert f"values in 0..{scale}; if so, pass images / {scale}" in said
    assert ds.images.max() < 0.07
    assert heard(pixels / scale, [0] * len(pixels))[1] == ""  # the advice works


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 17, np.uint8), BYTES, np.zeros((3, 8, 8))],
)
def test_no_false_alarm(pixels):
    assert heard(pixels, np.zeros(len(pixels), int))[1] == ""


def test_floats_divided_twice_are_said():
    assert "divided by 255 twice" in heard(BYTES / 255 / 255)[1]
    assert heard(BYTES / 255 / 20)[1] == ""


@pytest.mark.parametrize(
    ("pixels", "error", "word"),
    [
        (BYTES * 1.0, ValueError, r"in \[0, 1\], got \[0, 255\].*pass images / 255"),
        (load_digits().images, ValueError, r"got \[0, 16\].*pass images / 16"),
        (BYTES / 127.5 - 1, ValueError, r"normalisation belongs inside the model"),
        (np.eye(8, dtype=np.int64)[None], TypeError, r"int64 in \[0, 1\].*images / 1$"),
        (load_digits().images.astype(int), TypeError, r"int64 in \[0, 16\].*images / 16$"),
        (BYTES.astype(np.int32) - 9, TypeError, r"int32 in \[-9, .*value of white$"),
        (BYTES.astype(np.int32) * 16, TypeError, r"int32 in \[0, 4080\].*images / 4095$"),
        (np.full((2, 4, 4), np.inf), ValueError, r"inf"),
        (np.ones((2, 4, 4), complex), TypeError, "complex128"),
        (np.array([BYTES[0], BYTES[1, :3]], object), TypeError, r"object; np.stack"),
        ([BYTES[0], BYTES[1, :3]], ValueError, "each item of the same shape"),
        ([torch.zeros(4, 4), torch.zeros(3, 3)], ValueError, "each item of the same shape"),
        ("pictures", TypeError, "expected uint8 or floats"),
        (None, TypeError, "got object"),
    ],
)
def test_values_that_are_no_pixels(pixels, error, word):
    with pytest.raises(error, match=word):
        make(pixels)


@given(arrays(np.uint8, (2, 3, 4)))
def test_bytes_survive(pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal((make(pixels, [0, 1]).images[:, 0] * 255).round(), pixels)


# --- shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 32, 3), (10, 3, 3, 3), (10, 1, 3, 3), (4, 3, 8, 1)])
def test_a_layout_that_may_be_two_is_said(shape):
    pixels = RNG.random(shape)
    ds, said = heard(pixels)
    assert ds.shape == shape[1:]
    assert f"shape {shape} is read as (N, C, H, W)" in said
    assert "images.transpose(0, 3, 1, 2)" in said
    assert heard(torch.tensor(pixels))[1] == ""  # whose layout is one


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (5, 32, 32, 3), (5, 1, 1, 1), (5, 1, 8, 4)])
def test_a_layout_that_is_one_is_not(shape):
    assert heard(RNG.random(shape))[1] == ""


@pytest.mark.parametrize(
    ("shape", "labels"), [((28, 28, 3), None), ((28, 28, 3), [0]), ((3, 28, 28), [0])]
)
def test_one_picture_is_no_set(shape, labels):
    with pytest.raises(
        ValueError, match=r"may be one picture, or \d+ grey ones; pass images\[None"
    ):
        make(RNG.random(shape), labels)
    assert len(make(RNG.random(shape)[None], labels)) == 1
    assert len(make(RNG.random(shape)[:, None], [0] * shape[0])) == shape[0]


def test_three_grey_pictures_may_be_one_of_colour():
    ds, said = heard(RNG.random((3, 28, 28)))
    assert ds.shape == (1, 28, 28)
    assert "if it is one of RGB, pass images[None]" in said
    assert heard(RNG.random((3, 28, 28)), [0, 1, 2])[1] == ""
    assert heard(RNG.random((4, 3, 3)), [0, 1, 2, 3])[1] == ""


@pytest.mark.parametrize("shape", [(2, 5, 5, 4), (2, 4, 5, 5)])
def test_rgba_is_not_guessed(shape):
    with pytest.raises(ValueError, match=r"1 or 3 channels.*RGBA is laid on white by a = images"):
        make(RNG.random(shape))


def test_the_advice_for_rgba_lays_on_white():
    from workbench.data.arrays import ON_WHITE

    scope = {"images": np.array([[[[0, 0, 0, 0], [0, 0, 0, 255]]]], np.uint8)}
    exec(ON_WHITE, scope)
    assert scope["images"].tolist() == [[[[1, 1, 1], [0, 0, 0]]]]


@pytest.mark.parametrize("shape", [(4, 0, 5), (0,), (2, 3), (1, 2, 3, 4, 5), (2, 2, 8, 8)])
def test_shapes_that_are_no_images(shape):
    with pytest.raises(ValueError, match="or 3 channels, got shape"):
        make(np.zeros(shape), np.zeros(shape[0], int))


def test_an_empty_set_is_a_set():
    ds = make(np.zeros((0, 8, 8), np.uint8), [])
    assert (len(ds), ds.shape, ds.labels.dtype) == (0, (1, 8, 8), torch.int64)


# --- labels -------------------------------------------------------------------------------

THREE = RNG.random((3, 8, 8))


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "names"),
    [
        (["dog", "cat", "dog"], None, [1, 0, 1], ("cat", "dog")),
        (np.array(["dog", "cat", "dog"]), None, [1, 0, 1], ("cat", "dog")),
        (np.array([b"dog", b"cat", b"dog"]), None, [1, 0, 1], ("cat", "dog")),
        (pd.Series(["dog", "cat", "dog"]), None, [1, 0, 1], ("cat", "dog")),
        (pd.Categorical(["dog", "cat", "dog"]), None, [1, 0, 1], ("cat", "dog")),
        (["dog", "cat", "dog"], ["dog", "cat", "eel"], [0, 1, 0], ("dog", "cat", "eel")),
        (["dog", "cat", "dog"], {"dog": 1, "cat": 0}, [1, 0, 1], ("cat", "dog")),
        (["10", "9", "2"], None, [2, 1, 0], ("2", "9", "10")),
        (pd.Series([2, 0, 1]), None, [2, 0, 1], ("0", "1", "2")),
        (torch.tensor([2, 0, 1]), ["a", "b", "c"], [2, 0, 1], ("a", "b", "c")),
        ([torch.tensor(1), torch.tensor(0), torch.tensor(1)], None, [1, 0, 1], ("0", "1")),
        ((-1, 0, -1), None, [-1, 0, -1], ("0",)),
        (np.array([1, 0, 1], np.uint8), None, [1, 0, 1], ("0", "1")),
        (None, None, [-1, -1, -1], ()),
        (None, ["a"], [-1, -1, -1], ("a",)),
    ],
)
def test_labels_are_numbers_or_names(labels, classes, numbers, names):
    ds = make(THREE, labels, classes)
    assert (ds.labels.tolist(), ds.classes) == (numbers, names)
    assert ds.named is (names not in ((), ("0",), ("0", "1"), ("0", "1", "2")))
    assert len(ds.sha256()) == 64


@pytest.mark.parametrize(
    ("labels", "classes", "error", "word"),
    [
        (np.eye(3), None, ValueError, r"expected shape \(N,\), got \(3, 3\).*argmax\(1\)"),
        ([[0], [1], [2]], None, ValueError, r"got \(3, 1\); pass labels.ravel\(\)"),
        ([0.0, 1.0, 2.0], None, TypeError, r"whole numbers or names.*astype\(int\)"),
        ([True, False, True], None, TypeError, r"bool; pass labels.astype\(int\)"),
        ([0.5, 1.0, 2.0], None, TypeError, r"got float64$"),
        (["cat", None, 1], None, TypeError, r"got object$"),
        (["cat", "dgo", "cat"], ["cat", "dog"], ValueError, "label 'dgo'. Did you mean 'dog'"),
        ([1, 2, 3], ["a", "b", "c"], ValueError, r"0\.\.2.*got 1\.\.3"),
        ([20240101, 1, 2], None, ValueError, r"got 20240101; number them by np.unique"),
        ([[0], [1, 2], [0]], None, ValueError, "labels: expected an array"),
    ],
)
def test_labels_that_are_none(labels, classes, error, word):
    with pytest.raises(error, match=word):
        make(THREE, labels, classes)


def test_a_set_of_names_goes_with_a_model_in_another_order():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    model = models.wrap(net, input_shape=(1, 8, 8), classes=["dog", "eel", "cat"])
    ds = make(THREE, ["cat", "dog", "cat"])
    assert models.matched(ds, model).labels.tolist() == [2, 0, 2]


# --- rows, drawings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ([True, False, True], [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, -3]), [2, 0]),
        (np.array([-1]), [2]),
        ([torch.tensor(1)], [1]),
        (slice(None, None, -1), [2, 1, 0]),
        (pd.Series([False, True, False]), [1]),
        ([], []),
        (torch.tensor([], dtype=torch.long), []),
    ],
)
def test_rows_are_picked_by_whatever_counts(index, rows):
    ds = make(THREE, [0, 1, 2], factors=pd.DataFrame({"row": [0, 1, 2]}))
    picked = ds[index]
    assert picked.labels.tolist() == picked.factors["row"].tolist() == rows
    assert np.allclose(picked.images[:, 0], THREE[rows])


@pytest.mark.parametrize("index", [-1, np.int64(-1), torch.tensor(-1), np.uint8(2)])
def test_one_row_by_whatever_is_a_number(index):
    image, label = make(THREE, [0, 1, 2])[index]
    assert (tuple(image.shape), label) == ((1, 8, 8), 2)


@pytest.mark.parametrize("index", [3, -4, True, [[0, 1]], 1.0, "0", None, [True, False], [0.5]])
def test_indices_that_are_none(index):
    with pytest.raises(IndexError):
        make(THREE, [0, 1, 2])[index]


@pytest.mark.parametrize("meant", [None, ""])
def test_a_drawing_without_a_label_is_right_about_nothing(meant):
    digits = data.load("digits", limit=5)
    ds = data.with_drawing(digits, torch.ones(1, 8, 8), meant)
    assert ds.labels.tolist() == [*digits.labels.tolist(), -1]
    assert (ds.classes, ds.named) == (digits.classes, digits.named)
    assert data.with_drawing(digits, torch.ones(1, 8, 8), "7").labels[-1] == 7
    with pytest.raises(ValueError, match="unknown meant 'x'"):
        data.with_drawing(digits, torch.ones(1, 8, 8), "x")
    flat = make(THREE)
    assert data.with_drawing(flat, torch.ones(1, 8, 8)).labels.tolist() == [-1] * 4


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("ink", [0, 255])
def test_the_text_of_a_drawing_made_elsewhere_is_read_on_white(mode, ink):
    import base64
    from io import BytesIO

    picture = Image.new("L", (8, 8), ink).convert(mode) if mode != "I;16" else None
    if picture is None:
        picture = Image.fromarray(np.full((8, 8), ink * 257, np.uint16))
    if mode.endswith("A"):
        picture.putalpha(Image.new("L", (8, 8), 0))
    file = BytesIO()
    picture.save(file, "PNG")
    image = data.from_text(base64.b64encode(file.getvalue()).decode())
    assert image.shape[0] == (3 if mode in ("RGB", "RGBA", "P") else 1)
    assert set(image.unique().tolist()) == {1.0 if mode.endswith("A") else ink / 255}


@given(st.integers(0, 2**31))
def test_drawings_survive_their_text(seed):
    bits = torch.randint(0, 256, (3, 4, 5), generator=torch.Generator().manual_seed(seed)) / 255
    assert torch.equal(data.from_text(data.as_text(bits)), bits)
