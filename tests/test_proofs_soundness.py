"""No backend proves what is not so: planted counterexamples, tiny networks, VNN-LIB, grids."""

import functools
import importlib.util
import itertools
import os
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from workbench import data, models
from workbench.attacks import PGD
from workbench.proofs import (
    BACKENDS,
    Property,
    exhaustive_grid_check,
    local_robustness,
    plant_counterexample,
    prove,
    read_vnnlib,
)

MODULES = {"marabou": "maraboupy", "z3": "z3"}  # what an optional backend needs
EVERY = sorted(BACKENDS)
CLOSE = 1e-5  # a property decided by less than this is decided by rounding


def using(backend, time_limit=300.0):
    """A verifier: a function of a model and a property."""
    if importlib.util.find_spec(MODULES.get(backend, "torch")) is None:
        pytest.skip(f"{MODULES[backend]} is not installed")
    return lambda model, prop: prove(model, prop, backend=backend, time_limit=time_limit)


def randomised(body, seed, scale=1.0):
    """The same network with weights drawn anew, larger than PyTorch's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in body.parameters():
            fan = p[0].numel() if p.ndim > 1 else 1
            p.copy_(torch.randn(p.shape, generator=generator) * scale / fan**0.5)
    return body


# VNN-LIB

TWO = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), input_shape=(1, 1, 2))
NAMES = "\n".join(f"(declare-const {v}_{i} Real)" for v in "XY" for i in (0, 1)) + "\n"
BOX = "(assert (and (<= X_0 0.75) (>= X_0 .25)))\n(assert (<= 0 X_1))\n(assert (>= 1e0 X_1))\n"
OUT = "(assert (<= Y_0 Y_1))\n"


def read(tmp_path, text, model=TWO):
    file = tmp_path / "made.vnnlib"
    file.write_text(text)
    return read_vnnlib(file, model)


@pytest.mark.parametrize("name", ["prop_0_0.03", "prop_7_0.05", "prop_14_0.05"])
def test_vnnlib_of_the_competition(real_data, name):
    folder = real_data / "vnncomp2021_mnistfc"
    if not folder.is_dir():
        pytest.skip("needs the VNN-COMP 2021 networks")
    model = models.load(f"onnx:{folder}/mnist-net_256x2.onnx", input_shape=(1, 28, 28))
    found = read_vnnlib(folder / f"{name}.vnnlib", model)
    text = (folder / f"{name}.vnnlib").read_text()
    for sign, side in (("<=", found.upper), (">=", found.lower)):
        bounds = dict(re.findall(rf"\({sign} X_(\d+) ([-.\de]+)\)", text))
        expected = torch.tensor([float(bounds[str(i)]) for i in range(784)])
        torch.testing.assert_close(side.flatten(), expected, rtol=0, atol=0)
    label = int(re.search(r"label: (\d)", text)[1])
    assert len(found.unsafe) == 9
    assert found.unsafe_logits(torch.eye(10)).tolist() == [k != label for k in range(10)]
    assert found.name == name
    sunk = torch.zeros(1, 10)
    sunk[0, label] = -1e-3
    assert bool(found.unsafe_logits(sunk))


def test_vnnlib_box_is_rounded_outwards(tmp_path):
    box = "(assert (and (>= X_0 0.1) (<= X_0 0.3) (>= X_1 0.1) (<= X_1 0.7) (<= X_1 0.6)))\n"
    found = read(tmp_path, NAMES + box + OUT)
    lower, upper = found.lower.double().flatten().tolist(), found.upper.double().flatten().tolist()
    for i, (low, high) in enumerate([(0.1, 0.3), (0.1, 0.6)]):
        assert low - 1e-7 < lower[i] <= low
        assert high <= upper[i] < high + 1e-7


words = st.sampled_from(["Y_0", "Y_1", "0.5", "-1.25"])
rows = st.tuples(st.sampled_from(["<=", ">="]), words, words).filter(
    lambda row: "Y" in row[1] + row[2]
)
formulas = st.recursive(
    rows, lambda more: st.tuples(st.sampled_from(["and", "or"]), more, more), max_leaves=8
)


def written(formula):
    """As VNN-LIB."""
    return f"({' '.join(p if isinstance(p, str) else written(p) for p in formula)})"


def true(formula, y):
    """Whether it holds of two logits."""
    head, first, second = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(true(part, y) for part in (first, second))
    first, second = (y[int(w[2])] if w[0] == "Y" else float(w) for w in (first, second))
    return first <= second if head == "<=" else first >= second


@given(st.lists(formulas, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_vnnlib_formulas_mean_what_they_say(tmp_path_factory, asserted):
    text = NAMES + BOX + "\n".join(f"(assert {written(f)})" for f in asserted)
    found = read(tmp_path_factory.mktemp("vnnlib"), text)
    grid = torch.cartesian_prod(*[torch.linspace(-2, 1, 13)] * 2)  # has all the numbers above
    expected = [all(true(f, y) for f in asserted) for y in grid.tolist()]
    assert found.unsafe_logits(grid).tolist() == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected X_0 to X_1 declared, got 0 X"),
        (NAMES + "(declare-const Y_2 Real)" + BOX + OUT, 8, "expected Y_0 to Y_1"),
        (NAMES + NAMES, 5, "a new name such as X_0 or Y_0, got X_0"),
        ("(declare-const Z_0 Real)", 1, "a new name such as X_0 or Y_0, got Z_0"),
        ("\n(declare-const X_0 Int)", 2, r"expected \(declare-const X_0 Real\) or \(assert"),
        ("(check-sat)", 1, r"got \(check-sat\)"),
        ("what is this", 1, "got what"),
        (NAMES + OUT, 5, "X_0: expected a lower and an upper bound"),
        (NAMES + BOX, 7, "expected a constraint on the outputs Y"),
        (NAMES + BOX + "(assert (<= Y_0 Y_1)", 8, r"expected a '\)'"),
        (NAMES + BOX + ")", 8, r"expected a '\('"),
        (NAMES + BOX + "(assert (!= Y_0 Y_1))", 8, r"or \(>= a b\), got \(!= Y_0 Y_1\)"),
        (NAMES + BOX + "(assert (<= Y_0))", 8, r"got \(<= Y_0\)"),
        (NAMES + BOX + "(assert (<= Y_0 Y_7))", 8, "a declared variable, got Y_7"),
        (NAMES + BOX + "(assert (<= Y_0 nan))", 8, "a number or a declared variable, got nan"),
        (NAMES + BOX + "(assert (<= Y_0 (+ Y_1 1)))", 8, r"got \(\+ Y_1 1\)"),
        (NAMES + BOX + "(assert (<= Y_0 X_0))", 8, "inputs X alone or on outputs Y alone"),
        (NAMES + BOX + "(assert (<= X_0 X_1))" + OUT, 8, "a bound of one input"),
        (NAMES + BOX + "; all well\n(assert (or))", 9, r"got \(or\)"),
        (NAMES + "(assert (<= X_0 1.5))" + OUT, 5, "X_0: expected a lower and an upper bound"),
        (NAMES + "(assert (<= X_0 1e39))" + OUT, 5, "X_0: expected bounds that float32 can hold"),
        (NAMES + BOX + "(assert (>= X_0 0.8))" + OUT, 8, "lower bound is above its upper"),
        ("(" * 300, 1, "brackets within each other"),
        (
            NAMES
            + BOX
            + "(assert (or (and (<= X_0 .2) (<= Y_0 0))\n(and (>= X_0 .8) (<= Y_0 0))))",
            8,
            "X_0: its lower bound is above its upper bound",
        ),
    ],
)
def test_malformed_vnnlib(tmp_path, text, line, message):
    with pytest.raises(ValueError, match=rf"made.vnnlib: line {line}: .*{message}"):
        read(tmp_path, text)


def test_vnnlib_of_another_model_or_no_file(tmp_path):
    with pytest.raises(ValueError, match="expected X_0 to X_63 declared, got 2 X"):
        read(tmp_path, NAMES + BOX + OUT, models.load("digits/mlp"))
    with pytest.raises(FileNotFoundError):
        read_vnnlib(tmp_path / "none.vnnlib", TWO)


# Planted counterexamples


def tiny(seed=0):
    """A model of 4x4 images with a normalisation, and of 3x3 convolutions and a shortcut."""
    dense = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    options = {"input_shape": (1, 4, 4), "mean": (0.3,), "std": (0.5,), "name": "tiny"}
    return models.wrap(randomised(dense, seed), **options)


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head((x + self.relu(self.conv(x))).flatten(1))


@functools.cache
def planted_set():
    """(the clean model, the planted one, the property that is false of it), a few times."""
    found = []
    shortcut = models.wrap(randomised(Shortcut(), 1), input_shape=(1, 4, 4), name="shortcut")
    for model in (tiny(), shortcut):
        for seed in range(2):
            # Some pixels at the edges of [0, 1], and a box in which the clean model is robust.
            x = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(seed))
            x = ((x - 0.5) * 1.6 + 0.5).clamp(0, 1)
            label = int(model.predict(x[None]).label)
            planted, corner = plant_counterexample(model, x, 0.02, seed=seed)
            prop = local_robustness(planted, x, label, 0.02)
            assert prop.holds_against(planted, corner[None]).all()
            found.append((model, planted, prop))
    return found


def never_proved(verifier):
    """The soundness test: what is false of a network is never called proved."""
    for _, planted, prop in planted_set():
        answer = verifier(planted, prop)
        assert answer.verdict in ("refuted", "open"), f"{prop.name}: {answer}"
        if answer.verdict == "refuted":
            assert prop.holds_against(planted, answer.counterexample[None]).all()


@pytest.mark.parametrize("backend", EVERY)
def test_planted_counterexamples_are_never_proved_away(backend):
    never_proved(using(backend))


def without_the_last_unit(model, prop):
    """A faulty verifier: it drops the unit that was added."""
    return prove(model.body.model, prop, backend="branching", time_limit=300)


def with_half_the_clipped_range(model, prop):
    """A faulty verifier: pixels at the edges of [0, 1] stay where they are."""
    upper = torch.where(prop.lower == 0, prop.lower, prop.upper)
    return prove(model, replace(prop, upper=upper), backend="branching", time_limit=300)


def with_a_box_too_small(model, prop):
    """A faulty verifier: it proves seven tenths of the box in each direction."""
    middle, half = (prop.lower + prop.upper) / 2, 0.35 * (prop.upper - prop.lower)
    small = replace(prop, lower=middle - half, upper=middle + half)
    return prove(model, small, backend="branching", time_limit=300)


def by_samples(model, prop):
    """A faulty verifier: it takes 10,000 samples for a proof."""
    x = torch.rand((10_000, *model.input_shape), generator=torch.Generator().manual_seed(0))
    bad = prop.holds_against(model, prop.lower + x * (prop.upper - prop.lower))
    return SimpleNamespace(
        verdict="refuted" if bad.any() else "proved",
        counterexample=x[bad.int().argmax()],
    )


@pytest.mark.parametrize(
    "faulty",
    [without_the_last_unit, with_half_the_clipped_range, with_a_box_too_small, by_samples],
)
def test_faulty_verifiers_are_caught(faulty):
    with pytest.raises(AssertionError, match="proved"):
        never_proved(faulty)


def test_planting_leaves_all_but_the_corner_as_it_was():
    for model, planted, prop in planted_set():
        box = torch.rand((2000, *model.input_shape), generator=torch.Generator().manual_seed(3))
        x = prop.lower + box * (prop.upper - prop.lower)
        before, after = model.predict(x), planted.predict(x)
        same = torch.isclose(before.logits, after.logits, atol=1e-5).all(1)
        assert same.float().mean() > 0.99
        middle = (prop.lower + prop.upper)[None] / 2
        assert torch.equal(model.predict(middle).label, planted.predict(middle).label)


def test_pgd_misses_what_is_planted():
    model, images = models.load("digits/mlp"), data.load("digits").images[:6]
    labels = model.predict(images).label
    state = {name: p.clone() for name, p in model.state_dict().items()}
    attack, found = PGD(eps=0.03, n_steps=20, restarts=5), 0
    natural = int(attack(model, images, labels).success.sum())
    for i in range(len(images)):
        x, label = images[i], labels[i : i + 1]
        planted, corner = plant_counterexample(model, x, 0.03, seed=i)
        prop = local_robustness(planted, x, int(label), 0.03)
        assert prop.holds_against(planted, corner[None]).all()
        torch.testing.assert_close(planted(x[None]), model(x[None]))
        at = planted.predict(corner[None]).logits[0].sort(descending=True).values
        assert float(at[0] - at[1]) == pytest.approx(10, abs=0.1)
        found += int(attack(planted, x[None], label, seed=i).success)
    assert found <= natural + 1
    assert natural <= 1
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items())
    own = {p.data_ptr() for p in model.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in planted.parameters())
    again = plant_counterexample(model, images[0], 0.03, seed=0)[1]
    assert torch.equal(again, plant_counterexample(model, images[0], 0.03, seed=0)[1])
    assert not torch.equal(again, plant_counterexample(model, images[0], 0.03, seed=1)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, r"eps: expected .* in \(0, 0.5\], got 0.0"),
        ({"eps": 0.6}, r"eps: expected .* in \(0, 0.5\], got 0.6"),
        ({"eps": 1e-8}, "eps: 1e-08 is too small for float32"),
        ({"margin": 0.0}, "margin: expected a number above 0"),
        ({"x": torch.full((1, 4, 4), 1.5)}, r"images: expected values in \[0, 1\]"),
    ],
)
def test_planting_refuses(change, message):
    arguments = {"x": torch.full((1, 4, 4), 0.5), "eps": 0.02} | change
    with pytest.raises(ValueError, match=message):
        plant_counterexample(tiny(), **arguments)
    with pytest.raises(ValueError, match="expected more than 2 pixels"):
        plant_counterexample(TWO, torch.zeros(1, 1, 2), 0.02)


# Tiny networks, every linear region of them


@functools.cache
def made(seed, inside):
    """A tiny network, a property of it (inside phases if asked), and the least slack of the
    unsafe sets over the box: negative where the property is false, infinite where no image is.
    """
    draw = np.random.default_rng(seed)
    sizes = [draw.integers(2, 4), *draw.integers(2, 5, draw.integers(1, 3)), draw.integers(2, 4)]
    body = [nn.Flatten()]
    for n, m in itertools.pairwise(map(int, sizes)):
        body += [nn.Linear(n, m), nn.ReLU()]
    body = nn.Sequential(*body[:-1])
    shape = (1, 1, int(sizes[0]))
    model = models.wrap(randomised(body, seed, 1.5), input_shape=shape, name=f"tiny {seed}")
    centre = torch.from_numpy(draw.random(shape)).float()
    eps = float(draw.choice([0.1, 0.3, 1.0]))
    lower, upper = (centre - eps).clamp(min=0), (centre + eps).clamp(max=1)
    x = lower + torch.from_numpy(draw.random((100, *shape))).float() * (upper - lower)
    phases = {}
    if inside:
        value = x[:1]
        for name, layer in body.named_children():
            value = layer(value)
            if isinstance(layer, nn.ReLU):
                asked = torch.from_numpy(draw.random(value.shape[1]) < 0.4)
                phases[name] = (asked * ((value[0] > 0) * 2 - 1)).to(torch.int8)
    logits, unsafe = model.predict(x).logits.double(), []
    for _ in range(draw.integers(1, 4)):
        a = torch.from_numpy(draw.standard_normal((draw.integers(1, 3), int(sizes[-1])))).float()
        slack = (logits @ a.double().T).amax(1).min()  # near what is just reached
        b = (slack + draw.normal(-0.1, 0.2)).float().expand(len(a)).clone()
        unsafe.append((a, b))
    prop = Property(lower, upper, tuple(unsafe), phases)
    return model, prop, least_slack(body, prop)


def least_slack(body, prop):
    """The minimum over all activation patterns, a linear program each; nothing of ours is used."""
    affine = [m for m in body if isinstance(m, nn.Linear)]
    weights = [
        (m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in affine
    ]
    relus = [name for name, m in body.named_children() if isinstance(m, nn.ReLU)]
    wanted = [
        prop.phases[n].numpy() if prop.phases else np.zeros(len(b))
        for n, (_, b) in zip(relus, weights, strict=False)
    ]
    low, high = (side.flatten().double().numpy() for side in (prop.lower, prop.upper))
    best = np.inf

    def go(k, m, c, rows, limits):
        """Layer k under the choices so far: its input is m x + c where rows x <= limits."""
        nonlocal best
        w, b = weights[k]
        m, c = w @ m, w @ c + b
        if k == len(weights) - 1:
            for a, bound in prop.unsafe:
                a, bound = a.double().numpy(), bound.double().numpy()
                best = min(best, solve(a @ m, a @ c - bound, rows, limits))
            return
        middle, spread = m @ (low + high) / 2 + c, abs(m) @ (high - low) / 2
        options = []
        for i in range(len(b)):
            can = [s for s in (1, -1) if s * middle[i] + spread[i] >= 0 and wanted[k][i] != -s]
            options.append(can)
        for signs in itertools.product(*options):
            s = np.array(signs)
            on = s > 0
            more = np.vstack([rows, -s[:, None] * m]), np.concatenate([limits, s * c])
            go(k + 1, m * on[:, None], c * on, *more)

    def solve(a, c, rows, limits):
        """The least t with a x + c <= t in every row; infinite where the region is empty."""
        n = len(low)
        matrix = np.vstack([np.hstack([a, -np.ones((len(a), 1))]), np.pad(rows, ((0, 0), (0, 1)))])
        sides = [*zip(low, high, strict=True), (None, None)]
        found = linprog(np.eye(n + 1)[n], matrix, np.concatenate([-c, limits]), bounds=sides)
        assert found.status in (0, 2), found.message
        return found.fun if found.status == 0 else np.inf

    n = len(low)
    go(0, np.eye(n), np.zeros(n), np.zeros((0, n)), np.zeros(0))
    return best


def agrees(backend, cases):
    """Every answer to (seed, inside) is right; returns how many stayed open."""
    verifier, stayed_open = using(backend), 0
    for seed, inside in cases:
        model, prop, slack = made(seed, inside)
        answer = verifier(model, prop)
        if answer.verdict == "refuted":
            assert slack < CLOSE, f"seed {seed}, inside {inside}: {slack}"
            assert prop.holds_against(model, answer.counterexample[None]).all()
        elif answer.verdict == "proved":
            assert slack > -CLOSE, f"seed {seed}, inside {inside}: {slack}"
        else:
            stayed_open += abs(slack) > CLOSE
    return stayed_open


FEW = [*itertools.product(range(20), (False, True))]
MANY = 500 if os.environ.get("WORKBENCH_THOROUGH") else 200


@pytest.mark.parametrize("backend", EVERY)
def test_tiny_networks_against_every_region(backend):
    assert agrees(backend, FEW) == 0
    assert 10 < sum(made(*case)[2] < 0 for case in FEW) < 30  # the set has both


@pytest.mark.slow
@pytest.mark.xdist_group("tiny networks")  # each is enumerated once for all backends
@pytest.mark.parametrize("backend", sorted(set(EVERY) - set(MODULES)))
def test_many_tiny_networks_against_every_region(backend):
    assert agrees(backend, [(seed, seed % 2 > 0) for seed in range(MANY)]) <= 2


def test_the_enumeration_is_right_about_samples():
    for seed, inside in itertools.product(range(20), (False, True)):
        model, prop, slack = made(seed, inside)
        x = torch.rand((3000, *model.input_shape), generator=torch.Generator().manual_seed(seed))
        x = prop.lower + x * (prop.upper - prop.lower)
        if prop.holds_against(model, x).any():
            assert slack < CLOSE
        if slack > CLOSE:
            moved = replace(prop, unsafe=tuple((a, b + slack + 0.5) for a, b in prop.unsafe))
            assert slack == np.inf or moved.holds_against(model, x).any()


# Other solvers


@pytest.mark.parametrize("backend", sorted(set(MODULES) & set(EVERY)))
def test_a_backend_that_is_not_installed(backend, monkeypatch):
    module = MODULES[backend]
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    _, planted, prop = planted_set()[0]
    with pytest.raises(ImportError, match=f"backend: {module} is not installed; pip install"):
        prove(planted, prop, backend=backend)


@pytest.mark.parametrize("backend", sorted(set(MODULES) & set(EVERY)))
def test_another_solver_out_of_time_leaves_it_open(backend):
    verifier = using(backend, time_limit=0.01)
    model = models.load("digits/mlp")
    x = data.load("digits").images[0]
    prop = local_robustness(model, x, int(model.predict(x[None]).label), 0.3)
    assert verifier(model, prop).verdict == "open"


# Grids


def test_a_grid_agrees_with_a_plain_loop():
    for seed in range(12):
        model = tiny(seed)
        draw = np.random.default_rng(seed)
        x = torch.from_numpy(draw.random((1, 4, 4))).float()
        pixels = draw.choice(16, 4, replace=False).tolist()
        values = torch.from_numpy(draw.random((4, 3))).float()
        label = model.predict(x[None]).label
        wrong = []
        for choice in itertools.product(*values.tolist()):
            image = x.clone().flatten()
            image[pixels] = torch.tensor(choice)
            if model.predict(image.view(1, 1, 4, 4)).label != label:
                wrong.append(image.view(1, 4, 4))
        found = exhaustive_grid_check(model, x, pixels, values)
        assert found.safe == (not wrong)
        assert found.total == 81
        if wrong:
            assert any(torch.equal(found.counterexample, image) for image in wrong)
            assert found.checked <= 81
        else:
            assert found.counterexample is None
            assert found.checked == 81


def test_a_grid_finds_what_random_search_finds():
    model, images = models.load("digits/mlp"), data.load("digits").images[:40]
    pixels = torch.tensor([19, 20, 27, 28, 35, 36, 43, 44])
    unsafe = hits = 0
    for i, x in enumerate(images):
        values = (x.flatten()[pixels, None] + torch.tensor([-0.5, 0.0, 0.5])).clamp(0, 1)
        found = exhaustive_grid_check(model, x, pixels, values)
        draw = torch.randint(3, (300, 8), generator=torch.Generator().manual_seed(i))
        tried = x.flatten().repeat(300, 1)
        tried[:, pixels] = values[torch.arange(8), draw]
        label = model.predict(x[None]).label
        hit = bool((model.predict(tried.view(-1, 1, 8, 8)).label != label).any())
        assert found.safe is False or not hit
        if not found.safe:
            assert model.predict(found.counterexample[None]).label != label
        unsafe, hits = unsafe + (not found.safe), hits + hit
    assert 0 < hits <= unsafe < 40  # both happen


def test_a_grid_says_how_far_it_is():
    model = tiny()
    model.body[-1].weight.data.zero_()  # one answer for all
    ticks = list(exhaustive_grid_check.steps(model, torch.zeros(1, 4, 4), range(8), [0, 0.5, 1]))
    assert [(t.done, t.value.safe) for t in ticks] == [
        *((2000 * i, None) for i in (1, 2, 3)),
        (6561, True),
    ]
    assert ticks[-1].value.summary() == {"safe": True, "checked": 6561, "total": 6561}


@pytest.mark.parametrize(
    ("pixels", "values", "message"),
    [
        ([0, 16], [0.0], r"pixels: expected different places in 0..15, got \[0, 16\]"),
        ([3, 3], [0.0], "pixels: expected different places"),
        ([], [0.0], "pixels: expected places in the flattened image"),
        ([0.5], [0.0], "pixels: expected places in the flattened image"),
        ([0, 1], [0.0, 1.2], r"values: expected values in \[0, 1\]"),
        ([0, 1], [float("nan")], r"values: expected values in \[0, 1\]"),
        ([0, 1], [[0.0]], r"values: expected \(V,\) or \(2, V\), .* got \(1, 1\)"),
        ([0, 1], [], r"values: expected \(V,\) or \(2, V\)"),
        (range(16), [0.0, 0.5, 1.0], r"3\^16 = 43,046,721 combinations .* limit=10,000,000"),
    ],
)
def test_a_grid_refuses(pixels, values, message):
    with pytest.raises(ValueError, match=message):
        exhaustive_grid_check(tiny(), torch.zeros(1, 4, 4), list(pixels), values)
