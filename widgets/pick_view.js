// What `PickView` does in the browser: it shows HTML, and tells where that was clicked or which
// key was pressed on it.

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
      // A map notes the point itself, to what a pointer can tell.
      tell(node, { key: "", x: Number(node.dataset.x ?? x), y: Number(node.dataset.y ?? y) });
    });
    el.addEventListener("keydown", (event) => {
      const node = event.target.closest("[data-pick]");
      const keys = ["Enter", " ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
      if (!node || !keys.includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      const { x = 0.5, y = 0.5 } = node.dataset;
      tell(node, { key: event.key, x: Number(x), y: Number(y) });
    });
    model.on("change:value", draw);
    draw();
  },
};
