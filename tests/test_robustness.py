import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workbench import data, models
from workbench.attacks import FGSM, PGD, AttackResult, MinimumNorm, available
from workbench.data import ImageDataset
from workbench.robustness import (
    INDICATORS,
    audit,
    diagnose,
    evaluate,
    evaluation,
    specimens,
    wilson,
)

PROPER = PGD(eps=0.1, loss="margin", n_steps=20, restarts=2)
EXTRA = [name for name, i in INDICATORS.items() if i.group == "extra runs"]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")[:100]


@pytest.fixture(scope="module")
def robust():
    return models.load("digits/cnn-robust")


@pytest.fixture(scope="module")
def standard():
    return models.load("digits/cnn")


def threshold(at=0.5):
    """One pixel; class 1 above `at`."""
    linear = nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        linear.bias.copy_(torch.tensor([at, -at]))
    return models.wrap(nn.Sequential(nn.Flatten(), linear), input_shape=(1, 1, 1))


def pixels(*values):
    images = torch.tensor(values).reshape(-1, 1, 1, 1)
    return ImageDataset(images, torch.zeros(len(values), dtype=torch.int64), ("0", "1"))


class Push(MinimumNorm):
    """Brightens step by step; the first success is the nearest to 1/100."""

    title = "push"
    goals = (object,)

    @property
    def distance(self):
        return "Linf"

    def search(self, problem):
        everyone = torch.arange(len(problem))
        for step in range(1, 101):
            images = (problem.x + step / 100).clamp(max=1)
            problem.offer(images, problem.logits(images, everyone), everyone)
        yield 1, 1


class Raises(PGD):
    def search(self, problem):
        raise RuntimeError("out of luck")
        yield


def result(x, x_adv, success=None):
    n = len(x)
    success = torch.ones(n, dtype=torch.bool) if success is None else success
    labels, logits = torch.zeros(n, dtype=torch.int64), torch.zeros(n, 2)
    return AttackResult("made up", x, labels, None, x_adv, x_adv, logits, success, {})


# Wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0, 0.27753), (1, 10, 0.01788, 0.40415), (50, 100, 0.40383, 0.59617), (0, 0, 0, 1)],
)
def test_wilson_against_closed_values(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(counts):
    k, n = counts
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    assert wilson(k, n, 0.99)[1] >= high


def test_wilson_refuses_nonsense():
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="level"):
        wilson(1, 2, 95)


# evaluate


def test_the_curve_of_a_threshold_is_counted_by_hand():
    found = evaluate(threshold(), pixels(0.1, 0.2, 0.3, 0.4), [FGSM(), Push()], eps=[0, 0.15, 0.25])
    curve = found.curve().set_index(["attack", "eps"])["robust_accuracy"]
    for attack in ("FGSM", "Push", "worst case"):
        assert curve[attack].tolist() == [1, 0.75, 0.5]
    frame = found.frame()
    assert len(frame) == 4 * 2 * 3
    assert frame[frame.attack == "Push"].groupby("image")["distance"].nunique().tolist() == [1] * 4
    assert found.summary()["robust_accuracy_Linf_0.25"] == 0.5
    assert found.curve().query("attack == 'FGSM' and eps == 0.15")["low"].item() == wilson(3, 4)[0]


def test_an_attack_that_raises_is_nan_and_never_robust():
    attacks = {"fine": FGSM(), "bad": Raises()}
    found = evaluate(threshold(), pixels(0.1, 0.4), attacks, eps=[0.15])
    rows = found.frame().set_index("attack")
    assert rows.loc["bad", "robust"].isna().all()
    assert set(rows.loc["bad", "error"]) == {"RuntimeError: out of luck"}
    curve = found.curve().set_index("attack")
    assert pd.isna(curve.loc["bad", "robust_accuracy"])
    assert pd.isna(curve.loc["worst case", "robust_accuracy"])
    assert curve.loc["worst case", "failed"] == 1  # the image that "fine" fools is known
    assert curve.loc["fine", "robust_accuracy"] == 0.5
    assert found.summary()["robust_accuracy_Linf_0.15"] is None
    assert found.summary()["errors"] == ["RuntimeError: out of luck"]


def test_black_images_do_not_count_as_adversarial(robust, digits):
    attacks = {"black": specimens.BlackImages(n_steps=5), "proper": PGD(n_steps=5)}
    rows = evaluate(robust, digits[:30], attacks, eps=[0.1]).frame()
    black, proper = rows[rows.attack == "black"], rows[rows.attack == "proper"]
    assert black["robust"].tolist() == proper["robust"].tolist()
    assert black["flawed"].sum() == (proper["robust"] == 1).sum() > 0


def test_resuming_does_only_what_is_missing(tmp_path, monkeypatch):
    model, images, ran = threshold(), pixels(0.1, 0.3, 0.4), []
    original = evaluation.measured  # of what has run; not of the attack, whose code is in the key
    monkeypatch.setattr(
        evaluation, "measured", lambda r, m, run: ran.append(run.eps) or original(r, m, run)
    )

    def go(**changes):
        ran.clear()
        kept = {"eps": [0.1, 0.2], "output": tmp_path, **changes}
        return evaluate(changes.pop("model", model), changes.pop("x", images), [FGSM()], **kept)

    first = go()
    assert ran == [0.1, 0.2]
    pd.testing.assert_frame_equal(go().frame(), first.frame())
    assert ran == []
    go(eps=[0.1, 0.2, 0.3])
    assert ran == [0.3]
    go(seed=1)
    assert ran == [0.1, 0.2]
    files = sorted(tmp_path.iterdir())
    evaluate(threshold(0.6), images, [FGSM()], eps=[0.1], output=tmp_path)
    evaluate(model, images[:2], [FGSM()], eps=[0.1], output=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(files) + 2
    files[0].write_text("image,label\n0,")
    with pytest.raises(ValueError, match="damaged"):
        go(eps=[0.1, 0.2, 0.3]) and go(seed=1)


def test_an_error_is_tried_again(tmp_path):
    evaluate(threshold(), pixels(0.1), [Raises()], eps=[0.1], output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cancelling_keeps_what_was_finished(tmp_path):
    work = evaluate.steps(
        threshold(), pixels(0.1, 0.4), [FGSM()], eps=[0.1, 0.2, 0.3], output=tmp_path
    )
    for step in work:
        if step.value is not None:
            break
    work.close()
    assert step.value.frame()["eps"].unique().tolist() == [0.1]
    assert len(list(tmp_path.iterdir())) == 1
    assert 0 < step.done < step.total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": []}, "eps"),
        ({"eps": [-0.1]}, "eps"),
        ({"eps": [float("nan")]}, "eps"),
        ({"attacks": []}, "attacks"),
        ({"attacks": [FGSM(), FGSM()]}, "attacks"),
        ({"attacks": {"worst case": FGSM()}}, "attacks"),
        ({"dataset": pixels()}, "dataset"),
        ({"dataset": ImageDataset(torch.zeros(1, 1, 2, 2), torch.tensor([0]), ("0",))}, "takes"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = {"dataset": pixels(0.1), "attacks": [FGSM()], "eps": [0.1], **changes}
    with pytest.raises(ValueError, match=message):
        evaluate(threshold(), **given)


# audit


def test_verify_catches_what_is_wrong():
    x = torch.full((6, 1, 2, 2), 0.4)
    x[:, :, 0, 0] = 0.3
    adv = (x + 0.3).clone()
    adv[1] = x[1]  # claims a success that is none
    adv[2] = 1.0  # no picture any more, and too far
    adv[3] = adv[3] + 0.2  # too far
    adv[4, 0, 0, 0] = torch.nan
    adv[5, 0, 1, 1] = 1.1
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]) / 4)
        body[1].bias.copy_(torch.tensor([0.5, -0.5]))
    model = models.wrap(body, input_shape=(1, 2, 2))
    found = audit(result(x, adv), model, norm="Linf", eps=0.3)
    assert found.sound.tolist() == [True, False, False, False, False, False]
    assert found.flawed.tolist() == [False, True, True, True, True, True]
    assert found.success.tolist() == [True, False, True, True, False, True]
    assert found.picture.tolist() == [True, True, False, True, False, True]
    assert found.in_budget.tolist() == [True, True, False, False, False, False]
    assert found.finite.tolist() == [True] * 4 + [False, True]
    assert found.in_box.tolist() == [True] * 4 + [False, False]
    assert found.frame()["sound"].sum() == found.summary()["sound"] == 1


def test_verify_sees_what_8_bits_lose():
    x = torch.tensor([0.4, 0.4]).reshape(2, 1, 1, 1)
    found = audit(result(x, torch.tensor([0.5021, 0.6]).reshape(x.shape)), threshold(0.502))
    assert found.success.tolist() == [True, True]
    assert found.rounded.tolist() == [False, True]


def test_verify_refuses_what_it_cannot_check():
    x = torch.full((2, 1, 1, 1), 0.4)
    with pytest.raises(ValueError, match="shape"):
        audit(result(x, x[:1]), threshold())
    with pytest.raises(ValueError, match="norm, eps"):
        audit(result(x, x), threshold(), eps=0.1)
    with pytest.raises(ValueError, match="train mode"):
        audit(result(x, x), threshold().train())


# diagnose


def levels(found):
    return dict(zip(found.frame()["name"], found.frame()["level"], strict=True))


def test_a_sound_evaluation_is_quiet(robust, standard):
    images = data.load("digits")  # all of them: few images are a finding
    quick = [name for name in INDICATORS if name not in EXTRA]
    found = levels(diagnose(robust, images, PROPER, indicators=quick))
    assert set(found.values()) == {"green"}, found


def test_extra_runs_are_quiet_too(robust, standard, digits):
    found = levels(diagnose(robust, digits, PROPER, indicators=EXTRA, surrogate=standard))
    black_box = found.pop("beats black box")
    assert black_box == ("green" if "Square" in available() else "not applicable")
    assert set(found.values()) == {"green"}, found


@pytest.mark.parametrize(
    ("model", "fires"),
    [
        ("saturated logits", "cross entropy has gradients"),
        ("saturated logits", "smaller logits are no weaker"),
        ("saturated logits", "unbounded fools all"),
        ("saturated logits", "beats transfer"),
        ("softmax inside", "outputs are logits"),
        ("quantised input", "margin has gradients"),
        ("quantised input", "beats random noise"),
        ("k-winners-take-all", "beats random noise"),
        ("k-winners-take-all", "many steps beat one"),
        ("dropout left on", "same answer every time"),
        ("wrong normalisation", "accuracy is that of the card"),
        ("broken graph", "margin has gradients"),
        ("batch statistics", "an answer belongs to its image"),
        ("quantised input", "beats black box"),
    ],
)
def test_an_indicator_fires_on_its_model(model, fires, robust, digits):
    if fires == "beats black box" and "Square" not in available():
        pytest.skip("needs the Square attack, which is not registered")
    broken = specimens.MODELS[model](robust)
    found = diagnose(broken, digits, PGD(eps=0.1, n_steps=20), indicators=[fires], surrogate=robust)
    assert levels(found)[fires] == "red", found.findings


@pytest.mark.parametrize(
    ("attack", "base", "fires"),
    [
        (specimens.ZeroThreshold(eps=0.1), "standard", "smaller logits are no weaker"),
        (specimens.ZeroMasked(eps=0.1, n_steps=15), "robust", "shifted logits change nothing"),
        (specimens.BlackImages(eps=0.1, n_steps=10), "robust", "keeps the rules"),
        (specimens.BlackImages(eps=0.1, n_steps=10), "robust", "eps 0 changes nothing"),
        (specimens.LastIterate(eps=0.1), "robust", "keeps what it found"),
        (PGD(eps=0.1, n_steps=2, alpha=0.001, random_start=False), "robust", "many steps beat one"),
        (PGD(eps=0.1, n_steps=8, alpha=0.006), "robust", "doubling changes little"),
        (PGD(eps=0.1, n_steps=10, alpha=0.003, random_start=False), "robust", "has converged"),
    ],
)
def test_an_indicator_fires_on_its_attack(attack, base, fires, request, digits):
    model = request.getfixturevalue(base)
    found = diagnose(model, digits, attack, indicators=[fires])
    assert levels(found)[fires] == "red", found.findings


def test_accuracy_that_rises_with_eps_fires(robust, digits):
    class Backwards(PGD):
        """Gives up where the budget is large."""

        def search(self, problem):
            if float(problem.eps[0]) < 0.1:
                yield from super().search(problem)

    found = diagnose(robust, digits, Backwards(eps=0.1), indicators=["larger eps fools more"])
    assert levels(found) == {"larger eps fools more": "red"}


def test_shifted_logits_alone_do_not_fire_but_hide_from_a_bad_loss(robust, digits):
    shifted = specimens.MODELS["shifted logits"](robust)
    name = "shifted logits change nothing"
    assert levels(diagnose(shifted, digits, PGD(eps=0.1), indicators=[name])) == {name: "green"}
    bad = specimens.ZeroMasked(eps=0.1, n_steps=15)
    assert levels(diagnose(shifted, digits, bad, indicators=[name])) == {name: "red"}


def test_adversarial_images_near_the_boundary_are_lost_in_8_bits():
    class Nearest(PGD):
        def search(self, problem):
            index = torch.arange(len(problem))
            images = torch.full_like(problem.x, 0.5021)
            problem.offer(images, problem.logits(images, index), index)
            yield 1, 1

    found = diagnose(
        threshold(0.502), pixels(0.4, 0.45), Nearest(eps=0.2), indicators=["survives 8 bits"]
    )
    assert levels(found) == {"survives 8 bits": "red"}


def test_few_images_and_train_mode_are_said(robust, digits):
    few = diagnose(robust, digits[:20], PGD(eps=0.1, n_steps=5), indicators=["enough images"])
    assert levels(few) == {"enough images": "red"}
    trained = models.load("digits/cnn-robust").train()
    found = levels(diagnose(trained, digits, PROPER, surrogate=robust))
    assert found["same answer every time"] == "red"
    assert "green" not in found.values()
    with pytest.raises(ValueError, match="train mode"):
        specimens.altered(trained, "same")
    assert all(module.training for module in trained.modules())


def test_what_an_indicator_raises_is_a_finding(robust, digits):
    ran = []

    class Counts(Raises):
        def search(self, problem):
            ran.append(1)
            yield from super().search(problem)

    trace = ["keeps what it found", "has converged", "enough images"]
    found = diagnose(robust, digits, Counts(), indicators=trace)
    assert set(levels(found).values()) == {"error"}
    assert found.findings[0].says == "RuntimeError: out of luck"
    assert found.summary()["worst"] == "error"
    assert len(ran) == 1


def test_an_attack_without_a_budget_is_asked_only_what_fits():
    found = levels(diagnose(threshold(), pixels(0.1, 0.4), Push()))
    assert found["beats random noise"] == found["unbounded fools all"] == "not applicable"
    assert "error" not in found.values(), found


def test_diagnosis_can_be_cancelled_between_steps(robust, digits):
    before = {k: v.clone() for k, v in robust.state_dict().items()}
    work = diagnose.steps(robust, digits, PROPER)
    seen = [next(work) for _ in range(30)]
    work.close()
    assert seen[-1].total == len(INDICATORS)
    assert len(seen[-1].value.findings) == seen[-1].done < seen[-1].total
    assert all(torch.equal(before[k], v) for k, v in robust.state_dict().items())
    assert not robust.training


def test_unknown_indicators_and_no_images_are_refused(robust, digits):
    with pytest.raises(ValueError, match=r"indicator 'has convergd'.*has converged"):
        diagnose(robust, digits, PROPER, indicators=["has convergd"])
    with pytest.raises(ValueError, match="at least one image"):
        diagnose(robust, digits[:0], PROPER)


def test_specimens_leave_the_model_alone_and_are_told_apart(robust, digits):
    printed = {str(make(robust)) for make in specimens.MODELS.values()}
    assert len(printed) == len(specimens.MODELS)
    assert not any(isinstance(m, specimens.KWinners) for m in robust.modules())
    again = models.load("digits/cnn-robust").predict(digits.images).logits
    assert torch.equal(robust.predict(digits.images).logits, again)
    state = torch.random.get_rng_state()
    specimens.MODELS["dropout left on"](robust).predict(digits.images)
    assert torch.equal(state, torch.random.get_rng_state())
