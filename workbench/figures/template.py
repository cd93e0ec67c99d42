"""The look of every plotly figure, and its alt text.

Paper is clear and ink a grey that white and dark pages both show; where the stylesheet is on the
page (`widgets/style.css`), ink and lines follow its theme. With this module loaded, whoever draws
with plotly.express has the house's colours too.
"""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.express as px
import plotly.graph_objects as go

from workbench.figures.palettes import CLASSES, DIVERGING, SEQUENTIAL

INK = "#767676"
CLEAR = "rgba(0,0,0,0)"
AXIS = {
    "automargin": True,
    "gridcolor": "rgba(128,128,128,0.25)",
    "linecolor": INK,
    "showline": True,
    "ticks": "outside",
    "zeroline": False,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', sans-serif", "size": 13, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "container", "pad": {"l": 16}},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": CLASSES,
        "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "margin": {"l": 16, "r": 16, "t": 48, "b": 16},
        "hoverlabel": {"font": {"color": "#16191d"}, "bgcolor": "#f6f7f9"},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)
px.defaults.template = TEMPLATE
px.defaults.color_discrete_sequence = list(CLASSES)
px.defaults.color_continuous_scale = list(SEQUENTIAL)


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
