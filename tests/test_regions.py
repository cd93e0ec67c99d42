"""Exact linear regions: they tile the window, and in each the network is what they say."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import levelsets, models
from workbench.levelsets import piecewise
from workbench.models import architectures


class Functional(nn.Module):
    """Plain calls, a sum in place, a ReLU in place and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.fc = nn.ReLU(), nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = F.relu(self.conv1(x), inplace=True)
        y = F.max_pool2d(x, 2)
        y += self.act(self.conv2(y))
        y = self.act(y - 0.1) * 2 + torch.cat([y[:, 2:], y[:, :2]], 1)
        return self.fc(y.view(len(y), -1))


class Inplace(nn.Module):
    """A shortcut that sees what the ReLU in place wrote."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.fc1(x.flatten(1))
        y = self.fc2(self.act(x))
        return self.fc3(x + y)


def leaky():
    layers = [nn.Linear(16, 12), nn.LeakyReLU(0.2), nn.BatchNorm1d(12), nn.LeakyReLU(1.5, True)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Dropout(), nn.Linear(12, 3))


def average():
    layers = [nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)]
    more = [nn.Conv2d(4, 4, 2, groups=2, dilation=2, padding=1), nn.ReLU()]
    return pooled(*layers, *more, nn.AdaptiveAvgPool2d(2), features=16)


def pooled(*layers, features):
    conv = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(conv, *layers, nn.Flatten(), nn.Linear(features, 3))


NETWORKS = {  # the shape of an image, the extent of the window, the network
    "linear": ((1, 4, 4), 1, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))),
    "mlp": ((1, 4, 4), 2, lambda: architectures.mlp((1, 4, 4), 3, hidden=(20, 12, 8))),
    "leaky": ((1, 4, 4), 2, leaky),
    "cnn": ((1, 8, 8), 1.5, lambda: architectures.cnn((1, 8, 8), 3, channels=(3, 4), hidden=8)),
    "resnet": ((2, 6, 6), 0.3, lambda: architectures.resnet((2, 6, 6), 3, width=2)),
    "functional": ((2, 6, 6), 0.5, Functional),
    "inplace": ((1, 4, 4), 2, Inplace),
    "relu, pool": ((2, 6, 6), 0.5, lambda: pooled(nn.ReLU(), nn.MaxPool2d(2), features=36)),
    "overlap": (
        (2, 6, 6),
        0.4,
        lambda: pooled(nn.MaxPool2d(3, 2, padding=1), nn.ReLU(), features=36),
    ),
    "ceil": ((2, 5, 6), 0.4, lambda: pooled(nn.MaxPool2d((2, 3), 2, ceil_mode=True), features=36)),
    "dilated": ((2, 6, 6), 0.4, lambda: pooled(nn.MaxPool2d(2, 1, dilation=2), features=64)),
    "average": ((2, 6, 6), 1, average),
}
EACH = pytest.mark.parametrize("name", NETWORKS)


def seeded(make, seed=0):
    """A network whose batch statistics are not trivial either."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.5, 2)
                nn.init.normal_(part.bias)
    return module.eval()


def window(shape, extent, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x, u, v = (torch.rand(shape, generator=draw) for _ in range(3))
    return levelsets.through(x, u - 0.5, v - 0.5, extent)


def case(name):
    shape, extent, make = NETWORKS[name]
    model = models.wrap(seeded(make), input_shape=shape, mean=(0.4,), std=(0.3,))
    return model, window(shape, extent)


def inside(plane, n, seed=0):
    left, right, bottom, top = plane.window
    return np.random.default_rng(seed).uniform([left, bottom], [right, top], (n, 2))


def exactly(model, plane, points):
    """Logits in float64 of a copy of the model, and what its ReLUs and poolings do."""
    body = models.private_copy(model, share=False).double()
    seen = []

    def note(module, inputs):
        if isinstance(module, nn.MaxPool2d):
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
            options = [getattr(module, name) for name in names]
            seen.append(F.max_pool2d_with_indices(inputs[0], *options)[1])
        else:
            seen.append(inputs[0] > 0)

    for part in body.modules():
        if isinstance(part, nn.ReLU | nn.LeakyReLU | nn.MaxPool2d):
            part.register_forward_pre_hook(note)
    origin, u, v = (t.double().flatten() for t in (plane.origin, plane.u, plane.v))
    a, b = torch.from_numpy(points.copy()).T[:, :, None]
    x = (origin + a * u + b * v).view(-1, *plane.origin.shape)
    with torch.no_grad():
        return body(x).numpy(), [s.numpy() for s in seen]


def maps_at(result, points):
    where = result.locate(points)
    assert (where >= 0).all()
    return np.einsum("mkc,mc->mk", result.weight[where], points) + result.bias[where], where


def holders(result, points, margin=0.0):
    """How many polygons hold each point, by their edges alone."""
    count = np.zeros(len(points), int)
    for polygon in result.polygons:
        edge = np.roll(polygon, -1, 0) - polygon
        to = points[:, None] - polygon
        count += ((edge[:, 0] * to[..., 1] - edge[:, 1] * to[..., 0]) > margin).all(1)
    return count


def tiles(result, plane):
    left, right, bottom, top = plane.window
    whole = (right - left) * (top - bottom)
    assert (result.area >= 0).all()
    return abs(result.area.sum() / whole - 1) < 1e-6


@EACH
def test_regions_tile_the_window_and_are_the_network(name):
    model, plane = case(name)
    result = levelsets.regions(model, plane)
    points = inside(plane, 2000)
    assert tiles(result, plane)
    assert (holders(result, points) == 1).all()  # no overlap, no gap
    said, where = maps_at(result, points)
    true, _ = exactly(model, plane, points)
    assert np.abs(said - true).max() < 1e-9
    raw = model(plane.images(torch.from_numpy(points))).detach().numpy()
    assert np.abs(said - raw).max() < 1e-4
    constant = result.label[where] >= 0
    assert (result.label[where] == true.argmax(1))[constant].all()
    assert len(result) == 1 + sum(result.cuts.values())


@EACH
def test_the_choices_of_a_region_are_those_of_its_points(name):
    model, plane = case(name)
    result = levelsets.regions(model, plane)
    points = inside(plane, 2000)
    where = result.locate(points)
    _, seen = exactly(model, plane, points)
    if name == "functional":  # its plain calls are out of sight of hooks: those of `act` are not
        chosen = [c for layer, c in result.choices.items() if layer.startswith("act")]
    else:
        chosen = list(result.choices.values())
    assert len(chosen) == len(seen)
    patterns = [c.reshape(len(result), -1) for c in result.choices.values()]
    patterns = np.concatenate([np.zeros((len(result), 1)), *patterns], 1)
    assert len(np.unique(patterns, axis=0)) == len(result)  # no region twice
    found = [np.zeros((2000, 1))]
    for ours, theirs in zip(chosen, seen, strict=True):
        assert ours.shape[1:] == theirs.shape[1:]
        found.append(theirs.reshape(2000, -1))
        if theirs.dtype == bool:
            assert (ours[where] == theirs).all()
        else:  # one winner a region, the n-th pixel of its window
            first = np.zeros((len(result), *theirs.shape[1:]), int)
            first[where] = theirs
            assert (first[where] == theirs).all()


@pytest.mark.parametrize("name", ["overlap", "ceil", "dilated"])
def test_a_pooling_says_which_pixel_of_its_window_wins(name):
    model, plane = case(name)
    result = levelsets.regions(model, plane)
    pool = next(part for part in model.body if isinstance(part, nn.MaxPool2d))
    (index,) = [n for n, part in enumerate(model.body) if part is pool]
    points = inside(plane, 300)
    _, seen = exactly(model, plane, points)
    ours = result.choices[str(index)][result.locate(points)]
    size, step, pad, gap = (
        (n, n) if isinstance(n, int) else n
        for n in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    _, height, width = plane.origin.shape
    for i, j in np.ndindex(ours.shape[2:]):
        rows = [i * step[0] - pad[0] + k * gap[0] for k in range(size[0])]
        columns = [j * step[1] - pad[1] + k * gap[1] for k in range(size[1])]
        pixels = [(r, c) for r in rows for c in columns if 0 <= r < height and 0 <= c < width]
        flat = np.array([r * width + c for r, c in pixels])
        assert (flat[ours[:, :, i, j]] == seen[0][:, :, i, j]).all()


def flat(weight, bias, head=None):
    """A model of the whole plane (a, b): one ReLU layer, given by the rows of its weights."""
    first = nn.Linear(2, len(bias))
    head = head or seeded(lambda: nn.Linear(len(bias), 2))
    with torch.no_grad():
        first.weight.copy_(torch.tensor(weight))
        first.bias.copy_(torch.tensor(bias))
    return models.wrap(nn.Sequential(nn.Flatten(), first, nn.ReLU(), head), input_shape=(1, 1, 2))


def square(extent=1.0):
    """The plane (a, b) itself."""
    x, u, v = (torch.tensor([[row]]) for row in ([0.0, 0], [1.0, 0], [0, 1.0]))
    return levelsets.through(x, u, v, extent)


ARRANGEMENTS = {  # weights and biases of lines, and the regions that they make in [-1, 1]^2
    "no line": ([[1, 0]], [2], 1),
    "one line": ([[1, 0]], [0], 2),
    "a cross": ([[1, 0], [0, 1]], [0, 0], 4),
    "a triangle": ([[1, 0], [0, 1], [1, 1]], [0.1, 0.2, 0], 7),
    "three through a point": ([[1, 0], [0, 1], [1, 1]], [0, 0, 0], 6),
    "parallel": ([[1, 0], [2, 0], [1, 0]], [0, 1, -0.5], 4),
    "the same line thrice": ([[1, 1], [-1, -1], [2, 2]], [0.25, -0.25, 0.5], 2),
    "dead": ([[0, 0], [0, 0], [0, 0]], [1, 0, -1], 1),
    "dead and alive": ([[0, 0], [1, 0.5]], [-1, 0.1], 2),
    "a touched corner": ([[1, 1]], [2], 1),
    "a touched side": ([[1, 0]], [-1], 1),
    "through two corners": ([[1, -1], [1, 1]], [0, 0], 4),
    "nearly the same": ([[1, 0], [1, 1e-9]], [0, 0], 4),
    "the same but for rounding": ([[1, 0], [1, 1e-14]], [0, 0], 2),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements_of_lines_known_by_hand(name):
    weight, bias, expected = ARRANGEMENTS[name]
    with torch.no_grad():
        result = levelsets.regions(flat(weight, bias), square())
    assert len(result) == expected
    assert tiles(result, square())
    assert result.cuts == {"2": expected - 1}
    assert sum(map(len, result.polygons)) == result.counts.sum()


@settings(deadline=None, max_examples=40)
@given(
    lines=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(-3, 3)), max_size=9
    )
)
def test_lines_of_whole_numbers_cut_as_counting_says(lines):
    """Degenerate on purpose: many pass through one point, through corners, along sides."""
    lines = [(2 * a, 2 * b, c) for a, b, c in lines] or [(0, 0, 0)]
    result = levelsets.regions(flat([n[:2] for n in lines], [n[2] for n in lines]), square())
    # Regions = 1 + lines + the sum over points inside of (lines through it - 1).
    inner = {
        (a / (a or b), b / (a or b), c / (a or b)) for a, b, c in lines if abs(c) < abs(a) + abs(b)
    }
    through = {}
    for (a, b, c), (d, e, f) in itertools.permutations(inner, 2):
        det = a * e - b * d
        x, y = ((b * f - e * c) / det, (d * c - a * f) / det) if det else (1, 1)
        if max(abs(x), abs(y)) < 1 - 1e-9:
            through.setdefault((round(x, 9) + 0.0, round(y, 9) + 0.0), set()).add((a, b, c))
    expected = 1 + len(inner) + sum(len(met) - 1 for met in through.values())
    assert len(result) == expected
    assert tiles(result, square())
    sides = [np.linalg.norm(np.roll(p, -1, 0) - p, axis=1).min() for p in result.polygons]
    assert min(sides) > 1e-3  # no corner twice


@settings(deadline=None, max_examples=30)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    slope=st.sampled_from([0.0, 0.1, 2.0]),
    coarse=st.booleans(),
    extent=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 10**6),
)
def test_small_networks(widths, slope, coarse, extent, seed):
    def make():
        layers, before = [nn.Flatten()], 4
        for width in widths:
            layers += [nn.Linear(before, width), nn.LeakyReLU(slope) if slope else nn.ReLU()]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, 3))

    module = seeded(make, seed)
    if coarse:  # equal, zero and opposite weights
        for p in module.parameters():
            p.data = (2 * p.data).round() / 2
    model, plane = models.wrap(module, input_shape=(1, 2, 2)), window((1, 2, 2), extent, seed)
    result = levelsets.regions(model, plane)
    points = inside(plane, 300, seed)
    assert tiles(result, plane)
    assert (holders(result, points, -1e-9 * extent**2) >= 1).all()
    assert (holders(result, points, 1e-9 * extent**2) <= 1).all()
    said, where = maps_at(result, points)
    true, seen = exactly(model, plane, points)
    assert np.abs(said - true).max() < 1e-9 * (1 + np.abs(true).max())
    if not coarse:
        for ours, theirs in zip(result.choices.values(), seen, strict=True):
            assert (ours[where] == theirs).all()


def test_no_fewer_regions_than_patterns_on_a_grid():
    model, plane = case("mlp")
    result = levelsets.regions(model, plane)
    _, seen = exactly(model, plane, plane.grid(250).double().numpy())
    found = len(np.unique(np.concatenate(seen, 1), axis=0))
    assert 0.8 * len(result) <= found <= len(result)


def test_the_boundary_of_a_linear_model_is_a_line():
    head = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        head[1].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
        head[1].bias.copy_(torch.tensor([-0.5, 0.0]))
    result = levelsets.regions(models.wrap(head, input_shape=(1, 1, 2)), square())
    assert len(result) == 1
    assert result.label.tolist() == [-1]
    (segment,) = result.boundary
    assert np.allclose(segment @ [1, 2], 0.5)
    assert {tuple(end) for end in segment.round(9)} == {(1, -0.25), (-1, 0.75)}
    assert result.gradient[0] == pytest.approx(np.sqrt(5))
    assert result.summary()["boundary_length"] == pytest.approx(np.hypot(2, 1))


def test_a_boundary_between_two_regions_is_found_once():
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    result = levelsets.regions(flat([[1, 0], [-1, 0]], [0, 0], head), square())
    assert sorted(result.label.tolist()) == [0, 1]
    assert result.boundary.shape == (1, 2, 2)
    assert np.allclose(result.boundary[0, :, 0], 0)
    assert np.abs(np.diff(result.boundary[0, :, 1])) == 2


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "relu, pool"])
def test_the_boundary_is_where_the_class_changes(name):
    model, plane = case(name)
    # The bias that brings the two leading classes level in the middle: a boundary in the window.
    middle, _ = exactly(model, plane, np.zeros((1, 2)))
    layer = [part for part in model.body.modules() if isinstance(part, nn.Linear)][-1]
    order = middle[0].argsort()
    with torch.no_grad():
        layer.bias[order[-2]] += middle[0][order[-1]] - middle[0][order[-2]]
    result = levelsets.regions(model, plane)
    assert len(np.unique(result.boundary.round(12), axis=0)) == len(result.boundary) > 0
    share = np.random.default_rng(0).uniform(0.01, 0.99, (len(result.boundary), 1))
    points = result.boundary[:, 0] * share + result.boundary[:, 1] * (1 - share)
    true, _ = exactly(model, plane, points)
    first, second = np.sort(true, 1)[:, :-3:-1].T
    assert np.abs(first - second).max() < 1e-9
    along = np.diff(result.boundary, axis=1)[:, 0]
    across = along[:, ::-1] * [1, -1] / np.hypot(*along.T)[:, None] * 1e-7
    left, right = (exactly(model, plane, points + side * across)[0].argmax(1) for side in (1, -1))
    assert (left != right).all()
    # All of it: along a path, the class changes where it crosses the boundary and only there.
    mixed = result.label < 0
    for polygon, own, bias in zip(
        itertools.compress(result.polygons, mixed),
        result.weight[mixed],
        result.bias[mixed],
        strict=True,
    ):
        assert len(set((polygon @ own.T + bias).argmax(1))) > 1
    ends = np.stack([inside(plane, 100, 1), inside(plane, 100, 2)], 1)
    steps = np.linspace(0, 1, 200)[:, None, None]
    said, _ = exactly(model, plane, (ends[:, 0] * (1 - steps) + ends[:, 1] * steps).reshape(-1, 2))
    changes = np.diff(said.argmax(1).reshape(200, -1), axis=0) != 0
    crossed = crossings(ends, result.boundary)
    assert (changes.any(0) <= (crossed > 0)).all()
    assert changes.any()


def crossings(paths, segments):
    """How many of the segments each path `(2, 2)` crosses."""

    def side(line, points):
        (ax, ay), (bx, by) = line[:, 0].T, line[:, 1].T
        x, y = points[..., 0], points[..., 1]
        return (bx - ax)[:, None] * (y - ay[:, None]) - (by - ay)[:, None] * (x - ax[:, None]) > 0

    path = side(paths, segments[None, :, 0]) != side(paths, segments[None, :, 1])
    segment = side(segments, paths[None, :, 0]) != side(segments, paths[None, :, 1])
    return (path & segment.T).sum(1)


def test_points_are_located():
    model, plane = case("cnn")
    result = levelsets.regions(model, plane)
    points = inside(plane, 500)
    brute = [
        next(r for r, p in enumerate(result.polygons) if holders_of(p, point)) for point in points
    ]
    assert result.locate(points).tolist() == brute
    assert result.locate(torch.from_numpy(points)).tolist() == brute
    assert result.locate([[1.6, 0.0], [0.0, -9.0]]).tolist() == [-1, -1]
    assert result.locate(np.zeros((0, 2))).shape == (0,)
    corners = np.concatenate(result.polygons)  # on an edge: some region that has it
    said, _ = maps_at(result, corners)
    true, _ = exactly(model, plane, corners)
    assert np.abs(said - true).max() < 1e-6


def holders_of(polygon, point):
    edge, to = np.roll(polygon, -1, 0) - polygon, point - polygon
    return bool((edge[:, 0] * to[:, 1] - edge[:, 1] * to[:, 0] > 0).all())


def test_numbers_and_rows():
    model, plane = case("cnn")
    result = levelsets.regions(model, plane)
    told, table = result.summary(), result.frame()
    assert told["regions"] == len(table) == len(result) > 50
    assert told["area"] == pytest.approx(9, rel=1e-9)
    assert told["mean_vertices"] == pytest.approx(table["vertices"].mean())
    assert [told[f"cuts_{layer}"] for layer in ("relu1", "relu2", "relu3")] == [
        *result.cuts.values()
    ]
    assert (result.locate(table[["a", "b"]].to_numpy()) == np.arange(len(result))).all()
    assert set(table["predicted"]) <= {"", *model.classes}
    true, _ = exactly(model, plane, table[["a", "b"]].to_numpy())
    for r in (0, 7, len(result) - 1):
        second, first = true[r].argsort()[-2:]
        margin = result.weight[r, first] - result.weight[r, second]
        assert result.gradient[r] == pytest.approx(np.linalg.norm(margin))


def test_steps_tell_how_far_it_is_and_can_be_dropped():
    model, plane = case("cnn")
    seen = list(levelsets.regions.steps(model, plane))
    done = [step.done for step in seen]
    assert done == sorted(done)
    assert (seen[0].done, seen[-1].done) == (0, seen[-1].total)
    assert all(step.value is None for step in seen[:-1])
    assert any(step.message.startswith("relu2") for step in seen)
    steps = levelsets.regions.steps(model, plane)
    next(steps)
    steps.close()


def test_the_model_stays_as_it_is():
    model, plane = case("functional")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []
    handle = model.body.act.register_forward_hook(lambda *_: calls.append(1))
    state = torch.random.get_rng_state()
    first, second = levelsets.regions(model, plane), levelsets.regions(model, plane)
    handle.remove()
    assert np.array_equal(first.vertices, second.vertices)
    assert np.array_equal(first.weight, second.weight)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class Attention(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class Squared(nn.Module):
    def forward(self, x):
        return x * x


class Hidden(nn.Module):
    """A ReLU that torch does not see."""

    def forward(self, x):
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0))


REFUSED = [
    (nn.GELU(), "gelu"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
    (nn.SiLU(), "silu"),
    (nn.ReLU6(), "hardtanh"),
    (nn.LayerNorm(4), "layer_norm"),
    (nn.Softmax(1), "softmax"),
    (nn.AdaptiveMaxPool2d(2), "adaptive_max_pool2d"),
    (Attention(), "scaled_dot_product_attention"),
    (Squared(), "mul"),
]


@pytest.mark.parametrize(("layer", "name"), REFUSED, ids=[name for _, name in REFUSED])
@pytest.mark.parametrize("extent", [1e-3, 1.0, 50.0])
def test_what_is_not_piecewise_linear_is_refused_by_name(layer, name, extent):
    def make():
        layers = [nn.Conv2d(1, 2, 1), nn.ReLU(), layer, nn.Flatten(), nn.LazyLinear(2)]
        module = nn.Sequential(*layers).eval()
        module(torch.zeros(1, 1, 4, 4))
        return module

    model = models.wrap(seeded(make), input_shape=(1, 4, 4))
    with pytest.raises(ValueError, match=rf"model: what \w*{name} makes in 2 .*levelsets\.plane"):
        levelsets.regions(model, window((1, 4, 4), extent))


@pytest.mark.parametrize("hide", [Hidden, lambda: torch.jit.script(nn.ReLU())])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_kink_out_of_sight_is_not_passed_over(hide):
    before = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 9)))
    module = nn.Sequential(before, hide(), seeded(lambda: nn.Linear(9, 3)))
    model = models.wrap(module.eval(), input_shape=(1, 4, 4))
    with pytest.raises(ValueError, match=r"(in 2 is not piecewise linear|1 is compiled).*\.plane"):
        levelsets.regions(model, window((1, 4, 4), 2.0))


def test_a_kink_that_the_probes_miss_is_found_by_the_comparison(monkeypatch):
    model, plane = case("mlp")
    monkeypatch.setattr(piecewise.Chosen, "check", lambda *_: None)
    model.body.relu2 = Hidden().eval()
    with pytest.raises(ValueError, match="out of sight"):
        levelsets.regions(model, plane)


def test_the_transformer_is_refused():
    module = seeded(lambda: architectures.vit((1, 8, 8), 3, depth=1, width=8))
    model = models.wrap(module, input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"what layer_norm makes in blocks\.0\.norm1 is not"):
        levelsets.regions(model, window((1, 8, 8), 1))


def test_other_bad_input():
    model, plane = case("cnn")
    with pytest.raises(ValueError, match=r"limit=20 regions at layer relu1.*levelsets\.plane"):
        levelsets.regions(model, plane, limit=20)
    size = len(levelsets.regions(model, plane))
    assert len(levelsets.regions(model, plane, limit=size)) == size
    with pytest.raises(ValueError, match=f"limit={size - 1}"):
        levelsets.regions(model, plane, limit=size - 1)
    with pytest.raises(ValueError, match=r"plane: expected images of shape \(1, 8, 8\)"):
        levelsets.regions(model, window((1, 4, 4), 1))
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        levelsets.regions(model, plane)


@pytest.mark.parametrize(
    ("name", "extent"), [("mnist/mlp", 4.0), ("mnist/cnn", 0.1), ("shapes/resnet", 0.003)]
)
def test_shipped_models(name, extent):
    model = models.load(name)
    plane = window(model.input_shape, extent)
    result = levelsets.regions(model, plane)
    points = inside(plane, 2000 if name != "shapes/resnet" else 100)
    said, where = maps_at(result, points)
    true, seen = exactly(model, plane, points)
    assert tiles(result, plane)
    assert np.abs(said - true).max() < 1e-8
    for ours, theirs in zip(result.choices.values(), seen, strict=True):
        assert (ours[where] == theirs).all()
    assert len(result) > 20


def test_an_onnx_graph(tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    draw = np.random.default_rng(0)
    weights = {
        "w": draw.normal(size=(3, 1, 3, 3)),
        "scale": draw.normal(size=(1, 3, 1, 1)),
        "head": draw.normal(size=(2, 12)),
        "bias": draw.normal(size=2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Mul", ["c", "scale"], ["m"]),
        helper.make_node("Add", ["r", "m"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "bias"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", onnx.TensorProto.FLOAT, ["n", 1, 4, 4])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    model, plane = models.load(f"onnx:{path}"), window((1, 4, 4), 2.0)
    result = levelsets.regions(model, plane)
    points = inside(plane, 500)
    said, where = maps_at(result, points)
    true, seen = exactly(model, plane, points)
    assert tiles(result, plane)
    assert np.abs(said - true).max() < 1e-9
    assert (next(iter(result.choices.values()))[where] == seen[0]).all()
    assert len(result) > 20
