"""Weights and activations of few bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run, batch_size, heard, private_copy
from workbench.treatments.base import OfWeights, Training, weighted
from workbench.treatments.grids import TINY, Grid, OnGrid

FEWEST = 8  # images to calibrate on
STEPS, BATCH, RATE = 200, 32, 2e-2  # of the search for the rounding of a layer
UNDECIDED = 0.01  # weight of the penalty that draws a weight to one of its neighbours
VALUES = 4096  # of what comes to a layer, looked at in each pass


class Quantise(OnGrid, OfWeights):
    """Weights of a trained network on few values (surveyed by Gholami et al., 2021).

    rounding: to the nearest, or to that of the two neighbours with which the layer's outputs on
    calibration images change least (Nagel et al., 2020). activations: what comes to each of these
    layers, too, in 2^bits even steps over its range on calibration images; with `clipped`, over
    that of least error. Steps have no slope: attack them by `robustness.compare_defences`.
    """

    title: ClassVar[str] = "Quantisation to few bits"
    paper: ClassVar[str] = "A Survey of Quantization Methods for Efficient Neural Network Inference"

    rounding: Literal["nearest", "learned"] = Field("nearest", description="to which neighbour")
    activations: int = Field(0, ge=0, le=16, description="bits of activations; 0: as they are")
    images: int = Field(128, ge=FEWEST, le=4096, description="to calibrate on, without labels")

    @property
    def needs_data(self) -> bool:
        """Learned rounding and activations need images."""
        return self.rounding == "learned" or self.activations > 0

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """There have to be plain weights, and images to calibrate on where these are needed."""
        if (reason := super().unfit(subject, data)) or not isinstance(subject, Classifier):
            return reason
        if self.needs_data and data is not None and data.shape != subject.input_shape:
            return f"the model takes {subject.input_shape} images, the data has {data.shape}"
        if self.needs_data and data is not None and len(data) < FEWEST:
            return f"data: expected at least {FEWEST} images to calibrate on, got {len(data)}"
        return self.misfit(subject)

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """One layer after the other, as the model is by then; then the activations."""
        layers, exact, x = weighted(model), model, torch.empty(0)
        if data is not None and self.needs_data:
            x = data.images[torch.randperm(len(data), generator=generator)[: self.images]]
            if self.rounding == "learned":
                exact = cast(Classifier, private_copy(model, share=False))
        total = len(layers) + bool(self.activations)
        for done, (name, layer) in enumerate(layers.items(), 1):
            w = layer.weight.detach().flatten(1)
            q = self.grid(w).nearest(w)
            if self.rounding == "learned":
                (came, _), (_, wanted) = (seen(m, [name], x)[name] for m in (model, exact))
                q = learned(layer, self.grid(w), came, wanted, generator)
            layer.weight.data = q.view_as(layer.weight)
            yield done, total
        if self.activations:
            for name, (values, _) in seen(model, layers, x, some).items():
                stairs = Staircase(values, self.activations, self.clipped)
                parts = OrderedDict[str, nn.Module](inputs=stairs, layer=layers[name])
                into, _, own = name.rpartition(".")
                setattr(model.get_submodule(into), own, nn.Sequential(parts))
            yield total, total
        self.marked(model)


class QuantisationAware(OnGrid, Training):
    """Training with quantised weights: gradients are taken at them, and move weights kept in full.

    The quantised ones stay. With `Distil` beside it: quantised distillation (Polino et al., 2018).
    """

    title: ClassVar[str] = "Quantisation-aware training"
    paper: ClassVar[str] = "Model compression via distillation and quantization"

    def prepare(self, run: Run) -> None:
        """Quantise the start."""
        if reason := self.misfit(run.model):
            raise ValueError(f"{type(self).__name__}: {reason}")
        self.after(run)

    def gradients(self, run: Run) -> None:
        """They are taken; what the optimiser moves are the full weights."""
        for name, layer in weighted(run.model).items():
            layer.weight.data.copy_(run.state(self)[name])

    def after(self, run: Run) -> None:
        """Keep the full weights, and quantise them."""
        layers, full = weighted(run.model), run.state(self)
        full.update({name: layer.weight.detach().clone() for name, layer in layers.items()})
        for name, layer in layers.items():
            w = full[name].flatten(1)
            layer.weight.data.copy_(self.grid(w).nearest(w).view_as(layer.weight))

    def conclude(self, run: Run) -> Classifier:
        """The card says the bits."""
        self.marked(run.model)
        return run.model


class Staircase(nn.Module):
    """The nearest of 2^bits even steps, one of which is 0, over the range of `values` `(n,)`."""

    def __init__(self, values: Tensor, bits: int, clipped: bool) -> None:
        super().__init__()
        low, high = values.min().clamp(max=0), values.max().clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).clamp(min=TINY)
        first = (low / scale).round()
        ends = torch.stack([first, first + 2**bits - 1])
        grid = Grid(ends, scale.view(1, 1))
        scale = (grid.clipped(values[None]) if clipped else grid).scale.flatten()
        self.soft, self.scale, self.ends = False, nn.Buffer(scale), nn.Buffer(ends)

    def soften(self) -> None:
        """From now on gradients pass straight through the steps, inside the range."""
        self.soft = True

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        code, (first, last) = x / self.scale, self.ends
        hard = code.round().clamp(first, last) * self.scale
        through = code.clamp(first, last) * self.scale
        return through + (hard - through).detach() if self.soft else hard


def some(values: Tensor) -> Tensor:
    """A few of the values `(n,)`, among them the lowest and the highest."""
    flat = values.flatten()
    return torch.cat([torch.stack(flat.aminmax()), flat[:: max(1, len(flat) // VALUES)]])


def seen(
    model: Classifier,
    names: Iterable[str],
    images: Tensor,
    keep: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, tuple[Tensor, Tensor]]:
    """What `keep` makes of what comes to each layer and of what it gives, over all images.

    Raises:
        ValueError: one does not run by itself.
    """
    layers = {model.get_submodule(name): name for name in names}
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers.values()}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if inputs:
            kept[layers[module]].append((keep(inputs[0]), keep(output)))

    with heard(layers, note), torch.no_grad():
        for part in images.split(batch_size(model.input_shape)):
            model(part.to(model.device))
    for name, pairs in kept.items():
        if not pairs:
            raise ValueError(
                f"layer {name!r}: nothing is seen to come to it, the module around it does its "
                "work; take rounding='nearest' and activations=0"
            )
    return {
        n: (torch.cat([a for a, _ in p]), torch.cat([b for _, b in p])) for n, p in kept.items()
    }


def learned(
    layer: nn.Linear | nn.Conv2d,
    grid: Grid,
    came: Tensor,
    wanted: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Weights `(rows, columns)`, each on one of its two neighbours of the grid.

    Those with which the layer makes of `came` what is nearest to `wanted` (Nagel et al., 2020).
    """
    low, high, share = grid.neighbours(layer.weight.detach().flatten(1))
    # h(v) = clip(1.2 sigmoid(v) - 0.1) reaches 0 and 1; it starts where the weight is.
    v = torch.logit((share + 0.1) / 1.2).requires_grad_()
    optimiser = torch.optim.Adam([v], RATE)
    spread = wanted.var().clamp(min=TINY)
    for step in range(STEPS):
        rows = torch.randint(len(came), (min(BATCH, len(came)),), generator=generator)
        with torch.enable_grad():
            h = (1.2 * v.sigmoid() - 0.1).clamp(0, 1)
            w = (low + (high - low) * h).view_as(layer.weight)
            error = functional_call(layer, {"weight": w}, (came[rows],)) - wanted[rows]
            # Flat between the neighbours at first, then ever steeper, so that each decides.
            undecided = (1 - (2 * h - 1).abs() ** (20 - 18 * step / STEPS)).mean()
            loss = error.square().mean() / spread + UNDECIDED * undecided
            (v.grad,) = torch.autograd.grad(loss, [v])
        optimiser.step()
    return torch.where(v.detach() > 0, high, low)
