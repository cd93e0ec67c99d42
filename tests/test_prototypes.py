import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from workbench import attacks, data, levelsets, models, prototypes
from workbench.models import Recipe, architectures, checkpoints, fit
from workbench.models.plain import elastic
from workbench.prototypes import ProbPrototypeClassifier, PrototypeClassifier, explain
from workbench.prototypes.networks import Autoencoder, PrototypeNetwork
from workbench.prototypes.probabilistic import drawn_distances
from workbench.prototypes.uncertainties import entropy, overlaps

PROB = Recipe(dataset="digits", architecture="prob-prototypes", epochs=15, lr=5e-3)


@pytest.fixture(scope="module")
def model():
    return models.load("digits/prototypes")


@pytest.fixture(scope="module")
def prob():
    return fit(PROB, data.load("digits", "train")).model


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# The network.


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 13), (1, 3, 3)])
def test_an_image_comes_back_in_its_own_shape(shape):
    auto = Autoencoder(shape, 4, 3, rectified=True)
    x = torch.rand(5, *shape)
    z = auto.encoder(x)
    assert z.shape == (5, auto.size)
    assert auto.size == math.prod(auto.shape)
    back = auto.decode(z)
    assert back.shape == x.shape
    assert float(back.min()) >= 0
    assert float(back.max()) <= 1


def test_the_paper_s_sizes():
    network = architectures.build("prototypes", (1, 28, 28), 10)
    assert network.auto.shape == (10, 2, 2)
    assert network.prototypes.vectors.shape == (15, 40)


def test_logits_are_distances_times_weights(model, digits):
    x = digits.images[:50]
    z = model.encode(x)
    by_hand = torch.stack([(z - p).pow(2).sum(1) for p in model.prototypes], 1)
    assert torch.allclose(by_hand @ model.head_weights, model(x), atol=1e-4)
    assert torch.equal(model.linear_head().weight.T, model.head_weights)


def test_the_objective_is_the_paper_s_sum(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fresh(weights=(20, 2, 3, 4))
    x, y = digits.images[:40], digits.labels[:40]
    loss, logits = model.objective(x, y, torch.Generator())
    z, p = model.encode(x), model.prototypes
    pairs = torch.stack([torch.stack([(a - b).square().sum() for b in p]) for a in z])
    parts = (
        -model(x).log_softmax(1)[range(40), y].mean(),
        sum((model.decode(z[i : i + 1])[0] - x[i]).square().sum() for i in range(40)) / 40,
        pairs.min(0).values.mean(),
        pairs.min(1).values.mean(),
    )
    expected = sum(w * part for w, part in zip((20, 2, 3, 4), parts, strict=True))
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(logits, model(x), atol=1e-5)


def fresh(name="prototypes", **options):
    body = architectures.build(name, (1, 8, 8), 10, **options)
    return body.classifier(models.card("digits/prototypes")).eval()


@pytest.mark.parametrize("name", ["prototypes", "prob-prototypes"])
def test_a_file_holds_the_whole_of_it(tmp_path, name, digits):
    card = models.card("digits/prototypes").model_copy(
        update={"architecture": name, "options": {"width": 8}}
    )
    model = architectures.build(name, (1, 8, 8), 10, width=8).classifier(card, (0.3,), (0.4,))
    if name == "prob-prototypes":
        model.conclude(data.load("digits", "train"))
    checkpoints.save(model, tmp_path / "m.safetensors")
    again = models.load(f"file:{tmp_path / 'm.safetensors'}")
    assert type(again) is type(model)
    for name_, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name_], tensor), name_
    # Not bit by bit: a kernel may sum in another order where weights lie otherwise in memory.
    torch.testing.assert_close(again(digits.images[:9]), model(digits.images[:9]))
    if name == "prob-prototypes":
        assert torch.equal(again.levels, model.levels)


def test_elastic_bends_and_keeps_the_rest():
    generator = torch.Generator().manual_seed(0)
    x = data.load("digits").images[:20]
    assert torch.allclose(elastic(x, 1e-6, generator), x, atol=1e-4)
    bent = elastic(x, 20, generator)
    assert float(bent.min()) >= 0
    assert float(bent.max()) <= 1
    assert 0.5 < float(bent.mean() / x.mean()) < 1.2
    assert float((bent - x).abs().mean()) > 0.01
    flat = elastic(torch.ones(1, 1, 28, 28), 20, generator)
    assert torch.allclose(flat[:, :, 6:-6, 6:-6], torch.ones(1), atol=1e-5)


# What is shipped.


def test_shipped_digits_prototypes_are_digits(model, digits):
    training = data.load("digits", "train")
    indices, _ = prototypes.nearest_images(model, training.images, 1)
    labels = training.labels[indices[:, 0]]
    assert float((labels == model.votes).float().mean()) >= 0.5
    with torch.no_grad():
        codes = model.encode(training.images)
        near = torch.cdist(model.prototypes, codes).min(1).values.mean()
        usual = torch.cdist(codes, codes).fill_diagonal_(torch.inf).min(1).values.mean()
    assert float(near / usual) < 1  # as near to a code as codes are to one another


@pytest.mark.parametrize(
    ("name", "own_classes"),
    [("digits/prototypes", 10), ("mnist/prototypes", 10), ("fashion_mnist/prototypes", 9)],
)
def test_each_class_is_nearest_to_a_prototype_of_its_own(name, own_classes):
    model = models.load(name)
    try:
        test = data.load(model.card.dataset)
    except FileNotFoundError:
        pytest.skip(f"{model.card.dataset} is not in the data folder")
    found = explain(model, test.images)
    own = 0
    for k in range(10):
        mean = found.distances[test.labels == k].mean(0)
        own += int(model.votes[mean.argmin()]) == k
    assert own == own_classes  # of Fashion's shirts, a pullover is nearest


# Explanations.


@pytest.mark.parametrize("name", ["digits/prototypes", "mnist/prototypes", "mnist/prob-prototypes"])
def test_contributions_add_up_to_the_logits(name):
    model = models.load(name)
    x = torch.rand(64, *model.input_shape, generator=torch.Generator().manual_seed(0))
    found = explain(model, x)
    assert torch.allclose(found.contributions.sum(1), model(x), atol=1e-4)
    assert torch.allclose(found.logits, model(x), atol=1e-4)


def test_an_explanation_in_words_and_rows(model, digits):
    found = explain(model, digits.images)
    table = found.frame()
    assert len(table) == len(digits) == found.summary()["images"]
    row = table.iloc[3]
    j = int(found.distances[3].argmin())
    assert (row.nearest, row.vote) == (j, digits.classes[int(model.votes[j])])
    assert row.distance == pytest.approx(float(found.distances[3, j]))
    assert found.summary()["nearest_prototype_agrees"] > 0.7
    assert bool((found.distances.gather(1, found.order).diff(dim=1) >= 0).all())
    assert explain(model, digits.images[:0]).summary()["images"] == 0


def test_nearest_images_are_those_of_brute_force(model, digits):
    indices, distances = prototypes.nearest_images(model, digits.images, 4)
    for j, p in enumerate(model.prototypes):
        far = (model.encode(digits.images) - p).pow(2).sum(1)
        assert torch.allclose(distances[j], far.sort().values[:4])
        assert torch.allclose(far[indices[j]], distances[j])


def test_attacks_and_traversals_run_on_a_prototype_model(model, digits):
    part = digits[:20]
    found = attacks.PGD(eps=0.2)(model, part.images, part.labels)
    assert float(found.success.float().mean()) > 0.8
    near = attacks.DeepFool()(model, part.images, part.labels)
    assert float(near.success.float().mean()) > 0.8
    walk = levelsets.LevelSetTraversal(n_steps=30)(model, part.images[:2], part.images[2:4])
    assert bool((walk.distance[-1] < walk.distance[0]).all())


# Distributions.


def test_parts_of_uncertainty_add_up(prob, digits):
    found = prototypes.uncertainty(prob, digits.images, samples=30)
    assert torch.allclose(found.total, found.aleatoric + found.epistemic, atol=1e-5)
    assert float(found.epistemic.min()) >= -1e-6
    for name in ("far", "overlap"):
        values = getattr(found, name)
        assert 0 <= float(values.min()) <= float(values.max()) <= 1 + 1e-5
    assert list(found.frame().columns) == ["predicted", *found.MEASURES]
    assert found.summary()["total"] == pytest.approx(float(found.total.mean()))


def test_no_deviation_no_epistemic_uncertainty(prob, digits):
    sure = fresh("prob-prototypes")
    sure.load_state_dict({k: v for k, v in prob.state_dict().items() if k not in ("mean", "std")})
    sure.body.prototypes.scale.data.fill_(-30)
    found = prototypes.uncertainty(sure, digits.images[:30], samples=8)
    assert float(found.epistemic.abs().max()) < 1e-5
    at_modes = sure(digits.images[:30]).softmax(1)
    assert torch.allclose(found.probabilities, at_modes[:, None].expand(-1, 8, -1), atol=1e-4)


def test_the_same_seed_draws_the_same(prob, digits):
    state = torch.get_rng_state()
    first, second, other = (
        prototypes.uncertainty(prob, digits.images[:5], samples=5, seed=seed).probabilities
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_and_no_images(prob, digits):
    whole = prototypes.uncertainty(prob, digits.images[:50], samples=6)
    parts = prototypes.uncertainty(prob, digits.images[:50], samples=6, batch_size=7)
    for name in whole.MEASURES:
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=2e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prototypes.uncertainty(prob, digits.images[:0]).summary() == {"images": 0}


def test_far_is_the_rank_among_the_training_images(prob):
    training = data.load("digits", "train")
    found = prototypes.uncertainty(prob, training.images, samples=2)
    right = found.label == training.labels
    for k in range(10):
        among = right & (training.labels == k)
        if int(among.sum()) > 50:
            assert float(found.far[among].median()) == pytest.approx(0.5, abs=0.1)
    noise = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(prototypes.uncertainty(prob, noise, samples=2).far.median()) > 0.95


def test_overlap_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    for gap in (0.0, 1.0, 2.0, 6.0):
        drawn = torch.randn(1, 4000, 2, generator=generator) + torch.tensor([0.0, gap])
        expected = 2 * (1 - torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(gap / 2)))
        got = overlaps(drawn, torch.tensor([0]))
        assert float(got) == pytest.approx(float(expected), abs=0.06)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 99))
def test_drawn_distances_are_those_of_the_loop(n, samples, k, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 7, generator=generator)
    drawn = torch.randn(samples, k, 7, generator=generator)
    loop = (z[:, None, None] - drawn).pow(2).sum(-1)
    assert torch.allclose(drawn_distances(z, drawn), loop, atol=1e-4)


def test_entropy():
    assert float(entropy(torch.tensor([0.5, 0.5, 0.0]))) == pytest.approx(math.log(2))


def test_the_probabilistic_objective(prob, digits):
    x, y = digits.images[:16], digits.labels[:16]
    loss, logits = prob.objective(x, y, torch.Generator().manual_seed(3))
    own = prob.body.prototypes
    drawn = own.draw(10, torch.Generator().manual_seed(3))
    z = prob.encode(x)
    nll = torch.stack(
        [F.cross_entropy(((z[:, None] - p).pow(2).sum(2)) @ prob.head_weights, y) for p in drawn]
    ).mean()
    density = -torch.distributions.Independent(
        torch.distributions.Normal(own.vectors[y], own.std[y]), 1
    ).log_prob(z)
    expected = nll + 10 * (prob.decode(z) - x).square().mean() + 0.05 * density.clamp(min=-1).mean()
    assert torch.allclose(loss, expected, rtol=1e-4)
    assert torch.allclose(logits, prob(x), atol=1e-4)


# Bad input.


def test_more_prototypes_than_images_is_refused():
    plan = Recipe(dataset="digits", architecture="prototypes", options={"prototypes": 50})
    with pytest.raises(ValueError, match=r"prototypes: expected at most one a training image \(30"):
        next(fit.steps(plan, data.load("digits", "train")[:30]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prototypes": 0}, r"prototypes: expected at least one a class \(10\), got 0"),
        ({"prototypes": 9}, "at least one a class"),
        ({"weights": (1, 2)}, "weights: expected four numbers"),
        ({"weights": (1, 2, -1, 0)}, "weights: expected four numbers"),
        ({"code": 0}, "positive sizes"),
    ],
)
def test_networks_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        PrototypeNetwork((1, 8, 8), 10, **options)
    with pytest.raises(ValueError, match="three numbers"):
        architectures.build("prob-prototypes", (1, 8, 8), 10, samples=0)


def test_too_small_an_image_is_said():
    with pytest.raises(ValueError, match="3x3 pixels or more"):
        PrototypeNetwork((1, 2, 2), 10)


def test_errors_say_what_to_do(model, prob, digits):
    plain = models.load("digits/mlp")
    with pytest.raises(TypeError, match=r"prototype classifier such as .*, got digits/mlp"):
        explain(plain, digits.images[:1])
    with pytest.raises(TypeError, match=r"distributions for prototypes.* got digits/prototypes"):
        prototypes.uncertainty(model, digits.images[:1])
    with pytest.raises(ValueError, match="samples: expected a whole number of at least 1"):
        prototypes.uncertainty(prob, digits.images[:1], samples=0)
    with pytest.raises(ValueError, match=r"k: expected at most the number of images \(2\), got 3"):
        prototypes.nearest_images(model, digits.images[:2], 3)
    with pytest.raises(ValueError, match=r"z: expected codes of shape \(N, 40\), got \(1, 3\)"):
        model.decode(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="train mode"):
        explain(fresh().train(), digits.images[:1])


def test_kinds(model, prob):
    assert isinstance(model, PrototypeClassifier)
    assert isinstance(prob, ProbPrototypeClassifier)
    assert isinstance(model.body, nn.Module)
