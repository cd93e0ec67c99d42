"""Grids of few values for the weights of a layer, and the points of a grid next to a weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Classifier
from workbench.params import Parameters
from workbench.treatments.base import weighted

TINY = 1e-30  # a scale, at least
ROUNDS = 100  # of k-means, at most


@dataclass(frozen=True, eq=False)
class Grid:
    """codes: ascending `(n,)`, if `even` whole numbers; scale: their factor, `(rows or 1, 1)`."""

    codes: Tensor
    scale: Tensor
    even: bool = True

    def nearest(self, w: Tensor) -> Tensor:
        """The point nearest to each weight of `(rows, columns)`."""
        v = w / self.scale
        if self.even:
            return v.round().clamp(self.codes[0], self.codes[-1]) * self.scale
        return self.codes[torch.bucketize(v, (self.codes[1:] + self.codes[:-1]) / 2)] * self.scale

    def neighbours(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points below and above each weight, and how far up it is between them, in [0, 1]."""
        v = (w / self.scale).clamp(self.codes[0], self.codes[-1])
        up = torch.bucketize(v, self.codes).clamp(min=1)
        low, high = self.codes[up - 1], self.codes[up]
        return low * self.scale, high * self.scale, (v - low) / (high - low).clamp(min=TINY)

    def clipped(self, w: Tensor) -> Grid:
        """The same codes with the scale, of some that are no larger, of least squared error."""
        best = least = torch.full_like(self.scale, torch.inf)
        for share in range(50, 4, -1):
            scale = self.scale * (share / 50)
            error = (replace(self, scale=scale).nearest(w) - w).square().sum(1, keepdim=True)
            error = error if len(scale) > 1 else error.sum(0, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return replace(self, scale=best)


class OnGrid(Parameters):
    """Weights of linear and convolutional layers on few values; biases and statistics stay.

    uniform: 2^bits - 1 values from -scale to scale. powers: as many, 0 and +-scale 2^-j, so that a
    product is a shift. codebook: scale times the 2^bits words of a layer that k-means finds.
    """

    bits: int = Field(4, ge=2, le=16, description="bits a weight")
    per_channel: bool = Field(True, description="a scale for each output channel, not each layer")
    scheme: Literal["uniform", "powers", "codebook"] = Field("uniform", description="of values")
    clipped: bool = Field(False, description="the scale of least error, not of the largest value")

    def misfit(self, model: Classifier) -> str:
        """Why the weights of a model cannot be put on the grid; empty where they can."""
        if self.scheme == "codebook" and (self.bits > 8 or self.clipped):
            return f"a codebook has at most 8 bits, is never clipped; got {self.code()}"
        for name, layer in weighted(model).items():
            if "weight" not in layer._parameters:
                return (
                    f"layer {name!r}: its weight is computed before each pass; make it plain first "
                    "(torch.nn.utils.parametrize.remove_parametrizations or prune.remove)"
                )
        return ""

    def grid(self, w: Tensor) -> Grid:
        """The grid for weights `(rows, columns)`."""
        largest = w.abs().amax(1, keepdim=True) if self.per_channel else w.abs().amax().view(1, 1)
        largest = largest.clamp(min=torch.finfo(w.dtype).tiny)
        if self.scheme == "codebook":
            return Grid(k_means((w / largest).flatten(), 2**self.bits), largest, even=False)
        n, even = 2 ** (self.bits - 1) - 1, self.scheme == "uniform"  # n values on either side of 0
        steps = torch.arange(1, n + 1, device=w.device)
        above = (steps if even else 2.0 ** (steps - n)).to(w.dtype)
        codes = torch.cat([-above.flip(0), above.new_zeros(1), above])
        grid = Grid(codes, largest / codes[-1], even)
        return grid.clipped(w) if self.clipped else grid

    def marked(self, model: Classifier) -> None:
        """Enter into the card the bits of its weights, and the words of its codebooks."""
        names = [f"{name}.weight" for name in weighted(model)]
        values: dict[str, Any] = {"bits": {**model.card.bits, **dict.fromkeys(names, self.bits)}}
        if self.scheme == "codebook":
            words = dict.fromkeys(names, 2**self.bits)
            values["codebooks"] = {**model.card.codebooks, **words}
        model.card = model.card.model_copy(update=values)


def k_means(v: Tensor, n: int) -> Tensor:
    """The `n` words of least squared error to values `(values,)`, ascending: Lloyd's algorithm.

    It starts from evenly spaced words. One that no value is next to stays where it is.
    """
    kind, v = v.dtype, v.sort().values.double()
    # Of sorted values each word has a stretch, whose sum is a difference of running sums.
    sums = torch.cat([v.new_zeros(1), v.cumsum(0)])
    words = torch.linspace(float(v[0]), float(v[-1]), n, dtype=v.dtype, device=v.device)
    for _ in range(ROUNDS):
        cuts = torch.searchsorted(v, (words[1:] + words[:-1]) / 2)
        cuts = torch.cat([cuts.new_zeros(1), cuts, cuts.new_tensor([len(v)])])
        count = cuts.diff()
        old, words = words, torch.where(count > 0, sums[cuts].diff() / count.clamp(min=1), words)
        if torch.equal(old, words):
            break
    return words.to(kind)
