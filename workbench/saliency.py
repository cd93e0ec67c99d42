"""Saliency maps: which pixels the score of a class depends on. Gradients by captum.

Each method is a set of parameters with `steps(model, x, target)` and a call that runs
it. Values are one number a pixel, the sum over the colour channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks, steps
from workbench.models import Classifier, batch_size, edited, has_gradient, ready, unheard
from workbench.params import Parameters
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd

Maps = Iterator[tuple[int, int, Tensor]]
DEEP = 6  # more linear layers than these are no head of a convolutional network


@dataclass(frozen=True, eq=False)
class Saliency:
    """A map an image.

    values: float32 `(N, H, W)`; signed maps speak for the class where positive and
    against it where negative. target: int64 `(N,)`, the class explained.
    """

    values: Tensor
    target: Tensor
    method: str
    signed: bool

    def summary(self) -> dict[str, Any]:
        """The method and the range of its values."""
        low, high = (float(v) for v in torch.aminmax(self.values))
        return {"method": self.method, "lowest": low, "highest": high}

    def frame(self) -> pd.DataFrame:
        """One row an image: class explained, sum of the map, and its strongest pixel."""
        import pandas as pd

        width = self.values.shape[2]
        peak = self.values.abs().flatten(1).argmax(1)
        columns = {"target": self.target, "sum": self.values.sum((1, 2))}
        columns |= {"peak_row": peak // width, "peak_column": peak % width}
        return pd.DataFrame({name: column.tolist() for name, column in columns.items()})


class Method(Parameters):
    """A way to explain a prediction by its pixels.

    copies: how often an image is in a pass; one whose gradient is taken counts four times.
    signed: whether negative values mean something. by_gradients: of the image.
    """

    copies: ClassVar[int] = 4
    by_gradients: ClassVar[bool] = False
    signed: ClassVar[bool] = True

    def steps(
        self, model: Classifier, x: Tensor, target: Tensor | None = None
    ) -> Iterator[Step[Saliency]]:
        """Explain `target` (int64 `(N,)`; the predicted classes by default) on images `x`.

        Raises:
            TypeError, ValueError: images or target break the contract, or the method does
                not fit the model.
        """
        x = checks.images(x, model.input_shape).to(model.device)
        ready(model)
        if reason := self.unfit(model):
            raise ValueError(f"{type(self).__name__}: {reason}")
        if target is None:
            target = model.predict(x).label
        checks.labels(target, len(model.classes), len(x), name="target")
        parts = x.split(batch_size(model.input_shape, copies=self.copies))
        targets = target.to(model.device).split(len(parts[0]) or 1)
        maps = torch.zeros_like(x[:, 0])
        for i, (part, classes) in enumerate(zip(parts, targets, strict=True)):
            rows = slice(i * len(parts[0]), i * len(parts[0]) + len(part))
            for done, total, values in self.maps(model, part, classes):
                maps[rows] = values.detach()
                now = maps.cpu().clone(), target.cpu()
                value = Saliency(*now, type(self).__name__, self.signed)
                done, total = i * total + done, len(parts) * total
                yield Step(done, total, f"{self.about(model)} {done}/{total}", value)

    def __call__(self, model: Classifier, x: Tensor, target: Tensor | None = None) -> Saliency:
        """Run `steps` to the end."""
        return steps.run(self.steps(model, x, target))

    def unfit(self, model: Classifier) -> str:
        """Why the method does not fit the model; empty if it does."""
        if self.by_gradients and not has_gradient(model):
            return "the model has no gradient; take Occlusion, which asks for answers alone"
        return ""

    def about(self, model: Classifier) -> str:
        """What it is doing, in words."""
        return type(self).__name__

    def maps(self, model: Classifier, x: Tensor, target: Tensor) -> Maps:
        """Done, total, and the maps `(N, H, W)` so far; a step is a pass."""
        raise NotImplementedError


class Gradient(Method):
    """The size of the gradient of the class score (Simonyan et al., 2014)."""

    signed = False  # the size has no sign
    by_gradients = True

    def maps(self, model: Classifier, x: Tensor, target: Tensor) -> Maps:
        """One gradient."""
        from captum.attr import Saliency as CaptumSaliency

        inputs = x.clone().requires_grad_()
        yield 1, 1, CaptumSaliency(model).attribute(inputs, target=target, abs=True).sum(1)


class IntegratedGradients(Method):
    """Gradients gathered on the way from a black image, or a space's rest (Sundararajan, 2017).

    The values of an image add up to the class score less that of the black image.
    """

    copies: ClassVar[int] = 8  # of which the gradients are taken together
    by_gradients: ClassVar[bool] = True
    n_steps: int = Field(32, ge=8, le=512, description="gradients taken on the way")

    def maps(self, model: Classifier, x: Tensor, target: Tensor) -> Maps:
        """The way is cut into pieces, whose integrals add up: one piece a step."""
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        method = CaptumIntegratedGradients(model)
        pieces, rest = self.n_steps // 8, 0 if model.space is None else model.space.rest.to(x)
        total = torch.zeros_like(x)
        for i in range(pieces):
            start, end = (rest + (x - rest) * (k / pieces) for k in (i, i + 1))
            total += method.attribute(end.requires_grad_(), start, target, n_steps=8).detach()
            yield i + 1, pieces, total.sum(1)


class Occlusion(Method):
    """How much the class score falls when a grey window hides a place (Zeiler, Fergus 2014).

    Large images get a large window, if none is given; of a space's points each part is hidden.
    """

    copies: ClassVar[int] = 1
    window: int = Field(
        0, ge=0, le=512, description="side of the window; 0: an eighth of the image, at least 4"
    )
    stride: int = Field(
        0, ge=0, le=512, description="pixels between windows; 0: half a window, at least 2"
    )

    def sides(self, model: Classifier) -> tuple[int, int]:
        """The window, and the pixels between two of them, at most a window."""
        window = self.window or max(4, min(model.input_shape[1:]) // 8)
        return window, min(window, self.stride or max(2, window // 2))

    def unfit(self, model: Classifier) -> str:
        """A window must fit in the image."""
        window, side = self.sides(model)[0], 512 if model.space else min(model.input_shape[1:])
        return f"window {window} is larger than the image ({side})" * (window > side)

    def about(self, model: Classifier) -> str:
        """With the window, which may be the method's own choice."""
        window, stride = self.sides(model)
        return f"Occlusion, window {window}, stride {stride}:"

    def maps(self, model: Classifier, x: Tensor, target: Tensor) -> Maps:
        """At most a row of windows a step, from above; where they overlap, their mean."""
        if model.space is not None:
            yield from model.space.without(model, x, target)
            return
        (window, stride), (_, height, width) = self.sides(model), model.input_shape
        tops, lefts = ([*range(0, n - window, stride), n - window] for n in (height, width))
        places = [(top, left) for top in tops for left in lefts]
        rows = torch.arange(len(x), device=x.device)
        fall_sum, covered = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
        size = min(len(lefts), max(1, batch_size(model.input_shape) // max(1, len(x))))
        with torch.no_grad():
            score = model(x)[rows, target]
        for i in range(0, len(places), size):
            batch = places[i : i + size]
            hidden = x.repeat(len(batch), 1, 1, 1).unflatten(0, (len(batch), len(x)))
            for part, (top, left) in zip(hidden, batch, strict=True):
                part[:, :, top : top + window, left : left + window] = 0.5
            with torch.no_grad():
                logits = model(hidden.flatten(0, 1)).unflatten(0, (len(batch), len(x)))
            for fall, (top, left) in zip(score - logits[:, rows, target], batch, strict=True):
                place = slice(top, top + window), slice(left, left + window)
                fall_sum[:, *place] += fall[:, None, None]
                covered[place] += 1
            yield i + len(batch), len(places), fall_sum / covered.clamp(min=1)


class GradCAM(Method):
    """Where the last convolution supports the class (Selvaraju et al., 2017)."""

    signed = False  # only support is shown
    layer: str = Field("", description="convolution to look at; the last that runs when empty")

    def unfit(self, model: Classifier) -> str:
        """There must be a convolution with some spatial extent."""
        if reason := unheard(model):
            return reason
        return "" if self.layer or convolutions(model) else f"{model.card.name} has no convolution"

    def maps(self, model: Classifier, x: Tensor, target: Tensor) -> Maps:
        """One gradient; the coarse map is enlarged to the image."""
        name = self.layer or last_convolution(model)
        maps = torch.zeros(0)

        def keep(output: Tensor) -> Tensor:
            nonlocal maps
            if output.ndim != 4 or output[0, 0].numel() < 2:
                names = ", ".join(convolutions(model)[-4:]) or "none"
                raise ValueError(
                    f"layer: expected one that gives maps (C, H, W) of several places, {name} "
                    f"gives {tuple(output.shape[1:])}; the last convolutions: {names}"
                )
            maps = output
            return output.clone()  # a later layer may work in place

        with torch.enable_grad(), edited(model, {name: keep}) as ask:
            logits = ask(x.clone().requires_grad_())
            score = logits.gather(1, target[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, maps, allow_unused=True)
        if gradient is None:
            raise ValueError(f"layer: {name} runs, but the logits do not depend on it")
        # A map weighs what the score gains by it at all places together.
        weights = gradient.mean((2, 3), keepdim=True)
        coarse = (weights * maps.detach()).sum(1, keepdim=True).relu()
        yield 1, 1, F.interpolate(coarse, x.shape[2:], mode="bilinear")[:, 0]


def convolutions(model: Classifier) -> list[str]:
    """The two-dimensional convolutions with some spatial extent, in the order they run."""
    layers = model.layers()
    shapes = {name: layers[name].shape for name in model.layers_of(nn.Conv2d)}
    return [n for n, shape in shapes.items() if len(shape) == 3 and shape[1] * shape[2] > 1]


def last_convolution(model: Classifier) -> str:
    """The last convolution that runs; a warning where much of the model runs after it."""
    name, order = convolutions(model)[-1], list(model.layers())
    after = sum(order.index(n) > order.index(name) for n in model.layers_of(nn.Linear))
    if after > DEEP:
        warnings.warn(
            f"Grad-CAM: {name} is the last convolution of {model.card.name}, and {after} linear "
            "layers run after it (a transformer?): the map says little of what they do",
            stacklevel=2,
        )
    return name


METHODS: dict[str, type[Method]] = {
    "gradient": Gradient,
    "integrated gradients": IntegratedGradients,
    "occlusion": Occlusion,
    "Grad-CAM": GradCAM,
}


def method(name: str, **parameters: Any) -> Method:
    """A method by name.

    Raises:
        ValueError: no such method, or parameters out of bounds.
    """
    checks.known("saliency method", name, METHODS)
    return METHODS[name](**parameters)
