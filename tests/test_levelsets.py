"""Slices, traversals, stars, planes and extents: closed forms, invariants, errors."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, levelsets, models
from workbench.levelsets import LevelSetTraversal, extent, plane, span, star, through
from workbench.models import private_copy


@pytest.fixture(scope="module")
def digits():
    images = data.load("digits", limit=80)
    model = models.load("digits/cnn")
    right = model.predict(images.images).label == images.labels
    return model, images.images[right], images.labels[right]


def halves(slope=4.0):
    """Two classes told apart by how bright the image is: log-odds slope * (sum - 2)."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * 4, [slope] * 4]))
        layer.bias.copy_(torch.tensor([0.0, -2 * slope]))
    return models.wrap(nn.Sequential(nn.Flatten(), layer), input_shape=(1, 2, 2), classes=2)


def pairs(digits, n):
    model, x, y = digits
    source, labels = x[:n], y[:n]
    other = torch.stack([x[(y != label).nonzero()[i % 5, 0]] for i, label in enumerate(labels)])
    return model, source, other, labels


# Slices


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_slice_is_an_isometry(seed):
    generator = torch.Generator().manual_seed(seed)
    x, u, v = torch.rand(3, 3, 4, 5, generator=generator)
    at = through(x, u, v, 2)
    points = torch.rand(9, 2, generator=generator) * 4 - 2
    images = at.images(points)
    assert torch.allclose(at.points(images), points, atol=1e-5)
    assert at.off(images).max() < 1e-5
    apart = (images[0] - images[1]).norm()
    assert float(apart) == pytest.approx(float((points[0] - points[1]).norm()), abs=1e-5)
    assert float(at.points(x[None]).abs().max()) < 1e-6
    along = at.points((x + u / u.norm())[None])[0]  # u keeps its direction
    assert torch.allclose(along, torch.tensor([1.0, 0.0]), atol=1e-5)
    assert at.points((x + v)[None])[0, 1] > 0  # v its side


def test_span_holds_the_three_images():
    x = torch.rand(3, 1, 6, 6)
    at = span(*x)
    left, right, bottom, top = at.window
    assert at.off(x).max() < 1e-5
    points = at.points(x)
    assert ((points[:, 0] > left) & (points[:, 0] < right)).all()
    assert ((points[:, 1] > bottom) & (points[:, 1] < top)).all()


def test_off_is_the_distance_to_the_plane():
    x = torch.full((1, 2, 2), 0.5)
    u, v, w = torch.eye(4)[:3].view(3, 1, 2, 2)
    assert float(through(x, u, v).off((x + 0.3 * w + 0.1 * u)[None])) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": torch.zeros(1, 2, 2)}, "u: expected a direction"),
        ({"v": torch.full((1, 2, 2), torch.nan)}, "v: expected a direction"),
        ({"v": torch.ones(1, 2, 3)}, "v: expected the shape of x"),
        ({"v": -2 * torch.eye(4)[0].view(1, 2, 2)}, "collinear"),
        ({"extent": 0}, "extent"),
        ({"extent": (0, 1, 2, 2)}, "extent"),
        ({"x": torch.full((1, 2, 2), 3.0)}, r"\[0, 1\]"),
    ],
)
def test_what_spans_no_slice_is_refused(change, words):
    u, v = torch.eye(4)[:2].view(2, 1, 2, 2)
    with pytest.raises(ValueError, match=words):
        through(**{"x": torch.full((1, 2, 2), 0.5), "u": u, "v": v, **change})


# Traversals


def test_on_a_linear_model_a_traversal_ends_where_the_level_set_is_nearest_the_target():
    model = halves(1.0)
    source = torch.tensor([[[[0.2, 0.3], [0.1, 0.4]]]])  # sum 1: class 0
    target = torch.tensor([[[[0.9, 0.6], [0.7, 0.8]]]])  # sum 3: class 1
    found = LevelSetTraversal(n_steps=3000, eta=0.1, push=0.0, delta=0.02)(model, source, target)
    level = float(found.images.sum())
    nearest = target - (target.sum() - level) / 4  # on the hyperplane of that brightness
    assert torch.allclose(found.images, nearest, atol=2e-3)
    assert float(found.confidence[-1, 0]) > float(found.confidence[0, 0]) - 0.02


def test_every_image_keeps_its_class_and_confidence(digits):
    model, source, target, labels = pairs(digits, 40)
    found = LevelSetTraversal(n_steps=150, delta=0.1)(model, source, target, labels)
    before, after = model.predict(source), model.predict(found.images)
    assert (after.label == labels).all()
    assert (after.confidence > before.confidence - 0.1 - 1e-6).all()
    assert torch.allclose(after.confidence, found.confidence[-1], atol=1e-5)
    assert (found.frame()["rmse_ratio"] <= 1).all()
    assert found.summary()["rmse_ratio"] < 0.7
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_pairs_do_not_disturb_each_other_and_stop_by_themselves(digits):
    model, source, target, labels = pairs(digits, 6)
    attack = LevelSetTraversal(n_steps=150, eta=0.1)
    together = attack(model, source, target, labels)
    alone = attack(model, source[:1], target[:1], labels[:1])
    assert torch.allclose(together.images[:1], alone.images, atol=1e-4)
    near = source.clone()
    near[:, :, 0, 0] = (near[:, :, 0, 0] - 0.03).abs()
    mixed = attack(model, source, torch.cat([near[:3], target[3:]]), labels)
    assert (mixed.n_steps[:3] < 100).all()
    assert (mixed.distance[-1, :3] < mixed.distance[0, :3]).all()


def test_the_path_is_kept_for_few_pairs_and_its_ends_are_right(digits):
    model, source, target, labels = pairs(digits, 20)
    found = LevelSetTraversal(n_steps=30)(model, source[:2], target[:2], labels[:2])
    assert torch.equal(found.path[0], source[:2])
    assert torch.equal(found.path[-1], found.images)
    assert len(found.path) == len(found.moments) == len(found.confidence) == 31
    assert (found.distance.diff(dim=0) <= 1e-6).all()
    assert LevelSetTraversal(n_steps=3)(model, source, target, labels).path is None


def test_a_saturated_model_can_be_traversed_too(digits):
    model, source, target, labels = pairs(digits, 10)
    loud = private_copy(model, share=False)
    with torch.no_grad():
        loud.body.fc2.weight.mul_(100)
        loud.body.fc2.bias.mul_(100)
    assert (loud.predict(source).confidence == 1).all()
    found = LevelSetTraversal(n_steps=100)(loud, source, target, labels)
    assert (loud.predict(found.images).label == labels).all()
    assert found.summary()["rmse_ratio"] < 0.8


def test_the_model_and_the_generator_stay_as_they_were(digits):
    model, source, target, labels = pairs(digits, 3)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    work = LevelSetTraversal(n_steps=50).steps(model, source, target, labels, seed=3)
    for _ in range(4):
        value = next(work).value
    work.close()
    assert (model.predict(value.images).label == labels).all()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    again = [LevelSetTraversal(n_steps=9)(model, source, target, seed=3) for _ in range(2)]
    assert torch.equal(again[0].images, again[1].images)


class Codes(torch.nn.Module):
    """Whole numbers of an image: a gradient goes back to the weights behind, and not to it."""

    def forward(self, x):
        return (x > 0.5).float()


class Broken(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        z = x.flatten(1)[:, :2]
        bright = x.mean((1, 2, 3))[:, None] > 0.45  # as what `wrap` tries is
        return z.detach() if self.how == "cut" else z / bright


def test_bad_pairs_are_refused(digits):
    model, source, target, labels = pairs(digits, 3)
    go = LevelSetTraversal(n_steps=2)
    for arguments, words in [
        ((source, target[:2]), "target: expected one for each source"),
        ((source, target[:, :, :4]), "target: expected images of shape"),
        ((source * 255, target), "divide by 255"),
        ((source, source), "target: image 0 is its source"),
        ((source, target, (labels + 1) % 10), "source: image 0 is classified as"),
        ((source, target, labels[:2]), "expected 3 labels"),
        ((source[:0], target[:0]), "target: expected one for each source"),
    ]:
        with pytest.raises(ValueError, match=words):
            go(model, *arguments)
    shape = {"input_shape": (1, 8, 8), "classes": 2}
    with pytest.raises(ValueError, match="has no gradient"):
        go(models.wrap(Broken("cut"), **shape), source, target)
    coded = torch.nn.Sequential(Codes(), torch.nn.Flatten(), torch.nn.Linear(64, 2))
    with pytest.raises(ValueError, match="has no gradient"):
        go(models.wrap(coded, **shape), source, target)
    with pytest.raises(ValueError, match="NaN"):
        go(models.wrap(Broken("nan"), **shape), source, target)


# Stars


def test_a_star_asks_the_model_on_lines_and_triangles(digits):
    model, source, target, labels = pairs(digits, 3)
    ends = torch.stack([target, 1 - target, source])
    found = star(model, source, ends, labels)
    assert found.lines.shape == (3, 3, 11)
    assert found.triangles.shape == (3, 3, 66)
    half = model.predict(source + 0.5 * (target - source)).probabilities
    assert torch.allclose(found.lines[:, 0, 5], half.gather(1, labels[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(found.lines[:, 2], found.source[:, None].expand(3, 11), atol=1e-6)
    # The triangle's edges are the lines.
    assert torch.allclose(found.triangles[:, 0].amin(1) <= found.lines[:, 0].amin(1) + 1e-6, one(3))
    row = found.frame().iloc[0]
    share = (found.triangles[0] > found.source[0] - 0.2).float().mean()
    assert row["triangle_within_0.2"] == pytest.approx(float(share))
    assert star(model, source, ends[:1], labels).triangles.shape == (3, 0, 66)
    with pytest.raises(ValueError, match="ends: expected shape"):
        star(model, source, target, labels)


def one(n):
    return torch.ones(n, dtype=torch.bool)


# Planes


def test_a_plane_is_what_the_model_says_at_its_points(digits):
    model, x, _ = digits
    generator = torch.Generator().manual_seed(0)
    at = through(x[0], *torch.randn(2, 1, 8, 8, generator=generator), 1.0)
    found = plane(model, at, 33, label=4)
    points = at.grid(33)
    with torch.no_grad():
        shares = model(at.images(points)).softmax(1)
    assert torch.equal(found.predicted.flatten(), shares.argmax(1))
    assert torch.allclose(found.confidence.flatten(), shares.amax(1), atol=1e-5)
    assert torch.allclose(found.followed.flatten(), shares[:, 4], atol=1e-5)
    assert torch.allclose(found.probabilities.flatten(0, 1), shares, atol=1e-5)
    images = at.images(points).flatten(1)
    inside = (images.amin(1) >= -1e-6) & (images.amax(1) <= 1 + 1e-6)
    assert torch.equal(found.inside.flatten(), inside)
    assert sum(found.summary()["shares"].values()) == pytest.approx(1)


@pytest.mark.parametrize(("n", "sides"), [(65, [17, 33, 65]), (201, [26, 51, 101, 201]), (7, [7])])
def test_a_plane_sharpens_and_asks_no_point_twice(digits, n, sides, monkeypatch):
    model, x, _ = digits
    at = through(x[0], *torch.randn(2, 1, 8, 8), 1.0)
    asked = []
    plain = models.Classifier.forward
    monkeypatch.setattr(
        models.Classifier, "forward", lambda self, x: (asked.append(len(x)), plain(self, x))[1]
    )
    values = [step.value for step in plane.steps(model, at, n, label=0) if step.value is not None]
    assert [len(value.predicted) for value in values] == sides
    assert sum(asked) == n * n
    for coarse, fine in itertools.pairwise(values):
        step = (len(fine.predicted) - 1) // (len(coarse.predicted) - 1)
        assert torch.equal(fine.predicted[::step, ::step], coarse.predicted)


def test_contours_of_a_linear_model_are_its_lines():
    model = halves(2.0)
    x = torch.full((1, 2, 2), 0.5)  # on the boundary
    u = torch.ones(1, 2, 2)
    v = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])
    found = plane(model, through(x, u, v, 0.5), 65, label=1)
    (line,) = found.contours(0.5)
    assert line[:, 0].abs().max() < 1e-4
    assert line[:, 1].aminmax() == pytest.approx((-0.5, 0.5))
    (higher,) = found.contours(0.75)  # log-odds log 3 = 2 * 2 a
    assert torch.allclose(higher[:, 0], torch.tensor(3.0).log() / 4, atol=1e-3)


def test_bad_planes_are_refused(digits):
    model, x, _ = digits
    at = through(x[0], *torch.randn(2, 1, 8, 8))
    for arguments, words in [
        ({"n": 1}, "n: expected a whole number of at least 2"),
        ({"label": 10}, "label: expected values in 0..9"),
        ({"at": through(torch.rand(1, 2, 2), *torch.randn(2, 1, 2, 2))}, "slice: expected images"),
    ]:
        with pytest.raises(ValueError, match=words):
            plane(model, **{"at": at, **arguments})
    broken = models.wrap(Broken("nan"), input_shape=(1, 8, 8), classes=2)
    with pytest.raises(ValueError, match="NaN"):
        plane(broken, at, 5, label=0)


# Extents


def test_the_extent_of_a_linear_model_is_its_closed_form():
    model = halves(3.0)
    x = torch.full((2, 1, 2, 2), 0.3)
    rays = torch.stack([torch.ones(1, 2, 2), torch.tensor([[[1.0, -1.0], [1.0, -1.0]]])])
    found = extent(model, x, rays.expand(2, 2, 1, 2, 2), delta=0.1, limit=0.5)
    start = torch.tensor(3 * (2 - 4 * 0.3)).sigmoid()
    odds = torch.logit(start - 0.1)  # of class 0, 3 * (2 - sum)
    reach = (2 - odds / 3 - 4 * 0.3) / 2  # along (1, 1, 1, 1) / 2 the sum grows by 2 a unit
    assert torch.allclose(found.reach[:, 0], reach.expand(2), atol=2e-4)
    assert found.whole.tolist() == [[False, True]] * 2
    assert torch.allclose(found.reach[:, 1], torch.full((2,), 0.5), atol=1e-5)


def test_rays_are_clipped_to_the_box(digits):
    model, x, _ = digits
    out = -torch.ones(1, 1, 1, 8, 8)
    black = torch.zeros(1, 1, 8, 8)
    found = extent(model, x[:1] * 0.01, out, delta=1.0, limit=50.0)
    assert float(found.reach) <= float((x[:1] * 0.01 - black).norm()) + 1e-6


def test_bad_rays_are_refused(digits):
    model, x, _ = digits
    rays = torch.randn(2, 3, 1, 8, 8)
    for arguments, words in [
        ({"directions": rays[:1]}, "directions: expected shape"),
        ({"directions": rays * 0}, "zero or NaN"),
        ({"delta": 0.0}, "delta"),
        ({"limit": -1.0}, "limit"),
        ({"n_scan": 0}, "n_scan"),
    ]:
        with pytest.raises(ValueError, match=words):
            extent(model, x[:2], **{"directions": rays, **arguments})
    with pytest.raises(ValueError, match="number of images"):
        extent(model, x[:0], rays[:0])


def test_long_work_can_be_run_step_by_step(digits):
    model, x, _ = digits
    at = through(x[0], *torch.randn(2, 1, 8, 8))
    assert torch.equal(plane(model, at, 17).predicted, levelsets.plane(model, at, 17).predicted)
