"""Saliency maps: which pixels the score of a class depends on. By captum.

Each method is a set of parameters with `steps(model, x, target)` and a call that runs
it. Values are one number a pixel, the sum over the colour channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from workbench import checks, steps
from workbench.models import Classifier, private_copy, ready
from workbench.params import Parameters
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Saliency:
    """A map an image.

    values: float32 `(N, H, W)`; signed maps speak for the class where positive and
    against it where negative. target: int64 `(N,)`, the class explained.
    """

    values: torch.Tensor
    target: torch.Tensor
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
        return pd.DataFrame(
            {
                "target": self.target.tolist(),
                "sum": self.values.sum((1, 2)).tolist(),
                "peak_row": (peak // width).tolist(),
                "peak_column": (peak % width).tolist(),
            }
        )


class Method(Parameters):
    """A way to explain a prediction by its pixels."""

    def steps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor | None = None
    ) -> Iterator[Step[Saliency]]:
        """Explain `target` (int64 `(N,)`; the predicted classes by default) on images `x`.

        Raises:
            TypeError, ValueError: images or target break the contract, or the method does
                not fit the model.
        """
        x = checks.images(x, model.input_shape).to(model.device)
        ready(model)
        reason = self.unfit(model)
        if reason:
            raise ValueError(f"{type(self).__name__}: {reason}")
        if target is None:
            with torch.no_grad():
                target = model(x).argmax(1)
        checks.labels(target, len(model.classes), len(x), name="target")
        target = target.to(model.device)
        for done, total, values in self.maps(model, x, target):
            value = Saliency(values.detach().cpu(), target.cpu(), type(self).__name__, self.signed)
            yield Step(done, total, f"{type(self).__name__} {done}/{total}", value)

    def __call__(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor | None = None
    ) -> Saliency:
        """Run `steps` to the end."""
        return steps.run(self.steps(model, x, target))

    @property
    def signed(self) -> bool:
        """Whether negative values mean something."""
        return True

    def unfit(self, model: Classifier) -> str:
        """Why the method does not fit the model; empty if it does."""
        return ""

    def maps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Done, total, and the maps `(N, H, W)` so far."""
        raise NotImplementedError


class Gradient(Method):
    """The size of the gradient of the class score (Simonyan et al., 2014)."""

    @property
    def signed(self) -> bool:
        """The size has no sign."""
        return False

    def maps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """One gradient."""
        from captum.attr import Saliency as CaptumSaliency

        inputs = x.clone().requires_grad_()
        yield 1, 1, CaptumSaliency(model).attribute(inputs, target=target, abs=True).sum(1)


class IntegratedGradients(Method):
    """Gradients gathered on the way from a black image (Sundararajan et al., 2017).

    The values of an image add up to the class score less that of the black image.
    """

    n_steps: int = Field(32, ge=8, le=512, description="gradients taken on the way")

    def maps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """The way is cut into pieces, whose integrals add up: one piece a step."""
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        method = CaptumIntegratedGradients(model)
        pieces = self.n_steps // 8
        total = torch.zeros_like(x)
        for i in range(pieces):
            start, end = x * (i / pieces), x * ((i + 1) / pieces)
            total += method.attribute(
                end.requires_grad_(), baselines=start, target=target, n_steps=8
            ).detach()
            yield i + 1, pieces, total.sum(1)


class Occlusion(Method):
    """How much the class score falls when a grey window hides a place (Zeiler, Fergus 2014)."""

    window: int = Field(4, ge=1, le=64, description="side of the window in pixels")
    stride: int = Field(2, ge=1, le=64, description="pixels between windows")

    def unfit(self, model: Classifier) -> str:
        """A window must fit in the image."""
        side = min(model.input_shape[1:])
        return f"window {self.window} is larger than the image ({side})" * (self.window > side)

    def maps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """One band of rows a step; where windows overlap, their mean."""
        from captum.attr import Occlusion as CaptumOcclusion

        channels, height, width = model.input_shape
        stride = min(self.stride, self.window)
        tops = [*range(0, height - self.window, stride), height - self.window]
        summed = x.new_zeros(len(x), height, width)
        covered = x.new_zeros(height, 1)

        for i, top in enumerate(tops):
            rows = slice(top, top + self.window)

            def scores(band: torch.Tensor, rows: slice = rows) -> torch.Tensor:
                # captum may stack several hidden copies of each image.
                full = x.repeat(len(band) // len(x), 1, 1, 1)
                full[:, :, rows] = band
                return model(full)

            with torch.no_grad():
                summed[:, rows] += (
                    CaptumOcclusion(scores)
                    .attribute(
                        x[:, :, rows],
                        sliding_window_shapes=(channels, self.window, self.window),
                        strides=(channels, self.window, stride),
                        baselines=0.5,
                        target=target,
                    )
                    .mean(1)
                )
            covered[rows] += 1
            yield i + 1, len(tops), summed / covered.clamp(min=1)


class GradCAM(Method):
    """Where the last convolution supports the class (Selvaraju et al., 2017)."""

    layer: str = Field("", description="convolution to look at; the last one when empty")

    @property
    def signed(self) -> bool:
        """Only support is shown."""
        return False

    def unfit(self, model: Classifier) -> str:
        """There must be a convolution with some spatial extent."""
        return "" if convolutions(model) else f"{model.card.name} has no convolution"

    def maps(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """One gradient; the coarse map is enlarged to the image."""
        from captum.attr import LayerGradCam

        # Captum's hooks hear every thread; a copy that shares the weights is this one's alone.
        model = cast("Classifier", private_copy(model, share=True))
        layer = model.layer(self.layer or convolutions(model)[-1])
        inputs = x.clone().requires_grad_()
        coarse = LayerGradCam(model, layer).attribute(inputs, target, relu_attributions=True)
        yield 1, 1, F.interpolate(coarse, x.shape[2:], mode="bilinear").sum(1)


def convolutions(model: Classifier) -> list[str]:
    """The names of the two-dimensional convolutions, in order of definition."""
    return [n for n, module in model.body.named_modules() if n and isinstance(module, nn.Conv2d)]


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
    if name not in METHODS:
        raise checks.unknown("saliency method", name, METHODS)
    return METHODS[name](**parameters)
