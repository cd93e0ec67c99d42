"""Relevance of filters and pruning by it: sums by hand, planted dead units, and what is refused."""

import warnings
from itertools import pairwise

import pytest
import torch
from captum.attr._utils.custom_modules import Addition_Module
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import data, models
from workbench.concepts import filter_relevance
from workbench.data import ImageDataset
from workbench.steps import run
from workbench.treatments import Prune, prune
from workbench.treatments.pruning import CRITERIA, _norms, _scores
from workbench.treatments.sparsity import DAMPING, inputs_of, lowest

SHAPE = (1, 6, 6)


def wrapped(body, shape=SHAPE, classes=3, **options):
    return models.wrap(body.eval(), input_shape=shape, classes=classes, **options)


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def perceptron(bias=False):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 12, bias=bias),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(12, 8, bias=bias),
        nn.ReLU(),
        nn.Linear(8, 3, bias=bias),
    )


def convolutional(bias=False):
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1, bias=bias),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Flatten(),
        nn.Linear(6, 3, bias=bias),
    )


class Block(nn.Module):
    """A residual block, its sum a function or a layer."""

    def __init__(self, sum_is_a_layer):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.shortcut = nn.Identity()
        self.add = Addition_Module() if sum_is_a_layer else torch.add

    def forward(self, x):
        out = self.conv2(self.relu(self.norm1(self.conv1(x))))
        return self.relu(self.add(out, self.shortcut(x)))


def residual(sum_is_a_layer):
    blocks = [Block(sum_is_a_layer), Block(sum_is_a_layer)]
    stem = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def images(n_each=4, shape=SHAPE, seed=0, classes=3):
    x = torch.rand(n_each * classes, *shape, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(classes).repeat(n_each)


def by_hand(body, x, labels, rule):
    """Relevance of each hidden linear layer's output, one layer after the other."""
    layers = [m for m in body if isinstance(m, nn.Linear)]
    inputs = [x.flatten(1)]
    for layer in layers:
        out = layer(inputs[-1])
        inputs.append(out if layer is layers[-1] else out.relu())
    logits = inputs.pop()
    relevance = logits * F.one_hot(labels, logits.shape[1])
    found = []
    for layer, a in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        w = layer.weight.clamp(min=0) if rule == "z+" else layer.weight
        z = a @ w.T
        if rule == "epsilon" and layer.bias is not None:
            z = z + layer.bias
        relevance = a * ((relevance / (z + 1e-9 * torch.where(z >= 0, 1, -1))) @ w)
        found.append(relevance)
    return logits.gather(1, labels[:, None])[:, 0], found[::-1]


@pytest.mark.parametrize("rule", ["z+", "epsilon"])
@pytest.mark.parametrize("bias", [False, True])
def test_relevance_is_that_of_a_pass_by_hand(rule, bias):
    body = seeded(lambda: perceptron(bias))
    x, y = images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = filter_relevance(wrapped(body), x, y, rule=rule)
    start, expected = by_hand(body, x, y, rule)
    torch.testing.assert_close(found.start, start.detach())
    assert list(found.relevance) == ["1", "4"]
    for values, wanted in zip(found.relevance.values(), expected, strict=True):
        torch.testing.assert_close(values, wanted.detach(), rtol=1e-4, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([perceptron, convolutional]))
def test_epsilon_conserves_relevance_without_biases(seed, build):
    model = wrapped(seeded(build, seed))
    x, y = images(seed=seed)
    found = filter_relevance(model, x, y, rule="epsilon")
    for values in found.relevance.values():
        scale = values.abs().sum(1).clamp(min=1)  # of the terms whose sum is taken
        assert ((values.sum(1) - found.start).abs() / scale < 1e-4).all()


@pytest.mark.parametrize("build", [perceptron, convolutional])
def test_z_plus_conserves_relevance_to_five_digits(build):
    body = seeded(build)
    if build is convolutional:
        body[1].bias.data += torch.linspace(0.1, 0.5, 5)
    found = filter_relevance(wrapped(body), *images())
    assert max(found.leaks().values()) < 1e-5
    assert found.summary()["images"] == 12
    frame = found.frame()
    assert list(frame.columns) == ["layer", "unit", "relevance"]
    first = frame[frame["layer"] == next(iter(found.relevance))]
    assert float(first["relevance"].sum()) == pytest.approx(float(found.start.mean()), rel=1e-4)


def test_epsilon_relevance_is_output_times_gradient_of_the_logit():
    """So in any ReLU network, biases included (Ancona et al., 2018)."""
    model = models.load("digits/mlp")
    some = data.load("digits").sample(2, per_class=True)
    found = filter_relevance(model, some.images, some.labels, rule="epsilon")
    x = (some.images - model.mean) / model.std
    hidden = model.body.fc1(x.flatten(1)).detach().requires_grad_()
    logits = model.body.fc3(model.body.fc2(hidden.relu()).relu())
    (gradient,) = torch.autograd.grad(logits.gather(1, some.labels[:, None]).sum(), hidden)
    torch.testing.assert_close(
        found.relevance["fc1"], hidden.detach() * gradient, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", ["digits/cnn", "mnist/cnn", "digits/mlp"])
def test_z_plus_conserves_relevance_on_shipped_models(name):
    model = models.load(name)
    classes = len(model.classes)
    found = filter_relevance(model, *images(1, model.input_shape, classes=classes))
    assert max(found.leaks().values()) < 1e-5


def test_a_sum_that_is_a_function_is_refused_and_one_that_is_a_layer_conserves():
    x, y = images()
    refused = pytest.raises(ValueError, match=r"2 \(Block\) joins branches by the function 'add'")
    with torch.no_grad(), refused:
        filter_relevance(wrapped(seeded(lambda: residual(False))), x, y)
    found = filter_relevance(wrapped(seeded(lambda: residual(True))), x, y, rule="z+")
    stem, head_side = found.relevance["0"], found.relevance["2.conv1"]
    assert ((stem.sum(1) - found.start).abs() < 1e-2 * found.start.abs()).all()
    assert (head_side.sum(1).abs() < found.start.abs()).all()  # the shortcut has the rest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.GELU(), nn.Linear(4, 3)),
            "2 .GELU",
        ),
        (lambda: Twice(), "mix runs twice"),
        (lambda: Joined(), r"\(Joined\) joins branches by the function 'cat'"),
    ],
)
def test_what_lrp_cannot_follow_is_named(body, message):
    model = wrapped(seeded(body))
    with pytest.raises(ValueError, match=message):
        filter_relevance(model, *images())
    with pytest.raises(ValueError, match=message):
        next(prune.steps(model, *images()))
    assert prune(model, *images(), criterion="magnitude", share=0.2).kept
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Twice(nn.Module):
    """A layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.enter, self.mix, self.head = nn.Linear(36, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.mix(self.mix(self.enter(x.flatten(1)).relu()).relu()).relu())


class Joined(nn.Module):
    """Two branches side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(36, 4), nn.Linear(36, 4), nn.Linear(8, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(torch.cat([self.a(x), self.b(x)], 1).relu())


class Scaled(nn.Module):
    """A function that LRP does not see, and that no rule refuses."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x.flatten(1)).relu() * 3
        return self.head(self.b(x).relu())


def test_relevance_that_is_not_conserved_is_said():
    with pytest.warns(UserWarning, match=r"not conserved.*to a \d+%, b 0%"):
        filter_relevance(wrapped(seeded(Scaled)), *images())


def test_errors_of_relevance():
    model = wrapped(seeded(perceptron))
    x, y = images()
    with pytest.raises(ValueError, match="unknown rule 'gamma'"):
        filter_relevance(model, x, y, rule="gamma")
    with pytest.raises(ValueError, match=r"as many images of one class.*\[4, 4, 3\]"):
        filter_relevance(model, x[:-1], y[:-1])
    with pytest.raises(ValueError, match=r"as many images of one class.*\[0, 0, 0\]"):
        filter_relevance(model, x[:0], y[:0])
    with pytest.raises(ValueError, match=r"values in 0\.\.2, got 0\.\.3"):
        filter_relevance(model, x, y + (y == 2))
    with pytest.raises(ValueError, match=r"images: expected values in \[0, 1\]"):
        filter_relevance(model, x * 2, y)
    flat = wrapped(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3))))
    with pytest.raises(ValueError, match="no hidden convolution or linear layer"):
        filter_relevance(flat, x, y)
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        filter_relevance(model, x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "lpr"}, "unknown criterion 'lpr'. Did you mean 'lrp'"),
        ({"share": 0}, r"share: expected a share of the units in \(0, 1\), got 0"),
        ({"share": 1.0}, r"share: expected .* got 1.0"),
        ({"share": float("nan")}, r"share: expected .* got nan"),
        ({"step": 0}, r"step: expected .* got 0"),
        ({"step": 1.5}, r"step: expected .* got 1.5"),
        (
            {"test": ImageDataset(torch.zeros(2, 1, 5, 5), torch.zeros(2).long(), tuple("abc"))},
            "dataset:",
        ),
    ],
)
def test_errors_of_pruning(options, message):
    with pytest.raises(ValueError, match=message):
        next(prune.steps(wrapped(seeded(perceptron)), *images(), **options))


@pytest.mark.parametrize("criterion", ["lrp", "lrp-epsilon", "taylor", "gradient"])
def test_planted_dead_units_go_first_and_nothing_changes(criterion):
    """All units fire, but for five without a positive weight."""
    body = seeded(lambda: perceptron(bias=True))
    dead = torch.tensor([1, 4, 5, 10])
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.abs_()
        for layer, rows in ((body[1], dead), (body[4], 2)):
            layer.weight[rows] *= -1
            layer.bias[rows] = -1
    model = wrapped(body)
    x, y = images(8)
    result = prune(model, x, y, criterion=criterion, share=5 / 20, step=0.05)
    assert (~result.kept["1"]).nonzero().flatten().tolist() == dead.tolist()
    assert (~result.kept["4"]).nonzero().flatten().tolist() == [2]
    torch.testing.assert_close(result.model(x), model(x))


def test_scores_are_those_of_the_papers():
    body = seeded(lambda: perceptron(bias=True))
    model = wrapped(body)
    x, y = images()
    generator = torch.Generator().manual_seed(3)
    found = {c: _scores(model, x, y, c, generator)["4"] for c in CRITERIA}
    hidden = body[4](body[1](x.flatten(1)).relu()).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(body[6](hidden.relu()), y), hidden)
    weight = body[4].weight.detach().abs().sum(1)
    taylor, gradient = (hidden.detach() * slope).sum(0).abs(), slope.sum(0).abs()
    torch.testing.assert_close(found["magnitude"], weight / weight.sum())
    torch.testing.assert_close(found["taylor"], taylor / taylor.norm())
    torch.testing.assert_close(found["gradient"], gradient / gradient.norm())
    values = by_hand(body, x, y, "z+")[1][1].detach().sum(0)
    torch.testing.assert_close(found["lrp"], values / values.abs().sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", ["lrp", "lrp-epsilon", "taylor", "gradient"])
def test_layers_that_work_in_place_change_no_score(criterion):
    generator = torch.Generator()
    plain, in_place = (seeded(lambda: perceptron(bias=True)) for _ in range(2))
    for module in in_place.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    scores = [_scores(wrapped(b), *images(), criterion, generator) for b in (plain, in_place)]
    for name, values in scores[0].items():
        torch.testing.assert_close(scores[1][name], values)


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_the_model_stays_as_it_was(criterion):
    model = wrapped(seeded(lambda: convolutional(bias=True)), mean=[0.5], std=[0.2])
    x, y = images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pixels, state = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        result = prune(model, x, y, criterion=criterion)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(x, pixels)
    assert not x.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(hasattr(m, "rule") or hasattr(m, "activations") for m in model.modules())
    assert all(p.requires_grad for p in result.model.parameters())
    shared = {p.data_ptr() for p in model.parameters()}
    assert not shared & {p.data_ptr() for p in result.model.parameters()}


def test_a_pruned_filter_is_silent_behind_its_batch_norm():
    body = seeded(lambda: convolutional(bias=True))
    with torch.no_grad():
        body[1].running_mean.fill_(-0.7)
        body[1].bias.fill_(0.4)
    model = wrapped(body)
    x, y = images()
    assert _norms(model, x[:1]) == {"0": "1"}
    result = prune(model, x, y, criterion="magnitude", share=0.6, step=1.0)
    gone = ~result.kept["0"]
    assert gone.any()
    normed = result.model.body[1](result.model.body[0](x))
    assert (normed[:, gone] == 0).all()
    assert (normed[:, ~gone] != 0).any()


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_steps_say_how_far_they_are(criterion):
    model = models.load("digits/cnn")
    some = data.load("digits", "train").sample(1, per_class=True)
    test = data.load("digits", limit=100)
    options = {"criterion": criterion, "share": 0.3, "step": 0.1, "test": test, "seed": 4}
    steps = list(prune.steps(model, some.images, some.labels, **options))
    units = steps[0].value.summary()["units"]
    goal = round(0.3 * units)
    assert [s.done for s in steps] == [*range(0, goal, round(0.1 * units)), goal]
    assert {s.total for s in steps} == {goal}
    for step in steps:
        value = step.value
        assert value.summary()["removed"] == step.done
        assert int(value.frame()["kept"].sum()) == units - step.done
        right = (value.model.predict(test.images).label == test.labels).float().mean()
        assert value.curve[-1] == pytest.approx((step.done / units, float(right)))
    for early, late in pairwise(steps):
        assert all((early.value.kept[k] | ~late.value.kept[k]).all() for k in late.value.kept)
    last = steps[-1].value
    again = prune(model, some.images, some.labels, **options)
    assert all(torch.equal(again.kept[k], last.kept[k]) for k in last.kept)
    assert again.summary() == last.summary()
    assert last.summary()["accuracy_before"] == steps[0].value.curve[0][1] > 0.95
    assert last.model.card.accuracy is None
    assert last.model.card.name == "digits/cnn, pruned"


def test_without_test_images_no_accuracy_is_given():
    summary = prune(wrapped(seeded(perceptron)), *images()).summary()
    assert summary["accuracy"] is None
    assert summary["share_removed"] == 0.5


def test_scores_are_found_anew_in_each_step():
    model = models.load("digits/mlp")
    some = data.load("digits", "train").sample(2, per_class=True)
    kept = [
        prune(model, some.images, some.labels, share=0.4, step=step).kept["fc1"]
        for step in (0.05, 1.0)
    ]
    assert not torch.equal(*kept)


def test_random_takes_each_layer_in_proportion_to_its_size():
    model = models.load("digits/cnn")
    some = data.load("digits", "train").sample(1, per_class=True)
    result = prune(model, some.images, some.labels, criterion="random", step=1.0)
    assert result.frame()["share_kept"].between(0.3, 0.7).all()


def test_a_residual_model_is_pruned_by_what_needs_no_relevance():
    model = models.load("shapes/resnet")
    some = data.load("shapes", limit=200).sample(1, per_class=True)
    with pytest.raises(ValueError, match=r"stage1_block1 \(ResidualBlock\) joins branches"):
        next(prune.steps(model, some.images, some.labels))
    norms = _norms(model, some.images[:1])
    assert norms["stage2_block1.shortcut.0"] == "stage2_block1.shortcut.1"
    result = run(
        prune.steps(model, some.images, some.labels, criterion="taylor", share=0.1, step=1.0)
    )
    layer = next(k for k, kept in result.kept.items() if not kept.all())
    gone = ~result.kept[layer]
    assert (result.model.layer(norms[layer]).running_mean[gone] == 0).all()


def test_points_in_the_plane_are_small_images():
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2))
    model = wrapped(seeded(lambda: body), (2, 1, 1), 2, mean=(0.5, 0.5), std=(0.1, 0.1))
    x, y = images(5, (2, 1, 1), classes=2)
    result = prune(model, x, y, share=1 / 3, step=1.0)
    assert result.frame()["kept"].tolist() == [13]


# Single weights: how they are ranked, and how those that stay make up for them.


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(6, 4, bias=False),
        lambda: nn.Conv2d(6, 4, 3, padding=1, bias=False),
        lambda: nn.Conv2d(6, 4, (3, 2), stride=2, dilation=2, padding="valid", bias=False),
        lambda: nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False),
        lambda: nn.Conv2d(6, 6, 3, padding=2, padding_mode="circular", groups=6, bias=False),
    ],
)
def test_the_inputs_of_a_row_times_its_weights_are_its_output(layer):
    layer = seeded(layer)
    x = torch.rand((2, 6) if isinstance(layer, nn.Linear) else (2, 6, 7, 7))
    got = inputs_of(layer, x)
    out = got @ layer.weight.reshape(len(got), -1, got.shape[2]).mT  # (groups, places, rows)
    expected = layer(x).detach().movedim(1, -1).reshape(got.shape[1], len(got), -1).movedim(1, 0)
    torch.testing.assert_close(out.detach(), expected)


@pytest.fixture
def flat():
    """A linear model of ten pixels, and images of which the pixels have unlike sizes."""
    w = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    layer = nn.Linear(10, 3, bias=False)
    layer.weight.data = w.clone()
    x = torch.rand(30, 1, 1, 10, generator=torch.Generator().manual_seed(2))
    x = x * torch.linspace(0.1, 1, 10)
    some = ImageDataset(x, torch.arange(3).repeat(10), tuple("abc"), name="mine")
    return wrapped(nn.Sequential(nn.Flatten(), layer), shape=(1, 1, 10)), some, w


@pytest.mark.parametrize("scope", ["model", "row"])
@pytest.mark.parametrize("criterion", ["activation", "second-order"])
def test_weights_are_ranked_by_what_they_see(flat, criterion, scope):
    model, some, w = flat
    x = some.images.flatten(1)
    left = Prune(criterion=criterion, scope=scope)(model, some).model.body[1].weight.detach()
    h = x.T @ x
    h = h + DAMPING * h.diagonal().mean() * torch.eye(10)
    score = w.abs() * x.norm(dim=0) if criterion == "activation" else w**2 / h.inverse().diagonal()
    gone = torch.zeros(30, dtype=torch.bool)
    if scope == "model":
        gone[score.flatten().argsort()[:15]] = True
    else:
        gone = torch.zeros(3, 10, dtype=torch.bool).scatter(1, score.argsort(1)[:, :5], True)
    torch.testing.assert_close(left, w.masked_fill(gone.view(3, 10), 0))


def test_what_stays_makes_up_for_the_rest_as_well_as_can_be(flat):
    model, some, w = flat
    x = some.images.flatten(1)
    plain = Prune(criterion="activation", scope="row")(model, some).model.body[1].weight.detach()
    moved = Prune(criterion="activation", scope="row", update=True)(model, some).model
    ridge = (DAMPING * x.square().sum(0).mean()).sqrt() * torch.eye(10)
    a = torch.cat([x, ridge])  # least squares towards the old outputs, and the old weights
    for row, old, got in zip(plain, w, moved.body[1].weight.detach(), strict=True):
        kept = row != 0
        best = torch.linalg.lstsq(a[:, kept], a @ old).solution
        assert bool((got[~kept] == 0).all())
        torch.testing.assert_close(got[kept], best, atol=1e-4, rtol=1e-4)


def test_an_update_goes_layer_by_layer_on_what_the_layers_before_now_give():
    digits = data.load("digits", "train")
    net = models.load("digits/cnn")
    off = {u: Prune(share=0.9, update=u)(net, digits).model for u in (False, True)}
    test = data.load("digits")
    right = [
        float((m.predict(test.images).label == test.labels).float().mean()) for m in off.values()
    ]
    assert right[1] > right[0] + 0.1
    for a, b in zip(*(m.parameters() for m in off.values()), strict=True):
        assert bool(((a != 0) | (b == 0)).all())


def test_the_lowest_of_a_model_a_layer_a_row():
    scores = {
        "a": torch.tensor([[1.0, 2.0], [3.0, 9.0]]),
        "b": torch.tensor([[4.0, 5.0, 6.0, 7.0]]),
    }
    expected = {
        "model": ([[1, 1], [1, 0]], [[1, 0, 0, 0]]),
        "layer": ([[1, 1], [0, 0]], [[1, 1, 0, 0]]),
    }
    expected["row"] = ([[1, 0], [1, 0]], [[1, 1, 0, 0]])
    for scope, masks in expected.items():
        found = lowest(scores, 0.5, scope)
        assert [m.int().tolist() for m in found.values()] == list(masks), scope


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": "units", "criterion": "activation"}, "criterion 'activation' is of weights"),
        ({"of": "units", "update": True}, "scope and update are of weights"),
        ({"of": "units", "scope": "row"}, "scope and update are of weights"),
        ({"criterion": "lrp"}, "criterion 'lrp' is of units"),
    ],
)
def test_what_is_of_weights_or_of_units_alone_is_said(flat, options, said):
    with pytest.raises(ValueError, match=said):
        Prune(**options)(flat[0], flat[1])
