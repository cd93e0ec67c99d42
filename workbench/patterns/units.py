"""What a model and its units go by, how smooth its filters are, and what a unit likes best.

Chen, Agarwal, Nguyen (2020), "The shape and simplicity biases of adversarially robust
ImageNet-trained CNNs"; cue conflicts after Geirhos et al. (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, measurable, outputs
from workbench.patterns.neurons import check_neurons
from workbench.steps import Step, work

CUES = ("shape", "texture", "colour", "background")


@dataclass(frozen=True, eq=False)
class CuePreference:
    """What a model says where shape and texture speak for two classes; int64 `(N,)` each."""

    shape: torch.Tensor
    texture: torch.Tensor
    predicted: torch.Tensor

    def summary(self) -> dict[str, Any]:
        """Shares of the images, and the shape bias: shape / (shape + texture), or None."""
        n = len(self.predicted)
        a, b = (int((self.predicted == cue).sum()) for cue in (self.shape, self.texture))
        bias = a / (a + b) if a + b else None
        return {"images": n, "shape": a / n, "texture": b / n, "shape_bias": bias}


@dataclass(frozen=True, eq=False)
class UnitPreference:
    """The share of each unit's variance that each cue explains, float32 `(cues, units)`.

    1 is all of it, about 0 (also below) is none; NaN for a unit that never changes.
    """

    cues: tuple[str, ...]
    explained: torch.Tensor

    def summary(self) -> dict[str, Any]:
        """By cue the mean share, and the part of the units that it explains best."""
        alive = self.explained[:, self.explained.isfinite().all(0)]
        best = alive.argmax(0).bincount(minlength=len(self.cues)) / alive.shape[1]
        n = self.explained.shape[1]
        row = {"units": n, "constant": n - alive.shape[1]}
        row |= dict(zip(self.cues, alive.mean(1).tolist(), strict=True))
        return row | {f"prefer_{c}": float(b) for c, b in zip(self.cues, best, strict=True)}


@dataclass(frozen=True, eq=False)
class Smoothness:
    """Total variation of a convolution, float32 `(units,)` each.

    kernels: of its kernels, less their mean and of length 1. clean, noisy: of its output,
    in the mean over the images, without and with noise.
    """

    kernels: torch.Tensor
    clean: torch.Tensor
    noisy: torch.Tensor

    def summary(self) -> dict[str, Any]:
        """Means over the units, and the change by noise as a share of the clean one."""
        row = {name: float(getattr(self, name).mean()) for name in ("kernels", "clean", "noisy")}
        return {**row, "change": float((self.noisy - self.clean).abs().mean()) / row["clean"]}


@dataclass(frozen=True, eq=False)
class Visualisation:
    """Images that excite units, float32 `(U, C, H, W)` in [0, 1], and how much, `(U,)`."""

    images: torch.Tensor
    activation: torch.Tensor

    def summary(self) -> dict[str, Any]:
        """The activation of each unit."""
        return {"activation": self.activation.tolist()}


def cue_preference(model: Classifier, dataset: ImageDataset) -> CuePreference:
    """Whether `model` goes by shape or by texture where the two disagree; other images drop out.

    dataset: labelled by shape, with a factor `texture_class` that names the class of the
    texture, as `data.load("shapes", cue_conflict=True)` has.

    Raises:
        ValueError: no such factor, no conflict, or classes that the model has not.
    """
    if dataset.factors is None or "texture_class" not in dataset.factors:
        advice = 'take data.load("shapes", cue_conflict=True)'
        raise ValueError(f"dataset: {dataset.name!r} has no factor 'texture_class'; {advice}")
    codes = {name: k for k, name in enumerate(dataset.classes)}
    texture = torch.tensor([codes.get(name, -1) for name in dataset.factors["texture_class"]])
    checks.labels(texture, len(codes), name="texture_class")  # -1: of no class
    by_shape = measurable(dataset, model)
    texture = measurable(replace(dataset, labels=texture), model).labels
    dataset = by_shape
    conflict = (texture != dataset.labels) & (dataset.labels >= 0)
    if not bool(conflict.any()):
        raise ValueError("dataset: shape and texture speak for the same class in every image")
    predicted = model.predict(dataset.images[conflict]).label
    return CuePreference(dataset.labels[conflict], texture[conflict], predicted)


def unit_preference(
    model: Classifier, dataset: ImageDataset, layer: str, cues: Sequence[str] = CUES
) -> UnitPreference:
    """What the units of `layer` tell apart: the share of variance each factor explains.

    A unit is a channel, in the mean over its places. The share is epsilon-squared (Kelley
    1935): 0 on average where a factor means nothing. Take images whose factors are
    independent, as those of `data.load("shapes")`.

    Raises:
        ValueError: an unknown layer or factor, or a factor with a value for each image.
    """
    factors: Any = {} if dataset.factors is None else dataset.factors
    with torch.no_grad():
        batches = dataset.batches(batch_size(model.input_shape, 512))
        parts = [unit_means(model, layer, x).cpu() for x, _ in batches]
    values = torch.cat(parts).double()
    n, total, shares = len(values), values.var(0), []
    for cue in cues:
        if cue not in factors:
            raise checks.unknown(f"factor of {dataset.name}", cue, factors)
        members = F.one_hot(torch.tensor(factors[cue].factorize()[0])).double()
        if members.shape[1] >= n:
            raise ValueError(
                f"cues: {cue!r} has {members.shape[1]} values on {n} images; take more"
            )
        # Epsilon-squared: variance within the groups by its degrees of freedom, over all of it.
        residual = values - members @ (members.T @ values / members.sum(0)[:, None])
        shares.append(1 - residual.square().sum(0) / (n - members.shape[1]) / total)
    constant = total <= 1e-12 * values.square().mean(0)  # no more than rounding
    return UnitPreference(tuple(cues), torch.stack(shares).masked_fill(constant, torch.nan).float())


def smoothness(
    model: Classifier, images: torch.Tensor, *, noise: float = 0.1, seed: int = 0
) -> Smoothness:
    """Total variation of the first convolution: its kernels, its output, its output under noise.

    images: `(N, C, H, W)`. noise: standard deviation; what leaves [0, 1] is cut off.

    Raises:
        ValueError: no convolution, bad images, or a noise below 0.
    """
    x = checks.images(images, model.input_shape)
    names = model.layers_of(nn.Conv2d)
    if not names:
        raise ValueError(f"model: {model.card.name} has no convolution")
    if not noise >= 0:
        raise ValueError(f"noise: expected at least 0, got {noise}")
    perturbation = noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    kernels = model.layer(names[0]).get_parameter("weight").detach().cpu()
    centred = (kernels - kernels.mean((1, 2, 3), keepdim=True)).flatten(1)
    kernels = F.normalize(centred).view_as(kernels)
    variations = []
    with torch.no_grad():
        for z in (x, (x + perturbation.to(x)).clamp(0, 1)):
            parts = z.split(batch_size(model.input_shape))
            variations.append(
                torch.cat([total_variation(output(model, names[0], p)) for p in parts])
            )
    clean, noisy = (value.mean(0).cpu() for value in variations)
    return Smoothness(total_variation(kernels).sum(1), clean, noisy)


@work
def visualise(
    model: Classifier,
    layer: str,
    units: Sequence[int],
    *,
    n_steps: int = 200,
    jitter: int = 2,
    blur: float = 0.3,
    seed: int = 0,
) -> Iterator[Step[Visualisation]]:
    """Images that excite `units` of `layer`: gradient ascent from grey (Erhan et al. 2009).

    jitter: pixels the image is moved by, at most, before a step (Mordvintsev et al. 2015).
    blur: share of its 3 x 3 mean mixed in after a step, down to 0 at the end (Yosinski et al.
    2015). The best image is kept. A ReLU off on grey has no gradient: ask for the layer before.

    Raises:
        ValueError: an unknown layer or unit, or numbers out of range.
    """
    checks.positive("n_steps", n_steps)
    if jitter < 0 or not 0 <= blur <= 1:
        raise ValueError(f"jitter, blur: expected >= 0 and a share, got {jitter} and {blur}")
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.05 * torch.randn(len(units), *model.input_shape, generator=generator)
    x = x.clamp(0, 1).to(model.device).requires_grad_()
    check_neurons(layer, units, unit_means(model, layer, x).shape[1])
    pairs = [*range(len(units))], [*units]
    adam = torch.optim.Adam([x], lr=0.03)
    best, value = x.detach().clone(), torch.full((len(units),), -torch.inf, device=x.device)
    for i in range(n_steps):
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        excited = unit_means(model, layer, x.roll(shift, (2, 3)))[pairs]
        (x.grad,) = torch.autograd.grad(-excited.sum(), x)
        adam.step()
        with torch.no_grad():
            blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
            x.lerp_(blurred, blur * (1 - (i + 1) / n_steps)).clamp_(0, 1)
            activation = unit_means(model, layer, x)[pairs]
            best[activation > value], value = x[activation > value], value.maximum(activation)
        yield Step(i + 1, n_steps, layer, Visualisation(best.cpu().clone(), value.cpu()))


def total_variation(maps: torch.Tensor) -> torch.Tensor:
    """Sum of the differences of neighbours, down and across: `(..., H, W)` to `(...)`."""
    return maps.diff(dim=-2).abs().sum((-2, -1)) + maps.diff(dim=-1).abs().sum((-2, -1))


def unit_means(model: Classifier, layer: str, x: torch.Tensor) -> torch.Tensor:
    """The units of `layer` on images, `(N, units)`: channels, in the mean over their places."""
    value = output(model, layer, x)
    tokens = value.ndim == 3  # of a transformer: the places come first
    return value.mean(1) if tokens else value.flatten(2).mean(2) if value.ndim > 3 else value


def output(model: Classifier, layer: str, x: torch.Tensor) -> torch.Tensor:
    """What `layer` gives for images `(N, C, H, W)`, before later layers write over it."""
    with outputs(model, (layer,)) as ask:
        return ask(x)[1][layer]
