"""`DrawPad`: a canvas to draw an image on, or to load one; Python has it while one draws."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor
from torch.nn.functional import avg_pool2d

from workbench import checks, data, figures

from .blocks import bundle, in_words

logger = logging.getLogger(__name__)

HEIGHT = 168  # pixels on the screen, of the picture in reports
FINE = 28  # small images are drawn and centred on a grid of that many rows or more


class DrawPad(anywidget.AnyWidget):
    """An image drawn by pointer or keyboard, or loaded from a file, in 256 levels.

    `value` is what a model gets, float32 `(C, H, W)` in [0, 1]. It changes some 20 times a
    second while one draws; `observe(..., "value")` tells of every change, `on_drawn` of
    those made in the browser. `image` is what lies on the pad, before centring; set it, and
    strokes go on top; None clears it.

    Args:
        shape: `(C, H, W)` with 1 channel (grey) or 3 (RGB); that of the image, else (1, 28, 28).
        image: to begin with, float32 of that shape in [0, 1].
        centre: whether grey images are scaled and centred as MNIST's are (`data.centred`).
            Those of small images, 8x8, fill the whole image, as the scans of `digits` do.

    Raises:
        TypeError, ValueError: another shape, dtype or range.
    """

    _esm = Path(__file__).with_name("draw_pad.js")
    _css = Path(__file__).with_name("draw_pad.css")
    shape = traitlets.Tuple().tag(sync=True)
    grain = traitlets.Int().tag(sync=True)  # rows and columns of the grid in one pixel
    pixels = traitlets.CBytes().tag(sync=True, echo_update=False)  # the grid, uint8 (H, W, C)
    message = traitlets.Unicode().tag(sync=True)
    value = traitlets.Any(read_only=True)

    def __init__(
        self, shape: Sequence[int] | None = None, image: Tensor | None = None, centre: bool = True
    ) -> None:
        shape = tuple(getattr(image, "shape", (1, 28, 28)) if shape is None else shape)
        whole = all(isinstance(n, int) and n > 0 for n in shape)
        if len(shape) != 3 or shape[0] not in (1, 3) or not whole:
            raise ValueError(
                "shape: expected (C, H, W) with 1 or 3 channels, such as (1, 28, 28), got "
                f"{shape}; data.info(name).shape is that of a data set"
            )
        self._centre = centre and shape[0] == 1
        self._listeners: list[Callable[[Tensor], object]] = []
        grain = math.ceil(FINE / min(shape[1:]))
        super().__init__(shape=shape, grain=grain, pixels=_levels(image, shape, grain))

    @property
    def image(self) -> Tensor:
        """What lies on the pad, before centring: float32 `(C, H, W)` in [0, 1]."""
        return avg_pool2d(self._grid(), self.grain)

    @image.setter
    def image(self, image: Tensor | None) -> None:
        self.pixels = _levels(image, self.shape, self.grain)

    def _grid(self) -> Tensor:
        channels, height, width = self.shape
        levels = torch.frombuffer(bytearray(self.pixels), dtype=torch.uint8)
        grid = levels.reshape(height * self.grain, width * self.grain, channels)
        return grid.permute(2, 0, 1).float() / 255

    def on_drawn(self, listener: Callable[[Tensor], object]) -> None:
        """Call `listener(value)` when something was drawn, at most some 20 times a second.

        What is drawn while it works reaches it in one go afterwards. Its errors are shown.
        """
        self._listeners.append(listener)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the browser sends, and tell those who listen."""
        super().set_state(sync_data)
        if "pixels" not in sync_data:
            return
        try:
            for listener in self._listeners:
                listener(self.value)
            self.message = ""
        except Exception as error:
            # Reports scan for these words, so that a failure in a callback is not lost.
            logger.exception("Exception in draw pad")
            self.message = in_words(error)

    @traitlets.observe("pixels")
    def _changed(self, _: object) -> None:
        grid = self._grid()
        if self._centre:
            grid = data.centred(grid, 20 / 28 if self.grain == 1 else 1)
        self.set_trait("value", avg_pool2d(grid, self.grain))

    def summary(self) -> dict[str, float]:
        """Share of ink in [0, 1]; row and column of its centre, from 1, where there is ink."""
        ink = self.value.mean(0)
        summary = {"ink": float(ink.mean())}
        if ink.any():
            for name, mass in (("row", ink.sum(1)), ("column", ink.sum(0))):
                summary[name] = float(mass @ torch.arange(1.0, len(mass) + 1) / mass.sum())
        return summary

    def to_html(self) -> str:
        """The value as a picture, for reports: works with no kernel."""
        numbers = ", ".join(f"{name} {number:.3g}" for name, number in self.summary().items())
        alt = f"drawing, {self.shape[1]} rows of {self.shape[2]} pixels: {numbers}"
        picture = figures.img_tag(self.value, alt, HEIGHT)
        return f'<figure style="margin:0">{picture}<figcaption>{alt}</figcaption></figure>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:  # type: ignore[override]
        return bundle(self, self.to_html(), f"DrawPad({self.shape})")


def _levels(image: Tensor | None, shape: tuple[int, ...], grain: int) -> bytes:
    """The bytes of the grid that shows a checked image; black without one."""
    image = torch.zeros(shape) if image is None else image
    got = tuple(getattr(image, "shape", ()))
    if got != shape:
        raise ValueError(
            f"image: expected a tensor of shape {shape}, got {got or type(image).__name__}; take "
            "one of a batch, images[0], or make a pad of its shape: DrawPad(image=image)"
        )
    image = checks.images(image[None], name="image")[0].detach().cpu()
    levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
    return levels.repeat_interleave(grain, 0).repeat_interleave(grain, 1).numpy().tobytes()
