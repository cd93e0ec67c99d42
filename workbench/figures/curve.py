"""A small line chart as inline SVG: ready in a millisecond, for what changes while one looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from workbench.figures.images import Picture
from workbench.figures.palettes import CLASSES

if TYPE_CHECKING:
    import pandas as pd

WIDTH, HEIGHT, ROOM = 320, 140, 56  # of the plot, and what stands left of it
FEW = 60  # points of a line; more of them are not pointed at one by one
TEXT = 'font-size="11" fill="currentColor"'
GRID = 'stroke="currentColor" opacity="0.3"'
DASHES = ("", "6 3", "2 2", "8 3 2 3")  # so that lines differ by more than their colour
Point = tuple[float, float]


def confidence_curve(lines: Mapping[str, Sequence[float]], *, mark: int | None = None) -> Picture:
    """Confidences over the steps 0, 1, ... of an attack; `mark` draws a line at one step.

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
        {n: list(enumerate(v)) for n, v in lines.items()}, last, alt, mark=mark, ticks=(0, last),
        axes=("step of the attack", "confidence"),
    )  # fmt: skip


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
    axes = ("largest change (eps)", "robust accuracy")
    return line_chart(lines, max(ticks), alt, bars=bars, ticks=ticks, axes=axes)


def line_chart(
    lines: Mapping[str, Sequence[Point]],
    x_max: float,
    alt: str,
    *,
    bars: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    ticks: Sequence[float] = (),
    mark: float | None = None,
    axes: tuple[str, str] = ("", ""),
) -> Picture:
    """Lines through points (x in [0, x_max], y in [0, 1]), with bars (x, low, high).

    axes: what x and y are. Each point says its values where one points at it.
    """

    def at(x: float, y: float) -> Point:
        return ROOM + x / (x_max or 1) * WIDTH, HEIGHT + 6 - min(1, max(0, y)) * HEIGHT

    def stroke(ends: Sequence[Point], style: str) -> str:
        points = " ".join("{:.1f},{:.1f}".format(*at(*end)) for end in ends)
        return f'<polyline points="{points}" fill="none" {style}/>'

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" {TEXT}>{escape(words)}</text>'

    parts = [text(at(x, 0)[0], HEIGHT + 20, f"{x:.3g}", "middle") for x in ticks]
    for y in (0, 1, 0.5):
        parts.append(stroke([(0, y), (x_max, y)], GRID))
        parts.append(text(ROOM - 6, at(0, y)[1] + 4, f"{y:.0%}", "end"))
    if mark is not None:
        parts.append(stroke([(mark, 0), (mark, 1)], GRID))
    parts.append(text(ROOM + WIDTH / 2, HEIGHT + 34, axes[0], "middle"))
    turned = text(-HEIGHT / 2 - 6, 12, axes[1], "middle")
    parts.append(f'<g transform="rotate(-90)">{turned}</g>')
    for i, (name, points) in enumerate(lines.items()):
        colour = f'stroke="{CLASSES[i % len(CLASSES)]}"'
        dash = f'stroke-dasharray="{DASHES[i % len(DASHES)]}"'
        parts.append(stroke(points, f'{colour} {dash} stroke-width="2"'))
        for x, y in points if len(points) <= FEW else ():
            left, top = at(x, y)
            hover = f"<title>{escape(name)}: {y:.3g} at {x:.3g}</title>"
            dot = f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5" stroke="transparent" '
            parts.append(
                f'{dot}stroke-width="10" fill="{CLASSES[i % len(CLASSES)]}">{hover}</circle>'
            )
        for x, low, high in (bars or {}).get(name, ()):
            parts.append(stroke([(x, low), (x, high)], f'{colour} opacity="0.6"'))
        y, left = 12 + 16 * i, ROOM + WIDTH + 16
        parts.append(f'<path d="M{left} {y}h24" {colour} {dash} stroke-width="2"/>')
        parts.append(text(left + 30, y + 4, name))
    legend = 52 + 7 * max((len(name) for name in lines), default=0)
    tall = max(HEIGHT + 40, 16 * len(lines) + 8)
    svg = (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" width="{ROOM + WIDTH + legend}" '
        f'height="{tall}" font-family="system-ui,sans-serif">{"".join(parts)}</svg>'
    )
    return Picture(svg, alt)
