"""Purifiers and the self-ensemble: closed forms, and what an attack that knows them sees."""

import pytest
import torch
from torch import nn

from workbench import attacks, data, models
from workbench.models import checkpoints
from workbench.robustness import softened
from workbench.treatments import Camera, QuantisedAutoencoder, SelfEnsemble, crossmax, put_before
from workbench.treatments.ensembling import Resolutions
from workbench.treatments.purifying import CameraPipeline, SignAutoencoder


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:256]


@pytest.fixture(scope="module")
def colour():
    """A small network of colour images, with a normalisation, and images for it."""
    images = data.load("shapes", "train", limit=120)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            *(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            nn.Linear(16, 10),
        )
    normal = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    return models.wrap(body, input_shape=(3, 32, 32), classes=images.classes, **normal), images


def draws(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# CrossMax.


def test_what_a_predictor_adds_to_all_its_logits_changes_nothing():
    z, shift = draws(5, 4, 3), 100 * draws(5, 4, 1, seed=1)
    torch.testing.assert_close(crossmax(z + shift), crossmax(z), atol=1e-4, rtol=0)


def test_crossmax_by_hand():
    z = torch.tensor([[[3.0, 1.0], [0.0, 4.0], [2.0, 2.0]]])
    # less each row's largest: (0, -2), (-4, 0), (0, 0); less each column's: the same
    assert crossmax(z).tolist() == [[0.0, 0.0]]  # the second largest of (0, -4, 0), (-2, 0, 0)
    assert crossmax(z, 3).tolist() == [[-4.0, -2.0]]


def test_one_predictor_that_shouts_decides_the_mean_and_not_crossmax():
    z = 2 * draws(20, 4, 3)
    z[:, :, 2] += 5.0  # four predictors are for class 2
    z[:, 0, 1] = 1e3  # one of them is made to shout for class 1
    assert bool((z.mean(1).argmax(1) == 1).all())
    for rank in (2, 3):
        assert bool((crossmax(z, rank).argmax(1) == 2).all())


def test_predictors_that_all_agree_say_nothing_together():
    assert torch.equal(crossmax(draws(2, 1, 3).expand(2, 4, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("logits", "rank", "said"),
    [
        (torch.zeros(2, 3), 0, r"logits: expected \(images, predictors, classes\), got .*\[2, 3\]"),
        (torch.zeros(2, 3, 4), 4, "rank: expected 0 to 3, the number of predictors, got 4"),
        (torch.zeros(2, 3, 4), -1, "rank: expected 0 to 3"),
    ],
)
def test_what_crossmax_cannot_join_is_said(logits, rank, said):
    with pytest.raises(ValueError, match=said):
        crossmax(logits, rank)


# The camera.


@pytest.mark.parametrize("size", [(2, 2), (5, 8), (32, 32)])
def test_mosaic_and_interpolation_leave_a_constant_image(size):
    image = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(1, 3, *size)
    torch.testing.assert_close(CameraPipeline(0.0)(image), image)


def test_a_sensor_sees_one_colour_a_pixel():
    pipeline, x = CameraPipeline(0.0), draws(1, 3, 6, 6)
    other = x.clone()
    other[:, 0, 1::2] = other[:, 0, :, 1::2] = 0  # red where there is no red filter
    other[:, 1, 0::2, 0::2] = other[:, 1, 1::2, 1::2] = 0
    other[:, 2, 0::2] = other[:, 2, :, 0::2] = 0
    assert torch.equal(pipeline(x), pipeline(other))
    seen = other != 0  # where there is no filter it was set to 0
    torch.testing.assert_close(pipeline(x)[seen], x[seen])
    assert seen.sum((2, 3)).tolist() == [[9, 18, 9]]


def test_a_camera_is_kept_cancelled_and_made_again_to_the_bit(colour, tmp_path):
    model, images = colour
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made, again = (Camera(epochs=1)(model, images).model for _ in range(2))
    assert torch.equal(made(images.images), again(images.images))
    assert not torch.equal(
        made(images.images), Camera(epochs=1)(model, images, seed=1).model(images.images)
    )
    checkpoints.save(made, tmp_path / "it.safetensors")
    kept = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(kept(images.images), made(images.images))
    assert kept.card == made.card
    steps = Camera(epochs=1).steps(model, images)
    next(steps)
    steps.close()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert made.card.name == "my model | Camera(epochs=1)"
    assert {"front", "network"} <= set(made.layers())


def test_the_normalisation_moves_behind_the_filter(colour):
    model, images = colour
    copy = models.private_copy(model, share=False)
    put_before(copy, nn.Identity())
    assert copy.mean is None
    torch.testing.assert_close(copy(images.images), model(images.images))


def test_the_learned_correction_is_nearer_to_the_image_than_interpolation(colour):
    model, images = colour
    x = images.images

    def error(share):
        front = Camera(share=share, epochs=20)(model, images).model.body.front
        return float((front(x) - x).square().mean().detach())

    assert error(1.0) < error(0.0)


# The autoencoder of signs.


def test_a_code_is_plus_one_inside_q_and_minus_one_outside():
    front = SignAutoencoder((1, 2, 2), 4, 0.5)
    z = torch.tensor([[0.0, 0.49, -0.51, 3.0]])
    assert front.signs(z).tolist() == [[1.0, 1.0, -1.0, -1.0]]
    torch.testing.assert_close(front.step(z), front.signs(z), atol=0.2, rtol=0)


def test_signs_have_no_gradient_and_softened_they_have_one_and_the_same_answers(digits):
    model = QuantisedAutoencoder(epochs=2)(models.load("digits/cnn"), digits).model
    x, y = digits.images[:8], digits.labels[:8]
    attack = attacks.PGD(eps=0.1, n_steps=2)
    assert "no gradient" in attack.unfit(model)
    soft = softened(model)
    assert not attack.unfit(soft)
    torch.testing.assert_close(soft(x), model(x))
    assert attack(soft, x, y).x_adv.shape == x.shape
    assert "no gradient" in attack.unfit(model)  # the defence itself is as it was


# The self-ensemble.


def test_an_ensemble_answers_alike_each_time_and_its_draws_can_be_changed(digits):
    model = SelfEnsemble(epochs=1)(models.load("digits/cnn"), digits).model
    x = digits.images[:8]
    first = model(x)
    assert torch.equal(model(x), first)
    model.body.front.draw(torch.Generator().manual_seed(5))
    assert not torch.equal(model(x), first)


def test_softened_an_ensemble_is_the_mean_of_its_heads(digits):
    model = SelfEnsemble(epochs=1, heads=3)(models.load("digits/cnn"), digits).model
    x = digits.images[:8]
    assert model.body.members(x).shape == (8, 3, 10)
    torch.testing.assert_close(softened(model)(x), model.body.members(x).mean(1))
    torch.testing.assert_close(model(x), crossmax(model.body.members(x)))


def test_copies_without_draws_are_the_image_at_its_own_resolution():
    front, x = Resolutions((3, 8, 8), 3, 0.0), draws(2, 3, 8, 8)
    front.settings = [[0.0, 0.0, 1.0, 1.0]] * 3
    torch.testing.assert_close(front(x, 0), x)
    flat = torch.full((1, 3, 8, 8), 0.4)
    for i in range(3):
        torch.testing.assert_close(front(flat, i), flat)
    assert front.sizes == [[8, 8], [4, 4], [2, 2]]


def test_every_head_of_a_trained_network_learns(digits):
    model = SelfEnsemble(epochs=40)(models.load("digits/cnn"), digits).model
    right = model.body.members(digits.images).argmax(2) == digits.labels[:, None]
    assert bool((right.float().mean(0) > 0.8).all())


# What they do not fit.


@pytest.mark.parametrize("kind", [Camera, QuantisedAutoencoder, SelfEnsemble])
def test_what_a_front_end_does_not_fit_is_said(kind, digits, colour):
    model, images = colour
    grey = models.load("digits/cnn")
    few = images[:3] if kind is Camera else digits[:3]
    fitting = model if kind is Camera else grey
    with pytest.raises(ValueError, match="data: expected at least 20 images to learn from, got 3"):
        kind()(fitting, few)
    with pytest.raises(ValueError, match=r"takes \(3, 32, 32\) images, the data has \(1, 8, 8\)"):
        kind()(model, digits)
    with pytest.raises(ValueError, match="is asked about its parts; take a plain network"):
        kind()(models.load("digits/prototypes"), digits)
    with pytest.raises(ValueError, match="data: it needs training images"):
        kind()(fitting)


def test_a_mosaic_of_grey_and_an_image_too_large_are_said(digits):
    with pytest.raises(ValueError, match=r"needs colour images .* the model takes \(1, 8, 8\)"):
        Camera()(models.load("digits/cnn"), digits)
    large = models.wrap(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
        input_shape=(3, 90, 90),
        classes=2,
    )
    assert "at most 20000 values, the model takes 24300" in QuantisedAutoencoder().unfit(large)
