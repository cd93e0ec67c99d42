"""Stitched networks: exact where they can be, of the right cost, kept; and what is refused."""

import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.models import Recipe, checkpoints, cost, fit
from workbench.treatments import stitch


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:400]


@pytest.fixture(scope="module")
def nets(digits):
    plan = Recipe(dataset="digits", architecture="mlp", options={"hidden": (24, 16)}, epochs=15)
    plan = plan.changed(lr=1e-2, batch_size=50)
    made = {"mlp": fit(plan, digits).model}
    for name in ("cnn", "resnet"):
        options = {"channels": (4, 8), "hidden": 16} if name == "cnn" else {"width": 4}
        made[name] = fit(plan.changed(architecture=name, options=options), digits).model
    return made


@pytest.mark.parametrize(
    ("name", "layer"), [("mlp", "relu1"), ("cnn", "relu1"), ("cnn", "flatten"), ("resnet", "relu")]
)
def test_a_network_stitched_to_itself_is_itself(name, layer, nets, digits):
    same = stitch(nets[name], nets[name], (layer, layer), digits.images)
    torch.testing.assert_close(same(digits.images), nets[name](digits.images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        ("mlp", "cnn", ("relu1", "relu1")),  # numbers into channels
        ("cnn", "mlp", ("relu2", "relu1")),  # channels into numbers
        ("cnn", "resnet", ("relu1", "relu")),  # 4x4 into 8x8
        ("resnet", "cnn", ("stage1_block1", "relu1")),
    ],
)
def test_different_networks_meet_and_are_kept(one, other, at, nets, digits, tmp_path):
    made = stitch(nets[one], nets[other], at, digits.images)
    right = (made.predict(digits.images).label == digits.labels).float().mean()
    assert float(right) > 0.2  # chance is 0.1
    checkpoints.save(made, tmp_path / "it.safetensors")
    again = checkpoints.restore(tmp_path / "it.safetensors")
    assert torch.equal(again(digits.images), made(digits.images))
    assert made.card.parameters == cost(made).parameters


def test_the_map_is_least_squares_and_costs_what_it_does(nets, digits):
    """Between layers of 24 and 16 numbers; residuals are orthogonal to what was given."""
    made = stitch(nets["mlp"], nets["mlp"], ("relu1", "relu2"), digits.images)
    layers = [layer for layer in made.body.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(24, 64), (16, 24), (10, 16)]
    assert cost(made).macs == 64 * 24 + 24 * 16 + 16 * 10
    _, given = first(nets["mlp"], digits.images, "relu1")
    _, wanted = first(nets["mlp"], digits.images, "relu2")
    rest = (wanted - layers[1](given)).detach()
    assert float((given.T @ rest).abs().max()) < 0.02 * float((given.T @ wanted).abs().max())


def first(model, images, layer):
    with models.outputs(model, [layer]) as ask, torch.no_grad():
        logits, given = ask(images)
    return logits, given[layer]


def test_weights_are_its_own_or_shared(nets, digits):
    draws = torch.get_rng_state()
    own, shared = (
        stitch(nets["mlp"], nets["cnn"], ("relu1", "relu1"), digits.images, share=share)
        for share in (False, True)
    )
    theirs = {p.data_ptr() for net in nets.values() for p in net.parameters()}
    assert not theirs & {p.data_ptr() for p in own.parameters()}
    assert len(theirs & {p.data_ptr() for p in shared.parameters()}) == 2 + 6
    assert torch.equal(draws, torch.get_rng_state())
    assert not own.training


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (("relu9", "relu1"), r"unknown layer of my model 'relu9'\. Did you mean 'relu"),
        (("relu1", "conv1"), "unknown layer of my model 'conv1'"),
    ],
)
def test_unknown_layers_are_said(at, said, nets, digits):
    with pytest.raises(ValueError, match=said):
        stitch(nets["mlp"], nets["mlp"], at, digits.images)


def test_what_does_not_fit_is_refused(nets, digits):
    shapes = models.load("shapes/resnet")
    with pytest.raises(ValueError, match=r"b: expected the input_shape of a, \(1, 8, 8\)"):
        stitch(nets["mlp"], shapes, ("relu1", "relu"), digits.images)
    with pytest.raises(ValueError, match="images"):
        stitch(nets["mlp"], nets["mlp"], ("relu1", "relu1"), digits.images[:0])
    vit = models.load("shapes/vit")
    with pytest.raises(ValueError, match=r"shapes/vit is no row of layers \(nn.Sequential\)"):
        stitch(vit, vit, ("fc", "fc"), torch.rand(2, 3, 32, 32))
    one = stitch(nets["mlp"], nets["mlp"], ("relu1", "relu1"), digits.images[:1])
    assert bool(one(digits.images).isfinite().all())  # the smallest of the best
