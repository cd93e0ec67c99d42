"""The look of every plotly figure, and its alt text."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from workbench.figures.palettes import CLASSES, DIVERGING, SEQUENTIAL

INK = "#222222"
AXIS = {
    "automargin": True,
    "gridcolor": "#e4e4e4",
    "linecolor": INK,
    "showline": True,
    "ticks": "outside",
    "zeroline": False,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', sans-serif", "size": 13, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "container", "pad": {"l": 16}},
        "colorway": CLASSES,
        "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "margin": {"l": 16, "r": 16, "t": 48, "b": 16},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)


def styled(figure: go.Figure, alt: str, title: str | None = None, **layout: Any) -> go.Figure:
    """Give `figure` the workbench template, its alt text and further `layout`; returns it.

    The alt text is `figure.layout.meta["alt"]`.
    """
    if title is not None:
        layout["title_text"] = plain(title)
    return figure.update_layout(template=TEMPLATE, meta={"alt": alt}, **layout)


def empty_figure(what: str, title: str | None = None) -> go.Figure:
    """A figure that says what is missing."""
    figure = go.Figure().add_annotation(
        text=plain(what), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
    )
    return styled(figure, what, title, xaxis_visible=False, yaxis_visible=False, height=200)


def plain(text: str) -> str:
    """`text` as plotly shows it literally: plotly reads `<b>` and `<a href>` as markup."""
    return escape(text, quote=False)
