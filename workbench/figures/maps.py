"""What maps of a slice are made of: colours, hatching, lines, a scale, labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench import checks
from workbench.figures.images import png_data
from workbench.figures.palettes import CLASSES, rgb

if TYPE_CHECKING:
    from workbench.levelsets import Plane, Slice

Window = tuple[float, float, float, float]
WIDE, HIGH = 560, 460  # CSS pixels at most
FLAT, TALL = 0.35, 1.5  # heights over widths beyond which a map is stretched
SMALL = 0.6  # labels keep apart down to this share of the size
LINE = 'fill="none" stroke="#000" vector-effect="non-scaling-stroke"'
FILL = "position:absolute;inset:0;width:100%;height:100%"
HATCH = "repeating-linear-gradient(135deg,#4b556380 0 1px,#fff9 1px 8px)"
HALO = "color:#16191d;white-space:nowrap;pointer-events:none;text-shadow:" + ",".join(
    ["0 0 2px #fff"] * 4
)
ROW = "display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start"
SOFT = "color:var(--wb-soft,#57606a);font-size:12px"
# Where a label may stand: a share of its own size, and pixels, from its point.
AROUND = (
    (0, -50, 8, 0), (-100, -50, -8, 0), (-50, -100, 0, -7), (-50, 0, 0, 7),
    (0, -100, 5, -5), (0, 0, 5, 5), (-100, -100, -5, -5), (-100, 0, -5, 5),
)  # fmt: skip
NEAR = tuple((-50, -50, dx, dy) for dx in (0, 25, -25, 50, -50) for dy in (0, 20, -20))


class Frame:
    """From plane coordinates to the pixels of a picture."""

    def __init__(self, window: Window, width: int, height: int) -> None:
        self.left, self.right, self.bottom, self.top = window
        self.width, self.height = width, height

    @classmethod
    def of(cls, window: Window) -> Frame:
        """As large as there is room; lengths are true, unless the window is very long."""
        left, right, bottom, top = window
        shape = min(max((top - bottom) / (right - left), FLAT), TALL)
        width = min(WIDE, HIGH / shape)
        return cls(window, round(width), round(width * shape))

    def at(self, point: Sequence[float] | torch.Tensor | np.ndarray) -> tuple[float, float]:
        """Pixels right and down."""
        x = (float(point[0]) - self.left) / (self.right - self.left) * self.width
        return x, (self.top - float(point[1])) / (self.top - self.bottom) * self.height

    def share(self, at: tuple[float, float]) -> tuple[float, float]:
        """Pixels as percent of the picture."""
        return 100 * at[0] / self.width, 100 * at[1] / self.height

    def _points(self, line: np.ndarray) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.at(point)) for point in line)

    def line(self, line: np.ndarray, style: str) -> str:
        """An open line."""
        return f'<polyline points="{self._points(line)}" {style}/>'

    def polygon(self, line: np.ndarray, style: str, tooltip: str = "") -> str:
        """A closed line, with words under the pointer."""
        title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        return f'<polygon points="{self._points(line)}" {style}>{title}</polygon>'


def face(name: str, tone: str, frame: Frame, layers: str, caption: str) -> str:
    """A map with its name above, in the colour of its bars, and its caption below."""
    head = f'<b style="color:{tone}">{escape(name)}</b>' if name else ""
    box = (
        f"position:relative;overflow:hidden;max-width:{frame.width}px;"
        f"aspect-ratio:{frame.width}/{frame.height};box-shadow:0 0 0 1px #8888"
    )
    return (
        f'<figure style="margin:0;flex:1 1 240px;max-width:{WIDE}px">{head}<div style="{box}">'
        f'{layers}</div><figcaption style="{SOFT};margin-top:4px">{caption}</figcaption></figure>'
    )


def cover(words: str) -> str:
    """Words over a whole map: why there is nothing, or something old, to see."""
    style = "display:grid;place-items:center;color:#16191d;background:#fffb;text-align:center"
    return f'<div style="{FILL};{style}">{escape(words)}</div>' if words else ""


def layers(plane: Plane, frame: Frame, drawn: str, alt: str, pick: str) -> str:
    """The plane in colours, lines over it, and hatching where there are no images."""
    predicted = plane.predicted.cpu().numpy()
    confidence = plane.confidence.cpu().numpy()[..., None]
    pixels = 255 + confidence * 0.8 * (rgb(CLASSES)[predicted % len(CLASSES)] - 255)
    picture = png_data(np.flipud(np.rint(pixels)).astype(np.uint8))
    focus = f' data-pick="{escape(pick, quote=True)}" tabindex="0"' if pick else ""
    inner = [frame.share(frame.at(point)) for point in box(plane.slice)]
    hole = "".join(f",{x:.2f}% {y:.2f}%" for x, y in (*inner, *inner[:1]))
    clip = f"clip-path:polygon(evenodd,0 0,100% 0,100% 100%,0 100%,0 0{hole});pointer-events:none"
    return (
        f'<img alt="" src="{picture}" style="{FILL};max-width:none">'
        f'<svg role="img" aria-label="{escape(alt, quote=True)}"{focus} '
        f'viewBox="0 0 {frame.width} {frame.height}" preserveAspectRatio="none" '
        f'style="{FILL};cursor:crosshair">{drawn}</svg>'
        f'<div style="{FILL};background:{HATCH};{clip}"></div>'
    )


@lru_cache(maxsize=8)
def box(at: Slice) -> np.ndarray:
    """The part of a slice's window inside [0, 1]: a convex polygon `(V, 2)`, V may be 0."""
    left, right, bottom, top = at.window
    polygon = np.array([[left, bottom], [right, bottom], [right, top], [left, top]], dtype=float)
    axes = np.stack([at.u.cpu().flatten(), at.v.cpu().flatten()], 1).astype(float)
    origin = at.origin.cpu().numpy().ravel().astype(float)
    # Each pixel gives two half-planes n.p <= limit; those that cut nothing now never will.
    normals = np.concatenate([-axes, axes])
    limits = np.concatenate([origin, 1 - origin]) + checks.ROUNDING
    while len(polygon):
        excess = normals @ polygon.T - limits[:, None]
        cutting = excess.max(1) > 1e-9
        if not cutting.any():
            break
        worst = int(excess.max(1).argmax())
        polygon = clipped(polygon, excess[worst])
        cutting[worst] = False
        normals, limits = normals[cutting], limits[cutting]
    return polygon


def clipped(polygon: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Where in a convex polygon `(V, 2)` a linear function, `(V,)` at its corners, is <= 0."""
    kept = []
    for i, corner in enumerate(polygon):
        j = (i + 1) % len(polygon)
        if excess[i] <= 0:
            kept.append(corner)
        if (excess[i] <= 0) != (excess[j] <= 0):
            kept.append(corner + excess[i] / (excess[i] - excess[j]) * (polygon[j] - corner))
    return np.array(kept).reshape(-1, 2)


@dataclass
class Labels:
    """Words on a map that keep their size, none over another.

    Places are found for a map of `SMALL` of its size: on a larger one there is more room.
    """

    frame: Frame
    parts: list[str] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def scale(self) -> None:
        """A bar of a round length, lower left."""
        frame = self.frame
        span = frame.right - frame.left
        tenth = 10 ** math.floor(math.log10(span / 4))
        length = max(step * tenth for step in (1, 2, 5) if step * tenth <= span / 4)
        stretched = (frame.top - frame.bottom) / span * frame.width / frame.height
        words = f"L2 {length:g}" + " across" * (not 0.98 < stretched < 1.02)
        wide = 100 * length / span
        style = (
            f"position:absolute;left:2%;bottom:3%;width:{wide:.2f}%;border:1px solid #000;"
            f"border-top:0;box-sizing:border-box;font-size:11px;text-align:center;{HALO}"
        )
        self.parts.append(f'<span style="{style}">{words}</span>')
        small = frame.height * SMALL
        self.taken.append((0, small - 26, (0.02 + wide / 100) * frame.width * SMALL + 6, 26))

    def marks(self, marks: Mapping[str, torch.Tensor], path: torch.Tensor | None) -> None:
        """Points with their names, which keep off a path `(T, 2)`."""
        places = {name: self.frame.at(point) for name, point in marks.items()}
        self.taken += [(x * SMALL - 5, y * SMALL - 5, 10, 10) for x, y in places.values()]
        line = [self.frame.at(point) for point in (path.cpu() if path is not None else ())]
        self.taken += [(x * SMALL - 2, y * SMALL - 2, 4, 4) for x, y in line]
        look = "width:8px;height:8px;margin:-5px;border-radius:50%;border:1px solid #000"
        for name, at in places.items():
            x, y = self.frame.share(at)
            dot = f"position:absolute;left:{x:.2f}%;top:{y:.2f}%;background:#fff;{look};{HALO}"
            self.parts.append(f'<i data-mark="{escape(name)}" style="{dot}"></i>')
            if not self.add(name, at, AROUND, 7, "font-size:12px"):
                self.add(name, at, AROUND[:1], 7, "font-size:12px", crowded=True)

    def classes(self, plane: Plane) -> None:
        """The names of the classes, each in the middle of where it leads."""
        predicted = plane.predicted.cpu().numpy()
        n = len(predicted)
        for k in np.unique(predicted):
            rows, columns = np.nonzero(predicted == k)
            if len(rows) >= 0.01 * n * n:
                middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
                x = columns[middle] / (n - 1) * self.frame.width
                y = (1 - rows[middle] / (n - 1)) * self.frame.height
                self.add(plane.classes[k], (x, y), NEAR, 10, "font:bold 16px system-ui,sans-serif")

    def add(
        self,
        words: str,
        at: tuple[float, float],
        places: Sequence[tuple[int, int, int, int]],
        size: int,
        style: str,
        crowded: bool = False,
    ) -> bool:
        """Add words in the first place that covers nothing, or `crowded`, in the first of all."""
        w, h = size * len(words) + 4.0, 1.5 * size + 4
        for px, py, dx, dy in places:
            x, y = at[0] * SMALL + px / 100 * w + dx, at[1] * SMALL + py / 100 * h + dy
            most_x, most_y = self.frame.width * SMALL - w, self.frame.height * SMALL - h
            inside = 0 <= x <= most_x and 0 <= y <= most_y
            apart = all(
                x + w <= left or left + wide <= x or y + h <= top or top + high <= y
                for left, top, wide, high in self.taken
            )
            if crowded or (inside and apart):
                self.taken.append((x, y, w, h))
                left, top = self.frame.share(at)
                moved = f"translate({px}%,{py}%) translate({dx}px,{dy}px)"
                place = f"position:absolute;left:{left:.2f}%;top:{top:.2f}%;transform:{moved}"
                look = f"{place};line-height:1;{HALO};{style}"
                self.parts.append(f'<span aria-hidden="true" style="{look}">{escape(words)}</span>')
                return True
        return False
