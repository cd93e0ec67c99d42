"""Pictures of slices of image space: what a model says in them, and its linear regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.figures.images import Picture, png_data
from workbench.figures.inputs import percent
from workbench.figures.palettes import CLASSES

if TYPE_CHECKING:
    from workbench.levelsets import Plane

SIDE = 360  # CSS pixels
OUT = 0.45  # how much of the colour is left outside [0, 1]
DASHES = ("", "5 3", "2 3")


def plane_map(
    plane: Plane,
    *,
    marks: Mapping[str, torch.Tensor] | None = None,
    path: torch.Tensor | None = None,
    levels: Sequence[float] = (),
    lines: Sequence[np.ndarray] = (),
    pick: str = "",
) -> Picture:
    """Classes of a plane by colour and name, paler where less sure, grey outside [0, 1].

    marks: names with points `(2,)`. path: `(T, 2)`. levels: confidences of the class followed
    whose contours are drawn. lines: polygons `(V, 2)`, such as linear regions. pick: makes the
    picture clickable under this name, where something listens. All in plane coordinates.
    """
    colours = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASSES], float)
    predicted = plane.predicted.cpu().numpy()
    sure = plane.confidence.cpu().numpy()[..., None]
    pixels = 255 + sure * 0.8 * (colours[predicted % len(colours)] - 255)
    outside = ~plane.inside.cpu().numpy()[..., None]
    pixels = np.where(outside, OUT * pixels + (1 - OUT) * 128, pixels)
    picture = png_data(np.flipud(np.rint(pixels)).astype(np.uint8))
    told = plane.summary()
    shares = ", ".join(f"{name} on {percent(s)}" for name, s in told["shares"].items())
    alt = f"plane: {shares}; {percent(told['inside'])} of it inside [0, 1]"
    frame = Frame(plane.slice.window)
    parts = [
        frame.polygon(line, 'fill="none" stroke="#000" stroke-opacity="0.35"') for line in lines
    ]
    for i, level in enumerate(levels):
        style = f'fill="none" stroke="#000" stroke-width="1.5" stroke-dasharray="{DASHES[i % 3]}"'
        parts += [frame.line(found.numpy(), style) for found in plane.contours(level)]
    if path is not None and len(path) > 1:
        parts.append(frame.line(path.cpu().numpy(), 'fill="none" stroke="#fff" stroke-width="4"'))
        parts.append(frame.line(path.cpu().numpy(), 'fill="none" stroke="#000" stroke-width="2"'))
    n = len(predicted)
    for name in told["shares"]:
        rows, columns = np.nonzero(predicted == plane.classes.index(name))
        if len(rows) < 0.01 * n * n:
            continue
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        at = (columns[middle] / (n - 1) * SIDE, (1 - rows[middle] / (n - 1)) * SIDE)
        parts.append(text(name, at, 'font-size="16" font-weight="bold"'))
    for name, point in (marks or {}).items():
        x, y = frame.at(point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="#000"/>')
        parts.append(text(name, (x, y - 8), 'font-size="12"'))
    held = [f"{p:g}" for p in levels]
    caption = "paler is less sure; grey is outside [0, 1]"
    if held:
        caption += f"; lines: {escape(told['label'])} at {', '.join(held)}"
    return Picture(boxed(picture, parts, alt, caption, pick), alt)


class Frame:
    """From plane coordinates to the pixels of a square picture."""

    def __init__(self, window: tuple[float, float, float, float]) -> None:
        self.left, self.right, self.bottom, self.top = window

    def at(self, point: Sequence[float] | torch.Tensor | np.ndarray) -> tuple[float, float]:
        """Pixels right and down."""
        x = (float(point[0]) - self.left) / (self.right - self.left) * SIDE
        return x, (self.top - float(point[1])) / (self.top - self.bottom) * SIDE

    def _points(self, line: np.ndarray) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.at(point)) for point in line)

    def line(self, line: np.ndarray, style: str) -> str:
        """An open line."""
        return f'<polyline points="{self._points(line)}" {style}/>'

    def polygon(self, line: np.ndarray, style: str, told: str = "") -> str:
        """A closed line, with words under the pointer."""
        title = f"<title>{escape(told)}</title>" if told else ""
        return f'<polygon points="{self._points(line)}" {style}>{title}</polygon>'


def text(words: str, at: tuple[float, float], style: str) -> str:
    """Words that can be read on any colour."""
    x, y = min(max(at[0], 12), SIDE - 12), min(max(at[1], 14), SIDE - 4)
    halo = 'stroke="#fff" stroke-width="3" paint-order="stroke" text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {halo} {style}>{escape(words)}</text>'


def boxed(picture: str, parts: Sequence[str], alt: str, caption: str, pick: str = "") -> str:
    """A square picture with drawings over it, and its caption."""
    image = f'<image href="{picture}" width="{SIDE}" height="{SIDE}"/>' if picture else ""
    focus = f' data-pick="{escape(pick, quote=True)}" tabindex="0"' if pick else ""
    shape = f'viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}"'
    style = "border:1px solid #888;image-rendering:pixelated"
    svg = (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}"{focus} {shape} style="{style}" '
        f'font-family="system-ui,sans-serif">{image}{"".join(parts)}</svg>'
    )
    return (
        f'<figure style="margin:8px 0;font:13px system-ui,sans-serif;max-width:{SIDE}px">{svg}'
        f"<figcaption>{caption}</figcaption></figure>"
    )
