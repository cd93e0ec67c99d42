"""Streams of tasks, learners, and the matrix: closed forms first, then the contract."""

import pandas as pd
import pytest
import torch
from torch import nn

from workbench import continual, data, models
from workbench.continual import (
    DistilAlign,
    Experts,
    FineTune,
    Importance,
    Joint,
    Replay,
    Task,
    align_head,
    by_factor,
    importance,
    permuted,
    rotated,
    split,
    unannounced,
)
from workbench.continual.experts import Selected
from workbench.continual.result import Continual, measures
from workbench.models import Ledger, Recipe

PLAN = Recipe(
    dataset="digits",
    architecture="mlp",
    options={"hidden": (16,)},
    epochs=3,
    batch_size=32,
    lr=5e-3,
)
IMAGE = 64 + 2  # bytes of a digit with its label
LEARNERS = [
    FineTune(),
    Joint(),
    Replay(per_task=5),
    Replay(bytes=20 * IMAGE, choose="interfered"),
    Importance(kind="mas"),
    Importance(kind="ewc"),
    Importance(kind="l2"),
    DistilAlign(per_task=5),
    Experts(z=3, passes=2),
]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", limit=400), data.load("digits", limit=200)


@pytest.fixture(scope="module")
def stream(digits):
    return split(*digits, 3)


def linear(weight, bias=False):
    """A classifier of images of one row of pixels, by a matrix."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=bias)
    layer.weight.data = weight.clone()
    body = nn.Sequential(nn.Flatten(), layer)
    return models.wrap(body, input_shape=(1, 1, weight.shape[1]))


# Closed forms.


def test_importance_of_a_linear_network_is_that_of_the_formula():
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]])
    x = torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.0, 0.3]])
    found = importance(linear(weight), x[:, None, None])["body.1.weight"]
    # d |Wx|^2 / dW = 2 (Wx) x^T; its size, image by image.
    by_hand = torch.stack([2 * torch.outer(weight @ one, one).abs() for one in x]).mean(0)
    torch.testing.assert_close(found, by_hand)
    mean_first = torch.stack([2 * torch.outer(weight @ one, one) for one in x]).mean(0).abs()
    assert not torch.allclose(found, mean_first), "the images disagree about a sign"


def test_fisher_of_logistic_regression_is_that_of_the_formula():
    weight = torch.tensor([[0.3, -1.0], [0.8, 0.5]])
    x = torch.tensor([[0.2, 0.9], [0.7, 0.1], [1.0, 1.0]])
    found = importance(linear(weight), x[:, None, None], "ewc")["body.1.weight"]
    p = (x @ weight.T).softmax(1)
    # Two classes: E (1[y = k] - p_k)^2 = p_k (1 - p_k), times the square of the input.
    by_hand = torch.einsum("nk,ni->ki", p * (1 - p), x**2) / len(x)
    torch.testing.assert_close(found, by_hand)


def test_aligned_rows_have_the_mean_length_of_the_old_ones():
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.0], [12.0, 0.0], [0.0, 6.0]])
    model = linear(weight, bias=True)
    twin = align_head(model, torch.tensor([0, 1]), torch.tensor([2, 3]))
    gamma = 3 / 9  # (5 + 1) / 2 over (12 + 6) / 2
    norms = continual.head_norms(twin)
    torch.testing.assert_close(norms, torch.tensor([5.0, 1.0, 12 * gamma, 6 * gamma]))
    torch.testing.assert_close(continual.head_norms(model), torch.tensor([5.0, 1.0, 12.0, 6.0]))
    x = torch.rand(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1.0, 1.0, gamma, gamma])
    torch.testing.assert_close(twin(x), model(x) * scale)


def test_measures_of_a_matrix_are_those_by_hand():
    matrix = torch.tensor([[0.9, 0.1, 0.2], [0.95, 0.8, 0.3], [0.5, 0.7, 0.6]])
    by_hand = {
        "average_accuracy": (0.5 + 0.7 + 0.6) / 3,
        "incremental": (0.9 + (0.95 + 0.8) / 2 + 0.6) / 3,
        "forgetting": ((0.95 - 0.5) + (0.8 - 0.7)) / 2,
        "backward_transfer": ((0.5 - 0.9) + (0.7 - 0.8)) / 2,
        "forward_transfer": (0.1 + 0.3) / 2,
    }
    assert measures(matrix) == pytest.approx(by_hand)
    assert measures(matrix[:1])["forgetting"] == 0
    assert measures(torch.tensor([[0.7]]))["forward_transfer"] == 0


def test_a_selector_sends_each_image_to_one_expert():
    one, other = linear(torch.eye(2)), linear(-torch.eye(2))
    selector = linear(torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
    x = torch.tensor([[0.9, 0.1], [0.2, 0.6]])[:, None, None]
    expected = torch.stack([one(x)[0], other(x)[1]])
    torch.testing.assert_close(Selected([one, other], selector)(x), expected)


# Streams.


def test_split_shares_out_the_classes_and_keeps_their_names(digits):
    training, test = digits
    tasks = split(training, test, 3, seed=4)
    assert [len(task.classes) for task in tasks] == [4, 3, 3]
    assert sorted(name for task in tasks for name in task.classes) == list(training.classes)
    assert sum(len(task.train) for task in tasks) == len(training)
    for task in tasks:
        assert task.name == ", ".join(task.classes)
        assert task.train.classes == training.classes
        assert {training.classes[k] for k in task.test.labels.tolist()} == set(task.classes)
    assert tasks[0].classes != split(training, test, 3, seed=5)[0].classes
    assert tasks[0].classes == split(training, test, 3, seed=4)[0].classes


def test_permuted_tasks_have_the_same_pixels_in_one_other_order(digits):
    training, test = digits
    first, second, third = permuted(training, test, 3)
    assert first.train is training
    for task in (second, third):
        a, b = training.images.flatten(1), task.train.images.flatten(1)
        assert torch.equal(a.sort(1).values, b.sort(1).values)
        assert not torch.equal(a, b)
        assert torch.equal(training.labels, task.train.labels)
    marked = torch.arange(64.0).div(64).view(1, 1, 8, 8)
    own = data.ImageDataset.from_arrays(marked.repeat(2, 1, 1, 1).numpy(), [0, 1])
    twice = permuted(own, own, 2, seed=0)[1]
    assert torch.equal(twice.train.images[0], twice.train.images[1]), "one order for all images"
    assert torch.equal(twice.train.images, twice.test.images)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 5)])
def test_a_quarter_turn_is_exact(shape):
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    own = data.ImageDataset(x, torch.arange(4) % 2, ("a", "b"))
    still, quarter, half = rotated(own, own, [0, 90, 180])
    assert still.train is own
    torch.testing.assert_close(quarter.train.images, x.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(half.test.images, x.rot90(2, (2, 3)), atol=1e-5, rtol=0)
    assert [task.name for task in (still, quarter)] == ["0°", "90°"]


def test_a_task_for_each_value_of_a_factor():
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    factors = pd.DataFrame({"ground": ["sea", "land"] * 3})
    own = data.ImageDataset(x, torch.arange(6) % 3, ("a", "b", "c"), factors=factors)
    land, sea = by_factor(own, own, "ground")
    assert (land.name, sea.name) == ("ground land", "ground sea")
    assert torch.equal(sea.train.images, x[::2])
    assert [t.name for t in by_factor(own, own, "ground", ["sea"])] == ["ground sea"]
    with pytest.raises(ValueError, match=r"task 'ground sky': expected training images"):
        by_factor(own, own, "ground", ["sky"])
    with pytest.raises(ValueError, match=r"unknown factor 'grund'\. Did you mean 'ground'"):
        by_factor(own, own, "grund")


# Learners.


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda each: each.code())
def test_a_learner_keeps_the_contract(learner, stream):
    before = [task.train.images.clone() for task in stream]
    seen = list(learner.steps(stream, PLAN))
    made, values = seen[-1].value, [step.value for step in seen]
    assert values[0] is None
    lengths = [len(value.models) for value in values if value is not None]
    assert lengths == sorted(lengths), "a value after each task, kept until the next"
    assert set(lengths) == {1, 2, 3}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == seen[-1].total
    assert made.accuracy.shape == made.told.shape == (3, 3)
    assert (made.told >= made.accuracy).all(), "fewer answers to choose from"
    again = learner(stream, PLAN)
    x = stream[0].test.images
    for one, other in zip(made.models, again.models, strict=True):
        assert torch.equal(one(x), other(x)), "the same to the bit"
    assert torch.equal(made.accuracy, again.accuracy)
    for t, model in enumerate(made.models):
        y = stream[1].test.labels
        right = (model.predict(stream[1].test.images).label == y).float().mean()
        assert made.accuracy[t, 1] == right
    assert all(torch.equal(a, task.train.images) for a, task in zip(before, stream, strict=True))
    assert made.ledger.backwards > 0
    assert set(made.summary()) >= {"average_accuracy", "forgetting", "memory_bytes"}
    frame = made.frame()
    assert list(frame.columns) == ["after", "task", "accuracy", "told"]
    assert len(frame) == 9


def test_the_last_row_of_joint_is_an_ordinary_training(digits, stream):
    made = Joint()(stream, PLAN)
    order = torch.cat([torch.isin(digits[0].labels, c.nonzero()).nonzero().flatten() for c in
                       (task.mask() for task in stream)])  # fmt: skip
    plain = models.fit(PLAN, digits[0][order]).model
    x = digits[1].images
    assert torch.equal(made.models[-1](x), plain(x))


def test_the_first_row_is_an_ordinary_training_whatever_the_learner(stream):
    plain = models.fit(PLAN, stream[0].train).model
    x = stream[0].test.images
    for learner in (FineTune(), Replay(), Importance(), Joint()):
        assert torch.equal(learner(stream[:1], PLAN).models[0](x), plain(x))


def test_passes_are_equal_where_they_are_said_to_be(stream):
    spent = [
        learner(stream, PLAN).ledger.backwards
        for learner in (FineTune(), Replay(per_task=5), Importance(), DistilAlign(), Experts())
    ]
    assert len(set(spent)) == 1
    assert spent[0] == PLAN.epochs * sum(len(task.train) for task in stream)


def test_memory_is_counted_tensor_by_tensor(stream):
    def kept(learner):
        return learner(stream, PLAN).memory_bytes

    parameters = 64 * 16 + 16 + 16 * 10 + 10
    assert kept(FineTune()) == 0
    assert kept(Replay(per_task=5)) == 3 * 5 * IMAGE
    assert kept(Replay(bytes=10 * IMAGE)) == 3 * 3 * IMAGE, "ten images, shared out to three tasks"
    assert kept(Joint()) == IMAGE * sum(len(task.train) for task in stream)
    assert kept(Importance(kind="l2")) == 4 * parameters
    assert kept(Importance(kind="mas")) == 2 * 4 * parameters
    made = Experts(most=2, kept=50)(stream, PLAN.changed(epochs=8))
    assert list(made.variants) == ["expert 1", "expert 2", "selector"]
    selector = 64 * 16 + 16 + 16 * 2 + 2
    assert made.memory_bytes == 50 * IMAGE + 4 * (parameters + selector)


def test_a_strong_penalty_holds_the_weights(stream):
    def moved(learner):
        first, *_, last = learner(stream, PLAN.changed(epochs=6)).models
        pairs = zip(first.parameters(), last.parameters(), strict=True)
        return sum((a - b).square().sum().item() for a, b in pairs)

    free = moved(FineTune())
    assert moved(Importance(kind="l2", strength=0)) == pytest.approx(free)
    assert moved(Importance(kind="l2", strength=100)) < 0.1 * free
    assert moved(Importance(kind="mas", strength=100)) < 0.5 * free


def test_replay_brings_the_images_that_were_kept(stream):
    learner, seen = Replay(per_task=4), []

    class Look(models.Hooks):
        def batch(self, run, x, y):
            seen.append((x, y))
            return x, y

    class Watched(Replay):
        def hooks(self, memory, task):
            return [*super().hooks(memory, task), Look()]

    Watched(**dict(learner))(stream[:2], PLAN.changed(epochs=1))
    first = -(-len(stream[0].train) // 32)
    new = {row.numpy().tobytes() for row in stream[1].train.images}
    for x, y in seen[first:]:
        half = len(x) // 2
        assert all(row.numpy().tobytes() in new for row in x[:-half])
        assert set(y[-half:].tolist()) <= set(stream[0].train.labels.tolist())
    kept = torch.unique(torch.cat([x[-(len(x) // 2) :] for x, _ in seen[first:]]), dim=0)
    assert len(kept) <= 4


def test_importances_add_up_over_tasks(stream):
    from workbench.continual.learners import Memory

    memory, learner = Memory(model=models.fit(PLAN, stream[0].train).model), Importance()
    learner.after(stream[0], PLAN, memory)
    once = memory.weights["worth"].clone()
    learner.after(stream[0], PLAN, memory)
    torch.testing.assert_close(memory.weights["worth"], 2 * once, rtol=1e-4, atol=1e-6)


def test_interfered_images_are_those_whose_loss_rises_most():
    from types import SimpleNamespace

    from workbench.continual.learners import Memory
    from workbench.continual.replaying import Rehearsal, rise

    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model, rate = linear(weight), 0.5
    run = SimpleNamespace(model=model, slot=lambda name: SimpleNamespace(rate=lambda run: rate))
    new, label = torch.tensor([[1.0, 0.2]]), torch.tensor([1])
    old, labels = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    p = (new @ weight.T).softmax(1)
    moved = weight - rate * (p - torch.tensor([[0.0, 1.0]])).T @ new
    loss = nn.CrossEntropyLoss(reduction="none")
    by_hand = loss(old @ moved.T, labels) - loss(old @ weight.T, labels)
    found = rise(run, (new[:, None, None], label), (old[:, None, None], labels))
    torch.testing.assert_close(found, by_hand)
    assert found[0] > 0 > found[1]
    kept = ((255 * old[:, None, None]).round().byte(), labels.short())
    hooks = Rehearsal(Replay(choose="interfered"), Memory(exemplars=[kept]))
    run.device, run.generator = "cpu", torch.Generator().manual_seed(0)
    hooks.prepare(run)
    twice = new[:, None, None].repeat(2, 1, 1, 1), label.repeat(2)
    replayed = [int(hooks.batch(run, *twice)[1][-1]) for _ in range(20)]
    assert replayed.count(0) > 14, "the first, wherever one of three drawn is it: 7 times of 8"


def test_distillation_is_that_of_the_formula(stream):
    from types import SimpleNamespace

    from workbench.continual.learners import Memory
    from workbench.continual.replaying import Growing

    old, new = stream[0].mask(), stream[1].mask()
    draw = torch.Generator().manual_seed(0)
    teacher, student = (linear(torch.randn(10, 5, generator=draw)) for _ in range(2))
    x, y = torch.rand(6, 1, 1, 5, generator=draw), new.nonzero().flatten()[[0, 1, 2, 0, 1, 2]]
    hooks = Growing(DistilAlign(), Memory(seen=[stream[0]], model=teacher), stream[1])
    hooks.teacher = teacher
    loss, logits = hooks.loss(SimpleNamespace(model=student), x, y)
    seen, z = old | new, student(x)
    hard = nn.functional.cross_entropy(z[:, seen], (seen.cumsum(0) - 1)[y])
    p, q = ((model(x)[:, old] / 2).softmax(1) for model in (teacher, student))
    soft = 4 * (p * (p / q).log()).sum(1).mean()
    share = float(old.sum() / seen.sum())
    torch.testing.assert_close(loss, (1 - share) * hard + share * soft)
    assert not set(logits.argmax(1).tolist()) & set((~seen).nonzero().flatten().tolist())


def test_aligning_scales_the_new_rows_and_notes_by_how_much(stream):
    bare, whole = (DistilAlign(per_task=5, align=a)(stream[:2], PLAN) for a in (False, True))
    old = stream[0].mask()
    new = stream[1].mask()
    norms, aligned = (continual.head_norms(made.models[-1]) for made in (bare, whole))
    gamma = whole.history[-1]["gamma"]
    assert gamma == pytest.approx(float(norms[old].mean() / norms[new].mean()))
    torch.testing.assert_close(aligned[new], norms[new] * gamma)
    torch.testing.assert_close(aligned[old], norms[old])
    head = bare.models[-1].linear_head()
    assert (head.weight >= 0).all()
    assert (head.bias == 0).all()


def test_experts_find_the_boundaries_and_come_back(digits):
    one, two = permuted(*digits, 2)
    plan = PLAN.changed(epochs=15, options={"hidden": (32,)})
    hidden = unannounced([one, two, one])
    made = Experts(z=4)(hidden, plan)
    rows = pd.DataFrame(made.history)
    assert set(made.variants) == {"expert 1", "expert 2", "selector"}
    ends = rows.groupby("task")["expert"].last().tolist()
    assert ends == [1, 2, 1], "the first expert is called back"
    starts = rows.groupby("task")["step"].first().tolist()[1:]
    alarms = rows[rows["alarm"] > 0]["step"].tolist()
    assert all(min(abs(a - s) for a in alarms) <= 3 for s in starts)
    told = Experts(z=4)([one, two, one], plan)
    assert torch.equal(told.accuracy, made.accuracy), "names are not looked at"
    alone = Experts(most=1)(hidden, plan)
    assert set(alone.variants) == {"expert 1"}


# The result.


def test_a_classifier_of_a_task_answers_its_classes_alone(stream):
    made = FineTune()(stream, PLAN)
    own, x = made.classifier(0), stream[1].test.images
    said = own.predict(x)
    assert {own.classes[k] for k in said.label.tolist()} <= set(stream[0].classes)
    assert float(said.probabilities[:, ~stream[0].mask()].max()) == 0
    keep = stream[0].mask()
    assert torch.equal(said.logits[:, keep], made.models[-1](x)[:, keep])
    y = stream[0].test.labels
    right = (made.classifier(0, after=1).predict(stream[0].test.images).label == y).float().mean()
    assert right == made.told[1, 0]
    assert made.classifier(after=0) is made.models[0]
    for bad in ({"task": 3}, {"after": 3}, {"task": -4}):
        with pytest.raises(ValueError, match=r"expected 0 to 2, a task so far, got"):
            made.classifier(**bad)


def test_a_matrix_under_way_has_as_many_rows_as_models(stream):
    half = Continual(stream, [], torch.eye(3)[:2], torch.eye(3)[:2], Ledger(), 7)
    assert half.summary()["memory_bytes"] == 7
    assert half.summary()["average_accuracy"] == 0.5


# Bad input.


def test_bad_streams_are_refused_by_name(digits, stream):
    training, test = digits
    with pytest.raises(ValueError, match=r"n_tasks: digits.* has 10 classes, got 11 tasks"):
        split(training, test, 11)
    few = training[training.labels != 3]
    with pytest.raises(ValueError, match=r"task '3': expected training images with a label"):
        split(few, test, 10)
    with pytest.raises(ValueError, match="expected test images with a label"):
        Task(training, test[:0], "empty")
    with pytest.raises(ValueError, match="test: expected images and classes"):
        Task(training, data.load("shapes", limit=10), "other")
    with pytest.raises(ValueError, match="expected at least one task"):
        FineTune()([], PLAN)
    for learner in (Importance(), DistilAlign()):
        with pytest.raises(ValueError, match=r"task 0 has no name, and this learner has to be"):
            learner(unannounced(stream), PLAN)
    shapes = data.load("shapes", limit=40)
    with pytest.raises(ValueError, match="stream: task 'all' has"):
        FineTune()([stream[0], Task(shapes, shapes, "all")], PLAN)


def test_a_learner_that_does_not_fit_says_why(digits, stream):
    with pytest.raises(ValueError, match=r"bytes: expected room for an image of each of 3 tasks"):
        Replay(bytes=IMAGE - 1)(stream, PLAN)
    with pytest.raises(ValueError, match=r"task 1 \(order 1\) has no new class"):
        DistilAlign()(permuted(*digits, 2), PLAN)
    with pytest.raises(ValueError, match="strength"):
        Importance(strength=-1)
    with pytest.raises(ValueError, match="expected a linear layer at the end, found none"):
        continual.head_norms(models.wrap(nn.Flatten(), input_shape=(1, 2, 2)))
