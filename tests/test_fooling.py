import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.attacks.fooling import GradientAscent, MapElites
from workbench.attacks.genomes import Painters, Pixels, mutated


@pytest.fixture(scope="module")
def digits():
    return models.load("digits/cnn")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["digits/cnn", "digits/mlp"])
@pytest.mark.parametrize("encoding", ["direct", "cppn"])
def test_evolution_fools_as_in_the_paper(name, encoding):
    result = MapElites(encoding=encoding, generations=100)(models.load(name))
    assert result.summary()["median_confidence"] >= 0.9999
    assert 0 < result.summary()["reached_9999"] <= 100


def test_evolution_fools_the_mnist_network():
    result = MapElites(generations=200)(models.load("mnist/cnn"))
    assert result.summary()["median_confidence"] >= 0.9999  # the paper's figure
    assert result.confidence.min() >= 0.95


def test_fooling_images_are_far_from_any_digit(digits):
    result = MapElites(generations=100)(digits)
    known, new = data.load("digits", "train").images, data.load("digits").images
    images = [part.flatten(1) for part in (result.images, new)]
    far, near = (torch.cdist(part, known.flatten(1)).amin(1).mean() for part in images)
    assert far >= 2 * near


SHORT = [
    MapElites(generations=5),
    MapElites(generations=5, encoding="cppn"),
    GradientAscent(n_steps=5),
    GradientAscent(n_steps=5, prior="TV"),
]


@pytest.mark.parametrize("method", SHORT)
def test_what_is_reported_is_what_the_model_says(digits, method):
    result = method(digits)
    said = digits.predict(result.images).probabilities.diagonal()  # also checks the range
    assert torch.allclose(said, result.confidence, atol=1e-5)
    assert torch.equal(result.history[-1], result.confidence)
    assert len(result.history) == 6
    assert list(result.frame()["class"]) == list(digits.classes)


@pytest.mark.parametrize("method", SHORT)
def test_same_seed_same_images_and_nothing_global(digits, method):
    before = torch.random.get_rng_state()
    first, second, other = method(digits, seed=1), method(digits, seed=1), method(digits, seed=2)
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in digits.parameters())


@pytest.mark.parametrize("encoding", ["direct", "cppn"])
def test_elites_only_get_better_and_earlier_steps_stay_as_they_were(digits, encoding):
    taken = list(MapElites(encoding=encoding, generations=10, children=20).steps(digits))
    history = taken[-1].value.history
    assert (history.diff(dim=0) >= 0).all()
    assert (history[-1] > history[0]).any()
    assert taken[-1].value.queries == 11 * 20
    for step in taken:  # a preview is not overwritten by what comes later
        said = digits.predict(step.value.images).probabilities.diagonal()
        assert torch.allclose(said, history[step.done], atol=1e-5)


def test_colour_and_oblong_images():
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 6, 5))
    model = models.wrap(body, input_shape=(3, 4, 6))
    for method in SHORT:
        assert method(model).images.shape == (5, 3, 4, 6)


def test_priors_give_what_they_ask_for(digits):
    free, dark, smooth = (GradientAscent(prior=p)(digits) for p in ("none", "L2", "TV"))
    assert free.confidence.min() > 0.9999
    assert dark.images.square().sum() < 0.5 * free.images.square().sum()

    def variation(result):
        images = result.images
        return images.diff(dim=2).abs().sum() + images.diff(dim=3).abs().sum()

    assert variation(smooth) < 0.5 * variation(free)
    assert dark.confidence.median() > 0.9
    assert smooth.confidence.median() > 0.9


def test_mutation_moves_a_share_of_the_genes_a_little():
    genes = torch.full((100, 100), 0.5)
    moved = mutated(genes, 0, 1, 0.1, generator()) - genes
    assert (moved != 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert moved.abs().max() <= 0.5
    # The mean size of a polynomial mutation of index n is 1 / (n + 2).
    assert moved[moved != 0].abs().mean() == pytest.approx(1 / 17, rel=0.1)
    assert torch.equal(mutated(genes, 0, 1, 0.0, generator()), genes)


def test_crossing_keeps_the_middle_of_the_parents():
    coding = Pixels((1, 4, 4), 0.0, generator())
    first, second = torch.full((50, 16), 0.4), torch.full((50, 16), 0.6)
    children = coding.breed(first, second)
    assert torch.allclose((children[:50] + children[50:]) / 2, torch.tensor(0.5), atol=1e-6)
    crossed = (children[:50] - first).abs().amax(1) > 1e-6
    assert 10 < crossed.sum() < 40


def test_a_painter_paints_the_functions_of_its_place():
    coding = Painters((1, 3, 5), 0.1, 2, generator())
    genomes = torch.zeros(4, 7, 8)
    genomes[:, -1, 0] = 1.0  # the output sees the column, from -1 to 1
    genomes[:, -1, -1] = torch.arange(4)
    x = torch.linspace(-1, 1, 5)
    expected = torch.stack([x.sin(), (x / 2).tanh(), (-(x**2)).exp(), x / 3]).abs()
    assert torch.allclose(coding.paint(genomes), expected[:, None, None].expand(4, 1, 3, 5))


def test_painters_stay_feed_forward_and_grow_hidden_units():
    coding = Painters((3, 4, 4), 0.1, 3, generator())
    genomes = coding.random(40)
    assert not genomes[:, 4:7, :-1].any()
    for _ in range(30):
        genomes = coding.breed(genomes[:20], genomes[20:])
    weights, functions = genomes[:, :, :-1], genomes[:, :, -1]
    assert weights[:, 4:7].any(2).float().mean() > 0.2
    assert not weights.triu().any()
    assert not weights[:, :4].any()
    assert weights.abs().max() <= 10
    assert set(functions.unique().tolist()) == {0, 1, 2, 3}


def test_a_split_connection_goes_through_the_new_unit():
    # No weight moves and no function changes at rate 0; only connections and units do.
    coding = Painters((1, 2, 2), 0.0, 1, generator())
    parents = coding.random(200)
    children = coding.breed(parents[:100], parents[100:])
    grown = children[:, 4, :4].any(1) & children[:, 5, 4].ne(0)
    assert grown.any()
    for child, parent in zip(children[grown], parents[grown], strict=True):
        (origin,) = child[4, :4].nonzero().flatten().tolist()
        assert child[4, origin] == 1
        assert child[5, 4] == parent[5, origin]
        assert child[5, origin] == 0


def test_a_model_in_train_mode_or_without_answers_is_refused():
    class Lost(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * lost

    lost = 0.0
    model = models.wrap(Lost(), input_shape=(1, 4, 4))
    lost = torch.nan
    for method in (MapElites(), GradientAscent()):
        with pytest.raises(ValueError, match="not numbers"):
            method(model)
        with pytest.raises(ValueError, match="train mode"):
            method(models.load("digits/cnn").train())


def test_a_model_without_gradients_can_only_be_bred_for(digits):
    class Blind(nn.Module):
        def forward(self, x):
            return digits(x).detach()

    model = models.wrap(Blind(), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="use MapElites"):
        GradientAscent()(model)
    assert MapElites(generations=5)(model).queries == 6 * 200


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match="MapElites: children"):
        MapElites(children=3)
    with pytest.raises(ValueError, match="MapElites: encoding"):
        MapElites(encoding="genes")
