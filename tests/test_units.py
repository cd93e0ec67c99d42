from dataclasses import replace
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from workbench import data, models, patterns
from workbench.data import ImageDataset
from workbench.patterns import units


class Answer(nn.Module):
    """Says of each image the class that its first pixel spells, in thirds."""

    def forward(self, x):
        return 9 * nn.functional.one_hot((x[:, 0, 0, 0] * 3).round().long(), 4).float() - 1


def conflicts(said, shape, texture, classes=("a", "b", "c", "d")):
    images = torch.zeros(len(said), 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor(said) / 3
    names = [classes[k] for k in texture]
    factors = pd.DataFrame({"texture_class": names})
    return ImageDataset(images, torch.tensor(shape), classes, factors=factors)


def answering():
    return models.wrap(Answer(), input_shape=(1, 2, 2), classes=["a", "b", "c", "d"])


def convolution(weight, inplace=True, shape=(1, 6, 6)):
    """One convolution with this weight `(O, I, h, w)`, then a ReLU and the mean of each channel."""
    weight = torch.cat([weight, torch.zeros_like(weight)])  # a model has two outputs
    conv = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2:], padding="same", bias=False)
    with torch.no_grad():
        conv.weight.copy_(weight)
    parts = (conv, nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return models.wrap(nn.Sequential(*parts), input_shape=shape)


def some_images(n=5, shape=(1, 6, 6), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def linear(weight, shape=(1, 4, 4), relu=False):
    """Linear units `(units, pixels)`."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    tail = [nn.ReLU()] if relu else []
    return models.wrap(nn.Sequential(nn.Flatten(), layer, *tail), input_shape=shape)


# Cue conflicts


def test_shape_texture_and_neither_are_counted():
    images = conflicts([0, 1, 2, 0, 3], [0, 0, 0, 1, 1], [1, 1, 1, 0, 2])
    found = patterns.cue_preference(answering(), images)
    assert found.summary() == {**{"images": 5, "shape": 0.2, "texture": 0.4, "shape_bias": 1 / 3}}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*3 * [st.integers(0, 3)]), min_size=1, max_size=30))
def test_agreeing_images_are_left_out(rows):
    said, shape, texture = (list(column) for column in zip(*rows, strict=True))
    images = conflicts(said, shape, texture)
    left = [row for row in rows if row[1] != row[2]]
    if not left:
        with pytest.raises(ValueError, match="same class in every image"):
            patterns.cue_preference(answering(), images)
        return
    summary = patterns.cue_preference(answering(), images).summary()
    by_shape, by_texture = (sum(row[0] == row[k] for row in left) for k in (1, 2))
    assert summary["images"] == len(left)
    assert summary["shape"] == by_shape / len(left)
    told = by_shape + by_texture
    assert summary["shape_bias"] == (by_shape / told if told else None)


def test_a_model_of_shapes_goes_by_shape():
    images = data.load("shapes", limit=100, cue_conflict=True)
    found = patterns.cue_preference(models.load("shapes/resnet"), images).summary()
    assert found["shape_bias"] > 0.95


def test_conflicts_without_a_truth_are_refused():
    images = conflicts([0, 1], [0, 0], [1, 1])
    for factors in (None, pd.DataFrame({"texture": ["rows", "dots"]})):
        with pytest.raises(ValueError, match="cue_conflict=True"):
            patterns.cue_preference(answering(), replace(images, factors=factors))
    factors = pd.DataFrame({"texture_class": ["b", "e"]})
    with pytest.raises(ValueError, match="texture_class: expected values in"):
        patterns.cue_preference(answering(), replace(images, factors=factors))
    with pytest.raises(ValueError, match="has no class 'x', as my data has beside others"):
        patterns.cue_preference(answering(), replace(images, classes=("a", "b", "c", "x")))


# Preferences of units


def factored(n=400, seed=0):
    """Images of two factors, drawn apart: the first pixel follows one, the second both."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, n), rng.integers(0, 3, n)
    images = torch.zeros(n, 1, 2, 2)
    images[:, 0, 0, 0] = torch.from_numpy(first / 2).float()
    images[:, 0, 0, 1] = torch.from_numpy(first / 4 + second / 8).float()
    images[:, 0, 1, 0] = torch.from_numpy(rng.random(n)).float()
    factors = pd.DataFrame({"shape": first, "texture": second})
    return ImageDataset(images, torch.from_numpy(first), ("0", "1"), factors=factors)


def test_explained_variance_is_that_of_the_factors():
    found = patterns.unit_preference(
        linear(torch.eye(4), (1, 2, 2)), factored(20_000), "1", ["shape", "texture"]
    )
    # var(first / 4) = 1/64, var(second / 8) = (2/3)/64
    expected = torch.tensor([[1, 0.6, 0], [0, 0.4, 0]])
    torch.testing.assert_close(found.explained[:, :3], expected, atol=0.01, rtol=0)
    assert found.explained[:, 3].isnan().all()
    summary = found.summary()
    assert (summary["units"], summary["constant"]) == (4, 1)
    assert summary["prefer_shape"] + summary["prefer_texture"] == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_explained_variance_knows_no_scale(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 4, generator=generator)
    scale = torch.tensor([1e-3, 0.1, 1.0, -20.0, -1e3])
    looks = [
        patterns.unit_preference(linear(w, (1, 2, 2)), factored(60), "1", ["shape", "texture"])
        for w in (weight, weight * scale[:, None])
    ]
    torch.testing.assert_close(looks[0].explained, looks[1].explained, atol=1e-3, rtol=0)
    assert float(looks[0].explained.max()) <= 1 + 1e-6


def test_a_meaningless_factor_explains_nothing_in_the_mean():
    images = factored(30)
    shares = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        factors = pd.DataFrame({"drawn": rng.integers(0, 10, len(images))})
        found = patterns.unit_preference(
            *(linear(torch.eye(4)[2:], (1, 2, 2)), replace(images, factors=factors)),
            *("1", ["drawn"]),
        )
        shares.append(float(found.explained[0, 0]))
    assert abs(np.mean(shares)) < 0.05  # the raw share would be 9/29 = 0.31


def test_units_are_channels_and_of_a_transformer_the_width():
    images = data.load("shapes", limit=100)
    for name, layer, width in (
        ("shapes/resnet", "stage2_block1", 32),
        ("shapes/vit", "blocks.1", 64),
        ("shapes/resnet", "fc", 10),
    ):
        found = patterns.unit_preference(models.load(name), images, layer)
        assert found.explained.shape == (4, width)
    # The logits of shapes go by shape.
    assert found.summary()["prefer_shape"] == 1


def test_factors_that_cannot_be_used_are_refused():
    model, images = linear(torch.eye(4), (1, 2, 2)), factored(20)
    with pytest.raises(ValueError, match="Did you mean 'texture'"):
        patterns.unit_preference(model, images, "1", ["textures"])
    with pytest.raises(ValueError, match="unknown layer"):
        patterns.unit_preference(model, images, "5", ["shape"])
    each = replace(images, factors=pd.DataFrame({"shape": range(20)}))
    with pytest.raises(ValueError, match="20 values on 20 images"):
        patterns.unit_preference(model, each, "1", ["shape"])


# Smoothness


def test_total_variation_of_a_ramp_and_a_checkerboard():
    rows = torch.arange(5.0)[:, None].expand(5, 7)
    checks = ((torch.arange(5)[:, None] + torch.arange(7)) % 2).float()
    found = units.total_variation(torch.stack([rows, checks, torch.ones(5, 7)]))
    assert found.tolist() == [4 * 7, 4 * 7 + 5 * 6, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-1, 1))
def test_total_variation_scales_and_knows_no_offset(seed, factor, offset):
    maps = some_images(3, (2, 4, 5), seed).double()
    moved = units.total_variation(factor * maps + offset)
    torch.testing.assert_close(moved, factor * units.total_variation(maps))


def test_kernels_are_measured_without_mean_and_length():
    edge = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    weight = torch.stack([edge, 7 * edge + 3, checker])[:, None]
    found = patterns.smoothness(convolution(weight), some_images())
    # Each entry is 1/2 after normalising: an edge has 2 steps of 1, a checkerboard 4.
    torch.testing.assert_close(found.kernels[:3], torch.tensor([2.0, 2.0, 4.0]))


@pytest.mark.parametrize("inplace", [False, True])
def test_outputs_are_those_of_the_convolution_itself(inplace):
    weight = torch.tensor([[[[1.0]]], [[[-2.0]]]])
    x = some_images()
    found = patterns.smoothness(convolution(weight, inplace), x, noise=0)
    expected = units.total_variation(x).mean() * torch.tensor([1.0, 2.0, 0.0, 0.0])
    torch.testing.assert_close(found.clean, expected)
    assert torch.equal(found.clean, found.noisy)
    assert found.summary()["change"] == 0


def test_a_blurring_filter_changes_less_by_noise():
    single = torch.zeros(3, 3)
    single[1, 1] = 1
    ramp = torch.linspace(0.2, 0.8, 16).expand(4, 1, 16, 16).contiguous()
    for weight, low, high in ((single, 3, 9), (torch.full((3, 3), 1 / 9), 0, 2)):
        model = convolution(weight[None, None], shape=(1, 16, 16))
        change = patterns.smoothness(model, ramp).summary()["change"]
        assert low < change < high


def test_smoothness_is_seeded_and_refuses_what_has_no_kernels():
    model = convolution(torch.ones(1, 1, 3, 3))
    a, b, c = (patterns.smoothness(model, some_images(), seed=s).noisy for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    with pytest.raises(ValueError, match="has no convolution"):
        patterns.smoothness(linear(torch.eye(16)), some_images(shape=(1, 4, 4)))
    with pytest.raises(ValueError, match="noise: expected"):
        patterns.smoothness(model, some_images(), noise=float("nan"))
    with pytest.raises(ValueError, match="expected values in"):
        patterns.smoothness(model, 3 * some_images())


# Feature visualisation


def visualise(model, layer, asked, **settings):
    return patterns.visualise(model, layer, asked, **settings)


def test_a_linear_unit_is_shown_by_the_sign_of_its_weight():
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    found = visualise(linear(weight), "1", [2, 0], jitter=0, blur=0, n_steps=100)
    best = (weight[[2, 0]] > 0).float().view(2, 1, 4, 4)
    torch.testing.assert_close(found.images, best, atol=1e-5, rtol=0)
    ceiling = weight[[2, 0]].clamp(min=0).sum(1)
    torch.testing.assert_close(found.activation, ceiling)
    assert found.summary() == {"activation": found.activation.tolist()}


def test_blur_makes_smooth_images_at_some_cost():
    weight = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    model = linear(weight, (1, 16, 16))
    sharp, soft = (visualise(model, "1", [0, 1], n_steps=60, blur=b) for b in (0, 0.5))
    rough = [units.total_variation(f.images).mean() for f in (sharp, soft)]
    assert rough[1] < 0.9 * rough[0]
    assert (soft.activation < sharp.activation).all()
    assert (soft.activation > 0.3 * sharp.activation).all()


def test_the_value_never_falls_and_is_that_of_the_image():
    model = models.load("shapes/resnet")
    course = list(patterns.visualise.steps(model, "stage2_block1.bn2", [3, 7], n_steps=12))
    values = torch.stack([step.value.activation for step in course])
    assert (values.diff(dim=0) >= 0).all()
    assert (values[-1] > values[0] + 0.2).all()
    last = course[-1].value
    again = units.unit_means(model, "stage2_block1.bn2", last.images).detach()
    torch.testing.assert_close(last.activation, again[[0, 1], [3, 7]], atol=1e-4, rtol=1e-4)
    assert float(last.images.min()) >= 0
    assert float(last.images.max()) <= 1
    assert course[-1].done == course[-1].total == 12


def test_same_seed_same_image_and_nothing_of_the_users_is_touched():
    model = models.load("shapes/resnet")
    model.body.conv.weight.grad = torch.ones_like(model.body.conv.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    a, b, c = (visualise(model, "fc", [1], n_steps=4, seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model.body.conv.weight.grad == 1).all()
    assert all(p.grad is None for n, p in model.named_parameters() if n != "body.conv.weight")
    assert not any(module._forward_hooks for module in model.modules())


def test_units_and_settings_that_cannot_be_are_refused():
    model = linear(torch.eye(16))
    for units_asked, settings_asked, said in (
        ([16], {}, "expected 0..15 in layer 1, got"),
        ([-1], {}, "expected 0..15 in layer 1, got"),
        ([0], {"n_steps": 0}, "n_steps"),
        ([0], {"jitter": -1}, "jitter, blur: expected"),
        ([0], {"blur": 1.5}, "jitter, blur: expected"),
    ):
        with pytest.raises(ValueError, match=said):
            visualise(model, "1", units_asked, **settings_asked)
    with pytest.raises(ValueError, match="unknown layer"):
        visualise(model, "9", [0])
    assert visualise(model, "1", []).images.shape == (0, 1, 4, 4)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.flat = nn.ReLU(), nn.Flatten()

    def forward(self, x):
        return self.act(self.act(self.flat(x)) - 0.1)


def test_a_layer_that_runs_twice_is_read_a_call_at_a_time_and_no_hook_is_left():
    model, x = models.wrap(Twice(), input_shape=(1, 2, 2)), some_images(2, (1, 2, 2))
    assert torch.equal(units.output(model, "act", x), x.flatten(1))
    assert torch.equal(units.output(model, "act#2", x), (x.flatten(1) - 0.1).relu())
    with pytest.raises(ValueError, match="act runs 2 times a pass, got 'act#3'"):
        units.output(model, "act#3", x)
    with pytest.raises(RuntimeError):
        units.output(linear(torch.eye(16)), "1", some_images(2, (1, 3, 3)))
    assert not any(module._forward_hooks for module in model.modules())
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        units.output(model, "flat", some_images(2, (1, 2, 2)))


class Busy(Twice):
    """Its layer is also asked by another thread, as it is under a panel."""

    def forward(self, x):
        thread = Thread(target=self.act, args=(x,))
        thread.start()
        thread.join()
        return self.act(self.flat(x))


def test_another_thread_may_ask_the_same_layer():
    x = some_images(2, (1, 2, 2))
    model = models.wrap(Busy(), input_shape=(1, 2, 2))
    assert torch.equal(units.output(model, "act", x), x.flatten(1))
