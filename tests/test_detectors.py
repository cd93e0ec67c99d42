"""Detectors: closed forms, the contract of all, the alarm as a class, and what is refused."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from workbench import attacks, data, detectors, models
from workbench.data import ImageDataset
from workbench.detectors.base import FIRST, Alarms, Unnoticed
from workbench.models import batching

QUICK = {"beyond": {"epochs": 2, "neighbours": 5, "k": 2}}


@pytest.fixture(scope="module")
def digits():
    test = data.load("digits")
    return models.load("digits/mlp"), data.load("digits", "train")[:400], test[:100], test[100:]


@pytest.fixture(scope="module")
def fitted(digits):
    model, training, held_out, _ = digits
    return {
        name: detectors.fit(name, model, training, held_out, **QUICK.get(name, {}))
        for name in detectors.NAMES
    }


def linear(weight, classes=("a", "b")):
    """A model whose logits are `weight` times two pixels."""
    layer = nn.Linear(2, len(classes), bias=False)
    layer.weight.data = torch.tensor(weight)
    body = nn.Sequential(nn.Flatten(), layer)
    return models.wrap(body.eval(), classes=classes, input_shape=(1, 1, 2), name="linear")


def pixels(rows, labels=None):
    x = torch.tensor(rows).reshape(-1, 1, 1, 2)
    y = torch.zeros(len(x), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return ImageDataset(x, y, ("a", "b"))


# The contract.


@pytest.mark.parametrize("name", detectors.NAMES)
def test_every_detector_keeps_the_contract(name, digits, fitted, monkeypatch):
    model, _, held_out, test = digits
    found, before = fitted[name], {k: v.clone() for k, v in model.state_dict().items()}
    score = found.score(model, test.images)
    assert score.dtype == torch.float32
    assert score.shape == (len(test),)
    assert bool(score.isfinite().all())
    assert torch.equal(found.alarm(model, test.images), score > found.threshold)
    assert float(found.alarm(model, held_out.images).double().mean()) <= 0.05
    assert found.score(model, test.images[:0]).shape == (0,)
    monkeypatch.setattr(batching, "VALUES", 64 * 7 * found.copies)
    torch.testing.assert_close(found.score(model, test.images[:20]), score[:20], atol=1e-3, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="fitted to 'digits/mlp', the model is 'digits/cnn'"):
        found.score(models.load("digits/cnn"), test.images)


@pytest.mark.parametrize("name", detectors.NAMES)
def test_a_score_has_a_gradient_where_it_says_so(name, digits, fitted):
    model, _, _, test = digits
    x = (0.1 + 0.8 * test.images[:5]).requires_grad_()
    score = fitted[name].strangeness(model, x)
    assert score.requires_grad == fitted[name].differentiable
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score.sum(), x)
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


@pytest.mark.parametrize("name", ["mutual information", "box", "beyond"])
def test_the_same_seed_gives_the_same_scores_and_draws_nothing_else(name, digits):
    model, training, held_out, test = digits
    torch.manual_seed(3)
    state = torch.get_rng_state()
    options = {"seed": 5, **QUICK.get(name, {})}
    one, two = (detectors.fit(name, model, training, held_out, **options) for _ in range(2))
    assert torch.equal(one.score(model, test.images), two.score(model, test.images))
    assert torch.equal(torch.get_rng_state(), state)


def test_work_comes_in_steps(digits):
    model, training, held_out, _ = digits
    for name in ("mahalanobis", "beyond"):
        made = list(detectors.fit.steps(name, model, training, held_out, **QUICK.get(name, {})))
        done = [step.done / step.total for step in made]
        assert done == sorted(done)
        assert done[-1] == 1
        assert made[-1].value is not None
        assert len(made) > 2


# Closed forms.


def test_scores_of_the_softmax_by_hand():
    model, x = linear([[4.0, 0.0], [0.0, 4.0]]), pixels([[1.0, 0.5], [0.25, 0.25]])
    p = torch.tensor([2.0, -2.0]).sigmoid()  # logits 4 and 2; then equal ones
    asked = {
        "max softmax": [1 - p[0], 0.5],
        "entropy": [-(p * p.log()).sum(), torch.tensor(2.0).log()],
        "gini": [1 - p.square().sum(), 0.5],
    }
    for name, expected in asked.items():
        found = detectors.fit(name, model, x, x, false_alarms=0.5)
        torch.testing.assert_close(found.score(model, x.images), torch.tensor(expected))


def test_sure_answers_still_differ():
    model, x = linear([[30.0, 0.0], [0.0, 0.0]]), pixels([[1.0, 0.0], [0.9, 0.0]])
    for name in ("max softmax", "entropy", "gini"):
        score = detectors.fit(name, model, x, x, false_alarms=0.5).score(model, x.images)
        assert float(score[1]) > float(score[0]) > 0


def test_mutual_information_is_of_disagreement():
    model, x = linear([[0.0, 0.0], [0.0, 0.0]]), pixels([[0.3, 0.5]])
    found = detectors.fit("mutual information", model, x, x, false_alarms=0)
    assert found.score(model, x.images).item() == pytest.approx(0, abs=1e-12)
    sure = linear([[1e4, 0.0], [0.0, 1e4]])  # each noisy copy is sure, of one class or the other
    options = {"copies": 400, "false_alarms": 0}
    one = pixels([[0.5, 0.5]])
    found = detectors.fit("mutual information", sure, one, one, **options)
    assert found.score(sure, one.images).item() == pytest.approx(0.693, abs=0.01)


def test_the_distance_is_that_of_mahalanobis():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(200, 2, generator=draw) * torch.tensor([0.2, 0.05]) + 0.4
    y = (torch.arange(200) % 2).long()
    x[y == 1, 0] += 0.3
    model = linear([[-1.0, 0.0], [1.0, 0.0]])
    images = ImageDataset(x.reshape(-1, 1, 1, 2), y, ("a", "b"))
    found = detectors.fit("mahalanobis", model, images, images, shrinkage=0)
    label = model.predict(images.images).label
    means = torch.stack([x[y == k].mean(0) for k in (0, 1)])
    inverse = torch.linalg.inv((x - means[y]).T @ (x - means[y]) / 200)
    gap = x - means[label]
    torch.testing.assert_close(
        found.score(model, images.images), ((gap @ inverse) * gap).sum(1), rtol=1e-3, atol=1e-3
    )
    some = images[y == 0]
    far = detectors.fit("mahalanobis", model, some, some).score(model, images.images)
    assert float(far[label == 1].min()) > 1e30, "a class that was not seen"


def test_a_linear_autoencoder_leaves_what_its_components_lack(digits):
    model, training, held_out, test = digits
    whole = detectors.fit("autoencoder", model, training, held_out, components=64)
    assert float(whole.score(model, test.images).max()) < 1e-6
    own = detectors.fit("autoencoder", model, training, held_out, rebuild=torch.zeros_like)
    expected = test.images.square().mean((1, 2, 3))
    torch.testing.assert_close(own.score(model, test.images), expected)


def test_beyond_by_hand():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    images = pixels([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]], [0, 1, 0, 1])
    options = {"encoder": nn.Flatten().eval(), "neighbours": 3, "false_alarms": 0.5, "seed": 2}
    codes = images.images.flatten(1)
    codes = codes / codes.norm(dim=1, keepdim=True)
    ridge = 4e-4 * torch.eye(2)
    wanted = torch.eye(2)[images.labels]
    head = torch.linalg.solve(codes.T @ codes + ridge, codes.T @ wanted)
    views = detectors.draw_views(3, torch.Generator().manual_seed(2))
    x = images.images[2:3]
    near = detectors.changed(x.repeat(3, 1, 1, 1), views).flatten(1)
    near = near / near.norm(dim=1, keepdim=True)
    likeness = near @ codes[2]
    said = near @ head
    labels = (said / said.norm(dim=1, keepdim=True))[:, 0]
    for k, alpha in ((1, 0.8), (2, 0.5), (3, 0.0)):
        found = detectors.fit("beyond", model, images, images, k=k, alpha=alpha, **options)
        best = [v.sort(descending=True).values[k - 1] for v in (labels, likeness)]
        expected = -(alpha * best[0] + (1 - alpha) * best[1])
        assert found.score(model, x).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_view_that_changes_nothing_changes_nothing():
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    still = torch.tensor([[1.0, 0, 0, 0, 1, 0]]).expand(2, 6)
    torch.testing.assert_close(detectors.changed(x, still), x, atol=1e-5, rtol=0)
    light = torch.tensor([[1.0, 0, 0, 0, 1, 0.1]]).expand(2, 6)
    torch.testing.assert_close(
        detectors.changed(x, light), (x + 0.1).clamp(0, 1), atol=1e-5, rtol=0
    )


def test_an_encoder_learns_without_labels(digits):
    _, training, _, test = digits
    learned = detectors.contrastive(training, epochs=20)
    shuffled = replace(training, labels=training.labels.flip(0))
    again = detectors.contrastive(shuffled, epochs=20)
    assert torch.equal(learned(test.images), again(test.images)), "no label is read"
    views = detectors.draw_views(len(test), torch.Generator().manual_seed(9))
    with torch.no_grad():
        one, other = learned(test.images), learned(detectors.changed(test.images, views))
    likeness = torch.cosine_similarity(one[:, None], other[None], 2)
    found = (likeness.argmax(1) == torch.arange(len(test))).float().mean()
    assert float(found) > 0.2, "an image finds its own changed copy among 260"


# The measurement.


def test_auroc_and_its_interval():
    draw = torch.Generator().manual_seed(0)
    usual = torch.randn(300, generator=draw)
    strange = torch.randn(200, generator=draw) + 1
    ties = Alarms(usual.round(), strange.round(), 0.0)
    truth = [0] * 300 + [1] * 200
    scores = torch.cat([ties.usual, ties.strange]).numpy()
    assert ties.summary()["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    middle, low, high = Alarms(usual, strange, 0.0).auroc()
    drawn = []
    for _ in range(300):
        u = usual[torch.randint(300, (300,), generator=draw)]
        s = strange[torch.randint(200, (200,), generator=draw)]
        drawn.append(Alarms(u, s, 0.0).auroc()[0])
    deviation = float(torch.tensor(drawn).std())
    assert high - middle == pytest.approx(1.96 * deviation, rel=0.2)
    assert middle - low == pytest.approx(high - middle)
    better, least, most = Alarms(usual, strange, 0.0).auroc(Alarms(usual, usual[:200], 0.0))
    assert better == pytest.approx(middle - Alarms(usual, usual[:200], 0.0).auroc()[0])
    assert 0 < least < better < most
    assert Alarms(usual, strange, 0.0).auroc(Alarms(usual, strange, 3.0)) == (0, 0, 0)


def test_shares_come_with_their_intervals():
    found = Alarms(torch.tensor([0.0, 1, 2, 3]), torch.tensor([3.0, 4]), 2.0).summary()
    assert (found["false_alarms"], found["caught"]) == (0.25, 1)
    assert 0 < found["false_alarms_low"] < 0.25 < found["false_alarms_high"] < 1
    assert found["caught_low"] < found["caught_high"] == 1


# The attack that knows.


@pytest.mark.parametrize("name", detectors.NAMES)
def test_a_guarded_model_says_alarm_where_there_is_one(name, digits, fitted):
    model, _, _, test = digits
    guard = detectors.guarded(model, fitted[name])
    assert guard.classes == (*model.classes, "alarm")
    noise = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = torch.cat([test.images[:60], noise])
    said, alarm = guard.predict(x).label, fitted[name].alarm(model, x)
    assert torch.equal(said == 10, alarm)
    assert torch.equal(said[~alarm], model.predict(x).label[~alarm])
    with pytest.raises(ValueError, match=r"fitted to 'digits/mlp', the model is .*guarded"):
        detectors.guarded(guard, fitted[name])


def test_unnoticed_is_a_wrong_class_and_no_alarm():
    logits = torch.tensor([[5.0, 1, 0], [1, 5, 6], [1, 5, 2], [1, 5, 5.5], [3, 1, 7]])
    goal = Unnoticed(torch.zeros(5, dtype=torch.int64))
    assert goal.met(logits).tolist() == [False, False, True, False, False]
    assert goal.margin(logits).tolist() == [FIRST + 4, 1, -3, 0.5, FIRST + 2]
    assert torch.equal(goal.of(torch.tensor([2])).met(logits[2:3]), torch.tensor([True]))


@pytest.mark.parametrize("name", ["max softmax", "mahalanobis", "autoencoder", "beyond"])
def test_who_knows_the_detector_gets_past_it(name, digits, fitted):
    model, _, _, test = digits
    right = model.predict(test.images).label == test.labels
    x, y, found = test.images[right][:60], test.labels[right][:60], fitted[name]
    plain = attacks.PGD(eps=0.2, n_steps=30, exhaustive=True)(model, x, y).last
    passed = (model.predict(plain).label != y) & ~found.alarm(model, plain)
    attack = attacks.PGD(eps=0.2, n_steps=30, loss="margin")
    known = attack(detectors.guarded(model, found), x, y, target=Unnoticed(y))
    done = known.x_adv[known.success]
    assert bool((model.predict(done).label != y[known.success]).all())
    assert not found.alarm(model, done).any()
    assert int(known.success.sum()) > int(passed.sum()) or int(known.success.sum()) > 55


# What is refused.


def test_bad_input_is_said(digits):
    model, training, held_out, _ = digits

    def fit(name="entropy", **options):
        return detectors.fit(name, model, training, **{"held_out": held_out, **options})

    with pytest.raises(ValueError, match=r"unknown detector 'entropie'\. Did you mean 'entropy'"):
        fit("entropie")
    with pytest.raises(ValueError, match="held_out: expected images"):
        fit(held_out=held_out[:0])
    with pytest.raises(
        ValueError,
        match=r"0.01 cannot be told from 0 on 20 held-out images; give at least 100, ask for 0.05",
    ):
        fit(held_out=held_out[:20], false_alarms=0.01)
    assert fit(held_out=held_out[:20], false_alarms=0.05).false_alarms == 0.05
    assert fit(held_out=held_out[:20], false_alarms=0).false_alarms == 0
    with pytest.raises(ValueError, match=r"false_alarms: expected a rate in \[0, 1\), got 1"):
        fit(false_alarms=1)
    with pytest.raises(ValueError, match="takes"):
        fit(held_out=data.load("shapes", limit=30))
    with pytest.raises(ValueError, match="k: expected 1 to neighbours=5, got 6"):
        fit("beyond", neighbours=5, k=6)
    with pytest.raises(ValueError, match=r"alpha: expected .* got 2"):
        fit("beyond", alpha=2)
    with pytest.raises(
        ValueError, match=r"encoder: expected a row .*\(400, D\), got \(400, 1, 8, 8\)"
    ):
        fit("beyond", encoder=nn.Identity().eval())
    with pytest.raises(ValueError, match="train mode"):
        fit("beyond", encoder=nn.Sequential(nn.Flatten(), nn.Dropout()))
    with pytest.raises(ValueError, match=r"rebuild: expected images of shape .* got \(64,\)"):
        fit("autoencoder", rebuild=lambda x: x.flatten(1))
    with pytest.raises(ValueError, match="copies: expected"):
        fit("mutual information", copies=1)
    with pytest.raises(ValueError, match="components: expected"):
        fit("autoencoder", components=0)
