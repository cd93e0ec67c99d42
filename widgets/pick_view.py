"""`PickView`: HTML that tells where it was clicked, or which key was pressed on it."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from workbench.files import LIVE, STYLE

ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}


class PickView(anywidget.AnyWidget):
    """Shows `value`, HTML. Elements with `data-pick="NAME"` (and a tabindex) can be picked.

    picked: {"name", "x", "y", "key"}: shares of the element's width and height, from its
    upper left; `key` is empty for a click, else "Enter", " " or an arrow. The sliders of
    `figures.drag_eps` move what they say by themselves.
    """

    _esm = LIVE + Path(__file__).with_name("pick_view.js").read_text()
    _css = STYLE
    value = traitlets.Unicode().tag(sync=True)
    picked = traitlets.Dict().tag(sync=True)
