"""Pictures of slices of image space: what a model says in them, and its linear regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench import checks
from workbench.figures.images import Picture, png_data
from workbench.figures.inputs import percent
from workbench.figures.palettes import CLASSES, colourise, rgb

if TYPE_CHECKING:
    from workbench.levelsets import Plane, Regions

Window = tuple[float, float, float, float]
SIDE = 360  # CSS pixels
OUT = 0.45  # how much of the colour is left outside [0, 1]
COLOURS = {
    "class": "Colour: the class, white where it changes inside.",
    "gradient": "Lighter: the margin's gradient is longer.",
    "region": "Colour: only to tell neighbours apart.",
}
DASHES = ("", "5 3", "2 3")
LINE = 'fill="none" stroke="#000"'


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
    predicted = plane.predicted.cpu().numpy()
    confidence = plane.confidence.cpu().numpy()[..., None]
    pixels = 255 + confidence * 0.8 * (rgb(CLASSES)[predicted % len(CLASSES)] - 255)
    outside = ~plane.inside.cpu().numpy()[..., None]
    pixels = np.where(outside, OUT * pixels + (1 - OUT) * 128, pixels)
    picture = png_data(np.flipud(np.rint(pixels)).astype(np.uint8))
    summary = plane.summary()
    shares = ", ".join(f"{name} on {percent(s)}" for name, s in summary["shares"].items())
    alt = f"plane: {shares}; {percent(summary['inside'])} of it inside [0, 1]"
    frame = Frame(plane.slice.window)
    parts = [frame.polygon(line, f'{LINE} stroke-opacity="0.35"') for line in lines]
    for i, level in enumerate(levels):
        style = f'{LINE} stroke-width="1.5" stroke-dasharray="{DASHES[i % 3]}"'
        parts += [frame.line(contour.numpy(), style) for contour in plane.contours(level)]
    if path is not None and len(path) > 1:
        for style in ('fill="none" stroke="#fff" stroke-width="4"', f'{LINE} stroke-width="2"'):
            parts.append(frame.line(path.cpu().numpy(), style))
    n = len(predicted)
    for name in summary["shares"]:
        rows, columns = np.nonzero(predicted == plane.classes.index(name))
        if len(rows) < 0.01 * n * n:
            continue
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        at = (columns[middle] / (n - 1) * SIDE, (1 - rows[middle] / (n - 1)) * SIDE)
        parts.append(text(name, at, 'font-size="16" font-weight="bold"'))
    for name, point in (marks or {}).items():
        x, y = frame.at(point)
        parts += [frame.dot(point), text(name, (x, y - 8), 'font-size="12"')]
    caption = "paler is less sure; grey is outside [0, 1]"
    if levels:
        caption += f"; lines: {escape(summary['label'])} at {', '.join(f'{p:g}' for p in levels)}"
    return Picture(boxed(picture, parts, alt, caption, pick), alt)


class Frame:
    """From plane coordinates to the pixels of a square picture."""

    def __init__(self, window: Window) -> None:
        self.left, self.right, self.bottom, self.top = window

    def at(self, point: Sequence[float] | torch.Tensor | np.ndarray) -> tuple[float, float]:
        """Pixels right and down."""
        x = (float(point[0]) - self.left) / (self.right - self.left) * SIDE
        return x, (self.top - float(point[1])) / (self.top - self.bottom) * SIDE

    def dot(self, point: Sequence[float] | torch.Tensor) -> str:
        """A point with a mark."""
        x, y = self.at(point)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="#000"/>'

    def _points(self, line: np.ndarray) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.at(point)) for point in line)

    def line(self, line: np.ndarray, style: str) -> str:
        """An open line."""
        return f'<polyline points="{self._points(line)}" {style}/>'

    def polygon(self, line: np.ndarray, style: str, tooltip: str = "") -> str:
        """A closed line, with words under the pointer."""
        title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
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


def region_map(regions: Regions, window: Window, colour: str = "class", home: int = 0) -> Picture:
    """The linear regions of a slice, each with words under the pointer.

    colour: "class" (the one predicted; white where it changes inside), "gradient" (the length
    of the margin's, from dark, small, to light) or "region" (neighbours apart). home: the
    region whose neurons the others are compared with.

    Raises:
        ValueError: another colour.
    """
    checks.known("colour", colour, COLOURS)
    frame, table = Frame(window), regions.frame()
    if colour == "gradient":
        shades = colourise(regions.gradient[None])[0]
    else:
        places = regions.label if colour == "class" else np.arange(len(regions))
        hues = rgb(CLASSES)[places % len(CLASSES)]
        hues[(places < 0) if colour == "class" else []] = 255
        shades = 255 - (255 - hues) * (0.7 if colour == "class" else 0.5)
    parts = []
    for i, (polygon, row) in enumerate(zip(regions.polygons, table.itertuples(), strict=True)):
        r, g, b = (round(float(c)) for c in shades[i])
        fill = f'fill="rgb({r},{g},{b})" stroke="#000" stroke-opacity="0.3" stroke-width="0.5"'
        tooltip = (
            f"region {i}: {row.predicted or 'the class changes inside'}, area {row.area:.3g}, "
            f"gradient {row.gradient:.3g}; {neurons(regions, i, home)}"
        )
        parts.append(frame.polygon(polygon, fill, tooltip))
    parts += [frame.line(each, f'{LINE} stroke-width="2.5"') for each in regions.boundary]
    parts.append(frame.dot((0.0, 0.0)))
    summary = regions.summary()
    names = sorted(set(table["predicted"]) - {""})
    alt = (
        f"{summary['regions']} linear regions, mean {summary['mean_vertices']:.1f} corners; "
        f"predicted {', '.join(names)}; decision boundary "
        f"{summary['boundary_length']:.3g} long; gradients "
        f"{regions.gradient.min():.3g} to {regions.gradient.max():.3g}"
    )
    caption = f"{alt}. Thick: the decision boundary; the dot: the image. {COLOURS[colour]}"
    return Picture(boxed("", parts, alt, escape(caption)), alt)


def neurons(regions: Regions, i: int, home: int) -> str:
    """How many neurons are on in region `i`, and which are not as in region `home`."""
    described = []
    for name, choices in regions.choices.items():
        here, there = choices[i].ravel(), choices[home].ravel()
        differing = np.flatnonzero(here != there)
        few = ", ".join(map(str, differing[:8])) + (", ..." if len(differing) > 8 else "")
        changed = f", other than at the image: {few}" if len(differing) else ""
        described.append(f"{name} {np.count_nonzero(here)} of {here.size} on{changed}")
    return "; ".join(described)
