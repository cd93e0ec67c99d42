"""The two ways to write an image down as genes (Nguyen et al., 2015), for `fooling`.

Genomes are bred on the CPU, a whole generation at once.
"""

from __future__ import annotations

import math
from functools import partial

import torch

Shape = tuple[int, int, int]
rand = partial(torch.rand, dtype=torch.float32)  # whatever the user's default is


def mutated(
    genes: torch.Tensor, low: float, high: float, chance: float, generator: torch.Generator
) -> torch.Tensor:
    """Some genes moved a little, by polynomial mutation of index 15."""
    u = rand(genes.shape, generator=generator)
    down, up = (2 * u) ** (1 / 16) - 1, 1 - (2 - 2 * u) ** (1 / 16)
    moved = genes + (high - low) * torch.where(u < 0.5, down, up)
    drawn = rand(genes.shape, generator=generator) < chance
    return torch.where(drawn, moved.clamp(low, high), genes)


class Pixels:
    """The direct encoding: a genome is an image, `(C * H * W,)` numbers in [0, 1]."""

    def __init__(self, shape: tuple[int, int, int], mutation: float, generator: torch.Generator):
        self.shape, self.mutation, self.generator = shape, mutation, generator

    def random(self, n: int) -> torch.Tensor:
        """`n` genomes of noise."""
        return rand(n, math.prod(self.shape), generator=self.generator)

    def breed(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Two children of each couple; half of the couples cross (simulated binary)."""
        u = rand(first.shape, generator=self.generator)
        spread = torch.where(u < 0.5, 2 * u, 1 / (2 - 2 * u)) ** (1 / 11)
        cross = rand(len(first), 1, generator=self.generator) < 0.5
        apart = torch.where(cross, spread, 1.0) * (first - second) / 2
        middle = (first + second) / 2
        children = torch.cat([middle + apart, middle - apart]).clamp(0, 1)
        return mutated(children, 0, 1, self.mutation, self.generator)

    def paint(self, genomes: torch.Tensor) -> torch.Tensor:
        """The images `(P, C, H, W)`."""
        return genomes.view(-1, *self.shape)


class Painters:
    """The indirect encoding (CPPN): a genome is a network from a pixel's place to its values.

    Its units in order: column, row, distance from the middle, one; hidden units; an output
    for each channel. A genome `(units, units + 1)` has the weights to each unit from the
    earlier ones, 0 where there is no connection, and last the number of its function. (The
    paper's outputs are hue, saturation and brightness where there is colour.)
    """

    def __init__(self, shape: Shape, mutation: float, hidden: int, generator: torch.Generator):
        self.shape, self.mutation, self.generator = shape, mutation, generator
        self.outputs = 4 + hidden  # where they begin
        self.units = self.outputs + shape[0]
        y, x = torch.meshgrid(
            *(torch.linspace(-1, 1, n, dtype=torch.float32) for n in shape[1:]), indexing="ij"
        )
        self.places = torch.stack([x, y, x.hypot(y), torch.ones_like(x)]).flatten(1)
        self.forward = torch.ones(self.units, self.units, dtype=torch.bool).tril(-1)
        self.forward[:4] = False  # nothing leads to the inputs

    def random(self, n: int) -> torch.Tensor:
        """`n` networks without hidden units."""
        genomes = torch.zeros(n, self.units, self.units + 1, dtype=torch.float32)
        genomes[:, self.outputs :, :4] = self.weights(n, self.shape[0], 4)
        genomes[:, :, -1] = torch.randint(4, (n, self.units), generator=self.generator)
        return genomes

    def weights(self, *shape: int) -> torch.Tensor:
        """Random weights, within 10 of zero."""
        return 20 * rand(shape, generator=self.generator) - 10

    def breed(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """A mutant of each parent: other weights and functions, connections and units."""
        genomes = torch.cat([first, second])
        weights, functions = genomes[:, :, :-1], genomes[:, :, -1]  # views: changed in place
        moved = mutated(weights, -10, 10, self.mutation, self.generator)
        weights.copy_(torch.where(weights == 0, 0.0, moved))
        other = torch.randint(4, functions.shape, generator=self.generator).float()
        changes = rand(functions.shape, generator=self.generator) < self.mutation
        functions.copy_(torch.where(changes, other, functions))
        alive = (weights != 0).any(2)
        alive[:, :4] = alive[:, self.outputs :] = True
        missing = self.forward & alive[:, :, None] & alive[:, None] & (weights == 0)
        rows, to, origin = self.pick(missing, 0.5)
        weights[rows, to, origin] = self.weights(len(rows))
        # A unit not yet used takes a place in the middle of a connection.
        unit = int(torch.randint(4, self.outputs, (1,), generator=self.generator))
        around = torch.zeros_like(self.forward)
        around[unit + 1 :, :unit] = True
        rows, to, origin = self.pick(around & (weights != 0) & ~alive[:, unit, None, None], 0.5)
        weights[rows, unit, origin], weights[rows, to, unit] = 1.0, weights[rows, to, origin]
        weights[rows, to, origin] = 0.0
        rows, to, origin = self.pick(weights != 0, 0.3)
        weights[rows, to, origin] = 0.0
        return genomes

    def pick(self, allowed: torch.Tensor, chance: float) -> tuple[torch.Tensor, ...]:
        """By chance, one connection that is allowed in `(P, units, units)`: its places."""
        flat = allowed.flatten(1)
        score, place = (rand(flat.shape, generator=self.generator) * flat).max(1)
        drawn = rand(len(flat), generator=self.generator) < chance
        rows = (drawn & (score > 0)).nonzero().flatten()
        return rows, place[rows] // self.units, place[rows] % self.units

    def paint(self, genomes: torch.Tensor) -> torch.Tensor:
        """The images `(P, C, H, W)`: every unit at all places, of all networks at once."""
        values = genomes.new_zeros(len(genomes), self.units, self.places.shape[1])
        values[:, :4] = self.places
        for unit in range(4, self.units):
            total = torch.bmm(genomes[:, unit : unit + 1, :unit], values[:, :unit])[:, 0]
            kinds = [
                total.sin(),
                (total / 2).tanh(),
                (-total.square()).exp(),
                total.clamp(-3, 3) / 3,
            ]
            number = genomes[:, unit, -1].long()
            values[:, unit] = torch.stack(kinds)[number, torch.arange(len(genomes))]
        painted = values[:, self.outputs :].abs().clamp(max=1)
        return painted.view(-1, *self.shape)
