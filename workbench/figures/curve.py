"""A small line chart as inline SVG: ready in a millisecond, for what changes while one looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from workbench.figures.images import Picture
from workbench.figures.palettes import CLASSES

WIDTH, HEIGHT, ROOM = 280, 120, 22
DASHES = ("", "6 3", "2 2", "8 3 2 3")  # so that lines differ by more than their colour


def confidence_curve(
    lines: Mapping[str, Sequence[float]], *, x_name: str = "step", mark: int | None = None
) -> Picture:
    """Lines of values in [0, 1] over the steps 0, 1, ...; `mark` draws a line at one step.

    Raises:
        ValueError: no lines, or lines of different lengths.
    """
    lengths = {len(values) for values in lines.values()}
    if len(lengths) != 1:
        raise ValueError(f"lines: expected lines of one length, got lengths {sorted(lengths)}")
    last = max(1, lengths.pop() - 1)

    def at(step: float, value: float) -> tuple[float, float]:
        return ROOM + step / last * WIDTH, HEIGHT + 6 - min(1, max(0, value)) * HEIGHT

    parts, told = [], []
    for i, (name, values) in enumerate(lines.items()):
        points = " ".join("{:.1f},{:.1f}".format(*at(t, v)) for t, v in enumerate(values))
        colour, dash = CLASSES[i % len(CLASSES)], DASHES[i % len(DASHES)]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/><text x="{ROOM + WIDTH + 6}" y="{18 + 16 * i}" '
            f'fill="{colour}" font-size="12">{escape(name)}</text>'
        )
        if len(values):
            told.append(f"{name} from {values[0]:.2f} to {values[-1]:.2f}")
    for value in (0, 1):
        y = at(0, value)[1]
        parts.append(
            f'<line x1="{ROOM}" x2="{ROOM + WIDTH}" y1="{y}" y2="{y}" stroke="#999"/>'
            f'<text x="4" y="{y + 4}" font-size="11" fill="currentColor">{value}</text>'
        )
    if mark is not None:
        x = at(mark, 0)[0]
        parts.append(f'<line x1="{x}" x2="{x}" y1="6" y2="{HEIGHT + 6}" stroke="#999"/>')
    alt = f"over {last} {x_name}s: {'; '.join(told)}"
    svg = (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" width="{WIDTH + 150}" '
        f'height="{HEIGHT + 16}" font-family="system-ui,sans-serif">{"".join(parts)}</svg>'
    )
    return Picture(svg, alt)
