"""The verifier's core: a network as matrices, bounds, branch and bound, MILP, properties."""

import copy
import math
import threading
from dataclasses import astuple, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import models, proofs
from workbench.models import architectures
from workbench.patterns import Pattern
from workbench.proofs import Property, bounds_of, local_robustness, prove
from workbench.proofs.bounds import METHODS, relax, tighten
from workbench.proofs.network import Network
from workbench.proofs.query import Query

OURS, SHAPE = ["branching", "milp"], (1, 4, 4)
ALL = ((torch.zeros(1, 3), torch.zeros(1)),)  # every output is unsafe: never to be proved


def made(body, seed=0, shape=SHAPE, scale=1.5, **options):
    """A model with weights, biases and batch statistics drawn anew."""
    draw, tensors = torch.Generator().manual_seed(seed), body.state_dict()
    for name, p in tensors.items():
        fan = p[0].numel() if p.ndim > 1 else 1
        if p.is_floating_point():
            p.copy_(torch.randn(p.shape, generator=draw) * scale / fan**0.5)
        if name.endswith("running_var"):
            p.abs_().add_(0.5)
    return models.wrap(body.eval(), input_shape=shape, name=f"made {seed}", **options)


def dense(*widths):
    """Flatten, then linear layers with ReLUs between them."""
    layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


class Residual(nn.Module):
    """Shortcuts from the image and round a ReLU, one of which works in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.norm, self.pool, self.head = nn.BatchNorm2d(2), nn.AvgPool2d(2), nn.Linear(8, 3)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu1(self.first(x))
        return self.head(self.pool(self.relu2(self.norm(self.second(y)) + y - x) + x).flatten(1))


def strided():
    """Stride, padding, pooling and batch statistics."""
    first = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU()
    last = nn.AvgPool2d(2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*first, *last)


KINDS = {
    "dense": lambda seed: made(dense(16, 6, 5, 3), seed, mean=(0.3,), std=(0.5,)),
    "linear": lambda seed: made(dense(16, 3), seed),
    "convolutional": lambda seed: made(strided(), seed, mean=(0.4,), std=(0.7,)),
    "residual": lambda seed: made(Residual(), seed),
}


def real(model, x):
    """What comes to each ReLU, and the logits: by hooks on a float64 copy of the real network."""
    twin, found = copy.deepcopy(model).double(), []
    for part in twin.modules():
        if type(part) is nn.ReLU:
            part.register_forward_pre_hook(lambda _, given: found.append(given[0].flatten(1) + 0))
    with torch.no_grad():
        logits = twin(x.double())
    return [*found, logits]


def asked(model, z, draw, share=0.4):
    """Phases: each neuron is asked, with the chance `share`, to be as it is at the first image."""
    names = [name for name, part in model.body.named_modules() if type(part) is nn.ReLU]
    picked = [torch.rand(v.shape[1], generator=draw) < share for v in z[:-1]]
    signs = [
        (pick * (2 * (v[0] > 0) - 1)).to(torch.int8) for pick, v in zip(picked, z, strict=False)
    ]
    return dict(zip(names, signs, strict=True))


def following(phases, z):
    """Which images follow the phases, bool `(N,)`."""
    kept = torch.ones(len(z[0]), dtype=torch.bool)
    for phase, value in zip(phases.values(), z, strict=False):
        kept &= ((value > 0) == (phase > 0))[:, phase != 0].all(1)
    return kept


def problem(seed, kind="dense", eps=0.3, inside=False):
    """A model, a property near what is just reached, and z of images of it, the logits last."""
    model, draw = KINDS[kind](seed), torch.Generator().manual_seed(seed)
    centre = torch.rand(1, *SHAPE, generator=draw)
    lower, upper = (centre - eps).clamp(min=0), (centre + eps).clamp(max=1)
    x = torch.rand(600, *SHAPE, generator=draw)
    x[1::2] = x[1::2].round()  # corners of the box
    z = real(model, torch.cat([centre, lower + x * (upper - lower)]))
    phases = asked(model, z, draw) if inside else {}
    z = [value[following(phases, z)] for value in z]
    rows = [torch.randn(m, 3, generator=draw) for m in (1, 2)]
    least = [
        (z[-1] @ a.double().T).amax(1).min() - 0.3 * torch.rand((), generator=draw) for a in rows
    ]
    unsafe = [(a, (b + 0.1).float().repeat(len(a))) for a, b in zip(rows, least, strict=True)]
    return model, Property(lower[0], upper[0], tuple(unsafe), phases), z


def slack(prop, logits):
    """The worst row's slack of each unsafe set at each image, `(N, G)`."""
    rows = [(logits @ a.double().T - b.double()).amax(1) for a, b in prop.unsafe]
    return torch.stack(rows, 1)


problems = given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(sorted(KINDS)),
    eps=st.sampled_from([0.01, 0.1, 0.3, 1.0]),
    inside=st.booleans(),
)


# The network as matrices


def check_network(model):
    net = Network(model)
    x = 3 * torch.rand(20, *model.input_shape, generator=torch.Generator().manual_seed(1)) - 1
    found, expected = net.run(x.flatten(1).double())[1:], real(model, x)
    assert net.sizes[1:] == [z.shape[1] for z in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_the_model(kind):
    for seed in range(3):
        check_network(KINDS[kind](seed))


def test_shipped_networks_and_a_resnet_are_the_models():
    assert check_network(models.load("digits/mlp")).names == ("relu1", "relu2")
    check_network(models.load("digits/cnn"))
    body = architectures.build("resnet", (1, 16, 16), 3, width=2)
    net = check_network(made(body, shape=(1, 16, 16), mean=(0.5,), std=(0.3,)))
    assert set(net.weight) >= {(3, 1), (3, 2)}  # a shortcut
    assert (3, 0) not in net.weight
    assert net.weight[1, 0].layout is not torch.strided  # sparse


def test_a_huge_bias_does_not_hide_a_weight():
    model = made(dense(1, 2, 2), shape=(1, 1, 1))
    model.load_state_dict({"body.1.weight": torch.tensor([[1.0], [1e-3]])}, strict=False)
    model.load_state_dict({"body.1.bias": torch.tensor([1e13, 0.0])}, strict=False)
    assert float(Network(model).weight[1, 0][1, 0]) == pytest.approx(1e-3)


class Written(nn.Module):
    """A network whose ReLU is given what a function makes of a linear layer."""

    def __init__(self, before=torch.clone, after=torch.clone):
        super().__init__()
        self.fc, self.relu, self.head = nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
        self.before, self.after = before, after

    def forward(self, x):
        return self.head(self.after(self.relu(self.before(self.fc(x.flatten(1))))))


def around(layer, left=16):
    """A network with `layer` between two linear ones."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), layer, nn.Flatten(), nn.Linear(left, 3))


shared = nn.ReLU()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (around(nn.GELU()), r"2 \(GELU\) is not affine"),
        (around(nn.Sigmoid()), r"2 \(Sigmoid\)"),
        (around(nn.ReLU6()), r"2 \(ReLU6\)"),
        (around(nn.Hardtanh(-1e4, 1e4)), r"2 \(Hardtanh\)"),
        (around(nn.LayerNorm(16)), r"2 \(LayerNorm\)"),
        (around(nn.Sequential(nn.Unflatten(1, SHAPE), nn.MaxPool2d(2)), 4), r"2.1 \(MaxPool2d\)"),
        (around(Written(after=F.relu), 3), r"what comes to 2.head \(Linear\) is not affine"),
        (Written(before=torch.abs), r"what comes to relu \(ReLU\) is not affine"),
        (
            Written(before=partial(F.max_pool1d, kernel_size=3, stride=1, padding=1)),
            "comes to relu",
        ),
        (
            Written(before=lambda x: torch.where(torch.arange(8) > 6, 1e-9 * x.abs(), x)),
            "comes to relu",
        ),
        (nn.Sequential(nn.Flatten(), shared, nn.Linear(16, 3), shared), "1 runs more than once"),
    ],
)
def test_what_is_not_affine_or_a_relu_is_refused_by_name(body, message):
    model = models.wrap(body, input_shape=SHAPE)
    with pytest.raises(ValueError, match=f"model: .*{message}"):
        prove(model, Property(torch.zeros(SHAPE), torch.ones(SHAPE), ALL))


@pytest.mark.parametrize("backend", OURS)
def test_the_model_and_the_generator_stay_as_they_were(backend):
    model, prop, _ = problem(1, "residual", inside=True)
    model.body.norm.register_forward_hook(lambda *_: None)
    model(torch.rand(2, *SHAPE, generator=torch.Generator())).sum().backward()
    model.body.head.requires_grad_(False)

    def seen():
        hooks = [(*m._forward_hooks, *m._forward_pre_hooks, m.training) for m in model.modules()]
        tensors = [t.detach().clone() for t in model.state_dict().values()]
        grads = [(p.grad + 0, p.requires_grad) for p in model.parameters()]
        return torch.get_rng_state(), torch.is_grad_enabled(), hooks, tensors, grads

    before = seen()
    prove(model, prop, backend=backend)
    bounds_of(model, prop)
    torch.testing.assert_close(seen(), before, rtol=0, atol=0)


# Bounds


@problems
@settings(max_examples=30, deadline=None)
def test_bounds_hold_and_better_methods_are_tighter(seed, kind, eps, inside):
    model, prop, z = problem(seed, kind, eps, inside)
    found = [bounds_of(model, prop, method) for method in METHODS]
    for each in found:
        assert not each.empty
        for value, low, high in zip(z, each.lower.values(), each.upper.values(), strict=False):
            assert bool(((value >= low - 1e-9) & (value <= high + 1e-9)).all())
        for name, phase in prop.phases.items():
            assert bool((each.lower[name][phase > 0] >= 0).all())
            assert bool((each.upper[name][phase < 0] <= 0).all())
        assert bool((slack(prop, z[-1]) >= each.slack - 1e-9).all())
    for loose, tight in pairwise(found):
        for name in loose.lower:
            assert bool((tight.lower[name] >= loose.lower[name] - 1e-9).all())
            assert bool((tight.upper[name] <= loose.upper[name] + 1e-9).all())
    assert bool((found[1].slack >= found[0].slack - 1e-9).all())
    # Its slopes start elsewhere, and it stops where all is proved.
    assert bool((found[2].slack >= found[1].slack.clamp(max=0) - 0.02).all())


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_exact_where_no_neuron_is_unstable(kind):
    checked = 0
    for seed, method in [(seed, method) for seed in range(8) for method in list(METHODS)[1:]]:
        model, prop, _ = problem(seed, kind, 1e-3)
        found = bounds_of(model, prop, method)
        if not found.summary()["unstable"]:
            twin, (a, b) = copy.deepcopy(model).double(), prop.unsafe[0]
            middle = ((prop.lower + prop.upper).double() / 2).requires_grad_()
            value = (twin(middle[None])[0] * a[0]).sum() - b[0]
            (gradient,) = torch.autograd.grad(value, middle)
            reach = (gradient.abs() * (prop.upper.double() - prop.lower.double()) / 2).sum()
            assert float(found.slack[0]) == pytest.approx(float(value.detach() - reach), abs=1e-9)
            checked += 1
    assert checked >= 6


def test_bounds_in_one_dimension_in_closed_form():
    """-|x - 1/2| and |x - 1/2| - x on [0, 1], of three neurons."""
    model = made(dense(1, 3, 2), shape=(1, 1, 1))
    numbers = [[1.0], [-1.0], [1.0]], [-0.5, 0.5, 1.0], [[1.0, 1, 0], [1, 1, -1]], [0.0, 1]
    tensors = [torch.tensor(value) for value in numbers]
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    unsafe = tuple((torch.tensor([row]), torch.zeros(1)) for row in ([-1.0, 0], [0.0, 1]))
    prop = Property(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), unsafe)
    slacks = [bounds_of(model, prop, method).slack.tolist() for method in METHODS]
    expected = [-1, -1], [-0.5, -1], [-0.5, -0.5]
    assert slacks == [pytest.approx(each, abs=1e-3) for each in expected]
    found = bounds_of(model, prop, "interval")
    assert found.frame().to_numpy().tolist() == [["2", 1, 0, 2, 1.0]]
    assert list(found.summary().values()) == [3, 2, -1.0, 2, False]


@problems
@settings(max_examples=20, deadline=None)
def test_no_step_of_a_relaxation_is_unsound(seed, kind, eps, inside):
    model, prop, z = problem(seed, kind, eps, inside)
    query, draw = Query(model, prop), torch.Generator().manual_seed(seed)
    net, root = query.net, query.root
    list(tighten(net, root, 0))
    for k in range(1, net.top + 1):
        rows, offset = (torch.randn(4, 2, n, generator=draw).double() for n in (net.sizes[k], 1))
        reached = (rows @ z[k - 1].T - offset).amax(1).amin(1)
        slopes = torch.rand(2, 4, root.sign.shape[1], generator=draw).double()
        region, value = root.under(root.sign.repeat(4, 1)), torch.full((4,), -torch.inf).double()
        for steps in (0, 1, 4, 25):
            parts = region, k, rows, offset[:, :, 0], *slopes.clone()
            found = relax(net, *parts, steps=steps, above=seed % 2 > 0)
            assert bool((found.value <= reached + 1e-9).all())
            assert bool((found.value >= value).all())  # the best is kept
            assert bool(((found.x - root.centre).abs() <= root.radius + 1e-12).all())
            value = found.value


@pytest.mark.parametrize("kind", ["dense", "residual"])
def test_phases_that_contradict_the_box_leave_nothing_to_prove(kind):
    model, prop, _ = problem(0, kind, 0.01)
    name, lower = max(bounds_of(model, prop, "interval").lower.items(), key=lambda i: i[1].max())
    phase = torch.zeros(len(lower), dtype=torch.int8)
    phase[lower.argmax()] = -1  # it is on everywhere
    prop = replace(prop, phases={name: phase}, unsafe=ALL)
    for method in METHODS:
        found = bounds_of(model, prop, method)
        assert (found.summary()["empty"], found.slack.tolist()) == (True, [math.inf])
    for answer in [prove(model, prop, backend=backend) for backend in OURS]:
        assert answer.verdict == "proved"
        assert answer.note == "no image in the box follows the phases"


# Verdicts


def right(model, prop, answer, z):
    """Check an answer by images, and its counterexample on the real network."""
    assert answer.verdict in ("proved", "refuted") or "too near to tell" in answer.note
    if answer.verdict == "refuted":
        x = answer.counterexample
        assert bool(((x >= prop.lower) & (x <= prop.upper)).all())
        *hidden, logits = real(model, x[None])
        assert float(slack(prop, logits).min()) <= 1e-5
        for phase, value in zip(prop.phases.values(), hidden, strict=False):
            assert float((phase * value[0]).min()) >= -1e-5
    elif answer.verdict == "proved":
        assert not len(z[-1]) or float(slack(prop, z[-1]).min()) > -1e-6
        assert answer.open == 0
        assert answer.bound is None or answer.bound > 0


@problems
@settings(max_examples=30, deadline=None)
def test_branching_and_milp_agree_and_repeat_themselves(seed, kind, eps, inside):
    model, prop, z = problem(seed, kind, eps, inside)
    found = [prove(model, prop, backend=b, time_limit=600, seed=seed) for b in OURS + OURS]
    assert {"proved", "refuted"} != {answer.verdict for answer in found}
    for answer, again in zip(found[:2], found[2:], strict=True):
        right(model, prop, answer, z)
        same = [replace(each, seconds=0, counterexample=None) for each in (answer, again)]
        assert astuple(same[0]) == astuple(same[1])
        if answer.counterexample is not None:
            assert torch.equal(answer.counterexample, again.counterexample)


def test_pattern_properties_against_a_grid():
    grid, seen = torch.cartesian_prod(*[torch.linspace(0, 1, 201)] * 2).view(-1, 1, 1, 2), set()
    for seed in range(14):
        model, draw = made(dense(2, 5, 4, 3), seed, (1, 1, 2), 2.0), torch.Generator()
        z = real(model, grid)
        places = torch.randint(len(grid), (2,), generator=draw.manual_seed(seed)).tolist()
        phases = [asked(model, [value[i:] for value in z], draw) for i in places]
        one, two = (Pattern(model.card.name, k, part) for k, part in enumerate(phases))
        worse = z[-1] - z[-1][:, :1] - 1e9 * ~following(one.phases, z)[:, None]
        cases = [
            (proofs.pattern_property(model, one, 2), worse[:, 2]),
            (proofs.pattern_property(model, one), worse[:, 1:].amax(1)),
        ]
        if not any(bool((one.phases[n] * two.phases[n] < 0).any()) for n in one.phases):
            both = (following(one.phases, z) & following(two.phases, z)).double()
            cases.append((proofs.ambiguity(model, one, two), 2 * both - 1))
        for prop, margin in cases:
            most = float(margin.max())
            assert float((prop.holds_against(model, grid) == (margin >= 0)).double().mean()) > 0.999
            for backend in OURS:
                answer = prove(model, prop, backend=backend)
                right(model, prop, answer, [torch.zeros(0, 3).double()])
                sure = "refuted" if most >= 0 else "proved" if most < -0.6 else answer.verdict
                assert answer.verdict == sure
                seen.add((backend, prop.name[:9], answer.verdict))
                if "both" in prop.name and answer.verdict == "proved":
                    assert "no image in the box follows the phases" in answer.note
    assert len(seen) == 8  # by each proved and refuted, of both kinds


@pytest.mark.parametrize("backend", OURS)
def test_the_robust_radius_of_a_linear_model(backend):
    x, checked = torch.full(SHAPE, 0.5), 0
    for seed in range(12):
        model = made(dense(16, 3), seed)
        logits, label = model.predict(x[None]).logits[0].double(), int(model.predict(x[None]).label)
        gap = (model.body[1].weight[label] - model.body[1].weight).detach().double().abs().sum(1)
        radius = float(((logits[label] - logits) / gap)[torch.arange(3) != label].min())
        for share, verdict in ((0.999, "proved"), (1.001, "refuted")):
            if radius < 0.49:  # inside [0, 1]
                prop, checked = local_robustness(model, x, label, radius * share), checked + 1
                assert prove(model, prop, backend=backend).verdict == verdict
    assert checked >= 10


@pytest.mark.parametrize("backend", OURS)
def test_a_tie_counts_against(backend):
    model, x = KINDS["dense"](0), torch.full(SHAPE, 0.5)
    for p in (tensor.detach() for tensor in model.body[-1].parameters()):
        p[1] = p[0]
    prop = replace(
        local_robustness(model, x, 0, 0.01),
        unsafe=((torch.tensor([[1.0, -1.0, 0.0]]), torch.zeros(1)),),
    )
    assert prove(model, prop, backend=backend).verdict == "refuted"


def hard():
    """A property that is true, and that takes a search of seconds to prove."""
    model, draw = made(dense(16, 40, 40, 3), scale=2.0), torch.Generator().manual_seed(0)
    a = torch.tensor([[1.0, -1.0, 0.0]])
    x = torch.rand(20_000, *SHAPE, generator=draw).round()
    least = (model.predict(x).logits @ a[0]).min()
    return model, Property(torch.zeros(SHAPE), torch.ones(SHAPE), ((a, least[None] * 1.05),))


@pytest.mark.parametrize("backend", OURS)
def test_a_time_limit_is_said(backend):
    model, prop = hard()
    for limit in (0.1, 1e-6):  # what is reached by then: test_proofs_time.py, by another clock
        answer = prove(model, prop, backend=backend, time_limit=limit)
        assert (answer.verdict, "time limit was reached" in answer.note) == ("open", True)
        assert answer.seconds >= limit


def test_steps_tell_of_progress_and_closing_them_leaves_nothing():
    model, prop = hard()
    threads, work = threading.active_count(), proofs.prove.steps(model, prop)
    ticks = [next(work)]
    while len(search := [tick.value for tick in ticks if "open" in tick.message]) < 4:
        ticks.append(next(work))
    work.close()
    assert threading.active_count() == threads
    assert not any(part._forward_hooks for part in model.modules())
    assert ticks[0].message == "bounds of 2"
    assert f"bound {search[-1].bound:.4g}, {search[-1].open:,} branches open" == ticks[-1].message
    assert all(0 <= t.done <= t.total and t.value.verdict == "open" for t in ticks)
    assert all(t.bound >= s.bound and t.branches > s.branches for s, t in pairwise(search))


# Trouble and errors


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6, 1e9, 1e16, 1e30])
def test_weights_that_are_not_numbers_or_huge_prove_nothing(backend, value):
    for layer, eps in [(layer, eps) for layer in (1, 3, 5) for eps in (1e-6, 0.1)]:
        model = KINDS["dense"](0)
        model.body[layer].weight.detach().mul_(value)
        prop = Property(torch.full(SHAPE, 0.5 - eps), torch.full(SHAPE, 0.5 + eps), ALL)
        if math.isfinite(value):
            assert prove(model, prop, backend=backend).verdict != "proved"
        else:
            with pytest.raises(ValueError, match=rf"{layer} \(Linear\) is NaN or infinite"):
                prove(model, prop, backend=backend)


@pytest.mark.parametrize("status", range(5))
def test_a_solver_that_fails_proves_nothing(status, monkeypatch):
    model, prop, _ = problem(0, "linear")
    nothing = torch.full((17,), math.nan).double().numpy()
    wrong = SimpleNamespace(status=status, x=None if status else nothing, get=lambda *_: 0)
    wrong.message, wrong.ineqlin = (
        "HiGHS Status 2: Model error",
        SimpleNamespace(marginals=nothing[:1]),
    )
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_, **__: wrong)
    monkeypatch.setattr("workbench.proofs.milp.milp", lambda **_: wrong)
    monkeypatch.setattr("workbench.proofs.branching.search", lambda *_: None)
    for backend in OURS:
        answer = prove(model, replace(prop, unsafe=ALL), backend=backend)
        assert (answer.verdict, answer.open) == ("open", 1)
        assert "numerical trouble" in answer.note


MODEL, X = KINDS["dense"](0), torch.full(SHAPE, 0.5)
WHOLE = Property(torch.zeros(SHAPE), torch.ones(SHAPE), ALL)
NEURON = torch.eye(6, dtype=torch.int8)[0]
ON, OFF = Pattern("made 0", 0, {"2": NEURON}), Pattern("made 0", 1, {"2": -NEURON})
FOREIGN = replace(ON, model="another")
TRAINED = KINDS["residual"](0)
TRAINED.body.norm.train()
robust = partial(local_robustness, MODEL, X)


def changed(**changes):
    return prove(MODEL, replace(WHOLE, **changes))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: prove(MODEL, WHOLE, backend="milpp"), "backend 'milpp'.*'milp'.*branching"),
        (lambda: prove(MODEL, WHOLE, time_limit=0), "time_limit: .*above 0, got 0"),
        (lambda: prove(MODEL, WHOLE, time_limit=-1), "time_limit: .*above 0, got -1"),
        (lambda: prove(MODEL, WHOLE, time_limit=math.nan), "time_limit: .*above 0, got nan"),
        (lambda: prove(TRAINED, WHOLE), r"body\.norm is in train mode"),
        (lambda: bounds_of(TRAINED, WHOLE), r"body\.norm is in train mode"),
        (lambda: bounds_of(MODEL, WHOLE, "crwn"), "method 'crwn'.*'crown'"),
        *((partial(robust, 0, e), rf"eps: .*\(0, 1\], got {e}") for e in (0, -1, 1.1, math.nan)),
        *((partial(robust, k, 0.1), rf"label: expected 0\.\.2, got {k}") for k in (3, -1)),
        (lambda: local_robustness(MODEL, 3 * X, 0, 0.1), r"images: .*\[0, 1\]"),
        (lambda: local_robustness(MODEL, X[:, 1:], 0, 0.1), r"shape \(1, 4, 4\)"),
        (lambda: robust(0, 0.1, pattern=FOREIGN), "mined from 'another'"),
        (lambda: proofs.pattern_property(MODEL, FOREIGN), "mined from 'another'"),
        (lambda: proofs.pattern_property(MODEL, ON, 0), "other: .*other than 0, got 0"),
        (lambda: proofs.pattern_property(MODEL, ON, 3), "other: .*got 3"),
        (lambda: proofs.ambiguity(MODEL, ON, FOREIGN), "mined from 'another'"),
        (lambda: proofs.ambiguity(MODEL, ON, OFF), "pattern: contradicts another in layer 2"),
        (lambda: WHOLE.inside(ON).inside(OFF), "pattern: contradicts another in layer 2"),
        (lambda: Property(X, X[0], ALL), r"two images .*\(1, 4, 4\) and \(4, 4\)"),
        (lambda: Property(X, X - 0.1, ALL), "the box is empty"),
        (lambda: Property(X, X * math.nan, ALL), "the box is empty"),
        (lambda: Property(X, X, ()), "unsafe: expected one set"),
        (lambda: Property(X, X, ((ALL[0][0] * math.nan, ALL[0][1]),)), "unsafe: .*finite"),
        (lambda: changed(lower=X[:, 1:], upper=X[:, 1:]), r"images \(1, 3, 4\)"),
        (lambda: changed(unsafe=((torch.zeros(1, 4), torch.zeros(1)),)), r"rows \(m, 3\)"),
        (lambda: changed(unsafe=((torch.zeros(0, 3), torch.zeros(0)),)), r"rows \(m, 3\)"),
        (lambda: changed(phases={"3": torch.ones(5)}), "phases: 3 is no ReLU .* has 2, 4"),
        (lambda: changed(phases={"2": torch.ones(5)}), r"expected 6 neurons in 2, got \(5,\)"),
    ],
)
def test_what_cannot_be_asked_is_said(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
