"""`cells`: a space of small networks of which every one was trained, several times.

A cell has three nodes and an operation on each of its edges; its output is what arrives at the last
node, summed. `python -m workbench.search.cells digits shapes16` measures the two tables again.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from workbench import checks, data, models
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Treated
from workbench.search.space import Point, Space
from workbench.search.tables import Table, measure
from workbench.steps import Step, work

Shape = tuple[int, int, int]
EDGES, OPTIONS = ("0-1", "0-2", "1-2"), ("none", "skip", "1x1", "3x3", "average")
RECIPE = Recipe(dataset="digits", architecture="cells", epochs=8, batch_size=100, lr=1.5e-2)
# Of each table the data set, and how many images are there to train, to validate and to test.
IMAGES = {"digits": ("digits", 700, 300, 360), "shapes16": ("shapes", 3000, 1000, 2000)}


def live(edges: Sequence[str]) -> dict[str, str]:
    """The operations on a path from node 0 to node 2, by edge; the others change nothing."""
    first, direct, second = edges
    through = {} if "none" in (first, second) else {"0-1": first, "1-2": second}
    return through if direct == "none" else {**through, "0-2": direct}


SPACE = Space(dict.fromkeys(EDGES, OPTIONS), lambda point: bool(live([*point.values()])))


def operation(option: str, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """What an edge does; a convolution has batch normalisation and a ReLU behind it."""
    if option in ("skip", "average"):
        return nn.Identity() if option == "skip" else nn.AvgPool2d(3, stride=1, padding=1)
    side = int(option[0])
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Cell(nn.Module):
    """The operations `edges`, one for each of `EDGES`, on `(N, width, H, W)`; the shape stays.

    Raises:
        ValueError: an unknown operation, or no path from node 0 to node 2.
    """

    def __init__(self, edges: Sequence[str], width: int) -> None:
        super().__init__()
        if not SPACE.holds(SPACE.key(dict(zip(EDGES, edges, strict=True)))):
            raise ValueError(f"edges: {[*edges]} has no path from node 0 to node 2; change a none")
        self.edges = nn.ModuleDict({e: operation(o, width, width) for e, o in live(edges).items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What arrives at node 2."""
        at = self.edges
        ways = [at["0-2"](x)] if "0-2" in at else []
        ways += [at["1-2"](at["0-1"](x))] if "0-1" in at else []
        return sum(ways[1:], ways[0])


def build(shape: Shape, classes: int, *, edges: Sequence[str] = OPTIONS[1:4]) -> nn.Module:
    """The architecture "cells": stem, cell, half the size, the cell with 12 channels, mean, linear.

    Images of 32 pixels are averaged to 16, and the stem makes 8 of 16.
    """
    side = min(shape[1:])
    layers = OrderedDict[str, nn.Module](
        shrink=nn.AvgPool2d(max(1, side // 16)),
        stem=operation("3x3", shape[0], 6, stride=2 if side >= 16 else 1),
        cell1=Cell(edges, 6),
        pool=nn.MaxPool2d(2),
        widen=operation("1x1", 6, 12),
        cell2=Cell(edges, 12),
        mean=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(12, classes),
    )
    return nn.Sequential(layers)


def network(point: Point, shape: Shape, classes: Sequence[str], seed: int = 0) -> Classifier:
    """The network of a valid point, untrained; its weights are drawn by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(shape, len(classes), edges=[point[edge] for edge in EDGES]).eval()
    return models.wrap(module, input_shape=shape, classes=classes)


@cache
def images(name: str) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
    """What the networks of a table are trained on, validated with and tested on."""
    checks.known("table", name, IMAGES)
    dataset, training, validation, test = IMAGES[name]
    drawn = data.load(dataset, "train").sample(training + validation, seed=0)
    return drawn[:training], drawn[training:], data.load(dataset, "test", limit=test)


@work
def train(point: Point, training: ImageDataset | str, seed: int = 0) -> Iterator[Step[Treated]]:
    """Train a valid point on images, or on those of a table; on the CPU: a Step a batch."""
    shown = images(training)[0] if isinstance(training, str) else training
    edges = [point[edge] for edge in EDGES]
    plan = RECIPE.changed(dataset=shown.name, options={"edges": edges}, seed=seed)
    yield from models.fit.steps(plan, shown, name="/".join(edges), device="cpu")


def evaluate(name: str, point: Point, seed: int) -> dict[str, float]:
    """A row of a table: accuracies on validation and test images, multiply-adds, parameters."""
    model = train(point, name, seed).model
    right = [(model.predict(x.images).label == x.labels).double() for x in images(name)[1:]]
    row = {"validation": float(right[0].mean()), "test": float(right[1].mean())}
    cost = models.cost(model)
    return {**row, "macs": cost.macs, "parameters": cost.parameters}


@cache
def table(name: str) -> Table:
    """What all points came to with seeds 0, 1, 2, for "digits" or "shapes16".

    Raises:
        ValueError: another name, or the file was changed.
    """
    checks.known("table", name, IMAGES)
    return Table.load(Path(__file__).with_name(f"{name}.csv"), SPACE)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = measure(SPACE, partial(evaluate, name), (0, 1, 2))
        found.save(Path(__file__).with_name(f"{name}.csv"))
