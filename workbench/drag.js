// Shows the frame of a `[data-drag]` figure that its slider says. Every part with `data-frames`
// has a value a frame: an offset of the strip of pictures, a width, a position, or words.

export const drag = (event) => {
  const root = event.target.closest("[data-drag]");
  if (!root || event.target.type !== "range") return;
  const frame = Number(event.target.value);
  for (const part of root.querySelectorAll("[data-frames]")) {
    const value = JSON.parse(part.dataset.frames)[frame];
    const kind = part.dataset.kind;
    if (kind === "text") part.textContent = value;
    else if (kind === "x") part.setAttribute("transform", `translate(${value} 0)`);
    else part.style[kind] = value;
  }
  event.target.setAttribute("aria-valuetext", root.querySelector("[role=status]").textContent);
};
