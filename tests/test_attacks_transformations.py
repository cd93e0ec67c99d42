"""Rotation and shift; brightness, contrast and blur: threat models without a norm."""

import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.attacks import Natural, Spatial


@pytest.fixture(scope="module")
def digits():
    images = data.load("digits", limit=60)
    return models.load("digits/cnn"), images.images, images.labels


def test_spatial_turns_and_shifts():
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Spatial().transform(x, (0, 0, 0)), x, atol=1e-6)
    assert torch.allclose(Spatial().transform(x, (90, 0, 0)), x.rot90(1, (2, 3)), atol=1e-5)
    right = torch.zeros_like(x)
    right[..., 1:] = x[..., :-1]
    assert torch.allclose(Spatial().transform(x, (0, 1 / 6, 0)), right, atol=1e-5)
    oblong = torch.rand(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Spatial().transform(oblong, (180, 0, 0)), oblong.flip(2, 3), atol=1e-5)
    # A square turned by 90 degrees in an oblong image stays a square.
    oblong = torch.zeros(1, 1, 4, 8)
    oblong[:, :, 1:3, 3:5] = 1
    assert torch.allclose(Spatial().transform(oblong, (90, 0, 0)), oblong, atol=1e-5)


def test_spatial_finds_the_mildest_point_of_the_grid():
    # Class 1 sees light in the last column; it takes a shift of two pixels to get there.
    class LastColumn(nn.Module):
        def forward(self, x):
            score = x[:, 0, :, -1].sum(1) - 0.5
            return torch.stack([-score, score], 1)

    x = torch.zeros(1, 1, 8, 8)
    x[..., 5] = 1
    attack = Spatial(max_angle=0, n_angles=1, max_shift=3 / 8, n_shifts=7)
    result = attack(models.wrap(LastColumn(), input_shape=(1, 8, 8)), x, torch.zeros(1).long())
    assert result.success.all()
    assert (result.x_adv[0, 0, :, -1] > 0.99).all()
    assert result.x_adv[0, 0, :, :-1].max() < 0.01


def test_spatial_tries_the_whole_grid_starting_with_nothing(digits):
    model, x, y = digits
    attack = Spatial(n_angles=5, n_shifts=3)
    grid = attack.grid()
    assert len(set(grid)) == 5 * 3 * 3
    assert grid[0] == (0, 0, 0)
    result = attack(model, x, y)
    assert (result.queries["forwards"][~result.success] == 1 + len(grid)).all()


def test_natural_changes_light_contrast_and_focus_as_they_are_defined():
    x = torch.rand(2, 3, 5, 9) / 2 + 0.25
    same = Natural().transform
    assert torch.allclose(same(x, (0, 1, 0)), x, atol=1e-6)
    assert torch.allclose(same(x, (0.2, 1, 0)), x + 0.2, atol=1e-6)
    grey = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(same(x, (0, 0.5, 0)), (x + grey) / 2, atol=1e-6)
    assert torch.allclose(same(grey.expand_as(x), (0, 1, 2.0)), grey.expand_as(x), atol=1e-6)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    bell = torch.exp(-((torch.arange(21) - 10.0) ** 2) / (2 * 1.5**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    assert torch.allclose(same(point, (0, 1, 1.5))[0, 0], kernel, atol=1e-4)


@pytest.mark.parametrize("attack", [Natural(n_levels=3), Spatial(n_angles=3, n_shifts=3)])
def test_the_worst_of_the_grid_is_found(attack, digits):
    model, x, y = digits
    result = attack(model, x, y)
    wrong = [model.predict(attack.transform(x, point)).label != y for point in attack.grid()]
    assert torch.equal(result.success, torch.stack(wrong).any(0))
    assert not attack.keeps("L2")


def test_natural_starts_with_nothing_and_goes_to_the_corners():
    grid = Natural(n_levels=3, max_brightness=0.4, max_contrast=0.2, max_blur=2).grid()
    assert len(set(grid)) == 27
    assert grid[0] == (0, 1, 0)
    assert set(grid[-4:]) == {(b, c, 2) for b in (-0.4, 0.4) for c in (0.8, 1.2)}
