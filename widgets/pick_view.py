"""`PickView`: HTML that tells where it was clicked, or which key was pressed on it."""

from __future__ import annotations

import anywidget
import traitlets

ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}

SCRIPT = """
export default {
  render({ model, el }) {
    const draw = () => {
      const held = el.contains(document.activeElement) && document.activeElement.dataset.pick;
      el.innerHTML = model.get("value");
      if (held) el.querySelector(`[data-pick="${CSS.escape(held)}"]`)?.focus();
      // The handles of ipywidgets' sliders have no name that a screen reader could say.
      for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
        const label = handle.closest(".widget-slider")?.querySelector("label");
        if (label) handle.setAttribute("aria-label", label.textContent);
      }
    };
    const tell = (node, what) => {
      model.set("picked", { name: node.dataset.pick, ...what, turn: Date.now() });
      model.save_changes();
    };
    el.addEventListener("click", (event) => {
      const node = event.target.closest("[data-pick]");
      if (!node) return;
      const box = node.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width;
      const y = (event.clientY - box.top) / box.height;
      tell(node, { key: "", x, y });
    });
    el.addEventListener("keydown", (event) => {
      const node = event.target.closest("[data-pick]");
      const keys = ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
      if (!node || !keys.includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      tell(node, { key: event.key, x: 0.5, y: 0.5 });
    });
    model.on("change:value", draw);
    draw();
  },
};
"""


class PickView(anywidget.AnyWidget):
    """Shows `value`, HTML. Elements with `data-pick="NAME"` (and a tabindex) can be picked.

    picked: {"name", "x", "y", "key"}: shares of the element's width and height, from its
    upper left; `key` is empty for a click, else "Enter", " " or an arrow.
    """

    _esm = SCRIPT
    value = traitlets.Unicode().tag(sync=True)
    picked = traitlets.Dict().tag(sync=True)
