import itertools

import pytest
import torch

from workbench import data, models
from workbench.models import checkpoints
from workbench.models.adversarial import pgd, survivors
from workbench.models.learning import Hooks, fit
from workbench.models.plain import augment, fresh, learning_rate
from workbench.models.recipes import RECIPES, Recipe
from workbench.models.training import train

TINY = Recipe(
    dataset="digits", architecture="cnn", options={"channels": (4, 8), "hidden": 16}, epochs=3
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_learns_and_keeps_a_history(digits):
    plan = TINY.model_copy(update={"epochs": 12, "lr": 1e-2})
    result = fit(plan, digits)
    assert [row["epoch"] for row in result.history] == list(range(1, 13))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[-1]["accuracy"] > 0.8
    assert not result.model.training
    assert len(result.frame()) == 12


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(digits):
    state = torch.get_rng_state()
    first, second = (weights(fit(TINY, digits[:300]).model) for _ in range(2))
    assert torch.equal(first, second)
    other = weights(fit(TINY.model_copy(update={"seed": 1}), digits[:300]).model)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("treatments", [(), ("AdversarialTraining(n_steps=1)",)])
def test_an_interrupted_training_goes_on_to_the_same_weights(digits, tmp_path, treatments):
    plan = TINY.changed(treatments=treatments, shift=1)
    part = digits[:300]
    straight = weights(fit(plan, part).model)
    keep = tmp_path / "state.unfinished"
    per_epoch = 3
    for _ in itertools.islice(fit.steps(plan, part, keep=keep), per_epoch + 3):
        pass  # stops in the second epoch
    resumed = list(fit.steps(plan, part, keep=keep))
    assert resumed[0].done == per_epoch + 1
    assert torch.equal(weights(resumed[-1].value.model), straight)


def by_the_book(plan, training, eps=None):
    """Adam with one cycle on cross-entropy, written down once more, without any slot."""
    model = fresh(plan, training, "by the book")
    optimiser = torch.optim.AdamW(model.parameters(), plan.lr, weight_decay=plan.weight_decay)
    steps = plan.epochs * -(-len(training) // plan.batch_size)
    step = 0
    for epoch in range(plan.epochs):
        draw = torch.Generator().manual_seed(plan.seed * 100_003 + epoch)
        for chosen in torch.randperm(len(training), generator=draw).split(plan.batch_size):
            x, y = augment(training.images[chosen], plan, draw), training.labels[chosen]
            if eps is not None:
                now = eps * min(1, step / steps / 0.25)
                x = pgd(model, x, y, eps=now, alpha=2.5 * now / 7, steps=7, generator=draw)
            optimiser.param_groups[0]["lr"] = learning_rate(plan, step / steps)
            loss, _ = model.train().objective(x, y, draw)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            model.eval()
            step += 1
    model.conclude(training)
    return model


@pytest.mark.parametrize("name", ["digits/cnn", "digits/cnn-robust", "digits/prob-prototypes"])
def test_the_loop_gives_the_weights_of_the_book_to_the_bit(digits, name):
    plan = RECIPES[name].changed(epochs=2)
    eps = 0.1 if name.endswith("robust") else None
    ours, book = fit(plan, digits[:500]).model, by_the_book(plan, digits[:500], eps)
    both = zip(ours.state_dict().items(), book.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in both)


class Counting(torch.optim.Optimizer):
    """Momentum whose state holds a Python number, None and a list, as some optimisers have."""

    def __init__(self, weights):
        super().__init__(weights, {"lr": 0.1, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["steps"] = state.get("steps", 0) + 1
            state["path"] = [p.grad.clone(), None]
            p -= self.param_groups[0]["lr"] / state["steps"] * p.grad


class ByCounting(Hooks):
    def optimiser(self, model, plan):
        return Counting(model.parameters())

    def after(self, run):
        state = run.state(self)
        state["mean"] = state.get("mean", 0.0) + next(run.model.parameters()).detach()

    def __repr__(self):
        return "ByCounting()"


def test_optimisers_and_treatments_with_a_memory_are_resumed(digits, tmp_path):
    part, keep = digits[:300], tmp_path / "state.unfinished"
    straight = fit(TINY, part, treatments=[ByCounting()])
    options = {"treatments": [ByCounting()], "keep": keep}
    for _ in itertools.islice(fit.steps(TINY, part, **options), 5):
        pass
    resumed = list(fit.steps(TINY, part, **options))
    assert resumed[0].done == 4  # in the second epoch
    assert torch.equal(weights(resumed[-1].value.model), weights(straight.model))
    spent = resumed[-1].value.ledger
    assert (spent.images, spent.forwards, spent.backwards) == (900, 900, 900)


def test_a_state_of_another_plan_is_not_taken_up(digits, tmp_path):
    keep = tmp_path / "state.unfinished"
    fit(TINY, digits[:300], keep=keep)
    other = TINY.model_copy(update={"lr": 1e-3})
    assert next(fit.steps(other, digits[:300], keep=keep)).done == 1


def test_a_damaged_state_is_said(digits, tmp_path):
    keep = tmp_path / "state.unfinished"
    keep.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=r"state\.unfinished is not a safetensors file"):
        fit(TINY, digits[:300], keep=keep)


def test_train_writes_a_model_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    result = train("digits/mlp", tmp_path / "mine.safetensors", epochs=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]
    card = checkpoints.read_card(result.path)
    test = data.load("digits")
    assert card.test_total == len(test) == 360
    assert models.measure(result.model, test)["test_correct"] == card.test_correct
    assert card.training["epochs"] == 1


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'mnist/cnn'"):
        next(train.steps("mnist/cn"))


def test_every_recipe_names_what_exists():
    for name, recipe in RECIPES.items():
        assert recipe.dataset in data.available()
        assert name.startswith(f"{recipe.dataset}/{recipe.architecture}")
        info = data.info(recipe.dataset)
        models.architectures.build(
            recipe.architecture, info.shape, len(info.classes), **recipe.options
        )


def test_the_learning_rate_goes_up_and_down_to_zero():
    rates = [learning_rate(TINY, i / 100) for i in range(101)]
    assert max(rates) == pytest.approx(TINY.lr)
    assert rates[0] == rates[-1] == 0


def test_shifts_move_images_and_fill_with_zeros():
    x = torch.rand(64, 1, 6, 6) + 0.1
    plan = TINY.model_copy(update={"shift": 1})
    moved = augment(x, plan, torch.Generator().manual_seed(0))
    for before, after in zip(x[:, 0], moved[:, 0], strict=True):
        padded = torch.zeros(8, 8)
        padded[1:7, 1:7] = before
        places = [padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        assert any(torch.equal(after, place) for place in places)


# The attack that training and the cards use


@pytest.fixture(scope="module")
def linear_model():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        w = torch.linspace(-1, 1, 16)
        module[1].weight.copy_(torch.stack([w, -w]))
    return models.wrap(module, input_shape=(1, 4, 4))


def test_pgd_stays_in_ball_and_box_and_reaches_the_corner(linear_model):
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(8, dtype=torch.int64)
    x_adv = pgd(
        linear_model,
        x,
        y,
        eps=0.1,
        alpha=0.05,
        steps=10,
        generator=torch.Generator().manual_seed(0),
    )
    assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    # Class 0 falls fastest along -sign(w): the best point is that corner of ball and box.
    w = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    assert torch.allclose(x_adv, (x - 0.1 * w.sign()).clamp(0, 1), atol=1e-6)


def test_survivors_match_the_closed_form_of_a_linear_model(linear_model):
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    y = linear_model(x).argmax(1)
    w = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    sign = 1 - 2 * y.view(-1, 1, 1, 1).float()
    worst = (x - 0.05 * sign * w.sign()).clamp(0, 1)
    expected = linear_model(worst).argmax(1) == y
    assert torch.equal(survivors(linear_model, x, y, eps=0.05), expected)
    assert 0 < int(expected.sum()) < 200
