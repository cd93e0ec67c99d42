import numpy as np
import pytest
import torch

from workbench import data
from workbench.data import shapes
from workbench.data.outlines import OUTLINES

CUES = ["texture", "colour", "background"]


@pytest.fixture(scope="module")
def default():
    return data.load("shapes", "test")


def counts(frame, a, b):
    return frame.groupby([a, b]).size().unstack(fill_value=0).to_numpy()


def chi_square(table):
    """Pearson's statistic of independence, divided by its degrees of freedom."""
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return float(((table - expected) ** 2 / expected).sum()) / freedom


def test_images_never_change(default):
    assert default.sha256() == "85930e057471353075ce2ba0aaa3fc853e0085009d8c898b8e38a64675bd53e4"


@pytest.mark.parametrize("limit", [1, shapes.CHUNK + 3])
def test_first_images_are_the_same_whatever_the_limit(default, limit):
    first = data.load("shapes", "test", limit)
    assert torch.equal(first.images, default.images[:limit])
    assert first.factors.equals(default.factors.head(limit))


def test_seed_and_split_give_other_images(default):
    for other in (data.load("shapes", "test", 50, seed=1), data.load("shapes", "train", 50)):
        same = (other.images == default.images[:50]).flatten(1).all(1)
        assert not same.any()


def test_classes_are_balanced(default):
    assert torch.bincount(default.labels).tolist() == [200] * 10
    assert sorted(data.load("shapes", "test", 10).labels.tolist()) == list(range(10))


def test_factors_tell_the_label_and_stay_in_range(default):
    factors = default.factors
    assert factors.columns.tolist() == ["shape", *CUES, "scale", "rotation", "x", "y"]
    assert factors["shape"].tolist() == [default.classes[k] for k in default.labels]
    for name, (low, high) in shapes.RANGES.items():
        assert low <= factors[name].min() < factors[name].max() < high
    for cue in CUES:
        assert set(factors[cue]) == set(shapes.CUES[cue])


def test_factors_are_independent(default):
    frame = default.factors.copy()
    for name in shapes.RANGES:
        frame[name] = (frame[name].rank(pct=True) * 9.999).astype(int)
    names = list(frame.columns)
    for i, a in enumerate(names):
        for b in names[:i]:
            # 81 degrees of freedom: mean 1, standard deviation 0.16
            assert chi_square(counts(frame, a, b)) < 1.8, (a, b)


@pytest.mark.parametrize("cue", CUES)
@pytest.mark.parametrize("p", [0.0, 0.5, 0.9, 1.0])
def test_correlate_ties_a_cue_to_the_class(cue, p):
    n = 2000
    ds = data.load("shapes", "test", n, correlate={cue: p})
    table = np.zeros((10, 10), dtype=int)
    taken = [shapes.CUES[cue].index(value) for value in ds.factors[cue]]
    np.add.at(table, (ds.labels.numpy(), taken), 1)
    own = np.trace(table) / n
    assert abs(own - p) <= 4 * np.sqrt(p * (1 - p) / n)
    others = table[~np.eye(10, dtype=bool)]
    assert others.sum() == n - np.trace(table)
    if p < 0.9:  # the other nine are equally likely
        mean = (1 - p) * n / 90
        assert np.abs(others - mean).max() < 5 * np.sqrt(mean)


def test_correlate_leaves_the_other_factors_alone(default):
    tied = data.load("shapes", "test", 200, correlate={"texture": 1.0}).factors
    columns = [name for name in tied.columns if name != "texture"]
    assert tied[columns].equals(default.factors.head(200)[columns])
    same = data.load("shapes", "test", 100, correlate=dict.fromkeys(CUES, 0.1))
    assert torch.equal(same.images, default.images[:100])  # a tenth is independence


def test_cue_conflict_names_the_class_of_the_texture():
    ds = data.load("shapes", "test", cue_conflict=True)
    factors = ds.factors
    assert (factors["texture_class"] != factors["shape"]).all()
    of_class = dict(zip(shapes.CUES["texture"], ds.classes, strict=True))
    assert factors["texture"].map(of_class).tolist() == factors["texture_class"].tolist()
    table = counts(factors, "shape", "texture_class")
    assert np.abs(table - 200 / 9 * ~np.eye(10, dtype=bool)).max() < 5 * np.sqrt(200 / 9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"correlate": {"texure": 0.5}}, "mean 'texture'"),
        ({"correlate": {"scale": 0.5}}, "cue to correlate 'scale'"),
        ({"correlate": {"colour": 1.5}}, "1.5"),
        ({"correlate": {"colour": float("nan")}}, "nan"),
        ({"correlate": {"texture": 0.5}, "cue_conflict": True}, "cue conflict"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        data.load("shapes", limit=5, **options)


def test_morph_labels_follow_the_known_probabilities():
    ds = data.morphs("circle", "star", 4000, seed=3)
    t, p_a, p_b = (ds.factors[name].to_numpy() for name in ("t", "p_a", "p_b"))
    assert np.allclose(p_a + p_b, 1)
    assert np.array_equal(p_b, t)
    is_b = ds.labels.numpy() == ds.classes.index("star")
    assert set(ds.labels.tolist()) == {ds.classes.index("circle"), ds.classes.index("star")}
    for low in np.arange(0, 1, 0.1):
        bin_ = (t >= low) & (t < low + 0.1)
        error = is_b[bin_].mean() - t[bin_].mean()
        assert abs(error) < 4 * np.sqrt(0.25 / bin_.sum())
    assert ds.classes == shapes.CLASSES


def centres(ds):
    """Darkest channel of the pixel at the middle of each shape."""
    x, y = (ds.factors[name].to_numpy().astype(int) for name in "xy")
    return ds.images[np.arange(len(ds)), :, y, x].min(1).values


def test_morphs_run_from_one_class_to_the_other():
    ds = data.morphs("circle", "ring", 1000)
    order = ds.factors["t"].argsort().to_numpy()
    # backgrounds are light and nearly grey: no colour of a shape is both, and a ring is hollow
    assert (centres(ds[order[:100]]) > 0.5).float().mean() < 0.1
    assert (centres(ds[order[-100:]]) > 0.5).float().mean() > 0.9
    assert torch.equal(ds.images[:9], data.morphs("circle", "ring", 9).images)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("circel", "star", 5), "mean 'circle'"),
        (("star", "star", 5), "'star' twice"),
        (("star", "ring", 0), "n: "),
    ],
)
def test_wrong_morphs_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        data.morphs(*arguments)


@pytest.mark.parametrize("name", list(OUTLINES))
def test_outline_fits_the_unit_circle_and_has_an_inside(name):
    axis = np.linspace(-1.5, 1.5, 121, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    distance = OUTLINES[name](x, y)
    inside = distance < 0
    assert 0.8 < inside.sum() * (axis[1] - axis[0]) ** 2 < 2.7
    assert not inside[np.hypot(x, y) > 1.05].any()
    # a distance never changes faster than the place: what morphs and soft edges rest on
    slope = np.abs(np.diff(distance, axis=1)).max() / (axis[1] - axis[0])
    assert slope < 1.02


def test_square_and_circle_match_their_closed_forms():
    x = np.array([0.0, 0.72, 1.72, 0.0, 1.72], dtype=np.float32)
    y = np.array([0.0, 0.0, 0.0, 0.5, 1.72], dtype=np.float32)
    expected = [-0.72, 0, 1, -0.22, np.sqrt(2)]
    assert OUTLINES["square"](x, y) == pytest.approx(expected, abs=1e-6)
    assert OUTLINES["circle"](x, y) == pytest.approx(np.hypot(x, y) - 0.9, abs=1e-6)


def test_every_shape_stands_out_from_its_background(default):
    filled = default[~np.isin(default.factors["shape"], ["ring", "crescent", "hourglass"])]
    corners = filled.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(2)
    x, y = (filled.factors[name].to_numpy().astype(int) for name in "xy")
    rows = np.arange(len(filled))
    patch = sum(filled.images[rows, :, y + i, x + j] for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    assert (patch - corners).norm(dim=1).min() > 0.2
