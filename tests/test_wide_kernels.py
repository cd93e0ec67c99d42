"""Kernels of wide networks: against closed forms, random networks, and networks trained."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import attacks, data, levelsets
from workbench.kernels import (
    RELU,
    GaussianProcess,
    KernelClassifier,
    StudentTProcess,
    Wide,
    dual,
    empirical_ntk,
    series,
    solve,
)

H2 = series([0, 0, 1])
SINGULAR = series([0, 0.5, 0, 0, 0, 0, 0, 0.5])


def rows(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


class Net(nn.Module):
    """Standard normal weights over the root of the fan-in, ReLUs times the root of 2, no biases."""

    def __init__(self, *sizes, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        shapes = zip(sizes[1:], sizes, strict=False)
        self.w = nn.ParameterList(torch.randn(shape, generator=draw) for shape in shapes)

    def forward(self, x):
        for i, w in enumerate(self.w):  # the inputs have length 1: no root of D in the first
            x = x @ w.T / math.sqrt(w.shape[1] if i else 1)
            x = x.relu() * math.sqrt(2) if i < len(self.w) - 1 else x
        return x


# Duals


def test_the_dual_of_the_relu_is_its_mean_over_gaussians():
    u, v = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0)).double()
    for s in (-0.7, 0.0, 0.4, 0.95):
        w = s * u + math.sqrt(1 - s * s) * v
        s = torch.tensor(s).double()
        assert float(RELU.value(s)) == pytest.approx(
            float((2 * u.relu() * w.relu()).mean()), abs=0.01
        )
        assert float(RELU.slope(s)) == pytest.approx(
            float((2.0 * ((u > 0) & (w > 0))).mean()), abs=0.01
        )


def test_the_dual_of_the_error_function_is_an_arc_sine():
    s = torch.linspace(-1, 1, 21).double()
    expected = (2 * s / 3).asin() / math.asin(2 / 3)  # Williams (1997), scaled to 1
    assert torch.allclose(dual(torch.erf).value(s), expected, atol=1e-6)
    third = dual(lambda u: u**3)  # 3 h_1 + sqrt(6) h_3, so (9 s + 6 s^3) / 15
    assert torch.allclose(third.value(s), (9 * s + 6 * s**3) / 15, atol=1e-9)


@pytest.mark.parametrize("f", [RELU, H2, SINGULAR, series([0.3, 0.4, 0.3]), dual(torch.tanh)])
def test_a_slope_is_the_derivative_and_logarithms_are_logarithms(f):
    s = torch.linspace(0.01, 0.99, 25).double().requires_grad_()
    (slope,) = torch.autograd.grad(f.value(s).sum(), s)
    assert torch.allclose(f.slope(s), slope, atol=1e-6)
    assert torch.allclose(f.log_value(s.log()).exp(), f.value(s))
    assert torch.allclose(f.log_slope(s.log()).exp(), f.slope(s))
    assert float(f.value(torch.ones(1).double())) == pytest.approx(1, abs=1e-9)


# Against networks


def test_outputs_of_random_networks_have_the_covariance():
    x = rows(4, 6)
    drawn = torch.stack([Net(6, 256, 256, 8, seed=i)(x).detach() for i in range(300)])
    outputs = drawn.permute(0, 2, 1).flatten(0, 1).double()  # (2400, 4)
    products = outputs[:, :, None] * outputs[:, None, :]
    error = products.std(0) / len(outputs) ** 0.5
    assert bool(((products.mean(0) - Wide(2, kind="nngp")(x, x)).abs() < 4 * error + 0.02).all())


def test_the_gradients_of_a_wide_network_have_the_kernel():
    x = rows(5, 6)
    kernel = Wide(2)
    assert kernel.diagonal == pytest.approx(3, abs=1e-5)
    gaps = []
    for width in (64, 1024):
        nets = [empirical_ntk(Net(6, width, width, 1, seed=i), x, x) for i in range(3)]
        gaps.append(float((torch.stack(nets).mean(0) / 3 - kernel(x, x)).abs().max()))
    assert gaps[1] < 0.1
    assert gaps[1] < gaps[0] / 2


def test_the_empirical_kernel_is_the_product_of_gradients():
    x, net = rows(3, 4), Net(4, 5, 2)
    each = []
    for k in range(2):
        for one in x:
            net.zero_grad()
            net(one[None])[0, k].backward()
            each.append(torch.cat([w.grad.flatten() for w in net.w]))
    g = torch.stack(each).view(2, 3, -1)
    assert torch.allclose(empirical_ntk(net, x, x, logit=1), g[1] @ g[1].T, atol=1e-5)
    assert torch.allclose(empirical_ntk(net, x, x), (g @ g.transpose(1, 2)).mean(0), atol=1e-5)


def test_a_wide_network_that_is_trained_says_what_the_kernel_says():
    x, z = rows(8, 5), rows(20, 5, seed=1)
    y = x[:, :1] * x[:, 1:2] * 5
    net = Net(5, 8192, 1)
    start, before = net(x).detach(), net(z).detach()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.4)
    for _ in range(1500):
        loss = (net(x) - start - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    kernel = Wide(1)
    said = kernel(z, x) @ solve(kernel(x, x), y)
    assert float(loss.detach()) < 1e-4
    apart = (net(z).detach() - before - said).norm() / said.norm()
    assert float(apart) < 0.06
    other = Wide(1, kind="nngp")  # the last layer alone: another prediction
    assert float((other(z, x) @ solve(other(x, x), y) - said).norm() / said.norm()) > 0.06


def test_the_kernel_of_patches_is_that_of_random_convolutions():
    x = rows(3 * 4, 3).view(3, 4, 3)
    products = []
    for seed in range(600):
        draw = torch.Generator().manual_seed(seed)
        first, second = torch.randn(150, 3, generator=draw), torch.randn(150, 300, generator=draw)
        last = torch.randn(50, 2 * 150, generator=draw)  # 50 outputs, each place with its weights
        h = (x @ first.T).relu() * math.sqrt(2 / 150)
        h = (h.view(3, 2, 300) / math.sqrt(2) @ second.T).relu() * math.sqrt(2 / 150)
        out = h.flatten(1) @ last.T / math.sqrt(2)
        products.append(out @ out.T / 50)
    found = torch.stack(products).double()
    error = found.std(0) / len(found) ** 0.5
    kernel = Wide(2, kind="nngp", group=2)(x, x)
    assert bool(((found.mean(0) - kernel).abs() < 4 * error + 0.01).all())
    first = RELU.value(torch.einsum("npd,mpd->nmp", x, x).double())
    assert torch.allclose(kernel, RELU.value(first.unflatten(2, (2, 2)).mean(3)).mean(2), atol=1e-6)


# Properties


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    depth=st.integers(1, 6),
    kind=st.sampled_from(["nngp", "ntk"]),
    f=st.sampled_from([RELU, H2, SINGULAR]),
    group=st.sampled_from([1, 2]),
)
def test_a_kernel_is_symmetric_positive_and_one_on_its_diagonal(seed, depth, kind, f, group):
    x = rows(7 * 4, 3, seed).view(7, 4, 3)
    kernel = Wide(depth, f, kind, group)
    k = kernel(x, x)
    assert torch.allclose(k, k.T, atol=1e-12)
    assert torch.allclose(k.diagonal(), torch.ones(7).double(), atol=1e-9)
    assert float(torch.linalg.eigvalsh(k).min()) > -1e-9
    assert torch.equal(kernel(3 * x, x), kernel(x, x)) or torch.allclose(kernel(3 * x, x), k)
    above = x.abs()
    assert torch.allclose(kernel.log(above, above).exp(), kernel(above, above), atol=1e-12)


def test_neighbours_that_change_places_together_change_nothing():
    x, z = rows(5 * 4, 3).view(5, 4, 3), rows(6 * 4, 3, 1).view(6, 4, 3)
    kernel = Wide(3, group=2)
    swapped, interleaved = [1, 0, 2, 3], [0, 2, 1, 3]
    assert torch.allclose(kernel(x[:, swapped], z[:, swapped]), kernel(x, z))
    assert not torch.allclose(kernel(x[:, interleaved], z[:, interleaved]), kernel(x, z))


# The limits of great depth


@pytest.fixture(scope="module")
def digits():
    training, test = data.load("digits", "train"), data.load("digits")
    return training[:150], test[:200]


def test_a_deep_kernel_without_linear_part_is_the_nearest_neighbour(digits):
    training, test = digits
    units = [F.normalize(d.images.flatten(1)) for d in digits]
    nearest = training.labels[(units[1] @ units[0].T).argmax(1)]
    deep = KernelClassifier(Wide(200, H2), training, log=True)
    assert torch.equal(deep.predict(test.images).label, nearest)
    shallow = KernelClassifier(Wide(1), training)
    assert not torch.equal(shallow.predict(test.images).label, nearest)


def test_a_deep_kernel_with_a_constant_is_the_majority(digits):
    training, test = digits
    twos = training[(training.labels == 2) | (training.labels == 3)]
    twos = twos[
        torch.cat([(twos.labels == 2).nonzero()[:, 0], (twos.labels == 3).nonzero()[:3, 0]])
    ]
    deep = KernelClassifier(Wide(60, series([0.3, 0, 0, 0.7])), twos, log=True)
    kernel = deep.body[0](test.images)
    assert float((kernel.amax(1) / kernel.amin(1)).max()) < 1 + 1e-6  # everything is alike
    assert bool((deep.predict(test.images).label == 2).all())


def test_a_deep_kernel_with_a_linear_part_is_a_power_of_the_distance():
    x, way = rows(1, 4), rows(1, 4, 1)
    steps = torch.logspace(-5, -1, 400).double()[:, None]
    z = F.normalize(x.double() + steps * way)
    log_gap = (z - F.normalize(x.double())).norm(dim=1).log()
    line = torch.stack([log_gap, torch.ones(400)], 1)
    # alpha = -2 log f'(0) / log f'(1), here 2 log 2 / log 4. In an NTK whose depth is far below
    # gap^-2 the terms of the first layers are larger, f'(1)^m = gap^-2 of them.
    for kind, alpha in (("nngp", 1), ("ntk", 3)):
        log_k = Wide(120, SINGULAR, kind).log(z, x)
        slope = torch.linalg.lstsq(line, log_k).solution[0]
        assert float(slope) == pytest.approx(-alpha, abs=0.1)


# The classifier


@pytest.mark.parametrize("log", [False, True])
def test_without_a_ridge_it_fits_every_training_image(digits, log):
    training, _ = digits
    model = KernelClassifier(Wide(2), training, log=log)
    assert torch.allclose(
        model.predict(training.images).logits,
        10 * F.one_hot(training.labels, 10).float(),
        atol=1e-4,
    )
    weights = model.weights(training.images[:5])
    assert weights.argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert torch.allclose(weights.sum(1), torch.ones(5).double())


def test_patches_that_make_a_square_follow_one_another(digits):
    training, test = digits
    kernel = Wide(3, group=4, constant=1.0)
    model = KernelClassifier(kernel, training, patch=2)
    marked = torch.zeros(1, 1, 8, 8)
    marked[0, 0, 0, 2] = 1.0  # of the second patch in the first row
    marked[0, 0, 2, 0] = 0.5  # of the first in the second row: they are of one group
    parts = model.body[0].inputs(marked)[0].amax(1)
    assert parts.nonzero().flatten().tolist() == [1, 2]
    said = model.predict(test.images).label == test.labels
    assert float(said.float().mean()) > 0.8


@pytest.mark.parametrize(
    ("kernel", "options"),
    [(Wide(2), {}), (Wide(40), {"log": True}), (Wide(2, group=4, constant=1.0), {"patch": 4})],
)
def test_its_gradient_is_that_of_differences(digits, kernel, options):
    training, test = digits
    model = KernelClassifier(kernel, training, **options)
    similar, w = model.body[0], model.body[1].weight
    w = w.detach()
    x = test.images[:1].double().requires_grad_()
    (slope,) = torch.autograd.grad((similar(x) @ w.T)[0, 3], x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (similar(x.detach() + h * way) @ w.T for h in (1e-6, -1e-6))
    assert float((slope * way).sum()) == pytest.approx(
        float((ahead - behind)[0, 3]) / 2e-6, rel=1e-4
    )
    at_a_point = training.images[:1].clone().requires_grad_()
    assert bool(torch.autograd.grad(model(at_a_point).sum(), at_a_point)[0].isfinite().all())


def test_the_views_of_the_bench_take_it(digits):
    training, test = digits
    model = KernelClassifier(Wide(3), training)
    assert model.linear_head() is model.body[1]
    fooled = attacks.PGD(eps=0.2, n_steps=10)(model, test.images[:20], test.labels[:20])
    assert fooled.summary()["success_rate"] > 0.3
    plane = levelsets.plane(model, levelsets.through(*test.images[:3]), 17)
    assert plane.predicted.shape == (17, 17)
    assert levelsets.neural_collapse(model, training).frame()["nc1"].isna().sum() == 0


def test_the_bench_opens_it(digits):
    from workbench.widgets import Bench

    training, test = digits
    bench = Bench(test, KernelClassifier(Wide(3), training), auto=False)
    assert "panel-failure" not in bench._repr_mimebundle_()["text/html"]


# Processes


def test_student_t_is_the_mixture_of_gaussians_over_the_scale():
    x, y, z = rows(6, 3), torch.randn(6, generator=torch.Generator().manual_seed(0)), rows(4, 3, 2)
    kernel, a, b = Wide(2, kind="nngp"), 2.5, 1.5
    process = StudentTProcess(kernel, 0.3, a=a, b=b)
    # p(z | y) = integral of p(z | y, s) p(y | s) p(s) ds, over that of p(y | s) p(s), on a grid
    s = torch.linspace(math.log(1e-3), math.log(1e3), 4001).double().exp()
    k = kernel(x, x) + 0.09 * torch.eye(6)
    energy = float(y.double() @ torch.linalg.solve(k, y.double()))
    log_weight = -(a + 1 + 3) * s.log() - (b + energy / 2) / s + s.log()  # ds = s d log s
    each = [GaussianProcess(kernel, 0.3, scale=float(v)).posterior(x, y, z) for v in s[::40]]
    density = torch.stack([one.log_prob(torch.ones(4)) for one in each]).double()
    weights = log_weight[::40].softmax(0)[:, None]
    expected = (weights * density.exp()).sum(0).log()
    assert torch.allclose(process.posterior(x, y, z).log_prob(torch.ones(4)), expected, atol=1e-3)


def test_a_gaussian_process_says_what_joint_gaussians_say():
    x, y, z = rows(5, 3), torch.arange(5.0), rows(3, 3, 1)
    kernel = Wide(1, kind="nngp")
    k = kernel(torch.cat([x, z]), torch.cat([x, z])) + 0.04 * torch.eye(8)
    gain = k[5:, :5] @ torch.linalg.inv(k[:5, :5])
    said = GaussianProcess(kernel, 0.2, scale=2.0).posterior(x, y, z)
    assert torch.allclose(said.mean, gain @ y.double())
    assert torch.allclose(said.variance, 2 * (k[5:, 5:] - gain @ k[:5, 5:]).diagonal())
    fitted = GaussianProcess(kernel, 0.2, scale=None).posterior(x, y, z)
    expected = float(y.double() @ torch.linalg.solve(k[:5, :5], y.double())) / 5
    assert torch.allclose(fitted.variance, expected / 2 * said.variance)


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Wide(0), "depth: expected a whole number of at least 1, got 0"),
        (lambda: Wide(-2), "depth: .*got -2"),
        (lambda: Wide(2, group=0), "group: .*got 0"),
        (lambda: Wide(2, kind="ntkk"), "unknown kind 'ntkk'. Did you mean 'ntk'"),
        (lambda: Wide(2)(rows(3, 4), rows(3, 5)), r"of one size, got \(3, 4\) and \(3, 5\)"),
        (lambda: Wide(2)(torch.zeros(2, 4), rows(3, 4)), "not all 0; give a constant"),
        (lambda: Wide(2).log(rows(3, 4), -rows(3, 4)), "cosines from 0 up.*got -1"),
        (
            lambda: Wide(2, group=2)(rows(6, 2).view(2, 3, 2), rows(6, 2).view(2, 3, 2)),
            "divisor of the 3",
        ),
        (lambda: series([0.5, 0.6]), "sum to 1.*divide them"),
        (lambda: series([1.0]), "not a constant alone"),
        (lambda: series([1.5, -0.5]), "from 0 up"),
        (lambda: dual(torch.tanh, 1), "terms: .*got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_image_that_occurs_twice_needs_a_ridge(digits):
    training, _ = digits
    twice = training[torch.tensor([0, 1, 2, 2])]
    with pytest.raises(ValueError, match=r"not positive definite with ridge=0.*take ridge=1e-10"):
        KernelClassifier(Wide(2), twice)
    KernelClassifier(Wide(2), twice, ridge=1e-10)
    with pytest.raises(ValueError, match="least eigenvalue is -1"):
        solve(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2, 1))


def test_patches_and_labels_that_do_not_fit_are_refused(digits):
    training, _ = digits
    with pytest.raises(ValueError, match=r"patch: expected a side.*into images of 8x8, got 3"):
        KernelClassifier(Wide(2, group=4), training, patch=3)
    unknown = data.ImageDataset.from_arrays(training.images)
    with pytest.raises(ValueError, match=r"training\.labels"):
        KernelClassifier(Wide(2), unknown)
