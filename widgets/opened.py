"""`Opened`: what panels have whose result opens on a bench, below their view."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from .frame import R
from .panel import P, Panel

TITLE = "On the bench"


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
