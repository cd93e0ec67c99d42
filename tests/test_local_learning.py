"""Local learning: gradients by hand on linear blocks, what passes between them, what is held."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench import data, models
from workbench.models import Hooks, Recipe, fit
from workbench.treatments import Distil, LocalBlocks, TargetProjection

PLAN = Recipe(
    dataset="digits", architecture="mlp", options={"hidden": (12, 8, 6)}, epochs=2, batch_size=64
)
WAYS = [
    LocalBlocks(),
    LocalBlocks(auxiliary="augmented"),
    LocalBlocks(auxiliary="next"),
    LocalBlocks(auxiliary="momentum", momentum=0.9),
    LocalBlocks(auxiliary="none"),
    TargetProjection(),
]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:128]


class Chain(Hooks):
    """A body of one's own in place of the recipe's, and its gradients at the first step."""

    def __init__(self, *layers):
        self.body = nn.Sequential(*layers)
        self.seen = None

    def build(self, plan, training, name):
        return models.wrap(self.body, input_shape=training.shape, classes=training.classes)

    def gradients(self, run):
        if self.seen is None:
            self.first = {n: p.detach().clone() for n, p in run.model.named_parameters()}
            self.seen = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
            self.seen = {n: g.clone() for n, g in self.seen.items()}
            self.codes = [v for k, v in run.aside.items() if isinstance(k, tuple)]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def linear_chain():
    torch.manual_seed(3)
    sizes = itertools.pairwise((64, 5, 4, 10))
    return nn.Flatten(), *(nn.Linear(a, b, bias=False).double().float() for a, b in sizes)


def one_step(treatment, some, *layers):
    """The gradients of the first step, the weights before it, and the images flat."""
    chain = Chain(*layers)
    with torch.random.fork_rng(devices=[]):
        chain = Chain(*(layers or linear_chain()))
    plan = PLAN.changed(epochs=1, batch_size=len(some))
    fit(plan, some, treatments=[chain, treatment])
    return chain, some.images.flatten(1)


def residual(logits, y):
    """The gradient of cross-entropy by logits: (p - y) / N."""
    return (logits.softmax(1) - F.one_hot(y, 10)) / len(y)


def near(a, b):
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_linear_blocks_have_the_gradient_of_their_own_head(digits):
    chain, x = one_step(LocalBlocks(), digits)
    w1, w2, w3 = (chain.first[f"body.{i}.weight"] for i in (1, 2, 3))
    a, b = chain.first["auxiliary.0.2.weight"], chain.first["auxiliary.0.2.bias"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    h1, h2 = x @ w1.T, x @ w1.T @ w2.T
    local, last = residual(h1 @ a.T + b, digits.labels), residual(h2 @ w3.T, digits.labels)
    assert len(order) == len(x)  # one batch: a sum over images, whatever their order
    near(chain.seen["body.1.weight"], (local @ a).T @ x)
    near(chain.seen["auxiliary.0.2.weight"], local.T @ h1)
    near(chain.seen["body.2.weight"], (last @ w3).T @ h1)
    near(chain.seen["body.3.weight"], last.T @ h2)


@pytest.mark.parametrize("distance", ["squared", "absolute", "direct"])
@pytest.mark.parametrize("codes", ["signs", "normal"])
def test_a_step_towards_the_code_by_hand(digits, distance, codes):
    chain, x = one_step(TargetProjection(distance=distance, codes=codes), digits)
    ((c1, c2),) = chain.codes
    assert (c1.abs() == 1).all() == (codes == "signs")
    w1, w2, w3 = (chain.first[f"body.{i}.weight"] for i in (1, 2, 3))
    y, h1, h2 = digits.labels, x @ w1.T, x @ w1.T @ w2.T
    for name, h, came, code in (("1", h1, x, c1[y]), ("2", h2, h1, c2[y])):
        push = {"squared": 2 * (h - code), "absolute": (h - code).sign(), "direct": -code}
        near(chain.seen[f"body.{name}.weight"], push[distance].T @ came / len(y))
    near(chain.seen["body.3.weight"], residual(h2 @ w3.T, y).T @ h2)


def test_a_saturated_unit_gets_the_slope_of_its_activation(digits):
    chain, x = one_step(
        TargetProjection(), digits, nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)
    )
    w, b = chain.first["body.1.weight"], chain.first["body.1.bias"]
    h, code = (x @ w.T + b).tanh(), chain.codes[0][0][digits.labels]
    near(chain.seen["body.1.weight"], (2 * (h - code) * (1 - h**2)).T @ x / len(x))


def test_one_block_is_backpropagation_to_the_bit(digits):
    plain = fit(PLAN, digits)
    for auxiliary in ("pool", "augmented", "momentum", "none"):
        local = fit(PLAN, digits, treatments=[LocalBlocks(auxiliary=auxiliary, blocks=1)])
        assert same(local.model, plain.model)
        assert local.ledger.summary() == {**plain.ledger.summary(), "seconds": local.ledger.seconds}
    assert not same(fit(PLAN, digits, treatments=[LocalBlocks(blocks=2)]).model, plain.model)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_no_gradient_passes_between_blocks(digits, way):
    """Other weights at the end change no gradient before it."""
    seen = []
    for scale in (1.0, 7.0):
        layers = linear_chain()
        layers[-1].weight.data *= scale
        chain, _ = one_step(way, digits, *layers)
        seen.append(chain.seen)
    frozen = way == LocalBlocks(auxiliary="none")
    assert ("body.1.weight" not in seen[0]) == frozen
    assert frozen or torch.equal(seen[0]["body.1.weight"], seen[1]["body.1.weight"])
    plain = [one_step(Hooks(), digits, *linear_chain())[0].seen["body.1.weight"]]
    assert frozen or not torch.equal(plain[0], seen[0]["body.1.weight"])


def test_a_copy_follows_by_a_moving_average(digits):
    followed = []

    class Watching(Hooks):
        def after(self, run):
            if run.step < 2:
                net, block = run.model.auxiliary[0], run.aside[way][1]
                followed.append(
                    (net[0][0][0][0].weight.clone(), block[0][0].weight.detach().clone())
                )

    way = LocalBlocks(auxiliary="momentum", momentum=0.75)
    fit(PLAN.changed(batch_size=64, lr=1e-2), digits, treatments=[way, Watching()])
    (copy0, weight0), (copy1, weight1) = followed[:2]
    near(copy1, 0.75 * copy0 + 0.25 * weight1)
    assert not torch.equal(weight0, weight1)


def test_a_copy_stands_at_momentum_one(digits):
    class Watching(Hooks):
        copies = ()

        def after(self, run):
            self.copies = (*self.copies, run.model.auxiliary[0][0][0][0][0].weight.clone())

    watching = Watching()
    fit(PLAN, digits, treatments=[LocalBlocks(auxiliary="momentum", momentum=1.0), watching])
    assert all(torch.equal(one, watching.copies[0]) for one in watching.copies)


def test_control_blocks_stay_as_drawn(digits):
    start = models.wrap(
        nn.Sequential(*linear_chain()), input_shape=digits.shape, classes=digits.classes
    )
    made = fit(PLAN, digits, start=start, treatments=[LocalBlocks(auxiliary="none")]).model
    kept = [torch.equal(made.body[i].weight, start.body[i].weight) for i in (1, 2, 3)]
    assert kept == [True, False, False]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_less_is_held_than_by_backpropagation(digits, way):
    plan = PLAN.changed(options={"hidden": (64,) * 8}, epochs=1)
    plain, local = fit(plan, digits).ledger, fit(plan, digits, treatments=[way]).ledger
    assert 0 < local.peak_activations < 0.7 * plain.peak_activations
    assert (local.forwards, local.backwards) == (plain.forwards, plain.backwards)


def test_what_is_held_by_hand():
    """Eight ReLU layers of 64: a batch of 64, each layer's output once, and the logits."""
    some = data.load("digits", "train")[:64]
    plan = PLAN.changed(options={"hidden": (64,) * 8}, epochs=1)
    held = fit(plan, some).ledger.peak_activations
    local = fit(plan, some, treatments=[TargetProjection()]).ledger.peak_activations
    assert abs(held - 64 * (64 * 9 + 10)) <= 64 * 64 + 100
    assert abs(local - 64 * 64 * 2) <= 64 * 64 + 100  # of one layer: input and output


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("after", [3, 4])
def test_it_is_cancelled_and_resumed_to_the_bit(digits, tmp_path, way, after):
    keep = tmp_path / "state.unfinished"
    whole = way(PLAN, digits).model
    for _ in itertools.islice(way.steps(PLAN, digits, keep=keep), after):
        pass
    for _ in range(2):  # the second time it is done already
        *_, step = way.steps(PLAN, digits, keep=keep)
        assert same(step.value.model, whole)
        assert not list(getattr(step.value.model, "auxiliary", []))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("cnn", {"channels": (4, 8), "hidden": 16}),
        ("resnet", {"depth": 8, "width": 4}),
    ],
)
def test_it_fits_networks_of_other_kinds(digits, way, architecture, options):
    plan = PLAN.changed(architecture=architecture, options=options, epochs=1)
    made = way(plan, digits)
    assert torch.isfinite(made.model(digits.images)).all()
    assert made.model.card.parameters == sum(p.numel() for p in made.model.parameters())
    assert made.cost.parameters == made.model.card.parameters


def test_it_learns(digits):
    plan = PLAN.changed(epochs=30, lr=1e-2, options={"hidden": (64, 64)})
    test = data.load("digits")
    for way in (*WAYS[:4], TargetProjection()):
        model = way(plan, digits).model
        assert float((model.predict(test.images).label == test.labels).float().mean()) > 0.6


@pytest.mark.parametrize("kind", [LocalBlocks, TargetProjection])
def test_what_cannot_be_cut_is_said(digits, kind):
    vit = PLAN.changed(architecture="vit", options={"patch": 4})
    shapes = data.load("shapes", limit=8)
    said = "the body is a VisionTransformer, no nn.Sequential: what runs after 'patches'"
    assert kind().unfit(vit, shapes).startswith(said)
    with pytest.raises(ValueError, match=f"{kind.__name__}: {said}"):
        kind()(vit, shapes)
    alone = PLAN.changed(options={"hidden": ()})
    assert "expected two or more in a chain, got ['fc1']" in kind().unfit(alone, digits)
    with pytest.raises(ValueError, match=r"LocalBlocks: blocks: expected at most 3, .* got 4"):
        LocalBlocks(blocks=4)(PLAN, digits)
    layer = nn.Linear(64, 64)
    body = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(64, 10))
    twice = models.wrap(body, input_shape=digits.shape, classes=digits.classes)
    with pytest.raises(ValueError, match=f"{kind.__name__}: '3' is '1' again: of which block"):
        fit(PLAN, digits, start=twice, treatments=[kind()])


def test_a_loss_at_the_end_is_refused(digits):
    with pytest.raises(ValueError, match="LocalBlocks: Distil changes the loss at the end"):
        fit(PLAN, digits, treatments=[Distil(), LocalBlocks()])
    body = nn.Sequential(*linear_chain())
    own = models.wrap(body, input_shape=digits.shape, classes=digits.classes)
    own.__class__ = type("Ours", (models.Classifier,), {"objective": lambda *_: None})
    with pytest.raises(ValueError, match="TargetProjection: Ours changes the loss"):
        fit(PLAN, digits, start=own, treatments=[TargetProjection()])
