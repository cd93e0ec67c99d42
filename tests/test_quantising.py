"""Weights and activations of few bits: grids, rounding, training with them, by closed forms."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, models, proofs, robustness, treatments
from workbench.attacks import PGD
from workbench.models import Recipe, checkpoints, fit
from workbench.models.learning import Hooks
from workbench.treatments import Distil, LowRank, QuantisationAware, Quantise
from workbench.treatments.base import weighted
from workbench.treatments.grids import OnGrid, k_means
from workbench.treatments.quantising import Staircase, learned

PLAN = Recipe(dataset="digits", architecture="mlp", options={"hidden": (16,)}, epochs=3, lr=1e-2)
SCHEMES = [
    *({"scheme": s, "clipped": c} for s in ("uniform", "powers") for c in (False, True)),
    {"scheme": "codebook"},
]
EVERY = [{**scheme, "per_channel": own} for scheme in SCHEMES for own in (True, False)]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:256]


@pytest.fixture(scope="module")
def mlp():
    return models.load("digits/mlp")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wrapped(*layers, shape=(1, 1, 4), classes=3):
    return models.wrap(nn.Sequential(nn.Flatten(), *layers), input_shape=shape, classes=classes)


def right(model, images):
    return float((model.predict(images.images).label == images.labels).float().mean())


# Grids.


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(EVERY), st.integers(2, 5), st.integers(0, 10**6))
def test_each_weight_is_at_the_nearest_point_and_has_two_neighbours(scheme, bits, seed):
    w = drawn(3, 40, seed=seed)
    grid = OnGrid(bits=bits, **scheme).grid(w)
    points = (grid.codes * grid.scale).expand(3, -1)  # all of them, a row each
    q = grid.nearest(w)
    gaps = (w[..., None] - points[:, None]).abs()
    torch.testing.assert_close((w - q).abs(), gaps.amin(-1))
    assert all(len(row.unique()) <= 2**bits for row in q)
    low, high, share = grid.neighbours(w)
    inside = w.clamp(points[:, :1], points[:, -1:])
    assert bool((low <= inside + 1e-6).all())
    assert bool((inside <= high + 1e-6).all())
    torch.testing.assert_close(low + share * (high - low), inside)
    assert not bool(
        ((points[:, None] > low[..., None]) & (points[:, None] < high[..., None])).any()
    )


def test_powers_of_two_by_hand():
    w = torch.tensor([[8.0, -3.1, 2.9, 0.9, -0.5]])
    q = OnGrid(bits=3, scheme="powers").grid(w).nearest(w)  # 0, 2, 4 and 8
    assert torch.equal(q, torch.tensor([[8.0, -4.0, 2.0, 0.0, 0.0]]))


def test_clipping_gives_up_what_lies_far_out_by_hand():
    w = torch.tensor([[1.0] * 50 + [-1.0] * 50 + [2.2]])
    wide, narrow = (OnGrid(bits=2, clipped=c).grid(w) for c in (False, True))
    assert float(wide.scale) == pytest.approx(2.2)
    assert float(wide.nearest(w).abs().max()) == pytest.approx(2.2)
    assert float(narrow.scale) == pytest.approx(1.0, abs=0.045)  # tried are fiftieths of 2.2
    assert float(narrow.nearest(w)[0, 0]) == pytest.approx(1.0, abs=0.045)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.booleans(), st.integers(0, 10**6))
def test_less_error_the_more_a_grid_looks_at_the_weights(bits, own, seed):
    w = drawn(4, 60, seed=seed) ** 3  # some lie far out

    def error(**scheme):
        grid = OnGrid(bits=bits, per_channel=own, **scheme).grid(w)
        return float((grid.nearest(w) - w).square().sum())

    assert error(clipped=True) <= error()
    assert error(scheme="powers", clipped=True) <= error(scheme="powers")
    if not own:
        assert error(scheme="codebook") <= error() * 1.0001


def test_words_are_the_means_of_what_is_next_to_them():
    v = drawn(500)
    words = k_means(v, 8)
    next_to = (v[:, None] - words).abs().argmin(1)
    means = torch.stack([v[next_to == k].mean() for k in range(8)])
    torch.testing.assert_close(words, means)
    few = torch.tensor([3.0, -1.0, 3.0, 0.25, -1.0])
    assert set(few.tolist()) <= set(k_means(few, 4).tolist())


@pytest.mark.parametrize("scheme", EVERY, ids=str)
def test_weights_that_are_all_alike_or_zero_stay(scheme):
    for w in (torch.zeros(2, 4), torch.full((2, 4), 0.25)):
        grid = OnGrid(bits=2, **scheme).grid(w)
        torch.testing.assert_close(grid.nearest(w), w, atol=0.006, rtol=0)
        assert all(bool(part.isfinite().all()) for part in grid.neighbours(w))


def test_what_names_of_models_stand_for_is_as_it_was():
    w = drawn(5, 7)
    for own in (True, False):
        largest = w.abs().amax(1, keepdim=True) if own else w.abs().amax()
        scale = largest / 7
        layer = nn.Linear(7, 5)
        layer.weight.data = w.clone()
        model = Quantise(per_channel=own)(wrapped(layer, shape=(1, 1, 7), classes=5)).model
        assert torch.equal(weighted(model)["body.1"].weight, (w / scale).round() * scale)
    assert Quantise().code() == "Quantise()"
    assert Quantise(bits=3, per_channel=False).code() == "Quantise(bits=3, per_channel=False)"


def test_bytes_have_the_codebooks():
    model = wrapped(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    made = [
        Quantise(bits=3, **extra)(model)
        for extra in ({"clipped": True}, {"scheme": "codebook"}, {"scheme": "powers"})
    ]
    codes = 24 * 3 // 8 + -(-18 * 3 // 8) + 4 * (6 + 3)  # packed, and a scale a row
    assert made[1].cost.bytes == codes + 4 * (6 + 3) + 4 * (8 + 8)  # biases, words
    assert made[0].cost.bytes <= codes + 4 * (6 + 3)
    assert [set(m.model.card.codebooks.values()) for m in made] == [set(), {8}, set()]
    assert all(set(m.model.card.bits.values()) == {3} for m in made)


# Rounding that is learned.


def test_learned_rounding_is_the_best_of_all_where_all_can_be_tried():
    best, better = 0, 0
    for seed in range(8):
        layer, came = nn.Linear(6, 1), drawn(200, 6, seed=seed).abs() + 0.5
        layer.weight.data = drawn(1, 6, seed=seed + 100)
        wanted = layer(came).detach()
        grid = OnGrid(bits=2, clipped=True).grid(layer.weight.detach())
        low, high, _ = grid.neighbours(layer.weight.detach())

        def error(w, came=came, wanted=wanted, layer=layer):
            return float((came @ w.T + layer.bias.detach() - wanted).square().mean())

        ups = torch.tensor(list(itertools.product((False, True), repeat=6)))
        least = min(error(torch.where(up[None], high, low)) for up in ups)
        q = learned(layer, grid, came, wanted, torch.Generator().manual_seed(0))
        assert bool(((q == low) | (q == high)).all())
        near = error(grid.nearest(layer.weight.detach()))
        assert error(q) <= 1.001 * near
        best, better = best + (error(q) <= 1.001 * least), better + (error(q) < 0.8 * near)
        assert layer.weight.grad is None
        assert layer.bias.grad is None
    assert best >= 4  # of 64 ways to round, a descent from the nearest finds
    assert better >= 3


def test_learned_rounding_saves_two_bits(digits, mlp):
    cnn, test = models.load("digits/cnn"), data.load("digits")
    near, found = (Quantise(bits=2, clipped=True, rounding=r) for r in ("nearest", "learned"))
    assert right(found(cnn, digits).model, test) > right(near(cnn).model, test) + 0.05
    few = Quantise(bits=2, clipped=True, rounding="learned", images=8)(mlp, digits).model
    scaled = weighted(few)["body.fc1"].weight
    assert all(len(row.unique()) <= 3 for row in scaled)


# Activations.


def test_a_staircase_by_hand():
    step = Staircase(torch.tensor([-1.0, 0.4, 2.0]), 2, False)  # steps of 1, from -1 to 2
    x = torch.tensor([-3.0, -0.6, 0.0, 0.4, 1.7, 5.0], requires_grad=True)
    assert step(x).tolist() == [-1, -1, 0, 0, 2, 2]
    (slope,) = torch.autograd.grad(step(x).sum(), x)
    assert slope.tolist() == [0] * 6
    step.soften()
    assert step(x).tolist() == [-1, -1, 0, 0, 2, 2]
    (slope,) = torch.autograd.grad(step(x).sum(), x)
    assert slope.tolist() == [0, 1, 1, 1, 1, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.integers(0, 10**6))
def test_what_comes_out_of_a_staircase(bits, clipped, seed):
    values = drawn(400, seed=seed) ** 3
    out = Staircase(values, bits, clipped)(values)
    assert len(out.unique()) <= 2**bits
    assert float(Staircase(values, bits, clipped)(torch.zeros(1))) == 0
    if clipped:
        whole = Staircase(values, bits, False)(values)
        assert float((out - values).square().sum()) <= float((whole - values).square().sum())


def test_many_steps_change_little_and_few_hide_the_gradient(digits, mlp):
    fine, coarse = (
        Quantise(bits=16, activations=a, images=256)(mlp, digits).model for a in (16, 3)
    )
    assert float((fine(digits.images) - mlp(digits.images)).detach().abs().max()) < 0.01
    x, y = digits.images[:64], digits.labels[:64]
    attack = PGD(eps=0.15, n_steps=10)
    hidden = attack(coarse, x, y).success.float().mean()
    soft = robustness.softened(coarse)
    assert torch.equal(soft(x), coarse(x))
    known = attack(soft, x, y).x_adv
    fooled = (coarse.predict(known).label != y).float().mean()
    assert float(fooled) > float(hidden) + 0.3


def test_of_activations_nothing_is_proved_and_of_weights_all_that_could_be(digits, mlp):
    x, label = digits.images[0], int(digits.labels[0])
    few = Quantise(bits=3, scheme="codebook")(mlp).model
    prop = proofs.local_robustness(few, x, label, 0.01)
    answer = proofs.prove(few, prop)
    assert answer.verdict == "proved"
    moved = Quantise(activations=4)(mlp, digits).model
    with pytest.raises(ValueError, match=r"inputs \(Staircase\) is not affine"):
        proofs.prove(moved, proofs.local_robustness(moved, x, label, 0.01))


# Training with few bits.


def test_the_gradient_is_taken_at_the_rounded_weights_and_moves_the_full_ones(digits):
    aware, seen = QuantisationAware(bits=2), []

    class Look(Hooks):
        def loss(self, run, x, y):
            layers = weighted(run.model)
            rounded = {n: m.weight.detach().clone() for n, m in layers.items()}
            full = {n: w.clone() for n, w in run.state(aware).items()}
            loss, logits = super().loss(run, x, y)
            seen.append((full, rounded))
            return loss, logits

        def gradients(self, run):
            self.slope = {n: m.weight.grad.clone() for n, m in weighted(run.model).items()}

        def optimiser(self, model, plan):
            return torch.optim.SGD(model.parameters(), lr=1.0)

        def rate(self, run):
            return 0.5

        def after(self, run):
            for name, w in seen[-1][0].items():
                torch.testing.assert_close(run.state(aware)[name], w - 0.5 * self.slope[name])

    made = fit(PLAN.changed(epochs=1), digits, treatments=[aware, Look()]).model
    assert len(seen) == 2
    for full, rounded in seen:
        for name, w in full.items():
            assert torch.equal(rounded[name], aware.grid(w).nearest(w))
            assert not torch.equal(rounded[name], w)
    assert all(len(row.unique()) <= 3 for m in weighted(made).values() for row in m.weight)
    assert set(made.card.bits.values()) == {2}


def test_weights_that_two_layers_share_are_kept_in_full_once(digits):
    class Tied(Hooks):
        def build(self, plan, training, name):
            body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
            body[3].weight = body[1].weight
            return models.wrap(body, input_shape=(1, 8, 8), classes=64)

        def gradients(self, run):
            full = run.state(run.treatments[0])
            assert all(len(w[0].unique()) > 3 for w in full.values())

    fit(PLAN.changed(epochs=1), digits, treatments=[QuantisationAware(bits=2), Tied()])


def test_a_cancelled_training_goes_on_with_its_full_weights(digits, tmp_path):
    aware = [QuantisationAware(bits=2)]
    whole = fit(PLAN, digits, treatments=aware).model
    for _ in itertools.islice(fit.steps(PLAN, digits, treatments=aware, keep=tmp_path / "u"), 5):
        pass
    resumed = list(fit.steps(PLAN, digits, treatments=aware, keep=tmp_path / "u"))
    assert resumed[0].done > 1
    again = resumed[-1].value.model
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_trained_with_two_bits_it_is_better_than_rounded_to_them(digits):
    plan = PLAN.changed(epochs=30)
    test = data.load("digits")
    full = fit(plan, digits).model
    rounded = Quantise(bits=2)(full).model
    aware = fit(plan, digits, treatments=[QuantisationAware(bits=2)]).model
    assert right(aware, test) > right(rounded, test) + 0.05


def test_it_learns_from_a_teacher_in_a_name_too(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    taught = fit(PLAN, digits, treatments=[Distil(), QuantisationAware(bits=3)]).model
    alone = fit(PLAN, digits, treatments=[QuantisationAware(bits=3)]).model
    assert any(
        not torch.equal(a, b) for a, b in zip(taught.parameters(), alone.parameters(), strict=True)
    )
    base, chain = treatments.stages("digits/mlp | Distil() | QuantisationAware(bits=2)")
    assert (base, [stage.code() for stage in chain]) == (
        "digits/mlp",
        ["Distil()", "QuantisationAware(bits=2)"],
    )
    checkpoints.save(taught, tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again(digits.images), taught(digits.images))
    assert again.card.bits == taught.card.bits


# What cannot be.


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bits": 0}, "bits: input should be greater than or equal to 2, got 0"),
        ({"bits": 33}, "bits: input should be less than or equal to 16, got 33"),
        ({"activations": 33}, "activations: input should be less than or equal to 16, got 33"),
        ({"images": 1}, "images: input should be greater than or equal to 8, got 1"),
    ],
)
def test_bad_values_are_said(values, said):
    with pytest.raises(ValueError, match=f"Quantise: {said}"):
        Quantise(**values)


def test_what_does_not_fit_is_named(digits, mlp):
    with pytest.raises(ValueError, match="expected at least 8 images to calibrate on, got 1"):
        Quantise(activations=4)(mlp, digits[:1])
    with pytest.raises(ValueError, match="data: it needs training images, got none"):
        Quantise(rounding="learned")(mlp)
    with pytest.raises(ValueError, match=r"takes \(1, 8, 8\) images, the data has \(3, 32, 32\)"):
        Quantise(rounding="learned")(mlp, data.load("shapes", limit=20))
    for bad in ({"bits": 9}, {"clipped": True}):
        with pytest.raises(ValueError, match="a codebook has at most 8 bits, is never clipped"):
            Quantise(scheme="codebook", **bad)(mlp)
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    for kind in (Quantise(), Quantise(bits=8)):
        with pytest.raises(ValueError, match=r"layer 'body.1': its weight is computed before"):
            kind(wrapped(computed))


class Attention(nn.Module):
    """Its last layer's weights are used by torch's attention, which never runs the layer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 10)

    def forward(self, x):
        tokens = x.flatten(1).unflatten(1, (16, 4))
        return self.last(self.inner(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_a_layer_that_does_not_run_is_named(digits):
    model = models.wrap(Attention(), input_shape=(1, 8, 8), classes=10)
    assert Quantise()(model).model.card.bits["body.inner.out_proj.weight"] == 4
    for values in ({"rounding": "learned"}, {"activations": 4}):
        with pytest.raises(
            ValueError, match=r"layer 'body.inner.out_proj': nothing is seen to come"
        ):
            Quantise(**values)(model, digits)


def test_a_tied_layer_and_one_that_was_factorised(digits, mlp):
    tied = nn.Linear(4, 4)
    model = wrapped(tied, nn.ReLU(), tied, classes=4)
    made = Quantise(bits=3, rounding="learned")(model, toy()).model
    assert all(len(row.unique()) <= 7 for row in made.body[1].weight)
    thin = LowRank()(mlp).model
    assert len(Quantise(bits=4, activations=8)(thin, digits).model.layers()) > len(thin.layers())


def toy():
    return data.ImageDataset(
        drawn(32, 1, 1, 4).sigmoid(), torch.arange(32) % 4, tuple("abcd"), name="toy"
    )
