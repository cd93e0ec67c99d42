import numpy as np
import pytest
import torch
from torch import nn

from workbench import data, models, steps
from workbench.attacks import Spatial, game, registry
from workbench.attacks.black_box import (
    FeatureGuided,
    RandomSearch,
    Transfer,
    Wrapped,
    wrap,
)
from workbench.attacks.pgd import FGSM, PGD


class Sum(nn.Module):
    """Class 1 where the first channel's corner (or all of it) sums to more than `level`."""

    def __init__(self, level: float, corner: int = 100) -> None:
        super().__init__()
        self.level, self.corner = level, corner

    def forward(self, x):
        score = x[:, :1, : self.corner, : self.corner].flatten(1).sum(1) - self.level
        return torch.stack([-score, score], 1)


def summing(level, shape=(1, 6, 6), **options):
    return models.wrap(Sum(level, **options), input_shape=shape)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


@pytest.fixture(scope="module")
def digits():
    test = data.load("digits").sample(40)
    return models.load("digits/cnn"), test.images, test.labels


@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 5, 9), (3, 4, 4)])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_game_finds_the_fewest_pixels(shape, n, targeted):
    # From black, each flip adds 1: the fewest above 2.5 are three pixels, of C values each.
    x, target = torch.zeros(n, *shape), torch.ones(n, dtype=torch.int64) if targeted else None
    result = FeatureGuided(plays=2)(summing(2.5, shape), x, zeros(n), target=target)
    assert result.success.all()
    assert result.norms["L0"].tolist() == [3 * shape[0]] * n


def test_pixels_that_were_not_needed_are_given_back():
    # Two pixels of the corner are enough; a uniform play flips many others on its way.
    x = torch.zeros(4, 1, 8, 8)
    result = FeatureGuided(plays=1, uniform=True)(summing(1.5, (1, 8, 8), corner=3), x, zeros(4))
    assert result.success.all()
    assert result.norms["L0"].tolist() == [2] * 4
    assert (result.x_adv[:, :, :3, :3] == 1).sum((1, 2, 3)).tolist() == [2] * 4


def test_the_game_ends_after_its_tries_and_counts_its_queries():
    result = FeatureGuided(plays=3, tries=2)(summing(5.5), torch.zeros(2, 1, 6, 6), zeros(2))
    assert not result.success.any()
    assert result.norms["L0"].tolist() == [2, 2]  # the best tried, not a substitute
    assert result.queries["forwards"].tolist() == [1 + 3 * 2] * 2
    assert result.queries["backwards"].tolist() == [0, 0]


def test_flips_that_do_not_help_are_undone():
    # One play: each pixel is tried at most once, and only the two that help are given out.
    one = game.Game(np.ones(1), np.full((1, 9), 1 / 9), 2.0, 9, np.random.default_rng(0))
    over = False
    while not over:
        flips = one.move()
        margin = 2.0 - flips[[3, 5]].sum() + 0.1 * np.delete(flips, [3, 5]).sum()
        over = one.judge(float(margin), bool(margin <= 0))
        assert np.delete(flips, [3, 5]).sum() <= 1
    assert one.longest == 1


def test_the_game_leaves_alone_what_is_fooled_already():
    x = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)])
    result = FeatureGuided(plays=1)(summing(2.5), x, zeros(2))
    assert torch.equal(result.x_adv[1], x[1])
    assert result.queries["forwards"][1] == 1


def test_the_tree_prefers_the_pixel_that_takes_most():
    # Pixel 7 alone reaches the goal; the others take nothing. Plays concentrate on it.
    rng = np.random.default_rng(0)
    one = game.Game(np.ones(1), np.full((1, 16), 1 / 16), 10.0, 1, rng)
    firsts = []
    for _ in range(300):  # one try a play, so that each pixel is judged alone
        (pixel,) = np.flatnonzero(one.move())
        firsts.append(int(pixel))
        one.judge(0.1 if pixel == 7 else 9.9, False)
    assert firsts[-100:].count(7) > 3 * firsts[:50].count(7) + 20


def test_features_lie_on_the_object():
    image = np.zeros((1, 40, 40), dtype=np.float32)
    image[:, 25:33, 5:13] = data.load("digits", limit=1).images[0].numpy()
    weights, pixels = game.saliency(image, uniform=False)
    assert weights.sum() == pytest.approx(1)
    assert np.allclose(pixels.sum(1), 1)
    density = (weights @ pixels).reshape(40, 40)
    assert density[23:35, 3:15].sum() > 0.9


@pytest.mark.parametrize("image", [np.zeros((1, 9, 9)), np.full((3, 4, 60), 0.5)])
def test_an_image_without_features_is_one_feature(image):
    weights, pixels = game.saliency(image.astype(np.float32), uniform=False)
    assert len(weights) == 1
    assert np.ptp(pixels) == 0


def test_features_save_queries_on_a_small_object():
    # A digit in the corner of a frame, a model that looks there alone: see also the notebook.
    image = torch.zeros(20, 1, 24, 24)
    test = data.load("digits").sample(20)
    image[:, :, 3:11, 12:20] = test.images
    body = models.load("digits/cnn")

    class Window(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x[:, :, 3:11, 12:20])

    model = models.wrap(Window(), input_shape=(1, 24, 24))
    guided = FeatureGuided(plays=3)(model, image, test.labels)
    uniform = FeatureGuided(plays=3, uniform=True)(model, image, test.labels)
    assert guided.success.all()
    spent, control = (r.queries["forwards"].float().median() for r in (guided, uniform))
    assert spent <= 0.6 * control


def test_same_seed_same_images(digits):
    model, x, y = digits
    for attack in (FeatureGuided(plays=2), RandomSearch(n_queries=20), Spatial(n_angles=3)):
        first, second = attack(model, x, y, seed=5), attack(model, x, y, seed=5)
        assert torch.equal(first.x_adv, second.x_adv)
    assert not torch.equal(
        FeatureGuided(plays=2)(model, x, y, seed=6).x_adv,
        FeatureGuided(plays=2)(model, x, y, seed=5).x_adv,
    )


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_random_search_stays_in_the_ball_and_stops_at_success(norm):
    x, eps = torch.full((3, 1, 6, 6), 0.5), torch.tensor([0.0, 0.2, 0.4])
    result = RandomSearch(norm=norm, n_queries=50)(summing(18.0001), x, zeros(3), eps=eps)
    assert (result.norms[norm] <= eps * 1.0001).all()
    assert result.success.tolist() == [False, True, True]
    assert result.queries["forwards"][0] == 51
    assert (result.queries["forwards"][1:] < 51).all()


def test_transfer_to_the_same_model_is_the_attack_itself(digits):
    model, x, y = digits
    result = Transfer(surrogate="digits/cnn", eps=0.3)(model, x, y)
    assert result.success.all()
    assert (result.queries["forwards"] <= 3).all()  # the image, and at most two tries
    assert (result.norms["Linf"] <= 0.3 * 1.0001).all()


def test_transfer_carries_over_and_reaches_a_model_without_gradients(digits):
    model, x, y = digits

    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model

        def forward(self, x):
            return self.body(x).detach()

    blind = models.wrap(Blind(), input_shape=(1, 8, 8))
    eps = torch.linspace(0, 0.3, len(x))
    result = Transfer(surrogate="digits/mlp")(blind, x, y, eps=eps)
    noise = RandomSearch(n_queries=3)(blind, x, y, eps=eps)
    assert (result.norms["Linf"] <= eps * 1.0001).all()
    assert result.success.sum() > noise.success.sum() + 5
    assert PGD().unfit(blind)


def test_transfer_says_what_does_not_fit(digits, monkeypatch):
    model, x, y = digits
    with pytest.raises(ValueError, match="name the model"):
        Transfer()(model, x, y)
    with pytest.raises(ValueError, match="input shape"):
        Transfer(surrogate="mnist/mlp")(model, x, y)
    with pytest.raises(ValueError, match=r"unknown attack 'PDG'.*'PGD'"):
        Transfer(surrogate="digits/mlp", attack="PDG")(model, x, y)
    monkeypatch.setattr(registry, "get", lambda name, **_: FeatureGuided())
    with pytest.raises(ValueError, match="no budget"):
        Transfer(surrogate="digits/mlp", attack="FeatureGuided")(model, x, y)


def test_wrap_verifies_what_a_function_returns(digits):
    model, x, y = digits

    def brighter(model, x, y):
        return (x + 0.5).clamp(0, 1)

    result = wrap(brighter)(model, x, y)
    assert result.attack == "brighter"
    assert torch.equal(result.success, model.predict(result.x_adv).label != y)
    assert torch.equal(result.last, (x + 0.5).clamp(0, 1))
    fgsm = FGSM(eps=0.2)(model, x, y)
    foreign = wrap(lambda m, x, y: FGSM(eps=0.2)(m, x, y).x_adv, name="mine")(model, x, y)
    assert foreign.attack == "mine"
    assert torch.equal(foreign.success, fgsm.success)


def test_wrap_hands_over_the_target(digits):
    model, x, y = digits
    target = (y + 1) % 10
    attack = wrap(lambda m, x, y, t: PGD(eps=0.5)(m, x, y, target=t).x_adv, name="mine")
    assert attack(model, x, y, target=target).success.float().mean() > 0.5


def test_black_images_of_a_failed_attack_are_no_success():
    # A peer returns black for a failure, and counts it where black is another class.
    x = torch.full((3, 1, 6, 6), 0.9)
    black = wrap(lambda m, x, y: torch.zeros_like(x), name="black")
    assert not black(summing(-1.0), x, torch.ones(3, dtype=torch.int64)).success.any()


def test_wrap_leaves_the_model_and_the_generator_alone(digits):
    _, x, y = digits
    body = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
    model = models.wrap(body.eval(), input_shape=(1, 8, 8))

    def careless(model, x, y):
        model.train()
        model(x).sum().backward()
        x.zero_()
        y.zero_()
        return torch.rand(x.shape)

    kept, labels = x.clone(), y.clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    first, second = (wrap(careless)(model, x, y, seed=3).last for _ in range(2))
    assert torch.equal(first, second)  # seeded, although it draws from the global generator
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, kept)
    assert torch.equal(y, labels)


def test_wrap_counts_forward_passes(digits):
    model, x, y = digits

    def thrice(model, x, y):
        for part in (*x.split(7), x, x):
            model(part)
        return x

    # Beside these: the image at the start, and what came back.
    assert wrap(thrice)(model, x, y).queries["forwards"].tolist() == [3 + 2] * len(x)


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (lambda x: x * 255, r"images of mine: expected values in \[0, 1\]"),
        (lambda x: x * torch.nan, "images of mine: expected values"),
        (lambda x: x[:2], "mine: expected 40 images, got 2"),
        (lambda x: x[:, :, 1:], "images of mine: expected images of shape"),
        (lambda x: x.numpy(), "images of mine: expected a torch.Tensor"),
        (lambda x: x.double(), "images of mine: expected float32"),
        (lambda x: None, "images of mine: expected a torch.Tensor"),
    ],
)
def test_wrap_refuses_what_is_no_image(digits, returned, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        wrap(lambda m, x, y: returned(x), name="mine")(*digits)


def test_what_a_wrapped_function_raises_passes_through(digits):
    def broken(model, x, y):
        raise ZeroDivisionError("its own")

    with pytest.raises(ZeroDivisionError, match="its own"):
        wrap(broken)(*digits)
    with pytest.raises(ValueError, match="function"):
        Wrapped(function=3, name="three")


def test_every_turn_can_be_cancelled(digits):
    model, x, y = digits
    attacks = [FeatureGuided(), RandomSearch(), Spatial(), Transfer(surrogate="digits/mlp")]
    for attack in [*attacks, wrap(lambda m, x, y: x)]:
        going = attack.steps(model, x, y)
        step = next(going)
        going.close()
        assert step.value.x_adv.shape == x.shape
        assert not model.training


def test_an_empty_batch_gives_an_empty_result(digits):
    model, x, y = digits
    attacks = [FeatureGuided(), RandomSearch(), Spatial(), Transfer(surrogate="digits/mlp")]
    for attack in [*attacks, wrap(lambda m, x, y: x)]:
        result = steps.run(attack.steps(model, x[:0], y[:0]), progress=False)
        assert len(result.x_adv) == 0


def test_ordered_goals_reach_the_black_boxes(digits):
    model, x, y = digits
    order = torch.stack([(y + 1) % 10, (y + 2) % 10], 1)
    result = FeatureGuided(plays=1)(model, x, y, target=order)
    assert result.success.any()
    assert torch.equal(result.logits.topk(2).indices[result.success], order[result.success])
