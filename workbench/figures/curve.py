"""A small line chart as inline SVG: ready in a millisecond, for what changes while one looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from workbench.figures.images import Picture
from workbench.figures.palettes import CLASSES

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT, ROOM = 280, 120, 34
TEXT = 'font-size="11" fill="currentColor"'
DASHES = ("", "6 3", "2 2", "8 3 2 3")  # so that lines differ by more than their colour
Point = tuple[float, float]


def confidence_curve(lines: Mapping[str, Sequence[float]], *, mark: int | None = None) -> Picture:
    """Lines of values in [0, 1] over the steps 0, 1, ...; `mark` draws a line at one step.

    Raises:
        ValueError: no lines, or lines of different lengths.
    """
    lengths = {len(values) for values in lines.values()}
    if len(lengths) != 1:
        raise ValueError(f"lines: expected lines of one length, got lengths {sorted(lengths)}")
    last = max(1, lengths.pop() - 1)
    described = [f"{n} from {v[0]:.2f} to {v[-1]:.2f}" for n, v in lines.items() if len(v)]
    alt = f"over {last} steps: {'; '.join(described)}"
    return line_chart(
        {n: list(enumerate(v)) for n, v in lines.items()}, last, alt, mark=mark, ticks=(0, last)
    )


def robustness_curve(curve: pd.DataFrame) -> Picture:
    """Robust accuracy over eps, a line an attack, with intervals: of `Evaluation.curve()`.

    Raises:
        ValueError: no points.
    """
    if curve.empty:
        raise ValueError("curve: expected at least one point, got none")
    lines, bars, described = {}, {}, []
    for name, points in curve.groupby("attack", sort=False):
        known = points[points["failed"] == 0]
        lines[str(name)] = list(zip(known["eps"], known["robust_accuracy"], strict=True))
        bars[str(name)] = list(zip(known["eps"], known["low"], known["high"], strict=True))
        listed = ", ".join(f"{y:.0%} at {x:.3g}" for x, y in lines[str(name)])
        described.append(f"{name} {listed or 'failed'}")
    ticks = sorted(set(curve["eps"]))
    alt = f"robust accuracy over eps: {'; '.join(described)}"
    return line_chart(lines, max(ticks), alt, bars=bars, ticks=ticks)


def line_chart(
    lines: Mapping[str, Sequence[Point]],
    x_max: float,
    alt: str,
    *,
    bars: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    ticks: Sequence[float] = (),
    mark: float | None = None,
) -> Picture:
    """Lines through points (x in [0, x_max], y in [0, 1]), with bars (x, low, high)."""

    def at(x: float, y: float) -> Point:
        return ROOM + x / (x_max or 1) * WIDTH, HEIGHT + 6 - min(1, max(0, y)) * HEIGHT

    def stroke(ends: Sequence[Point], style: str) -> str:
        points = " ".join("{:.1f},{:.1f}".format(*at(*end)) for end in ends)
        return f'<polyline points="{points}" fill="none" {style}/>'

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" {TEXT}>{escape(words)}</text>'

    parts = [text(at(x, 0)[0], HEIGHT + 20, f"{x:.3g}", "middle") for x in ticks]
    for y in (0, 1):
        parts.append(stroke([(0, y), (x_max, y)], 'stroke="#999"'))
        parts.append(text(ROOM - 14, at(0, y)[1] + 4, str(y)))
    if mark is not None:
        parts.append(stroke([(mark, 0), (mark, 1)], 'stroke="#999"'))
    for i, (name, points) in enumerate(lines.items()):
        colour = f'stroke="{CLASSES[i % len(CLASSES)]}"'
        dash = f'stroke-dasharray="{DASHES[i % len(DASHES)]}"'
        parts.append(stroke(points, f'{colour} {dash} stroke-width="2"'))
        for x, low, high in (bars or {}).get(name, ()):
            parts.append(stroke([(x, low), (x, high)], f'{colour} opacity="0.6"'))
        y, left = 12 + 16 * i, ROOM + WIDTH + 16
        parts.append(f'<path d="M{left} {y}h24" {colour} {dash} stroke-width="2"/>')
        parts.append(text(left + 30, y + 4, name))
    tall = max(HEIGHT + 26, 16 * len(lines) + 8)
    svg = (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" width="{WIDTH + 200}" '
        f'height="{tall}" font-family="system-ui,sans-serif">{"".join(parts)}</svg>'
    )
    return Picture(svg, alt)
