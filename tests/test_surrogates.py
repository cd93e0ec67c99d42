"""Surrogate trees: models that are trees, rules that hold, shares, errors."""

import re

import pytest
import torch
from torch import nn

from workbench import concepts, data, models
from workbench.concepts import surrogate


class Tree(nn.Module):
    """Class 0 where pixel (1, 2) is dark; else 1 or 2 by whether pixel (3, 0) is."""

    def forward(self, x):
        first, second = x[:, 0, 1, 2] > 0.5, x[:, 0, 3, 0] > 0.25
        says = torch.where(first, 1 + second.long(), 0)
        return 5 * nn.functional.one_hot(says, 3).float() + 0 * x.sum((1, 2, 3))[:, None]


class Block(nn.Module):
    """Class 1 where the green of the rows 2-3 and columns 0-1 is bright."""

    def forward(self, x):
        score = 40 * (x[:, 1, 2:4, :2].mean((1, 2)) - 0.5)
        return torch.stack([-score, score], 1)


@pytest.fixture(scope="module")
def tree():
    return models.wrap(Tree(), input_shape=(1, 4, 4), classes=["dark", "left", "right"])


@pytest.fixture(scope="module")
def noise():
    return torch.rand(600, 1, 4, 4, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def digits():
    model, images = models.load("digits/mlp"), data.load("digits")
    return model, images, surrogate(model, images.images, labels=images.labels, depth=5)


def test_a_tree_is_found_with_its_features(tree, noise):
    found = surrogate(tree, noise, k=2, depth=2)
    assert set(found.names) == {"pixel (1, 2)", "pixel (3, 0)"}
    assert found.fidelity > 0.98
    assert found.tree.get_n_leaves() == 3
    thresholds = sorted(t for t in found.tree.tree_.threshold if t > 0)
    assert thresholds == pytest.approx([0.25, 0.5], abs=0.02)
    assert found.majority < 0.7


def test_a_tree_on_values_with_a_gap_is_copied_exactly(tree, noise):
    coarse = (noise * 9).round() / 9  # nothing between 0.22 and 0.33, nor about 0.5
    found = surrogate(tree, coarse, k=2, depth=2)
    assert found.fidelity == 1.0
    assert torch.equal(found.predict(coarse), tree.predict(coarse).label)


def test_blocks_and_channels_are_found_by_name():
    model = models.wrap(Block(), input_shape=(3, 5, 5))
    x = torch.rand(400, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = surrogate(model, x, k=1, depth=1, block=2)
    assert found.names == ["block (2-3, 0-1) of channel 1"]
    assert found.fidelity > 0.95
    every = surrogate(model, x, k=27, depth=1, block=2)
    assert "block (4-4, 2-3) of channel 0" in every.names  # what there is of it, at the edge
    assert every.perturbation[1:].max() == 0  # the model looks at nothing else
    assert every.probing[0] > 0
    assert every.probing[1:].max() == 0


def test_probing_leaves_few_to_perturb(monkeypatch):
    model = models.wrap(Block(), input_shape=(3, 5, 5))
    x = torch.rand(100, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("workbench.concepts.surrogates.PERTURBED", 4)
    steps = list(surrogate.steps(model, x, k=4))
    assert len(steps) == 5
    assert steps[-1].value.features.tolist() != []
    assert {tuple(f) for f in steps[-1].value.features.tolist()} == {
        (1, 2, 0), (1, 2, 1), (1, 3, 0), (1, 3, 1)
    }  # fmt: skip


@pytest.mark.parametrize("i", range(0, 360, 5))
def test_the_rules_hold_and_lead_to_the_trees_answer(digits, i):
    model, images, found = digits
    image = images.images[i]
    *conditions, answer = found.rules(image)
    said = int(found.predict(image[None]))
    assert answer.startswith(f"so {model.classes[said]}, ")
    follows = torch.ones(len(images), dtype=torch.bool)
    for line in conditions:
        row, column = map(int, re.match(r"pixel \((\d), (\d)\)", line).groups())
        value = images.images[:, 0, row, column]
        for low in re.findall(r"> ([\d.e-]+)", line):
            follows &= value > float(low)
        for high in re.findall(r"<= ([\d.e-]+)", line):
            follows &= value <= float(high)
    assert follows[i]
    assert bool((found.predict(images.images[follows]) == said).all())  # nobody else gets there
    assert len(conditions) <= 5


def test_a_feature_met_twice_is_one_rule():
    class Band(nn.Module):
        def forward(self, x):
            inside = (x[:, 0, 0, 0] > 0.25) & (x[:, 0, 0, 0] < 0.75)
            return 5 * nn.functional.one_hot(inside.long(), 2).float() + 0 * x.sum()

    x = (torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 9).round() / 9
    found = surrogate(models.wrap(Band(), input_shape=(1, 2, 2)), x, k=1, depth=2)
    rules = found.rules(torch.full((1, 2, 2), 0.5))
    assert len(rules) == 2
    assert re.fullmatch(r"pixel \(0, 0\) > 0.2778 and <= 0.7222", rules[0])
    assert re.fullmatch(r"so 1, as the model says of 100% of \d+ such images", rules[1])


def test_an_image_on_the_threshold_goes_where_the_tree_sends_it():
    body = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.tensor([[-9.0], [9.0]]))
        body[1].bias.copy_(torch.tensor([4.5, -4.5]))
    x = torch.tensor([0.25, 0.75]).repeat(10).view(-1, 1, 1, 1)
    found = surrogate(models.wrap(body, input_shape=(1, 1, 1)), x, k=1)
    middle = torch.full((1, 1, 1), 0.5)
    assert found.predict(middle[None]).tolist() == [0]
    assert found.rules(middle)[0] == "pixel (0, 0) <= 0.5"
    assert found.rules(middle)[1].startswith("so 0, ")


def test_the_shares_are_of_images_that_the_tree_has_not_seen(digits):
    model, images, found = digits
    order = torch.randperm(360, generator=torch.Generator().manual_seed(0))
    held = order[:108]
    x, y = images.images[held], images.labels[held]
    said, says = found.predict(x), model.predict(x).label
    assert found.fidelity == pytest.approx(float((said == says).float().mean()))
    assert found.accuracy == pytest.approx(float((said == y).float().mean()))
    assert found.model_accuracy == pytest.approx(float((says == y).float().mean()))
    seen = order[108:]
    commonest = model.predict(images.images[seen]).label.mode()[0]
    assert found.majority == pytest.approx(float((says == commonest).float().mean()))
    assert found.fidelity > 0.5 > found.majority
    grown = surrogate(model, images.images, k=30, depth=30)  # knows by heart what it was shown
    assert torch.equal(grown.predict(images.images[seen]), model.predict(images.images[seen]).label)
    assert grown.fidelity < 1


def test_probing_and_perturbation_of_a_linear_model(noise):
    weight = torch.linspace(-2, 2, 16)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.stack([weight, 0 * weight]))
        body[1].bias.zero_()
    model, x = models.wrap(body, input_shape=(1, 4, 4)), noise[:200]
    found = surrogate(model, x, k=16)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    asked = x[order[60:]].flatten(1)
    first = (asked @ weight > 0).float()[:, None]  # the other class's logit has no gradient
    expected = (first * weight * (asked - asked.mean(0))).abs().mean(0)
    places = found.features[:, 1] * 4 + found.features[:, 2]
    assert torch.allclose(found.probing, expected[places], atol=1e-6)
    assert set(places[:4].tolist()) <= {0, 1, 2, 13, 14, 15}
    assert bool((found.perturbation >= 0).all())


def test_results_tell_what_they_are(digits):
    model, images, found = digits
    told, table = found.summary(), found.frame()
    assert (told["features"], told["depth"]) == (10, 5)
    assert told["leaves"] <= 32
    assert list(table["feature"]) == found.names
    assert table["in_tree"].sum() == pytest.approx(1)
    assert table["perturbation"].is_monotonic_decreasing
    assert surrogate(model, images.images).summary()["accuracy"] is None
    assert concepts.surrogate is surrogate


def test_same_seed_same_tree_and_the_model_stays(digits):
    model, images, found = digits
    state = torch.get_rng_state()
    again = surrogate(model, images.images, labels=images.labels, depth=5)
    assert torch.equal(state, torch.get_rng_state())
    assert again.summary() == found.summary()
    assert torch.equal(again.perturbation, found.perturbation)
    other = surrogate(model, images.images, labels=images.labels, depth=5, seed=1)
    assert not torch.equal(other.perturbation, found.perturbation)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_work_comes_in_steps(tree, noise):
    seen = list(surrogate.steps(tree, noise, k=2))
    assert len(seen) == 17  # a pixel a step, and the tree
    assert seen[-1].done == seen[-1].total
    assert [s.value for s in seen[:-1]] == [None] * 16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 17}, "k: expected at most 16 features, got 17"),
        ({"k": 5, "block": 2}, "k: expected at most 4 features, got 5"),
        ({"k": 0}, "k: expected a whole number"),
        ({"depth": 0}, "depth: expected a whole number"),
        ({"block": 0}, "block: expected a whole number"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: expected 600 labels"),
    ],
)
def test_what_does_not_fit_is_refused(tree, noise, options, words):
    with pytest.raises(ValueError, match=words):
        surrogate(tree, noise, **options)


def test_images_and_models_that_do_not_fit_are_refused(tree, noise):
    with pytest.raises(ValueError, match=r"number of images: .* at least 10, got 9"):
        surrogate(tree, noise[:9], k=2)
    with pytest.raises(ValueError, match="the model says 'dark' of all of them"):
        surrogate(tree, noise / 4, k=2)
    with pytest.raises(ValueError, match="images of shape"):
        surrogate(tree, torch.rand(20, 1, 8, 8))
    found = surrogate(tree, noise, k=2)
    with pytest.raises(ValueError, match="images of shape"):
        found.predict(torch.rand(20, 1, 8, 8))
    with pytest.raises(ValueError, match="no gradient to choose 256 of 289 features"):
        surrogate(models.wrap(Tree(), input_shape=(1, 17, 17)), torch.rand(30, 1, 17, 17))
    training = models.wrap(nn.Sequential(Tree()), input_shape=(1, 4, 4)).train()
    with pytest.raises(ValueError, match="train mode"):
        surrogate(training, noise)
