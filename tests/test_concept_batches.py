"""Concepts of large images: no pass takes more of them than `models.batch_size` allows."""

import pytest
import torch
from torch import nn

from workbench import concepts, models
from workbench.models import batching, heard

SHAPE, SIZE = (1, 8, 8), 5  # as if five such images were as many as a pass may take


class Beside(nn.Module):
    """A body whose layers cannot be run one by one: there is a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(5 * 64, 3)

    def forward(self, x):
        return self.head(torch.cat([self.relu(self.conv(x)), x], 1).flatten(1))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(batching, "VALUES", SIZE * 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.wrap(Beside(), input_shape=SHAPE)


@pytest.fixture
def passes(model):
    """How many images each pass through the model has had so far."""
    sizes = []
    with heard([model.body], lambda _, inputs, __: sizes.append(len(inputs[0]))):
        yield sizes


@pytest.fixture
def x():
    return torch.rand(23, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_an_autoencoder_and_its_splice_take_large_images_a_few_at_a_time(model, passes, x):
    fit = concepts.fit_sae(model, x, "relu", latents=8, k=2, epochs=1)
    concepts.splice(model, x, fit)
    assert max(passes) == SIZE
