"""Classes are names: a data set that orders, numbers or names them otherwise than the model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import attacks, checks, data, models, patterns, robustness

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=120)


@pytest.fixture(scope="module")
def model():
    return models.load("digits/cnn")


def reordered(images, order):
    """The same images and names, where class k has the number `order.index(k)`."""
    number = torch.tensor([order.index(k) for k in range(len(order))])
    classes = [images.classes[k] for k in order]
    return data.ImageDataset(images.images, number[images.labels], classes, "reordered")


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(10)))
def test_an_order_of_classes_changes_no_figure(order):
    images, model = data.load("digits", limit=60), models.load("digits/cnn")
    other = reordered(images, order)
    assert torch.equal(models.matched(other, model).labels, images.labels)
    assert models.measure(model, other) == models.measure(model, images)
    battery, eps = [attacks.FGSM(eps=0.1)], [0.1]
    one, two = (robustness.evaluate(model, d, battery, eps=eps) for d in (images, other))
    assert one.rows.equals(two.rows)


@pytest.mark.parametrize("order", [list(range(9, -1, -1)), [1, 0, *range(2, 10)]])
def test_an_order_of_classes_changes_no_pattern(digits, model, order):
    first, second = (patterns.mine(model, d, 0.9) for d in (digits, reordered(digits, order)))
    for name, phase in first.phases.items():
        assert torch.equal(phase, second.phases[name])
    found = [patterns.quality(first, model, d).frame() for d in (digits, reordered(digits, order))]
    assert found[0].equals(found[1])


def test_some_of_the_classes_are_enough(digits, model):
    some = digits[(digits.labels == 3) | (digits.labels == 7)]
    two = data.ImageDataset(some.images, (some.labels == 3).long(), ("7", "3"), "two")
    assert torch.equal(models.matched(two, model).labels, some.labels)
    assert models.measure(model, two) == models.measure(model, some)


def test_numbers_stand_for_names_where_nobody_gave_any(digits):
    body = models.load("digits/cnn").body
    words = models.wrap(body, input_shape=(1, 8, 8), classes=WORDS)
    mere = models.wrap(body, input_shape=(1, 8, 8))
    unnamed = data.ImageDataset.from_arrays(digits.images, digits.labels)
    named = data.ImageDataset(digits.images, digits.labels, WORDS, "words")
    right = int((mere.predict(digits.images).label == digits.labels).sum())
    pairs = [(words, unnamed), (mere, unnamed), (mere, named), (words, named), (mere, digits)]
    for model, images in pairs:
        assert models.measure(model, images)["test_correct"] == right
    # Named on both sides and not one name in common: nothing is right.
    with pytest.raises(ValueError, match=r"no image of digits has a label that .* right about"):
        models.measure(words, digits)
    assert models.matched(digits, words).labels.tolist() == [-1] * len(digits)


@pytest.mark.parametrize(
    ("classes", "named", "strange"),
    [
        (("none", *"0123456789"), True, "'none'"),
        (tuple(map(str, range(11))), False, "'10'"),
        (("0", "1", "two", *"3456789"), True, "'two'"),
    ],
)
def test_classes_that_only_partly_fit_are_refused_everywhere(
    digits, model, classes, named, strange
):
    other = data.ImageDataset(digits.images, digits.labels, classes, "other", named=named)
    for measure in (
        lambda: models.measure(model, other),
        lambda: robustness.evaluate(model, other, [attacks.FGSM()], eps=[0.1]),
    ):
        with pytest.raises(ValueError, match=f"has no class {strange}, as other has"):
            measure()
    # What the message offers: labels of strange classes are not known.
    known = models.matched(other, model)
    assert models.measure(model, known)["test_total"] == int((known.labels >= 0).sum())


def test_other_images_are_refused(digits):
    with pytest.raises(ValueError, match=r"takes \(1, 28, 28\) images, digits has \(1, 8, 8\)"):
        models.measure(models.load("mnist/mlp"), digits)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (np.array(["a", "b"]), ("a", "b")),
        (np.array([b"a", b"b"]), ("a", "b")),
        ([3, 5], ("3", "5")),
        (np.array([3, 5]), ("3", "5")),
        (torch.tensor([3, 5]), ("3", "5")),
        ({1: "b", 0: "a"}, ("a", "b")),
        ({"1": "b", "0": "a"}, ("a", "b")),  # as JSON keeps numbers
        ({"b": 1, "a": 0}, ("a", "b")),
        ({"10": 0, "2": 1}, ("10", "2")),  # class_to_idx of folders called by numbers
        ({"b": np.int64(1), "a": np.int64(0)}, ("a", "b")),
        ({"a": 0, "b": 1}.keys(), ("a", "b")),
    ],
)
def test_class_names(given, expected):
    assert checks.class_names(given) == expected
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    assert models.wrap(net, input_shape=(1, 2, 2), classes=given).classes == expected
    zeros = torch.zeros(2, 1, 2, 2)
    assert data.ImageDataset(zeros, torch.tensor([0, 1]), given).classes == expected
    assert data.ImageDataset.from_arrays(zeros, [0, 1], given).classes == expected


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("ab", TypeError, "expected names in order, got 'ab'"),
        ({"a", "b"}, TypeError, "a set has no order"),
        (frozenset("ab"), TypeError, "a set has no order"),
        (2.5, TypeError, "expected names in order"),
        (["a", "a"], ValueError, r"got 'a' for 0 and for 1; call them 'a \(0\)' and 'a \(1\)'"),
        ({1: "a", 2: "b"}, ValueError, "expected the numbers 0 to 1, each with one name, got 1, 2"),
        ({"a": 1, "b": 2}, ValueError, "expected the numbers 0 to 1"),
        ({"a": 0, "b": 0}, ValueError, "expected the numbers 0 to 1"),
        ({"x": "a", "y": "b"}, ValueError, "expected the numbers 0 to 1"),
        ({0.5: "a", 1: "b"}, ValueError, "expected the numbers 0 to 1"),
    ],
)
def test_class_names_refused(given, error, words):
    zeros, net = torch.zeros(2, 1, 2, 2), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    for use in (
        lambda: data.ImageDataset(zeros, torch.tensor([0, 1]), given),
        lambda: data.ImageDataset.from_arrays(zeros, [0, 1], given),
        lambda: models.wrap(net, input_shape=(1, 2, 2), classes=given),
    ):
        with pytest.raises(error, match=words):
            use()


def test_twins_of_a_list_that_is_not_ones_own_are_numbered():
    assert checks.numbered(["crane", "kite", "crane"]) == ("crane (0)", "kite", "crane (2)")
