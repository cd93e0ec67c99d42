import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import checks


def test_images_pass_and_rounding_is_clamped():
    x = torch.rand(2, 1, 4, 4)
    assert checks.images(x) is x
    x[0, 0, 0, 0] = -1e-8
    x[1, 0, 0, 0] = 1 + 1e-7
    mended = checks.images(x)
    assert mended.min() == 0
    assert mended.max() == 1


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[0.0]], TypeError, "torch.Tensor"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TypeError, "divide by 255"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), TypeError, "float32"),
        (torch.zeros(1, 4, 4), ValueError, r"x\[None\]"),
        (torch.full((2, 1, 4, 4), 255.0), ValueError, r"\[255, 255\].*divide by 255"),
        (torch.full((2, 1, 4, 4), -1e-3), ValueError, r"\[0, 1\]"),
        (torch.full((2, 1, 4, 4), float("nan")), ValueError, "nan"),
        (torch.full((2, 1, 4, 4), float("inf")), ValueError, "inf"),
    ],
)
def test_images_that_break_the_contract(x, error, words):
    with pytest.raises(error, match=words):
        checks.images(x, name="x")


def test_images_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"expected images of shape \(3, 4, 4\), got \(1, 4, 4\)"):
        checks.images(torch.zeros(2, 1, 4, 4), (3, 4, 4))


def test_no_images_at_all_are_fine():
    assert len(checks.images(torch.zeros(0, 1, 4, 4))) == 0


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        ([0, 1], TypeError, "torch.Tensor"),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError, "int64"),
        (torch.tensor([0.0, 1.0]), TypeError, "int64"),
        (torch.tensor([[0, 1]]), ValueError, r"\(N,\)"),
        (torch.tensor([0, 10]), ValueError, r"0\.\.9, got 0\.\.10"),
        (torch.tensor([-1, 0]), ValueError, r"got -1\.\.0"),
        (torch.tensor([0, 1, 2]), ValueError, "expected 2 labels"),
    ],
)
def test_labels_that_break_the_contract(y, error, words):
    with pytest.raises(error, match=words):
        checks.labels(y, 10, 2)


def test_unknown_names_suggest_the_nearest():
    error = checks.unknown("model", "mnist/cn", ["digits/cnn", "mnist/cnn"])
    assert "Did you mean 'mnist/cnn'?" in str(error)
    assert "Did you mean" not in str(checks.unknown("model", "zzz", ["digits/cnn"]))
    assert "Known: none" in str(checks.unknown("model", "zzz", []))


@given(st.one_of(st.integers(max_value=0), st.booleans(), st.floats(), st.text()))
def test_positive_refuses_all_but_positive_whole_numbers(value):
    with pytest.raises(ValueError, match="n: expected a whole number"):
        checks.positive("n", value)
