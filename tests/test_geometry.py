import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import data, levelsets, models
from workbench.levelsets import (
    collapse,
    collapse_metrics,
    complexity,
    local_complexity,
    neural_collapse,
)
from workbench.models.recipes import Recipe

RADII = [0.001, 0.01, 0.05, 0.3, 1.0, 4.0, 30.0]


def net(*layers, shape=(1, 3, 4), dtype=torch.float64, seed=0):
    """A classifier of random weights; float64, so that no count hangs on rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(*(layer() for layer in layers))
    return models.wrap(body, input_shape=shape).to(dtype)


def two_layers(width=30, activation=nn.ReLU, seed=0):
    return net(
        nn.Flatten,
        lambda: nn.Linear(12, width),
        activation,
        lambda: nn.Linear(width, width),
        activation,
        lambda: nn.Linear(width, 3),
        seed=seed,
    )


def some_images(n=7, shape=(1, 3, 4), seed=1):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def frame_of(size, n_directions, seed=0):
    """The directions of `local_complexity`, float64 `(P, size)`."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(size, n_directions, generator=generator).double()
    return torch.linalg.qr(draws)[0].T


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# Local complexity


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.GELU])
def test_counts_equal_brute_force_and_the_first_layer_its_closed_form(radius, activation):
    model, x, n_directions = two_layers(activation=activation), some_images(), 5
    found = local_complexity(model, x, radius, n_directions)
    ways = frame_of(12, n_directions)
    assert torch.allclose(ways @ ways.T, torch.eye(n_directions).double(), atol=1e-12)
    first, second = (model.body[i].requires_grad_(False) for i in (1, 3))
    for i, image in enumerate(x.double()):
        vertices = torch.stack(
            [image.flatten() + s * radius * v for v in ways for s in (1, -1)]
        )  # one image, one layer, one neuron at a time
        z = F.linear(vertices, first.weight, first.bias)
        w = F.linear(activation()(z), second.weight, second.bias)
        for name, values in (("2", z), ("4", w)):
            crossed = [len({float(v) > 0 for v in column}) == 2 for column in values.T]
            assert int(found.counts[name][i]) == sum(crossed)
        centre = F.linear(image.flatten(), first.weight, first.bias).abs()
        reach = radius * (first.weight @ ways.T).abs().amax(1)
        assert int(found.counts["2"][i]) == int((centre < reach).sum())
    if radius in (0.3, 1.0):  # the test has something to count, and something not to
        assert 0 < float(found.counts["2"].double().mean()) < 30


@settings(deadline=None, max_examples=25)
@given(
    radius=st.floats(1e-3, 50),
    n_directions=st.integers(1, 12),
    seed=st.integers(0, 1000),
    width=st.integers(1, 40),
)
def test_the_first_layer_has_a_closed_form_for_any_radius(radius, n_directions, seed, width):
    model, x = two_layers(width, seed=seed), some_images(3, seed=seed)
    found = local_complexity(model, x, radius, n_directions, seed=seed)
    first = model.body[1]
    centre = F.linear(x.double().flatten(1), first.weight, first.bias).abs()
    reach = radius * (first.weight @ frame_of(12, n_directions, seed).T).abs().amax(1)
    assert torch.equal(found.counts["2"], (centre < reach).sum(1))


def test_a_hyperplane_that_only_touches_does_not_cross():
    model = net(nn.Flatten, lambda: nn.Linear(2, 2), nn.ReLU, shape=(1, 1, 2))
    ways = frame_of(2, 2)
    with torch.no_grad():
        model.body[1].weight.copy_(torch.stack([torch.zeros(2).double(), ways[0]]))
        model.body[1].bias.zero_()
    x = torch.zeros(1, 1, 1, 2)
    # The first neuron is zero everywhere, the second has a vertex on either side.
    assert local_complexity(model, x, 0.5, 2).counts["2"].tolist() == [1]
    # Zero at one vertex and above it at the other: on integers, so that the tie is exact.
    line = net(
        nn.Flatten, lambda: nn.Linear(1, 1), nn.ReLU, lambda: nn.Linear(1, 2), shape=(1, 1, 1)
    )
    with torch.no_grad():
        for weight, bias, count in ((1.0, 0.5, 0), (1.0, -0.5, 0), (1.0, 0.25, 1), (-1.0, 0.5, 0)):
            line.body[1].weight.fill_(weight)
            line.body[1].bias.fill_(bias)
            found = local_complexity(line, torch.zeros(1, 1, 1, 1), 0.5, 1)
            assert found.counts["2"].tolist() == [count]


def test_batches_of_images_and_of_vertices_change_nothing(monkeypatch):
    model, x = models.load("digits/cnn"), data.load("digits", limit=9).images
    whole = local_complexity(model, x, 0.1, 30)
    for size in (1, 7, 45, 100):
        monkeypatch.setattr(complexity, "BATCH", size)
        asked = []
        hook = model.register_forward_pre_hook(lambda _, inputs, n=asked: n.append(len(inputs[0])))
        part = local_complexity(model, x, 0.1, 30)
        hook.remove()
        assert max(asked) <= size
        for name, count in whole.counts.items():
            assert (part.counts[name] - count).abs().max() <= 1  # rounding of another batch size
    assert list(whole.counts) == ["relu1", "relu2", "relu3"]


def test_complexity_tables():
    model, x = models.load("digits/mlp"), data.load("digits", limit=6).images
    found = local_complexity(model, x)
    table = found.frame()
    assert list(table.columns) == ["relu1", "relu2", "total"]
    assert (table["relu1"] + table["relu2"] == table["total"]).all()
    summary = found.summary()
    assert summary["total"] == pytest.approx(table["total"].mean())
    assert summary["layers"]["relu2"] == pytest.approx(table["relu2"].mean())
    assert len(local_complexity(model, x[:0]).frame()) == 0


class Reused(nn.Module):
    """One activation in two places, in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.last(self.relu(self.second(self.relu(self.first(x.flatten(1))))))


def test_an_activation_that_runs_twice_is_two_layers():
    model = net(Reused)
    found = local_complexity(model, some_images(), 0.5, 6)
    assert list(found.counts) == ["0.relu", "0.relu#2"]
    body = model.body[0]
    apart = nn.Sequential(
        nn.Flatten(), body.first, nn.ReLU(), body.second, nn.ReLU(), body.last
    ).double()
    twin = models.wrap(apart.float(), input_shape=(1, 3, 4)).double()
    expected = local_complexity(twin, some_images(), 0.5, 6)
    for one, other in zip(found.counts.values(), expected.counts.values(), strict=True):
        assert torch.equal(one, other)


def test_complexity_leaves_the_model_the_images_and_the_generator_alone():
    model, x = models.load("shapes/vit"), data.load("shapes", limit=2).images
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    kept, hooks = x.clone(), hooks_of(model)
    first, second = (local_complexity(model, x, seed=3).counts for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert list(first) == [f"blocks.{i}.gelu" for i in range(4)]
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert hooks_of(model) == hooks


def test_complexity_refuses_what_it_cannot_measure():
    model, x = two_layers(), some_images()
    with pytest.raises(ValueError, match=r"radius: expected a positive length, got -1"):
        local_complexity(model, x, -1)
    with pytest.raises(ValueError, match="radius"):
        local_complexity(model, x, math.nan)
    with pytest.raises(ValueError, match=r"n_directions: expected at most 12, .* got 20"):
        local_complexity(model, x)
    with pytest.raises(ValueError, match="n_directions: expected a whole number"):
        local_complexity(model, x, n_directions=0)
    with pytest.raises(ValueError, match="values in"):
        local_complexity(model, x + 1, n_directions=5)
    smooth = net(nn.Flatten, lambda: nn.Linear(12, 5), nn.Tanh, lambda: nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"expected modules like ReLU or GELU, my model runs none"):
        local_complexity(smooth, x, n_directions=5)
    with torch.no_grad():
        model.body[3].bias[0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        local_complexity(model, x, n_directions=5)
    assert hooks_of(model) == 0
    with pytest.raises(ValueError, match="train mode"):
        local_complexity(two_layers().train(), x, n_directions=5)


def test_complexity_is_recorded_through_a_training():
    plan = Recipe(dataset="digits", architecture="mlp", options={"hidden": [32]}, epochs=2)
    training, course = data.load("digits", "train", limit=300), {}
    for step in models.fit.steps(plan, training):
        if step.done % 2 == 0:
            found = local_complexity(step.value.model, training.images[:20])
            course[step.done] = found.summary()["total"]
    plain = list(models.fit.steps(plan, training))[-1].value.model
    assert list(course) == [2, 4, 6]
    assert len(set(course.values())) > 1
    for name, value in plain.state_dict().items():  # measuring changed nothing
        assert torch.equal(value, step.value.model.state_dict()[name])


# Neural collapse


def directly(h, y, weight=None, bias=None, answers=None):
    """NC1 to NC4 from their definitions, with the d x d matrices."""
    h, k = h.double(), int(y.max()) + 1
    means = torch.stack([h[y == c].mean(0) for c in range(k)])
    m = means - means.mean(0)
    within = [h[y == c] - means[c] for c in range(k)]
    sigma_w = sum(z.T @ z / len(z) for z in within) / k
    sigma_b = m.T @ m / k
    simplex = (torch.eye(k).double() - 1 / k) / math.sqrt(k - 1)
    angles = [F.cosine_similarity(m[a], m[b], 0) for a in range(k) for b in range(k) if a != b]
    found = {
        "nc1": torch.trace(sigma_w @ torch.linalg.pinv(sigma_b, hermitian=True)) / k,
        "nc2": (m @ m.T / (m @ m.T).norm() - simplex).norm(),
        "equinorm": m.norm(dim=1).std(correction=0) / m.norm(dim=1).mean(),
        "equiangular": (torch.stack(angles) + 1 / (k - 1)).abs().mean(),
    }
    if weight is not None and answers is None:
        answers = (h @ weight.double().T + (0 if bias is None else bias.double())).argmax(1)
    if answers is not None:
        found["nc4"] = (torch.cdist(h, means).argmin(1) != answers).double().mean()
    if weight is not None:
        w = weight.double()
        found["nc2_head"] = (w @ w.T / (w @ w.T).norm() - simplex).norm()
        found["nc3"] = (w / w.norm() - m / m.norm()).norm()
    return {name: float(value) for name, value in found.items()}


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    d=st.integers(1, 20),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_metrics_equal_a_direct_computation(sizes, d, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    y = y[torch.randperm(len(y), generator=generator)]
    centres = torch.randn(len(sizes), d, generator=generator)
    h = scale * (centres[y] + 0.3 * torch.randn(len(y), d, generator=generator)) + 5
    weight = torch.randn(len(sizes), d, generator=generator)
    bias = torch.randn(len(sizes), generator=generator)
    found = collapse_metrics(h, y, weight, bias)
    assert found == pytest.approx(directly(h, y, weight, bias), rel=1e-6, abs=1e-9)
    assert set(collapse_metrics(h, y)) == {"nc1", "nc2", "equinorm", "equiangular"}


def test_a_perfect_simplex_has_collapsed_and_an_orthogonal_head_has_not():
    y = torch.arange(5).repeat(6)
    corners = torch.eye(5) - 0.2
    found = collapse_metrics(7 + 3 * corners[y], y, 2 * corners, torch.zeros(5))
    assert max(found.values()) < 1e-6
    # The distance of I from the simplex, both of norm 1: their cosine is sqrt(4/5).
    apart = collapse_metrics(corners[y], y, torch.eye(5))
    assert apart["nc2_head"] == pytest.approx(math.sqrt(2 - 2 * math.sqrt(4 / 5)), abs=1e-6)


def test_every_class_weighs_the_same():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(20)
    h = torch.randn(60, 4, generator=generator) + 4 * torch.eye(3, 4)[y]
    more = torch.cat([torch.arange(60), torch.arange(20).repeat(9)])  # class 0 ten times
    assert collapse_metrics(h[more], y[more]) == pytest.approx(collapse_metrics(h, y), rel=1e-9)


def test_a_lone_image_and_coinciding_means_are_nan():
    y = torch.tensor([0, 0, 1, 1, 2])
    found = collapse_metrics(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), y)
    assert math.isnan(found.pop("nc1"))
    assert not any(math.isnan(value) for value in found.values())
    dead = collapse_metrics(torch.full((6, 4), 0.3), torch.arange(6) % 3, torch.eye(3, 4))
    assert all(math.isnan(dead[name]) for name in ("nc1", "nc2", "equinorm", "equiangular", "nc3"))


def test_metrics_refuse_what_cannot_be_measured():
    h, y = torch.rand(6, 3), torch.tensor([0, 0, 2, 2, 0, 2])
    with pytest.raises(ValueError, match=r"each of two classes or more, got .*\[3, 0, 3\]"):
        collapse_metrics(h, y)
    with pytest.raises(ValueError, match="two classes or more"):
        collapse_metrics(h, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected 6 labels"):
        collapse_metrics(h, y[:4])
    with pytest.raises(ValueError, match=r"values in 0\.\.1"):
        collapse_metrics(h, y, torch.rand(2, 3))
    with pytest.raises(TypeError, match="int64"):
        collapse_metrics(h, y.float())
    h[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        collapse_metrics(h, y.clamp(max=1))


def outputs_of(model, module, x, given=False):
    """What a module gives, or is given, for images `x`; and the logits."""
    seen = []
    hook = module.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0] if given else output).clone())
    )
    with torch.no_grad():
        logits = model(x)
    hook.remove()
    return seen[0].flatten(1), logits


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("digits/mlp", None, ["flatten", "fc1", "relu1", "fc2", "relu2"]),
        ("digits/cnn", ["relu1", "fc2"], ["relu1", "fc2"]),
        ("shapes/resnet", ["stage2_block1.relu2"], ["stage2_block1.relu2"]),
        ("shapes/vit", [], []),
    ],
)
def test_layers_of_a_model_equal_a_direct_computation(name, layers, expected, monkeypatch):
    model = models.load(name)
    images = data.load(model.card.dataset, "train", limit=100)
    x, y = images.images, images.labels
    monkeypatch.setattr(collapse, "BATCH", 37)
    found = neural_collapse(model, images, layers)
    assert list(found.metrics) == [*expected, "last features"]
    head = [m for m in model.body.modules() if isinstance(m, nn.Linear)][-1]
    for layer, metrics in found.metrics.items():
        last = layer == "last features"
        h, logits = outputs_of(model, head if last else model.layer(layer), x, given=last)
        if h.shape[1] > 2000:  # the definition needs d x d matrices
            continue
        weights = (head.weight.detach(), head.bias.detach()) if last else ()
        wanted = directly(h, y, *weights, answers=logits.argmax(1))
        assert metrics == pytest.approx(wanted, rel=1e-3, abs=1e-6)  # other batches, float32
        means = torch.stack([h[y == k].mean(0) for k in range(len(images.classes))])
        assert torch.allclose(found.means[layer], means.double(), atol=1e-5)
    table = found.frame()
    assert list(table.index) == list(found.metrics)
    assert table.loc["last features", "nc3"] == found.summary()["nc3"]


def test_an_in_place_layer_does_not_change_what_was_seen():
    body = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(), fc=nn.Linear(64, 20), relu=nn.ReLU(), last=nn.Linear(20, 10)
        )
    )
    images = data.load("digits", limit=200)
    first = neural_collapse(models.wrap(body, input_shape=(1, 8, 8)), images)
    body.relu.inplace = True
    second = neural_collapse(models.wrap(body, input_shape=(1, 8, 8)), images)
    assert second.metrics == first.metrics


def test_a_model_without_a_linear_head_is_measured_by_the_layers_asked_for():
    body = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model, images = models.wrap(body, input_shape=(1, 8, 8)), data.load("digits", limit=200)
    found = neural_collapse(model, images, ["1"])
    assert list(found.metrics) == ["1"]
    assert set(found.summary()) == {"nc1", "nc2", "equinorm", "equiangular", "nc4"}
    with pytest.raises(ValueError, match="no linear layer; name a layer"):
        neural_collapse(model, images, [])


def test_collapse_leaves_the_model_alone_and_refuses_what_does_not_fit():
    model, images = models.load("digits/mlp"), data.load("digits", limit=100)
    before, hooks = {k: v.clone() for k, v in model.state_dict().items()}, hooks_of(model)
    assert neural_collapse(model, images).metrics == neural_collapse(model, images).metrics
    with pytest.raises(ValueError, match=r"unknown layer .*'relu9'.*relu"):
        neural_collapse(model, images, ["relu9"])
    with pytest.raises(ValueError, match="each of two classes"):
        neural_collapse(model, images[images.labels < 9])
    with pytest.raises(ValueError, match="each of two classes"):
        neural_collapse(model, images[:0])
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\)"):
        neural_collapse(model, data.load("shapes", limit=20))
    broken = two_layers()
    assert hooks_of(model) == hooks
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        model.body.fc1.bias[0] = math.inf
    with pytest.raises(ValueError, match="logits are not all finite"):
        neural_collapse(model, images, ["fc1"])
    with pytest.raises(ValueError, match="train mode"):
        neural_collapse(broken.train(), images)


def unconstrained(bias, sizes=(100,) * 4, d=64, lam=5e-4, n_steps=12_000):
    """Free features and a head, by descent with momentum on the squared loss."""
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    generator = torch.Generator().manual_seed(0)
    h = 0.1 * torch.randn(len(y), d, generator=generator).double()
    w = 0.1 * torch.randn(len(sizes), d, generator=generator).double()
    b, target = torch.zeros(len(sizes)).double(), F.one_hot(y).double()
    speeds = [torch.zeros_like(part) for part in (h, w, b)]
    for _ in range(n_steps):
        rest = (h @ w.T + b - target) / len(y)
        gradients = (rest @ w + lam * h, rest.T @ h + lam * w, rest.sum(0) * bias)
        for part, speed, gradient in zip((h, w, b), speeds, gradients, strict=True):
            part.sub_(speed.mul_(0.9).add_(gradient), alpha=0.1)
    loss = (h @ w.T + b - target).square().sum() / (2 * len(y))
    return h, y, w, b, float(loss + lam / 2 * (h.square().sum() + w.square().sum()))


@pytest.mark.parametrize("bias", [True, False])
def test_the_unconstrained_model_reaches_its_closed_form(bias):
    h, y, w, b, loss = unconstrained(bias)
    c = 5e-4 * math.sqrt(100)  # the cost of a unit of logit
    assert loss == pytest.approx((3 if bias else 4) * (c - 4 * c**2 / 2), rel=5e-3)
    found = collapse_metrics(h, y, w, b)
    assert found["nc1"] < 1e-6
    assert found["nc2"] < 1e-3
    assert found["nc4"] == 0
    gram = w @ w.T / (w @ w.T).norm()
    if bias:  # a simplex
        assert max(found["nc2_head"], found["nc3"]) < 1e-3
    else:  # right angles, at a known distance from a simplex
        assert float((gram - torch.eye(4) / 2).norm()) < 1e-3
        assert found["nc2_head"] == pytest.approx(math.sqrt(2 - math.sqrt(3)), abs=1e-3)


def test_a_network_collapses_in_training():
    images = data.load("digits", "train")
    layers, inputs = [nn.Flatten()], 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3):
            layers += [nn.Linear(inputs, 128), nn.BatchNorm1d(128), nn.ReLU()]
            inputs = 128
        body = nn.Sequential(*layers, nn.Linear(128, 10)).eval()
    model, epochs = models.wrap(body, input_shape=(1, 8, 8)), 80
    before = neural_collapse(model, images, []).summary()
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [epochs // 2, 3 * epochs // 4])
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(128):
            loss = F.cross_entropy(model(images.images[chosen]), images.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    after = neural_collapse(model.eval(), images, []).summary()
    assert after["nc1"] < before["nc1"] / 10
    assert after["nc3"] < before["nc3"] / 3
    assert after["nc4"] < 0.005
    assert float((model.predict(images.images).label == images.labels).float().mean()) > 0.99


def test_everything_is_exported():
    for name in ("Collapse", "LocalComplexity", "collapse_metrics", "local_complexity"):
        assert name in levelsets.__all__
