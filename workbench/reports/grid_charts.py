"""The recorded numbers of a grid over its axes: small charts, one set a number, one shown.

Along a numeric axis dots and the line of their means, over names bars; a second axis makes small
multiples on one scale. Runs that differ in further axes, or in their seed alone, are more dots.
"""

from __future__ import annotations

from html import escape
from math import log10
from statistics import fmean

import pandas as pd

from workbench.reports.results import short, words

WIDE, TALL, LEFT, LOW = 300, 190, 52, 30  # of a chart, and the room left of and below its plot
FACETS = 24  # small multiples at most
NO_NUMBERS = ("run", "error", "checks")
CHOOSE = """
<script>
document.getElementById("number").oninput = (event) => document.querySelectorAll("[data-number]")
  .forEach((each) => { each.hidden = each.dataset.number !== event.target.value; });
</script>
"""


def charts(table: pd.DataFrame, axes: list[str]) -> str:
    """HTML of all charts and the choice between them; "" where there is nothing to draw."""
    names = [str(name) for name in table if name not in (*NO_NUMBERS, *axes)]
    numbers = [n for n in names if _numeric(table[n]) and len(table[n].dropna().unique()) > 1]
    if not axes or not numbers:
        return ""
    x, facet = arranged(table, axes)
    blocks = options = ""
    for name in numbers:
        hidden = " hidden" * bool(blocks)
        drawn = _multiples(table.dropna(subset=[name, x]), x, facet, name)
        blocks += f'<div data-number="{escape(name)}" class="wb-row"{hidden}>{drawn}</div>'
        options += f'<option value="{escape(name)}">{escape(words(name))}</option>'
    over = f"over {escape(x)}" + (f", for each {escape(facet)}" if facet else "")
    choice = f'<label>Number <select id="number">{options}</select></label> {over}'
    return f'<section aria-label="charts"><p>{choice}</p>{blocks}</section>{CHOOSE}'


def arranged(table: pd.DataFrame, axes: list[str]) -> tuple[str, str]:
    """The axis to go along, and the one to make multiples of ("" for none)."""

    def last(name: str) -> tuple[bool, bool, int]:  # seeds, then names, then few values
        return name == "seed", not _numeric(table[name]), -table[name].nunique()

    ordered = sorted(axes, key=last)
    return ordered[0], next((name for name in ordered[1:] if name != "seed"), "")


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _multiples(table: pd.DataFrame, x: str, facet: str, number: str) -> str:
    """A chart for each value of `facet`, on the same scale."""
    draw = _along if _numeric(table[x]) else _bars
    values = table[number].astype(float)
    ends = values.min(), values.max()
    if "accuracy" in number and ends[0] >= 0 and ends[1] <= 1:
        ends = 0.0, 1.0
    elif draw is _bars:
        ends = min(0.0, ends[0]), max(0.0, ends[1])
    groups = list(table.groupby(facet, sort=False)) if facet else [("", table)]
    across = sorted(table[x].unique())
    made = ""
    for value, rows in groups[:FACETS]:
        title = f"{facet} {_text(value)}" if facet else ""
        points = list(zip(rows[x], rows[number].astype(float), rows["run"], strict=True))
        alt = f"{words(number)} over {x}{title and ', '}{title}"
        head = f"<figcaption>{escape(title)}</figcaption>" if title else ""
        made += f"<figure>{head}{draw(points, across, ends, x, alt)}</figure>"
    more = len(groups) - FACETS
    return made + (f"<p>and {more} more, in the table</p>" if more > 0 else "")


def _along(points: list, across: list, ends: tuple[float, float], name: str, alt: str) -> str:
    """Dots along numbers, and the line of their means."""
    low, high = ends
    logarithmic = across[0] > 0 and across[-1] / across[0] > 30
    scaled = [log10(value) if logarithmic else float(value) for value in across]
    span = scaled[-1] - scaled[0] or 1.0
    place = dict(zip(across, scaled, strict=True))

    def at(x: float, y: float) -> tuple[float, float]:
        down = (y - low) / (high - low or 1.0)
        right = LEFT + 8 + (WIDE - LEFT - 24) * (place[x] - scaled[0]) / span
        return round(right, 1), round(8 + (TALL - LOW - 16) * (1 - down), 1)

    there = {x: [y for other, y, _ in points if other == x] for x in across}
    means = {x: fmean(values) for x, values in there.items() if values}
    line = " ".join("{},{}".format(*at(x, y)) for x, y in means.items())
    said = ", ".join(f"{_text(x)}: {short(y)}" for x, y in means.items())
    parts = [f'<polyline points="{line}" fill="none" stroke="var(--wb-a)" stroke-width="2"/>']
    for x, y, run in points:
        left, top = at(x, y)
        about = f"<title>{escape(f'{short(y)} at {_text(x)} ({run})')}</title>"
        parts.append(f'<circle cx="{left}" cy="{top}" r="3.5" fill="var(--wb-a)">{about}</circle>')
    for y in (low, (low + high) / 2, high):
        top = at(across[0], y)[1]
        parts.append(f'<path d="M{LEFT} {top}H{WIDE - 12}" stroke="var(--wb-line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{top + 4}" text-anchor="end">{short(y)}</text>')
    step = max(1, -(-len(across) // 6))
    for x in across[::step]:
        left = at(x, low)[0]
        parts.append(f'<text x="{left}" y="{TALL - 22}" text-anchor="middle">{_text(x)}</text>')
    middle = (LEFT + WIDE) / 2
    parts.append(f'<text x="{middle}" y="{TALL - 6}" text-anchor="middle">{escape(name)}</text>')
    return (
        f'<svg role="img" aria-label="{escape(f"{alt}: {said}")}" width="{WIDE}" height="{TALL}" '
        f'font-size="11" fill="var(--wb-soft)">{"".join(reversed(parts))}</svg>'
    )


def _bars(points: list, across: list, ends: tuple[float, float], name: str, alt: str) -> str:
    """A bar a name, as long as the mean of its runs."""
    low, span = ends[0], ends[1] - ends[0] or 1.0
    rows = ""
    for value in across:
        values = [y for x, y, _ in points if x == value]
        if not values:
            continue
        mean = fmean(values)
        left, width = (min(mean, 0.0) - low) / span, abs(mean) / span
        about = f"{min(values):.3g} to {max(values):.3g} in {len(values)} runs"
        bar = f'<div class="wb-bar" title="{about}"><i style="left:{left:.1%};width:{width:.1%}">'
        rows += f'<tr><th scope="row">{escape(_text(value))}</th><td>{bar}</i></div></td>'
        rows += f"<td>{short(mean)}</td></tr>"
    return f'<table aria-label="{escape(alt)}"><caption>{escape(name)}</caption>{rows}</table>'


def _text(value: object) -> str:
    """A value of an axis, short."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) < 30 else f"{text[:29]}…"
