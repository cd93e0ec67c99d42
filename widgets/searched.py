"""What `SearchPanel` shows: a search beside those at random, all points, and the one picked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from statistics import fmean, stdev
from typing import Any

from workbench.search import Random, Search, Table
from workbench.search.space import Key, Point

from .blocks import column, pick, row, section, table

REPEATS = 300  # searches at random, for the band
BAND = (0.1, 0.5, 0.9)  # of them, at the band's edges and in its middle
SHARES = ("validation", "test")  # columns: what a search is told, and what judges it
NAMES = {"macs": "multiply-adds"}
WIDE, HIGH, LEFT, TOP = 320, 190, 52, 12  # pixels of a plot, and what stands left of and above it
BLUE, ORANGE = "var(--wb-a, #0072b2)", "var(--wb-b, #b84d00)"
EDGE = re.compile(r"(\d+)-(\d+)")  # a choice that is an edge of a cell: from a node to a later one
BOLD = {"1x1": 3, "3x3": 6}  # pixels of an operation's line
GAP, LIFT = 110, 34  # pixels between nodes, and by which an edge rises for each node it passes
At = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Measured:
    """A table with the shares `validation`, which a search is told, and `test`, which judges it.

    Of the other columns `macs`, or else the first, is the cost. bands: by budget.

    Raises:
        ValueError: a row is missing, or a column.
    """

    table: Table
    bands: dict[int, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, seeds, keys = self.table.rows, self.table.seeds, self.table.space.keys
        if not seeds or any((key, seed) not in rows for key in keys for seed in seeds):
            raise ValueError(
                "table: expected a row for each point and seed; search.measure makes such a table"
            )
        columns = [*next(iter(rows.values()))]
        if not {*SHARES} < {*columns}:
            wanted = "table: expected the columns 'validation', 'test' and a cost"
            raise ValueError(f"{wanted}, got {columns}")

    @cached_property
    def numbers(self) -> dict[Key, dict[str, At]]:
        """By point and column the mean over seeds, and the standard deviation; the best first."""
        found: dict[Key, dict[str, At]] = {}
        for key in self.table.space.keys:
            rows = [self.table.rows[key, seed] for seed in self.table.seeds]
            each = {name: [values[name] for values in rows] for name in rows[0]}
            found[key] = {n: (fmean(v), stdev(v) if len(v) > 1 else 0.0) for n, v in each.items()}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]["test"][0]))

    @property
    def best(self) -> Key:
        """The best point there is."""
        return next(iter(self.numbers))

    @cached_property
    def cost(self) -> str:
        """What stands below the chart of all points."""
        others = [name for name in self.numbers[self.best] if name not in SHARES]
        return "macs" if "macs" in others else others[0]

    def at(self, key: Key) -> At:
        """What a point costs, and what it is worth: means over seeds."""
        return self.numbers[key][self.cost][0], self.numbers[key]["test"][0]

    def course(self, search: Search) -> list[float]:
        """After each evaluation what the point with the best value seen is worth."""
        best, course = search.trials[:1], []
        for trial in search.trials:
            best = [trial] if trial.value > best[0].value else best
            course.append(self.at(best[0].key)[1])
        return course

    def band(self, budget: int) -> list[list[float]]:
        """After each evaluation the quantiles, `BAND`, of the searches at random."""
        if budget not in self.bands:
            space, objective = self.table.space, self.table.objective()
            runs = (Random().steps(space, objective, budget=budget, seed=s) for s in range(REPEATS))
            found = [[*run][-1].value or Search() for run in runs]  # without a progress bar each
            ordered = [sorted(v) for v in zip(*map(self.course, found), strict=True)]
            places = [round(share * (REPEATS - 1)) for share in BAND]
            self.bands[budget] = [[values[i] for values in ordered] for i in places]
        return self.bands[budget]


@dataclass(frozen=True, eq=False)
class SearchView:
    """What the panel shows.

    chosen: the point looked at. made: by seed how many of the test images it gets right, trained
    afresh. opens: whether it can be trained, and beside which model it then stands; else empty.
    """

    measured: Measured
    searcher: str
    budget: int
    search: Search = field(default_factory=Search)
    chosen: Key = ()
    made: dict[int, float] = field(default_factory=dict)
    opens: str = ""

    def summary(self) -> dict[str, Any]:
        """How many points there are, the best of those tried, and what it is worth."""
        m, told = self.measured, {"points": len(self.measured.numbers), **self.search.summary()}
        worth = {"test": m.at(self.search.best.key)[1]} if self.search.trials else {}
        return {**told, **worth}

    def next(self, event: dict[str, Any]) -> Key:
        """The point nearest to a click on the chart, or that to which an arrow leads."""
        m, key = self.measured, event["key"]
        if key.startswith("Arrow"):
            axis = 0 if key in ("ArrowLeft", "ArrowRight") else 1
            order = sorted(m.numbers, key=lambda k: (m.at(k)[axis], m.at(k)[1 - axis], k))
            step = 1 if key in ("ArrowRight", "ArrowUp") else -1
            return order[min(max(order.index(self.chosen) + step, 0), len(order) - 1)]
        plot = plot_of(m)
        click = (event["x"] * plot.width, event["y"] * plot.height)
        return min(m.numbers, key=lambda k: math.dist(plot.at(*m.at(k)), click))


@dataclass(frozen=True)
class Plot:
    """Axes: the least and the greatest value of x and of y, in pixels on a picture."""

    x: At
    y: At
    width, height = LEFT + WIDE + 32, TOP + HIGH + 46

    def at(self, x: float, y: float) -> At:
        """Values as pixels from the upper left."""
        (left, right), (low, high) = self.x, self.y
        across, up = (x - left) / (right - left or 1), max(0, (y - low) / (high - low or 1))
        return LEFT + across * WIDE, TOP + (1 - up) * HIGH

    def line(self, ends: Sequence[At], style: str) -> str:
        """A line through values."""
        points = " ".join("{:.1f},{:.1f}".format(*self.at(*end)) for end in ends)
        return f'<polyline points="{points}" style="fill:none;{style}"/>'

    def svg(self, parts: str, below: str, alt: str, about: str = "") -> str:
        """The picture, with values at the ends and in the middle of the axes, and words below."""
        ticks = text(LEFT + WIDE / 2, TOP + HIGH + 36, below)
        for share in (0, 0.5, 1):
            x, y = (low + share * (high - low) for low, high in (self.x, self.y))
            left, top = self.at(x, y)
            ticks += text(left, TOP + HIGH + 18, f"{x:,.0f}")
            ticks += text(LEFT - 6, top + 4, f"{y:.1%}", "end")
            ticks += self.line([(self.x[0], y), (self.x[1], y)], "stroke:currentColor;opacity:.25")
        return svg(ticks + parts, self.width, self.height, alt, about)


def svg(parts: str, width: float, height: float, alt: str, about: str = "") -> str:
    """A drawing with its words."""
    return (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}"{about} width="{width:g}" '
        f'height="{height:g}" font-family="system-ui,sans-serif">{parts}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Words in a drawing."""
    about = f'text-anchor="{anchor}" font-size="11" fill="currentColor"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {about}>{escape(words)}</text>'


def plot_of(m: Measured) -> Plot:
    """The axes of cost and accuracy; all points are in them."""
    costs, worths = zip(*map(m.at, m.numbers), strict=True)
    return Plot((0, max(costs)), (min(worths), max(worths)))


def picture(view: SearchView) -> str:
    """The best so far beside random's band, all points, and the one looked at: HTML."""
    return section(row(progress(view), points(view)), card(view))


def progress(view: SearchView) -> str:
    """What the best so far is worth after each evaluation, and the band of random searches."""
    m, course = view.measured, view.measured.course(view.search)
    band, best = m.bands.get(view.budget, []), m.at(m.best)[1]
    last = max(2, len(course), len(band[0]) if band else view.budget)
    early = [line[len(line) // 4] for line in (*band[:1], course) if line]
    least = min([best - 0.01, *early])  # what is worse is at the beginning, and cut off
    plot = Plot((1, last), (least, best))
    said, parts = [f"best there is {best:.1%}"], ""
    if band:
        low, half, high = ([*enumerate(line, 1)] for line in band)
        around = " ".join("{:.1f},{:.1f}".format(*plot.at(*p)) for p in [*low, *high[::-1]])
        parts += f'<polygon points="{around}" style="fill:currentColor;opacity:.15"/>'
        parts += plot.line(half, "stroke:currentColor;stroke-dasharray:6 3;opacity:.7")
        edges = " to ".join(f"{line[-1][1]:.1%}" for line in (low, high))
        said[:0] = [f"{REPEATS} at random {half[-1][1]:.1%}, 10 to 90% of them {edges}"]
    if course:
        parts += plot.line([*enumerate(course, 1)], f"stroke:{BLUE};stroke-width:2.5")
        said[:0] = [f"{view.searcher} {course[-1]:.1%} after {len(course)} evaluations"]
    drawing = plot.svg(parts, "evaluations", f"best so far: {'; '.join(said)}")
    legend = "Line: this search; dashes, grey: the middle, 10 to 90% at random; cut off below."
    below = f"{legend}<br>{escape('; '.join(said[:-1]))}"
    return chart("Best so far", drawing, below)


def points(view: SearchView) -> str:
    """All points by cost and accuracy; those tried, the best of them, the one looked at."""
    m, tried = view.measured, [trial.key for trial in view.search.trials]
    plot, parts = plot_of(m), ""
    for key in [*(k for k in m.numbers if k not in tried), *tried]:
        x, y = plot.at(*m.at(key))
        fill = f"fill:{BLUE}" if key in tried else "fill:none;stroke:currentColor;opacity:.5"
        hover = f"<title>{escape(named(m.table.space.point(key)))}: {m.at(key)[1]:.1%}</title>"
        parts += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="{fill}">{hover}</circle>'
    if tried:
        x, y = plot.at(*m.at(view.search.best.key))
        parts += f'<path d="M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8z" style="fill:{ORANGE}"/>'
    x, y = plot.at(*m.at(view.chosen))
    ring = "fill:none;stroke:currentColor;stroke-width:2"
    parts += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" style="{ring}"/>'
    unit = NAMES.get(m.cost, m.cost)
    cost, worth = m.at(view.chosen)
    alt = (
        f"{len(m.numbers)} points, {len(tried)} tried, {plot.y[0]:.1%} to {plot.y[1]:.1%} right at "
        f"up to {plot.x[1]:,.0f} {unit}; looked at: {named(m.table.space.point(view.chosen))}, "
        f"{worth:.1%} at {cost:,.0f}"
    )
    about = ' data-pick="points" tabindex="0" style="cursor:crosshair"'
    keys = '<span class="wb-live">Click near a point, or press arrow keys.</span>'
    legend = f"Filled: tried; diamond: the best so far; ring: looked at. {keys}"
    return chart("All there is", plot.svg(parts, unit, alt, about), legend)


def chart(title: str, drawing: str, below: str) -> str:
    """A drawing with its title, and room for words below, so that nothing moves."""
    head = f"<b>{title}</b> <small>(right on test images, mean over seeds)</small>"
    room = f'<div style="min-height:5em"><small>{below}</small></div>'
    return column(head, f"<div>{drawing}</div>", room, width=f"{Plot.width}px")


def card(view: SearchView) -> str:
    """The point looked at: drawn, its numbers, and what was trained afresh."""
    m, key, tried = view.measured, view.chosen, [trial.key for trial in view.search.trials]
    place = f"no. {tried.index(key) + 1} of those tried" if key in tried else "not tried"
    words = [f"{[*m.numbers].index(key) + 1} of {len(m.numbers)} by test; {place}", view.opens]
    words += [f"trained afresh, seed {s}: {share:.1%} right" for s, share in view.made.items()]
    act = pick("train", "Train it and open it") * bool(view.opens)
    told = column(act, f"<p>{'<br>'.join(map(escape, words))}</p>", width="22em")
    rows = [
        (NAMES.get(n, escape(n)), *(f"{v:.1%}" if n in SHARES else f"{v:,.6g}" for v in pair))
        for n, pair in m.numbers[key].items()
    ]
    numbers = table("", rows, ["", f"mean of {len(m.table.seeds)} seeds", "spread (sd)"])
    return row(drawn(m.table.space.point(key)), told, numbers)


def named(point: Point) -> str:
    """A point in words."""
    return ", ".join(f"{name} {option}" for name, option in point.items())


def drawn(point: Point) -> str:
    """A cell as nodes and operations where all choices are edges `i-j`; else a list of choices."""
    found = {EDGE.fullmatch(name): str(option) for name, option in point.items()}
    edges = {(int(f[1]), int(f[2])): option for f, option in found.items() if f}
    if len(edges) < len(point):
        return table("", [(escape(n), escape(str(o))) for n, o in point.items()])
    last, parts = max(j for _, j in edges), ""
    floor = 24 + LIFT * max(j - i for i, j in edges) * 3 / 4
    for (i, j), option in edges.items():
        left, right, lift = 20 + GAP * i, 20 + GAP * j, LIFT * (j - i - 1)
        bold = f"stroke:{BLUE};stroke-width:{BOLD.get(option, 1)}"
        style = bold if option != "none" else "stroke:currentColor;stroke-dasharray:1 5"
        curve = f"M{left} {floor}Q{(left + right) / 2} {floor - 3 * lift} {right} {floor}"
        parts += f'<path d="{curve}" style="fill:none;{style}"/>'
        parts += text((left + right) / 2, floor - 1.5 * lift - 8, option)
    for node in range(last + 1):
        at, words = f'cx="{20 + GAP * node}" cy="{floor}" r="6"', f"node {node}"
        parts += f'<circle {at} style="fill:{BLUE}"/>'
        parts += text(20 + GAP * node, floor + 22, words)
    return svg(parts, 40 + GAP * last, floor + 30, f"cell: {named(point)}")
