import math
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import concepts, data, figures, models, steps
from workbench.concepts import Concepts, Importance, attribution, dictionaries, quality

METHODS = list(dictionaries.METHODS)
ADDITIVE = ["gradient-x-input", "integrated-gradients", "occlusion"]


@pytest.fixture(scope="module")
def shapes():
    return data.load("shapes", limit=400)


@pytest.fixture(scope="module")
def resnet():
    return models.load("shapes/resnet")


@pytest.fixture(scope="module")
def found(resnet, shapes):
    return concepts.extract(resnet, shapes.images[:200], "stage3_block1", n_crops=300)


@pytest.fixture(scope="module")
def pooled(resnet, shapes):
    return concepts.activations(resnet, shapes.images, "flatten")


def net(*layers, shape=(1, 4, 4), seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(*(layer() for layer in layers))
    return models.wrap(body, input_shape=shape)


def maps_net(seed=0):
    return net(
        lambda: nn.Conv2d(1, 5, 3, padding=1),
        nn.ReLU,
        lambda: nn.Conv2d(5, 5, 3),
        nn.Tanh,
        nn.Flatten,
        lambda: nn.Linear(20, 3),
        seed=seed,
    )


def some_images(n=20, shape=(1, 4, 4), seed=1):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def mixture(n=120, p=8, r=3, seed=0):
    """Activations that are sparse mixtures of r known directions, and those directions."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.rand(r, p, generator=generator) * (torch.arange(p) % r == torch.arange(r)[:, None])
    codes = torch.rand(n, r, generator=generator)
    return codes @ bank, bank


def by_hand(bank, offset=0.0, layer="1", grid=(4, 4)):
    """Concepts with a given bank, whose codes are the least squares."""
    inverse = torch.linalg.pinv(bank)
    codes = torch.zeros(1, len(bank))
    dictionary = concepts.Dictionary(
        "by hand", bank, codes, torch.zeros(1), offset, 0.0, True, lambda a: (a - offset) @ inverse
    )
    boxes = torch.zeros(1, 3, dtype=torch.int64)
    return Concepts(layer, grid, dictionary, some_images(1), boxes, (4, 4))


# Dictionaries


def test_nmf_is_scikit_learns(pooled):
    from sklearn.decomposition import NMF

    known, new = pooled[:200], pooled[200:]
    ours = concepts.factorise(known, 8)
    theirs = NMF(8, random_state=0, max_iter=1000)
    w = theirs.fit_transform(known.double().numpy())
    assert np.allclose(ours.bank, theirs.components_, atol=1e-6)
    assert ours.error == pytest.approx(theirs.reconstruction_err_ / float(known.norm()), rel=1e-3)
    codes = theirs.transform(new.double().numpy())
    assert np.abs(codes - ours.encode(new).numpy()).max() < 0.01 * w.max()
    left = np.linalg.norm(new.numpy() - codes @ theirs.components_)
    assert float((new - ours.decode(ours.encode(new))).norm()) <= left * (1 + 1e-5)


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_nonnegative_codes_are_those_of_scipy(seed, r):
    from scipy.optimize import nnls

    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(9, 12, generator=generator).double()
    bank = torch.randn(r, 12, generator=generator).double()
    codes = dictionaries.nonnegative_codes(a, bank)
    assert (codes >= 0).all()
    for row, code in zip(a, codes, strict=True):
        _, left = nnls(bank.T.numpy(), row.numpy())
        assert float((row - code @ bank).norm()) <= left + 1e-3


def test_codes_do_not_depend_on_the_batch(pooled, monkeypatch):
    ours = concepts.factorise(pooled[:200], 8)
    whole = ours.encode(pooled)
    monkeypatch.setattr(dictionaries, "ROWS", 7)
    assert torch.allclose(ours.encode(pooled), whole, atol=0.01 * float(whole.max()))


def test_what_each_method_promises(pooled):
    found = {method: concepts.factorise(pooled, 6, method) for method in METHODS}
    for method, one in found.items():
        assert one.bank.shape == (6, 64)
        assert one.codes.shape == (400, 6)
        assert torch.equal(one.encode(pooled), one.codes)
        left = pooled - one.decode(one.codes)
        assert one.error == pytest.approx(float(left.norm() / pooled.norm()), rel=1e-3)
        again = concepts.factorise(pooled, 6, method)
        assert torch.equal(again.bank, one.bank)
        assert torch.equal(again.codes, one.codes)
        assert one.converged
    assert found["nmf"].codes.min() >= 0 <= found["nmf"].bank.min()
    assert found["semi-nmf"].codes.min() >= 0
    assert (found["kmeans"].codes.sort(1).values == torch.tensor([0.0] * 5 + [1.0])).all()
    bank = found["pca"].bank
    assert torch.allclose(bank @ bank.T, torch.eye(6), atol=1e-5)
    assert found["pca"].error < found["nmf"].error < found["kmeans"].error


def test_nmf_and_semi_nmf_recover_planted_directions():
    a, planted = mixture()
    for method in ("nmf", "semi-nmf"):
        one = concepts.factorise(a, 3, method, max_iter=5000)
        assert one.error < 0.02
    nmf = concepts.factorise(a, 3)
    assert quality.bank_similarity(nmf.bank, planted) > 0.99


def test_semi_nmf_takes_negative_activations_and_never_gets_worse():
    a = torch.randn(60, 9, generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = [
            concepts.factorise(a, 4, "semi-nmf", max_iter=n).error for n in (1, 3, 10, 30, 100)
        ]
    # The codes are solved for at the end, which may take back a little.
    assert all(b <= a + 2e-3 for a, b in pairwise(errors))
    assert errors[-1] < concepts.factorise(a, 4, "kmeans").error


@pytest.mark.parametrize("method", ["nmf", "semi-nmf", "kmeans"])
def test_an_unconverged_factorisation_is_said_with_its_residual(pooled, method):
    with pytest.warns(
        UserWarning, match=r"not converged after 1 passes, relative residual 0\."
    ) as w:
        one = concepts.factorise(pooled, 8, method, max_iter=1)
    assert len(w) == 1
    assert not one.converged
    assert f"{one.error:.4g}" in str(w[0].message)


def test_an_all_zero_layer_has_codes_of_zero():
    for method in ("nmf", "semi-nmf", "pca"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = concepts.factorise(torch.zeros(20, 4), 2, method)
        assert one.error == 0
        assert (one.decode(one.codes) == 0).all()


@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        (torch.rand(20, 4), {"method": "nfm"}, "unknown method 'nfm'. Did you mean 'nmf'"),
        (torch.rand(20, 4) - 0.5, {}, r"at least 0, the least is -0\.\d+.*semi-nmf"),
        (torch.rand(3, 4), {"n_concepts": 4}, "4 concepts need as many activations, got 3"),
        (torch.rand(20, 4), {"n_concepts": 5, "method": "pca"}, "at most 4 in 4 dimensions"),
        (torch.rand(20, 4), {"n_concepts": 0}, "n_concepts: expected a whole number"),
        (torch.rand(20, 4) / 0, {}, "expected finite numbers"),
        (torch.rand(20), {}, r"expected finite numbers \(n, p\), got \(20,\)"),
    ],
)
def test_factorise_refuses(a, options, message):
    with pytest.raises(ValueError, match=message):
        concepts.factorise(a, **{"n_concepts": 2, **options})


# Extraction


@pytest.mark.parametrize(
    ("name", "layer", "shape", "grid"),
    [
        ("shapes/resnet", "stage3_block1", (8, 8, 64), (8, 8)),
        ("shapes/vit", "blocks.1", (64, 64), (8, 8)),
        ("shapes/resnet", "flatten", (64,), None),
        ("shapes/resnet", "pool", (1, 1, 64), None),
    ],
)
def test_layers_of_every_kind(shapes, name, layer, shape, grid):
    model, x = models.load(name), shapes.images[:60]
    a = concepts.activations(model, x, layer)
    assert a.shape == (60, *shape)
    crop = 0.5 if grid else 1
    one = concepts.extract(model, x, layer, n_concepts=4, method="semi-nmf", n_crops=80, crop=crop)
    assert one.grid == grid
    codes = one.encode(model, x[:5])
    assert codes.shape == (5, *shape[:-1], 4)
    assert one.logits(model, x[:5], codes).shape == (5, 10)
    if grid:
        heat = one.heat(model, x[:5], 2)
        assert heat.shape == (5, 32, 32)
        middle = codes[..., 2].view(5, 8, 8)
        assert torch.allclose(heat[:, 14:18, 14:18].mean((1, 2)), middle[:, 3:5, 3:5].mean((1, 2)))
    else:
        with pytest.raises(ValueError, match="has no places to draw"):
            one.heat(model, x[:5], 2)


def test_crops_are_pieces_of_the_images(found, shapes):
    assert (found.size, len(found.boxes)) == ((16, 16), 300)
    crops = found.strongest(3, 5)
    assert crops.shape == (5, 3, 32, 32)
    codes = found.dictionary.codes[:, 3]
    i, top, left = found.boxes[codes.argmax()].tolist()
    piece = shapes.images[i : i + 1, :, top : top + 16, left : left + 16]
    doubled = nn.functional.interpolate(piece, (32, 32), mode="bilinear")
    assert torch.allclose(crops[0], doubled[0], atol=1e-6)
    assert found.boxes[:, 1:].max() == 16
    assert found.boxes[:, 1:].min() == 0


def test_strongest_shows_an_image_once(found):
    codes = found.dictionary.codes[:, 0]
    owners = found.boxes[:, 0]
    best = {int(o): float(codes[owners == o].max()) for o in owners.unique()}
    order = sorted(best, key=best.get, reverse=True)
    crops = found.strongest(0, 6)
    for crop, owner in zip(crops, order, strict=False):
        rows = ((owners == owner) & (codes == best[owner])).nonzero().flatten()
        i, top, left = found.boxes[rows[0]].tolist()
        piece = found.images[i : i + 1, :, top : top + 16, left : left + 16]
        assert torch.allclose(
            crop, nn.functional.interpolate(piece, (32, 32), mode="bilinear")[0], atol=1e-6
        )


def test_extraction_is_seeded_and_leaves_the_model_and_the_generator_alone(resnet, shapes):
    before = {k: v.clone() for k, v in resnet.state_dict().items()}
    state = torch.random.get_rng_state().clone()
    options = {"n_concepts": 3, "n_crops": 100}
    one, two, other = (
        concepts.extract(resnet, shapes.images, "stage3_block1", seed=seed, **options)
        for seed in (4, 4, 5)
    )
    concepts.importance(one, resnet, shapes.images[:4], 3, method="sobol")
    one.steer(resnet, shapes.images[:4], {0: 0})
    assert torch.equal(one.dictionary.bank, two.dictionary.bank)
    assert torch.equal(one.boxes, two.boxes)
    assert not torch.equal(one.boxes, other.boxes)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in resnet.state_dict().items())
    assert not any(m._forward_hooks for m in resnet.modules())
    assert all(p.grad is None for p in resnet.parameters())


def test_steps_count_up_and_a_failing_layer_leaves_no_hook(resnet, shapes):
    ticks = list(
        concepts.extract.steps(resnet, shapes.images, "stage3_block1", n_crops=600, n_concepts=3)
    )
    assert [tick.done for tick in ticks] == [256, 512, 600, 1200]
    assert ticks[-1].total == 1200
    assert isinstance(steps.run(iter(ticks)), Concepts)
    model = maps_net()
    with pytest.raises(RuntimeError):
        by_hand(torch.rand(2, 9)).logits(model, some_images(2), torch.rand(2, 4, 4, 2))
    one = by_hand(torch.rand(2, 9), layer="0")
    with pytest.raises(RuntimeError):
        one.steer(model, some_images(2), {0: 0})
    assert not any(m._forward_hooks for m in model.modules())


def test_layers_after_it_that_work_in_place_do_not_change_what_is_read():
    inplace = net(lambda: nn.Conv2d(1, 5, 3), partial(nn.ReLU, inplace=True), nn.Flatten)
    x = some_images()
    with torch.no_grad():
        expected = inplace.body[0](x).movedim(1, -1).clone()
    assert expected.min() < 0
    assert torch.allclose(concepts.activations(inplace, x, "0"), expected, atol=1e-6)


def test_own_methods_may_factorise(resnet, shapes):
    def first_units(a, r, seed):
        bank = torch.eye(a.shape[1])[:r]
        left = a[:, r:].norm(dim=1)
        return concepts.Dictionary(
            "units", bank, a[:, :r], left, 0.0, 0.5, True, lambda x: x @ bank.T
        )

    one = concepts.extract(
        resnet, shapes.images[:40], "stage3_block1", method=first_units, n_concepts=3, n_crops=50
    )
    direct = concepts.activations(resnet, shapes.images[:2], "stage3_block1")[..., :3]
    assert torch.equal(one.encode(resnet, shapes.images[:2]), direct)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("stage9", {}, "unknown layer of shapes/resnet 'stage9'"),
        ("flatten", {}, "'flatten' has no places.*crop=1"),
        ("stage3_block1", {"method": "nfm"}, "unknown method 'nfm'"),
        ("stage3_block1", {"crop": 0.0}, r"crop: expected a share of the image in \(0, 1\]"),
        ("stage3_block1", {"n_crops": 5}, "n_crops: 10 concepts need as many crops, got 5"),
        ("flatten", {"crop": 1}, "images: 10 concepts need as many crops, got 9"),
        ("stage3_block1.conv1", {"n_crops": 20}, "NMF needs values of at least 0"),
    ],
)
def test_extraction_refuses(resnet, shapes, layer, options, message):
    with pytest.raises(ValueError, match=message):
        concepts.extract(resnet, shapes.images[:9], layer, **options)


def test_a_model_in_train_mode_is_refused_and_left_so(found, shapes):
    model, x = models.load("shapes/resnet").train(), shapes.images[:4]
    calls = [
        lambda: concepts.extract(model, x, "stage3_block1"),
        lambda: concepts.activations(model, x, "stage3_block1"),
        lambda: found.encode(model, x),
        lambda: found.steer(model, x, {0: 0}),
        lambda: found.logits(model, x, torch.zeros(4, 8, 8, 10)),
        lambda: concepts.importance(found, model, x, 1),
        lambda: concepts.tcav(model, x, 1, "stage3_block1", x, x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="train mode"):
            call()
    assert model.training


# The rest of the network


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
def test_codes_that_say_everything_give_the_models_logits(layer):
    model, x = maps_net(), some_images()
    a = concepts.activations(model, x, layer)
    bank = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    one = by_hand(bank, offset=a.mean((0, 1, 2)), layer=layer)
    with torch.no_grad():
        logits = one.logits(model, x, one.encode(model, x))
    assert torch.allclose(logits, model.predict(x).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "after"), [("stage2_block1.conv1", "stage2_block1.bn1"), ("stage3_block1", "pool")]
)
def test_the_short_way_is_the_long_way(resnet, shapes, layer, after, monkeypatch):
    """A layer inside a block is hooked, one of a Sequential is cut at: the same logits."""
    x = shapes.images[:6]
    one = concepts.extract(resnet, x, layer, n_concepts=4, n_crops=60, method="pca")
    codes = one.encode(resnet, x)
    with torch.no_grad():
        short = one.logits(resnet, x, codes)
        monkeypatch.setattr("workbench.concepts.extraction.Classifier", type(None))
        long = one.logits(resnet, x, codes)
    assert torch.allclose(short, long, atol=1e-5)
    replaced = []
    hook = resnet.layer(after).register_forward_pre_hook(lambda _, a: replaced.append(a[0]))
    with torch.no_grad():
        one.logits(resnet, x, codes)
    hook.remove()
    assert torch.allclose(replaced[0], one.dictionary.decode(codes).movedim(-1, 1), atol=1e-5)


def test_steering(resnet, found, shapes):
    x = shapes.images[:8]
    plain = resnet.predict(x).logits
    for nothing in ({}, {3: 1}):
        assert torch.allclose(found.steer(resnet, x, nothing), plain, atol=1e-6)
    a = concepts.activations(resnet, x, "stage3_block1")
    codes = found.encode(resnet, x)
    changed = (
        a + codes[..., 2:3] * found.dictionary.bank[2] - codes[..., :1] * found.dictionary.bank[0]
    )
    with torch.no_grad():
        expected = resnet.body[-3:](changed.movedim(-1, 1))
    assert torch.allclose(found.steer(resnet, x, {2: 2, 0: 0}), expected, atol=1e-5)
    for bad, message in (({10: 0}, "concept: expected 0 to 9, got 10"), ({0: math.nan}, "finite")):
        with pytest.raises(ValueError, match=message):
            found.steer(resnet, x, bad)


def test_a_layer_that_runs_twice_is_changed_where_it_ran_first():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(1 - self.relu(x.flatten(1)))

    model, x = models.wrap(Twice(), input_shape=(1, 2, 2), classes=4), some_images(3, (1, 2, 2))
    one = by_hand(torch.eye(4), layer="relu", grid=None)
    assert torch.equal(concepts.activations(model, x, "relu"), x.flatten(1))
    with torch.no_grad():
        assert torch.allclose(
            one.logits(model, x, torch.full((3, 4), 0.25)), torch.full((3, 4), 0.75)
        )


# Importance


def linear_case(seed=0, r=4):
    model = net(nn.Flatten, lambda: nn.Linear(16, 3), seed=seed)
    bank = torch.rand(r, 16, generator=torch.Generator().manual_seed(seed))
    one = by_hand(bank, layer="0", grid=None)
    return model, one, some_images(7)


@given(st.integers(0, 1000), st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_on_a_linear_head_the_methods_agree_with_the_closed_form(seed, target):
    model, one, x = linear_case(seed)
    weights = one.dictionary.bank @ model.body[1].weight.detach()[target]
    expected = one.encode(model, x) * weights
    for method in ADDITIVE:
        scores = concepts.importance(one, model, x, target, method=method).scores
        assert torch.allclose(scores, expected, atol=1e-4)


def test_sobol_indices_of_a_sum_are_the_shares_of_its_variance(monkeypatch):
    monkeypatch.setattr(attribution, "N_MASKS", 1024)
    model, one, x = linear_case()
    terms = concepts.importance(one, model, x, 1, method="occlusion").scores.square()
    found = concepts.importance(one, model, x, 1, method="sobol").scores
    assert torch.allclose(found, terms / terms.sum(1, keepdim=True), atol=0.03)


def test_sobol_indices_see_what_concepts_do_together(monkeypatch):
    """y = m0 * m1 with masks in [0, 1]: both total indices are 4/7."""
    monkeypatch.setattr(attribution, "N_MASKS", 1024)

    def product(codes):
        return codes[..., 0] * codes[..., 1]

    generator = torch.Generator().manual_seed(0)
    total = attribution._sobol(product, torch.ones(1, 3), generator)
    assert torch.allclose(total, torch.tensor([[4 / 7, 4 / 7, 0]]), atol=0.03)


def test_integrated_gradients_add_up():
    model, x = maps_net(), 4 * some_images(6) - 2
    model.body[0].weight.data *= 5  # so that the tanh bends
    one = by_hand(torch.eye(5), layer="1")
    x = x.clamp(0, 1)
    scores = concepts.importance(one, model, x, 2, method="integrated-gradients").scores
    codes = one.encode(model, x)
    with torch.no_grad():
        ends = [one.logits(model, x, c)[:, 2] for c in (codes, 0 * codes)]
    plain = concepts.importance(one, model, x, 2).scores
    assert torch.allclose(scores.sum(1), ends[0] - ends[1], atol=1e-4)
    assert not torch.allclose(plain.sum(1), ends[0] - ends[1], atol=1e-2)


def test_the_linear_head_of_the_resnet_has_the_best_curves(resnet, shapes):
    one = concepts.extract(resnet, shapes.images[:300], "flatten", crop=1)
    x = shapes.images[300:360]
    ranked = {
        method: concepts.importance(one, resnet, x, method=method) for method in attribution.METHODS
    }
    reference = ranked["gradient-x-input"].scores
    areas = {}
    for method, ranking in ranked.items():
        areas[method] = concepts.faithfulness(one, resnet, x, ranking).summary()
        if method in ADDITIVE:
            assert torch.allclose(ranking.scores, reference, atol=1e-4)
    best = areas["gradient-x-input"]
    for area in areas.values():
        assert best["deletion"] <= area["deletion"] + 1e-5
        assert best["insertion"] >= area["insertion"] - 1e-5
    assert areas["random"]["deletion"] > 5 * areas["sobol"]["deletion"]


def test_curves_start_and_end_where_they_must(resnet, found, shapes):
    x = shapes.images[:5]
    ranking = concepts.importance(found, resnet, x, 4)
    curves = concepts.faithfulness(found, resnet, x, ranking)
    codes = found.encode(resnet, x)
    with torch.no_grad():
        full, none = (found.logits(resnet, x, c)[:, 4] for c in (codes, 0 * codes))
        first = codes.clone()
        for i, k in enumerate(ranking.scores.argmax(1)):
            first[i, ..., k] = 0
        without = found.logits(resnet, x, first)[:, 4]
    assert torch.allclose(
        curves.deletion[:, [0, 1, -1]], torch.stack([full, without, none], 1), atol=1e-5
    )
    assert torch.allclose(curves.insertion[:, [0, -1]], torch.stack([none, full], 1), atol=1e-5)
    assert len(curves.frame()) == 11
    with pytest.raises(ValueError, match=r"importance: expected values of shape \(4, 10\)"):
        concepts.faithfulness(found, resnet, x[:4], ranking)


def test_importance_in_pieces_is_importance_at_once(resnet, found, shapes, monkeypatch):
    x = shapes.images[:7]
    for method in attribution.METHODS:
        whole = concepts.importance(found, resnet, x, method=method)
        assert torch.equal(whole.target, resnet.predict(x).label)
        if method != "sobol":
            monkeypatch.setattr(attribution, "ROWS", 70)
            ticks = list(concepts.importance.steps(found, resnet, x, method=method))
            monkeypatch.undo()
            assert torch.allclose(ticks[-1].value.scores, whole.scores, atol=0.02)
            assert ticks[-1].done == ticks[-1].total == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sobl"}, "unknown method 'sobl'. Did you mean 'sobol'"),
        ({"target": 10}, "target: expected values in 0..9"),
        ({"target": torch.tensor([1])}, "target: expected 3 labels"),
    ],
)
def test_importance_refuses(resnet, found, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        concepts.importance(found, resnet, shapes.images[:3], **options)


# Metrics and strategies


def test_metrics_of_a_perfect_dictionary():
    a, _ = mixture(n=200)
    told = concepts.concept_metrics(a, 3).summary()
    assert told["relative_error"] < 0.01
    assert told["stability"] > 0.99
    assert told["wasserstein"] < 0.01
    assert told["ood"] == pytest.approx(1, abs=0.05)


def test_metrics_tell_the_methods_apart(pooled):
    told = {m: concepts.concept_metrics(pooled, 10, m) for m in ("nmf", "kmeans", "pca")}
    order = [told[m].relative_error for m in ("pca", "nmf", "kmeans")]
    assert order == sorted(order)
    zeros = [told[m].sparsity for m in ("pca", "nmf", "kmeans")]
    assert zeros == sorted(zeros)
    assert zeros[2] == pytest.approx(0.9)
    assert told["pca"].wasserstein < told["kmeans"].wasserstein


def test_wasserstein_is_scipys(pooled):
    from scipy.stats import wasserstein_distance

    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    known, new = pooled[order[:200]], pooled[order[200:]]
    back = concepts.factorise(known, 5, "kmeans").decode(
        concepts.factorise(known, 5, "kmeans").encode(new)
    )
    mean = np.mean([wasserstein_distance(new[:, i], back[:, i]) for i in range(64)])
    told = concepts.concept_metrics(pooled, 5, "kmeans")
    assert told.wasserstein == pytest.approx(mean, rel=1e-4)


@given(st.permutations(range(5)), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_similarity_finds_the_permutation(order, seed):
    bank = torch.randn(5, 9, generator=torch.Generator().manual_seed(seed))
    assert quality.bank_similarity(bank, 3 * bank[list(order)]) == pytest.approx(1, abs=1e-5)
    assert quality.bank_similarity(bank, -bank, signed=False) == pytest.approx(1, abs=1e-5)
    assert quality.bank_similarity(bank, -bank) < 0.9


def test_metrics_refuse_too_few(pooled):
    with pytest.raises(ValueError, match="activations: expected a whole number of at least 22"):
        concepts.concept_metrics(pooled[:21])


def test_the_sign_of_a_direction_of_pca_does_not_count(pooled, monkeypatch):
    def turned(a, r, method, seed):
        found = dictionaries.factorise(a, r, method, seed=seed)
        sign = 1 if len(seen) else -1
        seen.append(a)
        inverse = partial(lambda x, encode: sign * encode(x), encode=found.encoder)
        return replace(found, bank=sign * found.bank, encoder=inverse)

    seen = []
    plain = concepts.concept_metrics(pooled, 5, "pca")
    monkeypatch.setattr(quality, "factorise", turned)
    assert concepts.concept_metrics(pooled, 5, "pca") == plain


def test_planted_strategies_are_found():
    generator = torch.Generator().manual_seed(0)
    scores = 0.1 * torch.randn(60, 6, generator=generator)
    scores[:25, 4] += 3
    scores[25:, 1] += 3
    importance = Importance("by hand", scores, torch.zeros(60, dtype=torch.int64))
    for embedding in ("pca", "tsne"):
        told = concepts.strategies(importance, 2, embedding=embedding)
        assert told.dominant[told.cluster].tolist() == [4] * 25 + [1] * 35
        assert told.points.shape == (60, 2)
        assert sorted(told.summary()["images"]) == [25, 35]
        assert told.frame()["dominant"].tolist() == [4] * 25 + [1] * 35
    with pytest.raises(ValueError, match="61 need as many images, got 60"):
        concepts.strategies(importance, 61)
    with pytest.raises(ValueError, match="unknown embedding 'umap'"):
        concepts.strategies(importance, embedding="umap")


# TCAV


def corner_model():
    """Class 1 is the brightness of the left half, class 0 its opposite."""
    model = net(nn.Flatten, nn.Identity, lambda: nn.Linear(16, 2))
    left = (torch.arange(16) % 4 < 2).float()
    with torch.no_grad():
        model.body[2].weight.copy_(torch.stack([-left, left]))
    return model


def test_tcav_knows_what_the_model_looks_at():
    model, x = corner_model(), some_images(12)
    plain = 0.5 * some_images(80, seed=2)
    bright = 0.5 * some_images(20, seed=3)
    bright[:, :, :, :2] += 0.5
    state = torch.random.get_rng_state().clone()
    told = concepts.tcav(model, x, 1, "1", bright, plain, n_sets=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert told.scores.tolist() == [1.0] * 6
    assert told.accuracy.min() > 0.9
    assert told.p_value == concepts.tcav(model, x, 1, "1", bright, plain, n_sets=6).p_value
    against = concepts.tcav(model, x, 0, "1", bright, plain, n_sets=6)
    assert against.scores.tolist() == [0.0] * 6
    # Among random sets either sign may come, so the concept differs, and noise does not.
    assert 0 < told.random.mean() < 1
    assert told.p_value < 0.1
    noise = concepts.tcav(model, x, 1, "1", 0.5 * some_images(20, seed=4), plain, n_sets=6)
    assert noise.accuracy.mean() < 0.8
    assert list(told.frame()) == ["score", "random", "accuracy"]


def test_tcav_refuses():
    model, x = corner_model(), some_images(12)
    cases = [
        ({"target": 2}, "target: expected values in 0..1"),
        ({"layer": "9"}, "unknown layer"),
        ({"concept": x[:7]}, "concept: expected a whole number of at least 8"),
        ({"random": x}, "random: expected a whole number of at least 24"),
        ({"n_sets": 1}, "n_sets: expected a whole number of at least 2"),
        ({"concept": x + 1}, r"concept: expected values in \[0, 1\]"),
    ]
    good = {"target": 1, "layer": "1", "concept": x, "random": some_images(40)}
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            concepts.tcav(model, x, **{**good, **change})


# Truth on shapes, results and figures


@pytest.mark.parametrize(("layer", "factor"), [("relu", "colour"), ("stage3_block1", "shape")])
def test_concepts_are_factors_of_shapes(resnet, shapes, layer, factor):
    x = shapes.images[:300]
    one = concepts.extract(resnet, x, layer, method="kmeans", n_crops=1000)
    codes = one.encode(resnet, x).flatten(1, -2).mean(1)
    names = sorted(shapes.factors[factor].unique())
    values = torch.tensor([[name == own for name in names] for own in shapes.factors[factor][:300]])
    both = torch.cat([codes, values.float()], 1).T
    correlation = torch.corrcoef(both)[: len(one), len(one) :].nan_to_num().abs()
    assert correlation.max() >= 0.7


def test_results_say_what_they_are(found, resnet, shapes):
    assert found.summary()["n_crops"] == 300
    table = found.frame()
    assert len(table) == len(found) == 10
    assert table["largest"].max() == pytest.approx(float(found.dictionary.codes.max()))
    told = concepts.importance(found, resnet, shapes.images[:9], 1)
    assert told.frame()["first"].sum() == pytest.approx(1)
    assert told.summary()["most_important"] == int(told.frame()["mean"].idxmax())


def test_figures_of_concepts(found, resnet, shapes):
    grid = figures.concept_grid(found, [2, 0], n=3)
    assert grid.html.count("<img ") == grid.html.count('<img alt="crop ') == 6
    assert "fire each of 2 concepts" in grid.alt
    one = concepts.importance(found, resnet, shapes.images[:9], 1, method="occlusion")
    graph = figures.cluster_graph(concepts.strategies(one, 2))
    assert sum(len(trace.x) for trace in graph.data) == 9
    assert sorted(i for trace in graph.data for i in trace.customdata) == list(range(9))
    assert len({trace.marker.symbol for trace in graph.data}) == 2
