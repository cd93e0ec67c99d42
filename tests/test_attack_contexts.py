"""What surrounds a call, and images without a label: attacks answer as they do elsewhere."""

import contextlib
import itertools
import warnings

import pytest
import torch
from torch import nn

from workbench import attacks, data, levelsets, models
from workbench.attacks import (
    FMN,
    PGD,
    FeatureGuided,
    GradientAscent,
    MapElites,
    OrderedTopK,
    Square,
    Transfer,
    random_order,
)
from workbench.attacks.problem import FEW
from workbench.data import ImageDataset
from workbench.levelsets import LevelSetTraversal
from workbench.robustness import (
    INDICATORS,
    audit,
    diagnose,
    evaluate,
    specimens,
)

SHORT = {
    **{"n_steps": 3, "n_queries": 8, "searches": 1, "preset": "quick", "plays": 1, "tries": 4},
    **{"n_angles": 3, "n_shifts": 1, "n_levels": 2, "surrogate": "digits/mlp"},
}
EVERY = [
    kind(**{name: value for name, value in SHORT.items() if name in kind.model_fields})
    for kind in attacks.available().values()
]
EVERY += [Square(norm="L2", n_queries=8), PGD(norm="L2", n_steps=3), PGD(norm="L1", n_steps=3)]
EVERY += [FMN(norm=norm, n_steps=3) for norm in ("Linf", "L1", "L0")]


@pytest.fixture(scope="module")
def digits():
    images = data.load("digits")[:3]
    return models.load("digits/cnn"), images.images, images.labels


@contextlib.contextmanager
def setting(begin, end):
    begin()
    try:
        yield
    finally:
        end()


def float64():
    return setting(
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    )


def deterministic():
    return setting(
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    )


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


AROUND = [float64, deterministic, bfloat16, torch.inference_mode, torch.no_grad]


def order(attack, y):
    return random_order(y, 10, 2) if attack.goals == (OrderedTopK,) else None


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.code())
def test_an_attack_is_the_same_whatever_is_around_it(attack, digits):
    model, x, y = digits
    plain = attack(model, x, y, target=order(attack, y))
    for around in AROUND:
        with around():
            found = attack(model, x * 1, y * 1, target=order(attack, y))
        for name in ("x_adv", "last", "logits", "success"):
            one, other = getattr(found, name), getattr(plain, name)
            assert one.dtype == other.dtype, (around, name)
            assert torch.equal(one, other), (around, name)
        assert found.norms["L2"].dtype == torch.float32


def test_steps_leave_the_mode_of_whom_they_are_handed_to(digits):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _ in itertools.islice(PGD(n_steps=3).steps(*digits), 3):
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")


def test_weights_made_in_inference_mode_are_named(digits):
    model = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), input_shape=(1, 8, 8))
    with torch.inference_mode():
        model.body[1].weight = nn.Parameter(torch.rand(10, 64))
    with pytest.raises(ValueError, match=r"weights were made in torch\.inference_mode\(\)"):
        PGD()(model, *digits[1:])


@pytest.mark.parametrize("around", AROUND)
def test_evaluation_diagnosis_and_level_sets_are_the_same(around, digits):
    model, x, y = digits
    images = ImageDataset(x, y, model.classes)

    def figures():
        rows = evaluate(model, images, [PGD(n_steps=2), Square(n_queries=4)], eps=[0.1]).rows
        names = ["outputs are logits", "an answer belongs to its image", "beats random noise"]
        health = diagnose(model, images, PGD(eps=0.1, n_steps=2), indicators=names)
        moved = LevelSetTraversal(n_steps=3)(model, x[:1], x[1:2])
        return rows, health.frame()[["level", "figure"]], moved.images, moved.confidence

    with around():
        rows, health, reached, confidence = figures()
    plain = figures()
    assert rows.equals(plain[0])
    assert health.equals(plain[1])
    if around is not bfloat16:
        assert torch.equal(reached, plain[2])
        assert torch.equal(confidence, plain[3])


@pytest.mark.parametrize("around", [float64, torch.inference_mode, torch.no_grad])
def test_planes_regions_and_fooling_images_are_the_same(around, digits):
    (model, x, _), mlp = digits, models.load("digits/mlp")

    def made():
        at = levelsets.span(x[0], x[1], x[2])
        plane = levelsets.plane(model, at, 9)
        fooled = GradientAscent(n_steps=2)(mlp)
        return plane.followed, *plane.contours(0.5), fooled.images, fooled.history

    with around():
        found = made()
    for one, other in zip(found, made(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_training_is_the_same_with_another_default():
    images = data.load("digits", split="train")[:64]
    plan = models.Recipe(
        dataset="digits", architecture="mlp", epochs=1, elastic=2.0, flip=True, shift=1,
        treatments=("AdversarialTraining(eps=0.1, n_steps=2)",),
    )  # fmt: skip
    plain = models.fit(plan, images).model.state_dict()
    with float64():
        found = models.fit(plan, images).model.state_dict()
        assert torch.get_default_dtype() == torch.float64
    assert all(torch.equal(found[name], plain[name]) for name in plain)


# Images without a label


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.code())
def test_without_a_label_an_attack_starts_from_what_the_model_says(attack, digits):
    model, x, y = digits
    said = model.predict(x).label
    some = torch.tensor([-1, int(y[1]), -1])
    start = torch.where(some < 0, said, some)
    found = attack(model, x, some, target=order(attack, start))
    known = attack(model, x, start, target=order(attack, start))
    assert torch.equal(found.labels, start)
    assert torch.equal(found.x_adv, known.x_adv)
    assert found.frame()["label"].tolist() == start.tolist()


def test_without_a_label_a_target_is_another_class_than_the_model_says(digits):
    model, x, _ = digits
    said, none = model.predict(x).label, torch.full((3,), -1)
    assert PGD(eps=0.5)(model, x, none, target=(said + 1) % 10).success.any()
    with pytest.raises(ValueError, match="target: image 0 already has class"):
        PGD()(model, x, none, target=said)
    with pytest.raises(ValueError, match=r"y: expected values in 0\.\.9, or -1"):
        PGD()(model, x, none - 1)
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.9, got -1"):
        random_order(none, 10, 2)


def test_half_labelled_images_are_evaluated(digits):
    model, *_ = digits
    images = data.load("digits")[:40]
    labels = images.labels.clone()
    labels[::2] = -1
    labels[1] = (labels[1] + 1) % 10  # one that the model is wrong about
    found = evaluate(
        model, ImageDataset(images.images, labels, images.classes), [PGD(n_steps=5)], eps=[0, 0.1]
    )
    summary, rows = found.summary(), found.rows[found.rows["eps"] == 0]
    right = model.predict(images.images).label == labels
    assert summary["unlabelled"] == 20
    assert summary["clean_accuracy"] == pytest.approx(float(right[1::2].float().mean()))
    assert rows["right"].isna().tolist() == [True, False] * 20
    assert rows["label"].tolist() == labels.tolist()
    assert rows["robust"].tolist() == torch.where(labels < 0, True, right).tolist()
    assert summary["robust_accuracy_Linf_0"] == pytest.approx((20 + int(right.sum())) / 40)


def test_images_of_other_classes_have_no_clean_accuracy(digits):
    model, x, y = digits
    other = ImageDataset(x, y % 2, ("cat", "dog"))
    found = evaluate(model, other, [PGD(n_steps=5)], eps=[0.3])
    assert found.summary()["clean_accuracy"] is None
    assert found.summary()["unlabelled"] == 3
    said = model.predict(x).label
    plain = evaluate(model, ImageDataset(x, said, model.classes), [PGD(n_steps=5)], eps=[0.3])
    assert found.curve().equals(plain.curve())
    quick = [name for name, i in INDICATORS.items() if i.group != "extra runs"]
    attack = PGD(eps=0.1, n_steps=2)
    health = diagnose(model, other, attack, indicators=quick).frame().set_index("name")
    assert health["level"]["accuracy is that of the card"] == "not applicable"
    assert "error" not in set(health["level"]), health["says"]


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (("none", *map(str, range(10))), [1, 2, 10]),
        ((*map(str, range(9)), "ten"), [1, 2, 9]),
        (tuple(map(str, range(20))), [1, 2, 3]),
        (("7", "8", "eleven"), [0, 1, 2]),
    ],
)
def test_classes_of_which_the_model_has_some_are_refused_before_any_attack(classes, labels, digits):
    model, x, _ = digits

    class Never(PGD):
        def search(self, problem):
            raise AssertionError("it ran")

    some = ImageDataset(x, torch.tensor(labels), classes)
    for go in (
        lambda: evaluate(model, some, [Never()], eps=[0.1]),
        lambda: diagnose(model, some, Never()),
    ):
        with pytest.raises(ValueError, match=r"dataset: digits/cnn \(10 classes\) has no class"):
            go()


def test_labels_are_matched_by_name_in_evaluations_and_diagnoses(digits):
    model = digits[0]
    images = data.load("digits")[:30]
    turned = ImageDataset(images.images, 9 - images.labels, images.classes[::-1])
    one, other = (evaluate(model, d, [PGD(n_steps=3)], eps=[0.1]) for d in (images, turned))
    assert one.rows.equals(other.rows)
    names = ["accuracy is that of the card", "enough images", "beats transfer"]
    mlp = models.load("digits/mlp")
    one, other = (
        diagnose(model, d, PGD(eps=0.1, n_steps=3), indicators=names, surrogate=mlp).findings
        for d in (images, turned)
    )
    assert one == other


def reordered(name, shift):
    """A model of the same classes, numbered otherwise."""
    model = models.load(name)
    body = nn.Sequential(model, Roll(shift))
    classes = model.classes[-shift:] + model.classes[:-shift]
    return models.wrap(body, input_shape=model.input_shape, classes=classes, name="reordered")


class Roll(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, z):
        return z.roll(self.shift, 1)


@pytest.mark.parametrize("targeted", [False, True])
def test_a_surrogate_that_numbers_its_classes_otherwise(targeted, digits, monkeypatch):
    model, x, y = digits
    target = (y + 1) % 10 if targeted else None
    attack = Transfer(surrogate="digits/mlp", eps=0.4)
    plain = attack(model, x, y, target=target)
    other = reordered("digits/mlp", 3)
    monkeypatch.setattr(models, "load", lambda name: other)
    found = attack(model, x, y, target=target)
    assert torch.allclose(found.last, plain.last, atol=1e-6)
    assert found.success.tolist() == plain.success.tolist()
    images = ImageDataset(x, y, model.classes)
    names = ["beats transfer"]
    assert (
        diagnose(model, images, PGD(n_steps=3), indicators=names, surrogate=other).findings
        == diagnose(
            model, images, PGD(n_steps=3), indicators=names, surrogate=models.load("any")
        ).findings
    )
    strange = models.wrap(
        other.body, input_shape=(1, 8, 8), classes=[*other.classes[:9], "x"], name="strange"
    )
    monkeypatch.setattr(models, "load", lambda name: strange)
    with pytest.raises(ValueError, match="digits/mlp has no class '6', one of 1 it lacks"):
        attack(model, x, y)


def test_a_result_without_labels_is_not_verified(digits):
    model, x, y = digits
    found = PGD(n_steps=2)(model, x, y)
    with pytest.raises(ValueError, match=r"result\.labels: expected values in 0\.\.9, got -1"):
        audit(type(found)(**{**vars(found), "labels": y * 0 - 1}), model)


def test_calibration_leaves_out_images_without_a_label(digits):
    model = digits[0]
    images = data.load("digits")[:50]
    prediction, labels = model.predict(images.images), images.labels.clone()
    labels[::3] = -1
    found = models.calibration(prediction, labels)
    known = labels >= 0
    assert found.summary() == pytest.approx(
        models.calibration(model.predict(images.images[known]), labels[known]).summary()
    )
    with pytest.raises(ValueError, match="at least one image with a label"):
        models.calibration(prediction, labels * 0 - 1)


def test_training_refuses_images_without_a_label():
    images = data.load("digits", split="train")[:10]
    labels = images.labels.clone()
    labels[:4] = -1
    plan = models.Recipe(dataset="digits", architecture="mlp", epochs=1)
    some = ImageDataset(images.images, labels, images.classes)
    with pytest.raises(ValueError, match="training: 4 of 10 images have no label to learn"):
        next(models.fit.steps(plan, some))
    assert (
        next(models.fit.steps(plan, some[labels >= 0])).value.model.card.classes == images.classes
    )
    with pytest.raises(ValueError, match="training: number of images"):
        next(models.fit.steps(plan, some[:0]))


class Rounding(nn.Module):
    """A linear model that rounds its images, as long as `on`."""

    def __init__(self, on):
        super().__init__()
        self.head, self.on = nn.Linear(4, 3), on

    def forward(self, x):
        return self.head(x.flatten(1).detach() if self.on else x.flatten(1))


@pytest.mark.parametrize("first", [True, False])
def test_a_gradient_that_comes_or_goes_is_noticed(first):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no gradient
        model = models.wrap(Rounding(first), input_shape=(1, 2, 2))
    x, none = torch.rand(2, 1, 2, 2), torch.full((2,), -1)
    for on in (first, not first, first):
        model.body.on = on
        if on:
            with pytest.raises(ValueError, match="no gradient; use a black-box attack"):
                PGD(n_steps=2)(model, x, none)
        else:
            assert PGD(n_steps=2)(model, x, none).queries["backwards"].min() > 0


# Sizes and shapes


class Counts(nn.Module):
    """A classifier of the channels' means, which notes how many images it is given."""

    def __init__(self, n_classes=3):
        super().__init__()
        self.head = nn.Linear(3, n_classes)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def large(monkeypatch):
    """A model and images of which three go into a pass."""
    monkeypatch.setattr("workbench.models.batching.VALUES", 3 * 3 * 16 * 16)
    torch.manual_seed(0)
    model = models.wrap(Counts(), input_shape=(3, 16, 16))
    with torch.no_grad():
        model.body.head.weight.mul_(3)
    return model, torch.rand(2, 3, 16, 16)


def passes(model, work):
    """The passes between two steps, and their sizes."""
    seen, sizes = [], model.body.sizes
    sizes.clear()
    for _ in work:
        seen.append(len(sizes))
        assert max(sizes, default=0) <= models.batch_size(model.input_shape)
        sizes.clear()
    return seen


def test_large_images_go_through_a_few_at_a_time_and_can_be_left_between_passes(large, tmp_path):
    model, x = large
    size = models.batch_size(model.input_shape)
    x = torch.cat([x, 1 - x, x.flip(0)])
    assert size < len(x)
    none = torch.full((len(x),), -1)
    for attack in (PGD(n_steps=3, eps=0.01), Square(n_queries=7, eps=0.01), FMN(n_steps=3)):
        seen = passes(model, attack.steps(model, x, none))
        assert max(seen[1:]) <= 2, (attack, seen)  # the first also asks for labels and gradients
    images = ImageDataset(x, none, model.classes)
    for output in (None, tmp_path):
        work = evaluate.steps(model, images, [PGD(n_steps=2)], eps=[0.01], output=output)
        seen = passes(model, work)
        assert max(seen) <= 4, seen


def test_a_traversal_of_large_images_shows_every_step(large):
    model, x = large
    seen = passes(model, LevelSetTraversal(n_steps=300).steps(model, x[:1], x[1:]))
    assert max(seen[1:]) == 1


def test_the_way_of_large_images_is_not_kept_whole(monkeypatch):
    for place in ("attacks.problem", "levelsets.traversal"):
        monkeypatch.setattr(f"workbench.{place}.VALUES", 5 * 3 * 16 * 16)
    model = models.wrap(Counts(), input_shape=(3, 16, 16))
    x, none = torch.rand(6, 3, 16, 16), torch.full((6,), -1)
    attack = PGD(n_steps=2, eps=0.01)
    assert len(x) <= FEW
    assert attack(model, x, none).trace[0].images is None
    assert attack(model, x[:1], none[:1]).trace[0].images is not None
    go = LevelSetTraversal(n_steps=2)
    assert go(model, x, 1 - x).path is None
    assert go(model, x[:1], 1 - x[:1]).path is not None


def test_fooling_images_of_many_classes_are_made_a_few_at_a_time(monkeypatch):
    torch.manual_seed(0)
    model = models.wrap(Counts(12), input_shape=(3, 8, 8))
    for method in (GradientAscent(n_steps=2), MapElites(generations=2, children=10)):
        whole = method(model)
        with monkeypatch.context() as patch:
            patch.setattr("workbench.models.batching.VALUES", 5 * 3 * 8 * 8)
            assert max(passes(model, method.steps(model))[1:]) == 1
            assert torch.allclose(method(model).history, whole.history, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(1, 1, 30), (1, 30, 1), (3, 1, 1), (2, 2, 2), (1, 1, 1000), (2, 3, 4), (1, 5, 7)]
)
def test_what_is_no_picture_is_attacked_and_traversed(shape):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 8), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.wrap(nn.Sequential(body, nn.Linear(8, 4)), input_shape=shape)
    x = torch.rand(2, *shape)
    for attack in EVERY:
        if isinstance(attack, (Transfer, FeatureGuided)):  # of digits; slow on long rows
            continue
        start = model.predict(x).label
        target = random_order(start, 4, 2) if attack.goals == (OrderedTopK,) else None
        assert attack(model, x, start, target=target).x_adv.isfinite().all()
    found = LevelSetTraversal(n_steps=5)(model, x[:1], x[1:])
    picture = min(shape[1:]) > 2
    assert (found.summary()["ssim"] is not None) == picture
    assert found.frame()["ssim"].isna().all() != picture
    levelsets.plane(model, levelsets.through(x[0], *torch.randn(2, *shape)), 5)


def test_ssim_looks_through_the_largest_odd_window_that_fits():
    from skimage.metrics import structural_similarity

    model = models.wrap(Counts(), input_shape=(3, 5, 9))
    found = LevelSetTraversal(n_steps=2)(model, torch.rand(1, 3, 5, 9), torch.rand(1, 3, 5, 9))
    a, b = found.images[0].numpy(), found.target[0].numpy()
    expected = structural_similarity(a, b, win_size=5, channel_axis=0, data_range=1)
    assert found.frame()["ssim"].item() == pytest.approx(expected)


# Answers that depend on the batch


@pytest.mark.parametrize(
    "after",
    [
        lambda z: z - z.mean(0),
        lambda z: z / z.abs().amax(),
        lambda z: z.softmax(0),
        lambda z: (z - z.mean(0)) / z.std(0, correction=0).clamp(min=1e-6),
        lambda z: z - 5 * z.argmax(1).float().mean(),
    ],
)
def test_answers_that_depend_on_the_batch_are_an_indicator(after, digits):
    model = digits[0]
    images = data.load("digits")[:60]
    mixed, name = specimens.altered(model, "mixed", after=after), "an answer belongs to its image"
    (plain,) = diagnose(model, images, PGD(eps=0.1), indicators=[name]).findings
    (found,) = diagnose(mixed, images, PGD(eps=0.1), indicators=[name]).findings
    assert plain.level == "green"
    assert found.level in ("red", "amber"), found


def test_batch_statistics_of_a_model_that_was_changed_later(digits):
    images = data.load("digits")[:60]
    model = models.wrap(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)),
        input_shape=(1, 8, 8),
    )
    norm = model.body[1]
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    name = "an answer belongs to its image"
    (found,) = diagnose(model, images, PGD(eps=0.1), indicators=[name]).findings
    assert found.level in ("red", "amber"), found
