"""Sparse autoencoders: planted dictionaries, the choice of latents, splices, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import concepts, data, models, steps
from workbench.concepts import SparseAutoencoder, SparseFit, fit_sae, splice
from workbench.concepts.sparse_autoencoder import _seen, sparse_factors


@pytest.fixture(scope="module")
def model():
    return models.load("digits/mlp")


@pytest.fixture(scope="module")
def x():
    return data.load("digits", limit=200).images


@pytest.fixture(scope="module")
def fit(model, x):
    return fit_sae(model, x, "relu2", latents=64, k=4, beta=1.0, epochs=4)


def planted(seed=0, n=1000, r=6, p=12, on=1):
    """Activations of `on` out of r orthogonal directions at a time, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.linalg.qr(torch.randn(p, r, generator=generator))[0].T
    places = torch.rand(n, r, generator=generator).topk(on).indices
    sizes = 1 + torch.rand(n, on, generator=generator)
    return torch.zeros(n, r).scatter(1, places, sizes) @ bank, bank


def linear(weight):
    """A model of 1 x 1 x p images: the layer `0.1` gives the pixels, `1` the logits."""
    body = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Identity()), nn.Linear(*weight.T.shape))
    with torch.no_grad():
        body[1].weight.copy_(weight)
        body[1].bias.zero_()
    return models.wrap(body, input_shape=(1, 1, weight.shape[1]))


# What it finds


def test_a_planted_dictionary_is_found():
    a, bank = planted(n=2000)
    found, offset, encode, converged = sparse_factors(a.double(), 6, 0, 200)
    codes = encode(a.double())
    assert converged
    assert ((a - codes @ found - offset).square().sum() / a.square().sum()) < 0.02
    assert (codes > 0).sum(1).max() <= 4
    fit = steps.run(_plain(a, latents=12, k=1, epochs=40))
    cosines = bank @ fit.autoencoder.bank.T
    assert cosines.amax(1).min() > 0.95  # each planted direction has its latent


def _plain(a, latents, k, epochs=20, beta=0.0, gradients=None, seed=0):
    from workbench.concepts.sparse_autoencoder import _fitted

    return _fitted(a, gradients, "", latents, k, beta, epochs, seed)


def test_the_scale_of_the_activations_does_not_matter():
    a, _ = planted(on=2)
    one, other = (steps.run(_plain(a * c, 12, 2, 5)) for c in (1.0, 1024.0))
    for row, same in zip(one.history, other.history, strict=True):
        assert row["fvu"] == pytest.approx(same["fvu"], rel=1e-3)
    assert torch.allclose(one.autoencoder.bank, other.autoencoder.bank, atol=1e-3)


def test_latents_that_sleep_are_woken(model, monkeypatch):
    x = data.load("digits", "train").images
    awake = fit_sae(model, x, "relu2", k=4, epochs=20).history[-1]
    monkeypatch.setattr("workbench.concepts.sparse_autoencoder.WOKEN", 0)
    without = fit_sae(model, x, "relu2", k=4, epochs=20).history[-1]
    assert awake["dead"] < without["dead"] - 0.05
    assert awake["fvu"] < without["fvu"]


def test_the_history_is_what_the_fit_leaves_over():
    a, _ = planted(on=2)
    fit = steps.run(_plain(a, 12, 2, 30))
    back = fit.autoencoder.decode(fit.autoencoder.encode(a))
    fvu = float((a - back).square().sum() / (a - a.mean(0)).square().sum())
    assert fit.history[-1]["fvu"] == pytest.approx(fvu, abs=0.02)
    assert fit.history[-1]["fvu"] < fit.history[0]["fvu"]
    assert not any(p.requires_grad for p in fit.autoencoder.parameters())


# The choice of the latents


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0, 100))
def test_the_choice_is_by_score_and_the_codes_are_kept_as_they_are(seed, k, beta):
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(5, 8, k, beta, generator)
    a, g = torch.randn(2, 3, 4, 5, generator=generator)
    with torch.no_grad():
        codes, dense = sae.encode(a, g), F.relu(F.linear(a, sae.encoder))
        scores = dense * (1 + beta * torch.einsum("abp,rp->abr", g, sae.bank).abs())
    on = codes > 0
    assert codes.shape == (3, 4, 8)
    assert on.sum(-1).max() <= k
    assert torch.equal(codes[on], dense[on])
    least = torch.where(on, scores, math.inf).amin(-1)
    most = torch.where(on, 0.0, scores).amax(-1)
    assert bool((most <= least * (1 + 1e-5)).all())
    assert torch.allclose(sae.bank.norm(dim=1), torch.ones(8), atol=1e-6)
    assert torch.allclose(sae.decode(codes), codes @ sae.bank + sae.offset)


def test_the_effect_on_the_loss_decides():
    sae = SparseAutoencoder(2, 2, 1, 1.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(2))
        sae.decoder.copy_(3 * torch.eye(2))
    a, g = torch.tensor([[1.0, 0.8]]), torch.tensor([[0.0, -0.5]])
    assert sae.encode(a).tolist() == [[1.0, 0.0]]
    assert sae.encode(a, g)[0].tolist() == pytest.approx([0.0, 0.8])  # 0.8 (1 + 0.5) > 1
    sae.mean_gradient = torch.tensor(10.0)
    assert sae.encode(a, g)[0].tolist() == pytest.approx([1.0, 0.0])  # 0.8 (1 + 0.05) < 1


def test_beta_0_is_topk_to_the_bit(model, x):
    _, a, g = _seen(model, x, "relu2")
    topk, weighed = (steps.run(_plain(a, 64, 4, 3, gradients=v)) for v in (None, g))
    for p, q in zip(topk.autoencoder.parameters(), weighed.autoencoder.parameters(), strict=True):
        assert torch.equal(p, q)
    assert topk.history == weighed.history
    fitted = fit_sae(model, x, "relu2", latents=64, k=4, epochs=3)
    assert torch.equal(fitted.autoencoder.bank, topk.autoencoder.bank)
    other = steps.run(_plain(a, 64, 4, 3, beta=1.0, gradients=g))
    assert not torch.equal(other.autoencoder.bank, topk.autoencoder.bank)


# Gradients and splices


def test_gradients_are_those_of_the_models_own_answer():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    model = linear(weight)
    x = torch.rand(7, 1, 1, 5)
    with torch.no_grad():  # a caller's mode does not matter
        logits, a, g = _seen(model, x, "0.1")
    assert torch.equal(a, x.flatten(1))
    p = logits.softmax(1) - F.one_hot(logits.argmax(1), 3)
    assert torch.allclose(g, p @ weight, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer", "places"),
    [("digits/cnn", "relu1", 16), ("digits/cnn", "conv2", 4), ("shapes/vit", "blocks.1", 64)],
)
def test_places_and_tokens_are_activations_of_their_own(name, layer, places):
    model = models.load(name)
    x = data.load(name.split("/")[0], limit=40).images
    fit = fit_sae(model, x, layer, latents=32, k=3, beta=1.0, epochs=1)
    width = model.layers()[layer].shape[-1 if "vit" in name else 0]
    assert fit.autoencoder.bank.shape == (32, width)
    spliced = splice(model, x, fit)
    assert spliced.kl.shape == (40,)
    assert float(spliced.fires.sum()) <= 3
    assert places * 40 >= 32


def test_a_perfect_reconstruction_changes_nothing(model, x):
    sae = SparseAutoencoder(256, 512, 512, 0.0, torch.Generator().manual_seed(0))
    eye = torch.eye(256)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([eye, -eye]))
        sae.decoder.copy_(torch.cat([eye, -eye]))
    found = splice(model, x, SparseFit(sae, "fc2", []))
    assert found.fvu == pytest.approx(0, abs=1e-10)
    assert float(found.kl.max()) < 1e-6
    assert torch.equal(found.label, found.spliced)
    assert found.summary()["agreement"] == 1.0


def test_a_splice_is_the_model_with_the_layer_replaced():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    model, x = linear(weight), torch.rand(300, 1, 1, 5)
    fit = fit_sae(model, x, "0.1", latents=4, k=1, epochs=2)
    found, a, sae = splice(model, x, fit), x.flatten(1), fit.autoencoder
    back = sae.decode(sae.encode(a))
    p, q = (a @ weight.T).log_softmax(1), (back @ weight.T).log_softmax(1)
    assert torch.allclose(found.kl, (p.exp() * (p - q)).sum(1), atol=1e-5)
    assert torch.equal(found.spliced, q.argmax(1))
    left = (a - back).square().sum() / (a - a.mean(0)).square().sum()
    assert found.fvu == pytest.approx(float(left), rel=1e-4)
    fires = (sae.encode(a) > 0).float().mean(0)
    assert torch.allclose(found.fires, fires)
    assert found.summary()["dead"] == float((fires == 0).float().mean())
    assert list(found.frame().columns) == ["predicted", "spliced", "kl"]
    assert found.summary()["kl"] == pytest.approx(found.frame()["kl"].mean(), rel=1e-5)


def test_the_gradients_keep_what_the_answer_depends_on():
    """One latent a pixel, k = 1: TopK keeps the brightest, the g-SAE the one that is read."""
    weight = torch.zeros(2, 4)
    weight[:, 3] = torch.tensor([4.0, -4.0])
    model = linear(weight)
    x = torch.tensor([0.9, 0.0, 0.0, 0.3]).repeat(5, 1).view(5, 1, 1, 4)
    kl = {}
    for beta in (0.0, 1.0):
        sae = SparseAutoencoder(4, 4, 1, beta, torch.Generator().manual_seed(0))
        with torch.no_grad():
            sae.encoder.copy_(torch.eye(4))
            sae.decoder.copy_(torch.eye(4))
            sae.mean_gradient.fill_(0.1)
        kl[beta] = splice(model, x, SparseFit(sae, "0.1", [])).summary()["kl"]
    assert kl[1.0] < 1e-6 < 0.1 < kl[0.0]


def test_g_sae_is_nearer_to_the_model_than_topk(model):
    training, test = data.load("digits", "train").images, data.load("digits").images
    found = {
        beta: splice(model, test, fit_sae(model, training, "relu2", k=2, beta=beta, epochs=12))
        for beta in (0.0, 1.0)
    }
    assert found[1.0].summary()["kl"] < found[0.0].summary()["kl"]
    assert found[1.0].fvu > 0.95 * found[0.0].fvu  # not by a better reconstruction


# The model, the seed, the steps


def test_the_model_and_the_generator_stay_as_they_were(model, x, fit):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    again = fit_sae(model, x, "relu2", latents=64, k=4, beta=1.0, epochs=4)
    splice(model, x, again)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(again.autoencoder.bank, fit.autoencoder.bank)  # same seed, same result
    other = fit_sae(model, x, "relu2", latents=64, k=4, beta=1.0, epochs=4, seed=1)
    assert not torch.equal(other.autoencoder.bank, fit.autoencoder.bank)


def test_hooks_are_gone_after_an_error(x):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3))
    model = models.wrap(module, input_shape=(1, 8, 8))
    fit = fit_sae(model, x, "1", latents=16, k=2, epochs=1)
    model.body[2].weight.data = torch.zeros(3, 7)
    for work in (lambda: splice(model, x, fit), lambda: fit_sae(model, x, "1", latents=16)):
        with pytest.raises(RuntimeError):
            work()
        assert not any(m._forward_hooks for m in model.modules())


def test_layers_that_work_in_place_are_no_trouble(x):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    model = models.wrap(module, input_shape=(1, 8, 8))
    _, a, _ = _seen(model, x, "1")
    assert torch.equal(a, model.body[1](x.flatten(1)))


def test_the_work_comes_in_steps_and_can_be_left(model, x):
    work = fit_sae.steps(model, x, "relu2", latents=64, k=4, epochs=2)
    seen = []
    for step in work:
        seen.append(step)
        if step.value is not None and step.value.history:
            break
    work.close()
    preview = seen[-1].value
    assert [row["epoch"] for row in preview.history] == [1]
    assert splice(model, x, preview).kl.shape == (200,)
    assert all(0 <= s.done <= s.total for s in seen)


def test_results_tell_what_they_are(fit):
    told = fit.summary()
    assert (told["layer"], told["latents"], told["k"], told["beta"]) == ("relu2", 64, 4, 1.0)
    assert 0 < told["fvu"] < 1
    assert 0 <= told["dead"] < 1
    assert list(fit.frame()["epoch"]) == [1, 2, 3, 4]
    assert isinstance(concepts.fit_sae, type(fit_sae))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 65}, "k=65, latents=64"),
        ({"k": 0}, "k=0"),
        ({"latents": 201}, "latents=201 and 200 activations"),
        ({"epochs": 0}, "epochs: expected a whole number of at least 1"),
        ({"beta": -1.0}, "beta: expected a number of at least 0, got -1.0"),
        ({"beta": math.nan}, "beta: expected a number of at least 0, got nan"),
        ({"layer": "relu3"}, "Did you mean 'relu2'"),
    ],
)
def test_what_does_not_fit_is_refused(model, x, options, words):
    call = {"layer": "relu2", "latents": 64, "k": 4, "epochs": 1, **options}
    with pytest.raises(ValueError, match=words):
        fit_sae(model, x, call.pop("layer"), **call)


def test_models_images_and_layers_that_do_not_fit_are_refused(model, x, fit):
    with pytest.raises(ValueError, match="number of images"):
        fit_sae(model, x[:0], "relu2")
    with pytest.raises(ValueError, match="number of images"):
        splice(model, x[:0], fit)
    with pytest.raises(ValueError, match="expected values in"):
        splice(model, x * 16, fit)
    cnn = models.load("digits/cnn")
    with pytest.raises(ValueError, match="width 256, 'relu2' gives 64"):
        splice(cnn, x, fit)
    training = models.load("digits/mlp").train()
    for work in (lambda: splice(training, x, fit), lambda: fit_sae(training, x, "relu2")):
        with pytest.raises(ValueError, match="train mode"):
            work()


def test_layers_that_say_nothing_are_refused():
    constant, x = linear(torch.zeros(2, 4)), torch.rand(50, 1, 1, 4)
    with pytest.raises(ValueError, match="gradients are 0 everywhere"):
        fit_sae(constant, x, "0.1", latents=8, k=2, beta=1.0)
    fit_sae(constant, x, "0.1", latents=8, k=2, epochs=1)  # TopK asks for no gradients
    with pytest.raises(ValueError, match="finite numbers that vary"):
        fit_sae(constant, torch.full_like(x, 0.1), "0.1", latents=8, k=2)
