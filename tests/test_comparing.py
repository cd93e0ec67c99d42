"""`watch` and `compare`: ways of training side by side, and a model while it is trained."""

import math

import pytest
import torch
from scipy import stats

from workbench import data, models, robustness, treatments
from workbench.models import Recipe, fit
from workbench.treatments.watching import spread

PLAN = Recipe(
    dataset="digits", architecture="mlp", options={"hidden": (8,)}, epochs=2, batch_size=64, lr=0.01
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", limit=300)


@pytest.fixture(scope="module")
def unseen():
    return data.load("digits", limit=200)


def test_a_paired_interval_is_that_of_scipy():
    a, b = [0.91, 0.93, 0.90, 0.95], [0.90, 0.90, 0.91, 0.92]
    mean, (low, high) = robustness.paired(a, b)
    theirs = stats.ttest_rel(a, b).confidence_interval()
    assert mean == pytest.approx(0.015)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="at least 2 each, got 1 and 1"):
        robustness.paired([1.0], [2.0])


def test_looks_are_even_on_a_log_scale():
    assert spread(1000, 4) == [1, 10, 100, 1000]
    assert spread(3, 12) == [1, 2, 3]
    assert spread(7, 1) == [7]


def test_watching_changes_nothing_of_a_training(digits):
    plain = fit(PLAN, digits)
    norm = {"norm": lambda m: sum(float(p.detach().norm()) for p in m.parameters())}
    asked = {"asked": lambda m: float(m(digits.images).detach().mean())}
    for step in treatments.watch.steps(fit.steps(PLAN, digits), norm | asked, looks=4, keep=True):
        watched = step.value
        watched.models[1](digits.images)  # while the training goes on
    end = watched.treated
    for a, b in zip(plain.model.parameters(), end.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    ours, theirs = vars(end.ledger), vars(plain.ledger)
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}, "looks are not in the ledger"
    frame = watched.frame()
    total = 2 * math.ceil(300 / 64)
    assert [*frame["step"]] == spread(total, 4) == [*watched.models]
    assert frame["norm"].iloc[-1] == norm["norm"](end.model)
    first = watched.models[1]
    assert frame["norm"].iloc[0] == norm["norm"](first) != frame["norm"].iloc[-1]


def test_two_ways_over_seeds_at_the_rate_that_the_rule_chooses(digits, unseen):
    ways = {"plain": PLAN, "noisy": (PLAN, [treatments.GradientNoise(eta=1.0)])}
    norm = {"weights": lambda m: sum(p.numel() for p in m.parameters())}
    found = treatments.compare(
        ways, digits, unseen, seeds=(3, 4), rates=(1e-5, 0.02), measures=norm
    )
    frame = found.frame()
    assert [*zip(frame["way"], frame["seed"], strict=True)] == [
        ("plain", 3), ("plain", 4), ("noisy", 3), ("noisy", 4)
    ]  # fmt: skip
    for way, rate in found.rates.items():
        assert rate == min((1e-5, 0.02), key=lambda r: found.tried[way, r])
    plain = fit(PLAN.changed(lr=found.rates["plain"], seed=3), digits)
    row = frame.iloc[0]
    counts = models.measure(plain.model, unseen)
    assert row["accuracy"] == counts["test_correct"] / counts["test_total"]
    assert row["train_loss"] == plain.history[-1]["loss"]
    assert row["backwards"] == plain.ledger.backwards
    assert row["weights"] == plain.model.card.parameters
    assert found.equal == ["images", "forwards", "backwards", "bytes_sent", "peak_activations"]
    mean, (low, high) = found.difference("plain", "noisy")
    assert low <= mean <= high
    assert mean == pytest.approx(sum(found.of("plain")) / 2 - sum(found.of("noisy")) / 2)


def test_unequal_budgets_are_not_called_equal(digits, unseen):
    ways = {"once": PLAN.changed(epochs=1), "twice": PLAN}
    found = treatments.compare(ways, digits, unseen, seeds=(0,))
    assert found.equal == ["bytes_sent", "peak_activations"]
    with pytest.raises(ValueError, match="expected a way and a column"):
        found.of("thrice")


def test_a_rate_that_diverges_loses_and_says_where(digits, unseen):
    steep = (PLAN.changed(epochs=1), [Steep()])
    with pytest.raises(models.Diverged, match=r"at step \d+ of 5, after [\d.e+]+ the step before"):
        fit(steep[0].changed(lr=0.5), digits, treatments=steep[1])
    found = treatments.compare({"steep": steep}, digits, unseen, seeds=(0,), rates=(1e-3, 0.5))
    assert found.tried["steep", 0.5] == math.inf
    assert found.rates == {"steep": 1e-3}
    with pytest.raises(ValueError, match="'steep' diverges at each of"):
        treatments.compare({"steep": steep}, digits, unseen, seeds=(0,), rates=(0.5, 0.9))


class Steep(models.Hooks):
    """Descent by steps that are far too long at all but the lowest rate."""

    def rate(self, run):
        return 0.0 if run.plan.lr < 0.1 else 1e30


def test_comparing_takes_images_and_names_what_is_missing(digits, unseen):
    with pytest.raises(ValueError, match="each seed once"):
        treatments.compare({"plain": PLAN}, digits, unseen, seeds=(1, 1))
    with pytest.raises(ValueError, match="at least 5 images"):
        treatments.compare({"plain": PLAN}, digits[:3], unseen, rates=(0.1,))


def test_a_strip_shows_what_each_layer_goes_through(digits):
    kept = {}

    class Seen(models.Hooks):
        """Keeps gradients and weights by hand."""

        def gradients(self, run):
            w = run.model.body.fc1.weight
            kept[run.step + 1] = w.grad.clone(), w.detach().clone()

    strip = treatments.LayerStrip(looks=3)
    end = fit(PLAN, digits, treatments=[Seen(), strip])
    plain = fit(PLAN, digits)
    for a, b in zip(plain.model.parameters(), end.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    frame = strip.frame()
    assert [*frame["layer"].unique()] == ["fc1", "fc2"]
    assert [*frame["step"].unique()] == [1, 3, 10]
    row = frame[(frame["step"] == 3) & (frame["layer"] == "fc1")].iloc[0]
    (before, _), (slope, weight), (_, after) = kept[2], kept[3], kept[4]
    assert row["gradient"] == pytest.approx(float(slope.norm()))
    assert row["noise"] == pytest.approx(float((slope - before).norm() / slope.norm()))
    assert row["update"] == pytest.approx(float((after - weight).norm() / weight.norm()))
    assert math.isnan(frame["noise"].iloc[0]), "there is no step before the first"


def test_images_without_a_label_are_not_counted(digits, unseen):
    some = torch.where(torch.arange(200) < 50, unseen.labels, -1)
    half = data.ImageDataset(unseen.images, some, unseen.classes, name="half")
    found = treatments.compare({"plain": PLAN}, digits, half, seeds=(0,))
    whole = treatments.compare({"plain": PLAN}, digits, unseen[:50], seeds=(0,))
    assert found.of("plain") == whole.of("plain")
    assert found.of("plain", "loss") == pytest.approx(whole.of("plain", "loss"))


def test_a_strip_leaves_computed_weights_out(digits):
    class Bent(torch.nn.Module):
        def forward(self, w):
            return w.tanh()

    class Bend(models.Hooks):
        def prepare(self, run):
            torch.nn.utils.parametrize.register_parametrization(
                run.model.body.fc1, "weight", Bent()
            )

    strip = treatments.LayerStrip(looks=2)
    fit(PLAN, digits, treatments=[Bend(), strip])
    assert [*strip.frame()["layer"].unique()] == ["fc2"]
