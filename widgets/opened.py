"""`Opened`: what panels have whose result opens on a bench, below their view."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as ipw

from workbench.figures.tables import thin

from .blocks import pickable
from .frame import R
from .panel import P, Panel

TITLE = "On the bench"
BLUE = "var(--wb-a, #0072b2)"


class Opened(Panel[P, R]):
    """A panel with room for a bench below its view; the bench before it is stopped."""

    bench: Any = None

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """The bench, once something was opened."""
        self.opened = ipw.VBox()
        return [(TITLE, self.opened)]

    def show(self, bench: Any) -> Any:
        """Show a bench where there are controls, and fill it; returns the bench."""
        if self.bench is not None:
            self.bench.stop()  # nobody sees it any more
        self.bench = bench
        if self.live:
            for panel in bench.panels.values():
                panel.attempt()
            self.opened.children = [bench.widget]
            self.below.selected_index = self.below.titles.index(TITLE)
            bench.start()
        return bench

    def open(self) -> Any:
        """The bench with what was made or picked."""
        raise NotImplementedError

    def open_cell(self, cell: Any) -> None:
        """Take up the cell of the result's table that was clicked, and open it."""
        self.result = replace(self.result, cell=cell)  # type: ignore[type-var]
        self.redraw()
        self.open()


def cell_html(name: str, words: str, share: float, about: str, style: str, *, chosen: bool) -> str:
    """A share with its bar, to be clicked as `cell:NAME`; an outline where it was chosen."""
    outline = f"outline:2px solid {BLUE};" if chosen else ""
    bar = thin(share, BLUE)
    block = f'<div style="{outline}{style}line-height:1.15">{words}{bar}</div>'
    return f'<span title="{escape(about)}">{pickable(f"cell:{name}", block)}</span>'
