// Moves every `[data-drag]` figure of the page: its slider, the pointer over its chart, and its
// buttons say which frame it shows. A part with `data-frames` has a value a frame: an offset of
// the strip of pictures, a width, a position, or words.

const dragging = () => {
  const slider = (root) => root.querySelector("input[type=range]");
  const show = (root, frame) => {
    slider(root).value = frame;
    for (const part of root.querySelectorAll("[data-frames]")) {
      const value = JSON.parse(part.dataset.frames)[frame];
      const kind = part.dataset.kind;
      if (kind === "text") part.textContent = value;
      else if (kind === "x") part.setAttribute("transform", `translate(${value} 0)`);
      else part.style[kind] = value;
    }
    slider(root).setAttribute("aria-valuetext", root.querySelector("[role=status]").textContent);
  };

  const pause = (root) => {
    if (!root.playing) return;
    clearInterval(root.playing);
    root.playing = 0;
    root.querySelector("[data-do=play]").textContent = "▶ Play";
  };
  const step = (root) => {
    const next = Number(slider(root).value) + 1;
    const over = next > Number(slider(root).max);
    if (!root.isConnected || (over && root.playing)) pause(root);
    else show(root, over ? 0 : next);
  };
  const play = (root) => {
    if (root.playing) return pause(root);
    step(root);
    // Who wants no motion has one frame a press.
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    root.playing = setInterval(step, 600, root);
    root.querySelector("[data-do=play]").textContent = "❚❚ Pause";
  };

  const keep = (name, address) =>
    Object.assign(document.createElement("a"), { download: name, href: address }).click();
  // The house's rules, with the colours that this page gives them.
  const style = () => {
    const open = (sheet) => { try { return [...sheet.cssRules]; } catch { return []; } };
    const rules = [...document.styleSheets].flatMap(open).map((rule) => rule.cssText);
    const text = rules.filter((rule) => rule.includes("wb-")).join("\n").replace(/[<&]/g, "");
    const now = getComputedStyle(document.body);
    const names = new Set(text.match(/--wb-[\w-]+/g));
    const values = [...names].map((name) => `${name}:${now.getPropertyValue(name)}`).join(";");
    return `${text}\n.wb-kept.wb-kept{${values};color:var(--wb-ink);background:var(--wb-page)}`;
  };
  const html = (root) => {
    slider(root).setAttribute("value", slider(root).value);
    return new XMLSerializer().serializeToString(root);
  };
  const page = (root) => {
    const script = `const dragging = ${dragging}; dragging();`;
    const text = `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Drag eps</title>
<style>${style()}</style><body class="wb wb-kept"><div role="main">${html(root)}</div>
<script>${script}</${"script"}>`;
    keep("drag-eps.html", URL.createObjectURL(new Blob([text], { type: "text/html" })));
  };
  const picture = async (root) => {
    const { width, height } = root.getBoundingClientRect();
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">
<style>${style()}</style><foreignObject width="100%" height="100%">
<div xmlns="http://www.w3.org/1999/xhtml" class="wb wb-kept">${html(root)}</div>
</foreignObject></svg>`;
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
    await image.decode();
    const size = { width: 2 * width, height: 2 * height };
    const canvas = Object.assign(document.createElement("canvas"), size);
    canvas.getContext("2d").drawImage(image, 0, 0, size.width, size.height);
    keep("drag-eps.png", canvas.toDataURL("image/png"));
  };

  const actions = { play, page, picture };
  const root = (event) => event.target.closest?.("[data-drag]");
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-drag] [data-do]");
    if (button) actions[button.dataset.do](root(event));
  });
  document.addEventListener("input", (event) => {
    if (!root(event) || event.target !== slider(root(event))) return;
    pause(root(event));
    show(root(event), Number(event.target.value));
  });
  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest?.("[data-drag] [data-plot]");
    if (!plot) return;
    const box = plot.getBoundingClientRect(), last = Number(slider(root(event)).max);
    const frame = Math.round((event.clientX - box.left) / box.width * last);
    pause(root(event));
    show(root(event), Math.min(last, Math.max(0, frame)));
  });
};

if (!document.dragging) { // once a page, however many panels bring it
  document.dragging = true;
  dragging();
}
