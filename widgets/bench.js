// What `Screen` does in the browser: bar, filmstrip, stage, answer and tiles, drawn from plain
// values; dragging eps, laying layers over each other and saving a picture ask nobody.

const TILES = ["attack", "prototypes", "map", "pattern", "monitor"];
const OPENS = { prototypes: "prototypes", map: "level set", pattern: "patterns", monitor: "patterns" };
const MODES = { image: "Image", why: "Why", attack: "Attack", draw: "Draw" };
const SHOW = { "in order": "all", mistakes: "mistakes", "least confident first": "unsure" };
const [WIDE, HIGH] = [404, 92]; // of the curve, in pixels
const PACE = 160; // ms a budget is shown while they play

// An element: make("p", { class: "x", onclick: f }, "words", child).
const make = (tag, attributes = {}, ...children) => {
  const svg = ["svg", "polygon", "polyline", "line", "circle", "text"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "html") node.innerHTML = value;
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
};
const fill = (node, ...children) => node.replaceChildren(...children.filter((c) => c != null));
const percent = (p) => (p == null ? "" : p < 0.01 ? "<1" : p > 0.99 ? ">99" : Math.round(100 * p));

function render({ model, el }) {
  const get = (name) => model.get(name);
  const ask = (what, value) => {
    model.set("asked", { what, value, turn: performance.now() });
    model.save_changes();
  };
  const part = (name, tag = "div", more = {}) => make(tag, { class: `wb-${name}`, ...more });
  const bar = part("top", "div", { role: "group", "aria-label": "What is looked at" });
  const film = part("film", "nav", { "aria-label": "Images" });
  const stage = part("stage", "section", { "aria-label": "Stage" });
  const answer = part("answer", "section", { "aria-label": "Answer", "aria-live": "polite" });
  const tiles = part("tiles", "div", { role: "group", "aria-label": "Views of this image" });
  el.classList.add("wb", "wb-screen");
  fill(el, bar, film, stage, answer, tiles);

  // The bar.

  const pill = (name, dot, items, value, choose, empty) => {
    const options = [...(empty ? [[empty, ""]] : []), ...items].map(([label, v]) =>
      make("option", { value: v, selected: v === value }, label));
    const mark = dot && make("span", { class: `wb-dot ${dot}`, "aria-hidden": "true" });
    const select = make("select", { "aria-label": name, title: name,
      onchange: (e) => choose(e.target.value) }, ...options);
    const right = get("bar").accuracy[value];
    return make("label", { class: "wb-pill" }, mark, select, right && make("small", {}, right));
  };
  const tool = (name, words, action, off) => make("button",
    { class: "wb-tool", title: words, onclick: action, disabled: off }, name);
  const drawBar = () => {
    const b = get("bar");
    if (!b.model) return;
    const focus = bar.contains(document.activeElement) && document.activeElement;
    const held = focus && [...bar.querySelectorAll("select,button")].indexOf(focus);
    const others = b.models.filter(([, name]) => name !== b.model);
    fill(bar,
      pill("images", null, b.data, b.dataset, (v) => ask("data", v)),
      pill("model", "a", b.models, b.model, (v) => ask("model", v)),
      pill("a second model beside it", "b", others, b.compare, (v) => ask("compare", v), "no second model"),
      make("span", { class: "wb-gap" }),
      tool("↶ undo", "Back to the image and the model before", () => ask("undo"), !b.undo),
      tool("↓ picture", "Save the picture on the stage as PNG", save),
      tool("{ } code", "The same bench as a cell, and its calls", () => ask("code")),
      tool("report", "Save as a notebook, or run it into a report", () => ask("save")),
      b.view
        ? tool("✕ close", "Back to the image (Escape)", () => ask("view", ""))
        : tool("⚙ settings", "All that can be set of what is on the stage",
            () => ask("view", { image: "model", why: "model", attack: "eps", draw: "model" }[get("mode")])));
    if (held >= 0) bar.querySelectorAll("select,button")[held]?.focus();
  };

  // The filmstrip: arrow keys move through it, over its ends to the next images.

  const drawFilm = () => {
    const f = get("film");
    if (!f.items) return;
    const held = film.contains(document.activeElement) && document.activeElement.role;
    const chips = Object.entries(SHOW).map(([value, name]) => make("button",
      { class: "wb-chip", "aria-pressed": String(f.show === value), onclick: () => ask("show", value) }, name));
    const items = f.items.map((item) => make("button", {
      class: `wb-frame${item.wrong ? " wrong" : ""}`, role: "option", title: item.words,
      "aria-selected": String(item.index === f.at), tabindex: item.index === f.at ? 0 : -1,
      "aria-label": item.words, onclick: () => ask("index", item.index), html: item.html },
      ));
    f.items.forEach((item, i) => item.wrong && items[i].append(make("u", { "aria-hidden": "true" }, item.says)));
    const strip = make("div", { class: "wb-strip", role: "listbox", "aria-label": "Images", onkeydown: turn }, ...items);
    const last = Math.min(f.first + f.items.length, f.total);
    const more = f.items.length
      ? make("div", { class: "wb-more" },
          tool("◀", "Image before", () => ask("step", -1)),
          make("span", {}, `${f.first + 1}–${last} of ${f.total}`),
          tool("▶", "Next image", () => ask("step", 1)))
      : make("p", { class: "wb-soft" }, f.show === "mistakes" ? "No mistakes here." : "No images here.");
    fill(film, make("div", { class: "wb-chips", role: "group", "aria-label": "Which images" }, ...chips), strip, more);
    const chosen = strip.querySelector("[aria-selected=true]");
    if (held === "option") chosen?.focus({ preventScroll: true });
    if (chosen) strip.scrollTop = chosen.offsetTop - strip.clientHeight / 2;
  };
  const turn = (event) => {
    const across = getComputedStyle(event.currentTarget).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    ask("step", by);
  };

  // The stage: its layers, and eps to drag.

  let [at, timer, blend, change] = [0, 0, 70, false];
  const picture = (src, words, more = "") => make("img", { src, alt: words, class: more });
  const strip = (b, i) => {
    const node = make("div", { role: "img", class: "wb-sprite", "aria-label": `the image as attacked, ${b.sizes[i]}` });
    node.style.backgroundImage = `url(${b.strip})`;
    node.style.backgroundSize = `100% ${100 * b.radii.length}%`;
    node.style.backgroundPositionY = `${(100 * i) / (b.radii.length - 1)}%`;
    return node;
  };
  let pixels = null; // of the strip, to show the change alone
  const difference = (b, i) => {
    const [h, w] = b.shape;
    const canvas = make("canvas", { width: w, height: h, role: "img", "aria-label": "the change, blue darker, orange brighter" });
    const pen = canvas.getContext("2d");
    if (!pixels) return canvas;
    const image = pen.createImageData(w, h);
    const delta = (k, c) => pixels[4 * (i * h * w + k) + c] - pixels[4 * k + c];
    const most = Math.max(1, 255 * b.radii[i]);
    for (let k = 0; k < h * w; k++) {
      const d = Math.max(-1, Math.min(1, (delta(k, 0) + delta(k, 1) + delta(k, 2)) / 3 / most));
      const [r, g, blue] = d > 0 ? [213, 94, 0] : [0, 114, 178];
      const mix = (colour) => 255 + Math.abs(d) * (colour - 255);
      image.data.set([mix(r), mix(g), mix(blue), 255], 4 * k);
    }
    pen.putImageData(image, 0, 0);
    return canvas;
  };
  const heads = part("modes", "div", { role: "group", "aria-label": "Layer on the stage" });
  const shown = part("picture");
  const caption = part("caption", "p");
  const below = part("below");
  const eps = part("eps");
  fill(stage, heads, shown, caption, below);

  const drawModes = () => {
    fill(heads, ...Object.entries(MODES).map(([mode, name]) => make("button", {
      "aria-pressed": String(get("mode") === mode),
      onclick: () => (model.set("mode", mode), model.save_changes()) }, name)));
  };
  const drawStage = () => {
    const [s, b, mode] = [get("stage"), get("breaking"), get("mode")];
    drawModes();
    stage.dataset.mode = mode;
    if (mode === "draw") return;
    if (!s.image) { // no image is of this kind
      [shown, below].forEach((node) => fill(node));
      caption.textContent = s.words ?? "";
      return;
    }
    shown.style.aspectRatio = `${s.shape[2]} / ${s.shape[1]}`;
    if (mode === "attack" && b.strip) {
      fill(shown, change ? difference(b, at) : strip(b, at));
      return;
    }
    const map = mode === "why" ? s.maps : [];
    const layers = map.slice(0, 1).map((m) => picture(m.src, m.words, "wb-over"));
    fill(shown, picture(s.image, s.words), ...layers);
    layers.forEach((layer) => (layer.style.opacity = blend / 100));
    caption.textContent = mode === "why"
      ? (map.length ? `${map[0].words}; orange for, blue against` : "Looking for the pixels that matter …")
      : mode === "attack" ? "Attacking with growing eps …" : s.words;
    if (mode !== "why") return fill(below);
    const slide = make("input", { type: "range", min: 0, max: 100, value: blend, "aria-label": "Strength of the map over the image",
      oninput: (e) => { blend = e.target.value; layers.forEach((layer) => (layer.style.opacity = blend / 100)); } });
    const second = map[1] && make("figure", { class: "wb-second" },
      make("div", {}, picture(s.image, s.words), picture(map[1].src, map[1].words, "wb-over")),
      make("figcaption", {}, `${map[1].model}: ${map[1].words}`));
    fill(below, make("label", { class: "wb-slide" }, "image", slide, "map"), second);
  };

  // Eps: the curve of the classes' confidence, and what moves with it.

  const curve = (b) => {
    const x = (i) => (WIDE * b.radii[i]) / b.radii.at(-1);
    const p = b.p[0];
    const [own, top] = [b.labels[0], b.classes.map((_, k) => Math.max(...p.map((row) => row[k])))];
    const order = b.classes.map((_, k) => k).filter((k) => k !== own && top[k] > 0.02);
    order.sort((j, k) => p.at(-1)[j] - p.at(-1)[k]);
    const svg = make("svg", { viewBox: `0 -1 ${WIDE} ${HIGH + 16}`, class: "wb-curve", role: "slider",
      tabindex: 0, "aria-label": "eps, the largest change of a pixel", "aria-valuemin": 0, "aria-valuemax": b.radii.length - 1 });
    let floor = p.map(() => 0);
    for (const k of [own, ...order]) {
      const roof = floor.map((low, i) => low + p[i][k]);
      const points = [...roof.map((v, i) => [x(i), HIGH * (1 - v)]), ...floor.map((v, i) => [x(i), HIGH * (1 - v)]).reverse()];
      svg.append(make("polygon", { points: points.map((q) => q.map((v) => v.toFixed(1)).join()).join(" "), fill: b.colours[k], class: k === own ? "own" : "" }));
      const widest = p.map((row, i) => [row[k], i]).sort((l, r) => r[0] - l[0])[0];
      if (widest[0] > 0.3) {
        const i = Math.min(Math.max(widest[1], 1), p.length - 2);
        svg.append(make("text", { x: x(i), y: HIGH * (1 - floor[i] - p[i][k] / 2) + 5, class: "wb-in", "text-anchor": "middle" }, b.classes[k]));
      }
      floor = roof;
    }
    b.p.slice(1).forEach((q, m) => svg.append(make("polyline", { class: "wb-beside",
      points: q.map((row, i) => `${x(i).toFixed(1)},${(HIGH * (1 - row[b.labels[m + 1]])).toFixed(1)}`).join(" ") })));
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const value = b.radii.at(-1) * share;
      svg.append(make("text", { x: WIDE * share, y: HIGH + 12, class: "wb-tick", "text-anchor": anchor }, String(+value.toPrecision(2))));
    }
    svg.append(make("line", { class: "wb-here", y1: 0, y2: HIGH }), make("circle", { class: "wb-knob", r: 7 }));
    return svg;
  };
  const move = (i) => {
    const b = get("breaking");
    at = Math.max(0, Math.min(b.radii.length - 1, i));
    const place = (WIDE * b.radii[at]) / b.radii.at(-1);
    const svg = eps.querySelector("svg");
    svg.querySelector(".wb-here").setAttribute("transform", `translate(${place} 0)`);
    svg.querySelector(".wb-knob").setAttribute("transform", `translate(${place} ${HIGH * (1 - b.p[0][at][b.labels[0]])})`);
    const k = b.p[0][at].indexOf(Math.max(...b.p[0][at]));
    const words = `${b.sizes[at]}: ${b.models[0]} says ${b.classes[k]}, ${percent(b.p[0][at][k])} %`;
    svg.setAttribute("aria-valuenow", at);
    svg.setAttribute("aria-valuetext", words);
    caption.textContent = at ? `attacked with ${words}` : "not attacked: drag eps, or press play";
    if (get("mode") === "attack") {
      const sprite = shown.querySelector(".wb-sprite");
      if (sprite && !change) {
        sprite.style.backgroundPositionY = `${(100 * at) / (b.radii.length - 1)}%`;
        sprite.setAttribute("aria-label", words);
      } else drawStage();
      bars(b.p.map((rows) => rows[at]), b.heads[at]);
    }
  };
  const pause = () => { clearInterval(timer); timer = 0; const b = eps.querySelector(".wb-play"); if (b) b.textContent = "▶ play"; };
  const play = (event) => {
    if (timer) return pause();
    if (at >= get("breaking").radii.length - 1) move(0);
    event.target.textContent = "❚❚ pause";
    timer = setInterval(() => (at < get("breaking").radii.length - 1 ? move(at + 1) : pause()), PACE);
  };
  const drawEps = () => {
    pause();
    const b = get("breaking");
    pixels = null;
    if (!b.strip) { fill(eps); return drawStage(); }
    const image = new Image();
    image.onload = () => {
      const canvas = make("canvas", { width: image.width, height: image.height });
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      pixels = pen.getImageData(0, 0, image.width, image.height).data;
      if (change) move(at);
    };
    image.src = b.strip;
    const svg = curve(b);
    const last = b.radii.length - 1;
    const point = (e) => {
      const box = svg.getBoundingClientRect();
      move(Math.round(((e.clientX - box.left) / box.width) * last));
    };
    svg.addEventListener("pointerdown", (e) => { pause(); svg.setPointerCapture(e.pointerId); point(e); });
    svg.addEventListener("pointermove", (e) => svg.hasPointerCapture(e.pointerId) && point(e));
    svg.addEventListener("keydown", (e) => {
      const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last }[e.key];
      if (to == null) return;
      e.preventDefault();
      pause();
      move(to);
    });
    const where = b.flips[0] == null ? `holds up to ${b.sizes.at(-1)}` : `breaks at ${b.sizes[b.flips[0]]}`;
    const beside = b.models[1] ? `dashed: ${b.classes[b.labels[1]]}, ${b.models[1]}` : b.attack;
    const toggle = make("button", { class: "wb-tool", "aria-pressed": String(change), onclick: (e) => {
      change = !change;
      e.target.setAttribute("aria-pressed", String(change));
      drawStage();
    } }, "the change alone");
    const others = tool("other attacks …", "Choose another attack, its settings and a target", () => ask("view", "attack"));
    fill(eps, make("h4", {}, `Drag eps: ${where}`, make("span", {}, beside)), svg,
      make("div", { class: "wb-line" }, make("button", { class: "wb-tool wb-play", onclick: play }, "▶ play"), toggle, others));
    at = b.flips[0] ?? b.radii.length - 1;
    if (get("mode") === "attack") { fill(below, eps); drawStage(); move(at); }
  };

  // The answer: a sentence, and bars that keep their places.

  const drawAnswer = () => {
    const a = get("answer");
    if (!a.rows) return fill(answer);
    const rows = a.rows.map((row) => make("div", { class: `wb-class${row.label ? " label" : ""}`, "data-k": row.k },
      make("b", { title: row.name }, row.name),
      make("span", { class: "wb-track" }, ...row.p.map((p, m) => make("i", { class: "ab"[m] }))),
      ...row.p.map((p, m) => make("em", { class: "ab"[m] }))));
    const key = a.names.map((name, m) => make("span", {}, make("i", { class: `wb-dot ${"ab"[m]}` }), name));
    const classes = a.ask && make("label", { class: "wb-ask" }, "What is it? ",
      make("select", { "aria-label": "What you drew", onchange: (e) => ask("meant", e.target.value) },
        ...["", ...a.classes].map((name) => make("option", { value: name }, name || "choose"))));
    const way = a.wrong && make("button", { class: "wb-tool", onclick: () => ask("right") }, "Show one that is right");
    fill(answer, make("p", { class: "wb-head" }, a.head), make("p", { class: `wb-says${a.wrong ? " wb-warn" : ""}` }, a.says, way || null),
      classes || null, make("p", { class: "wb-then" }, a.then),
      make("div", { class: "wb-classes" }, ...rows), make("p", { class: "wb-key" }, ...key, "confidence, %"));
    bars();
  };
  const bars = (p, words) => {
    const a = get("answer");
    const head = answer.querySelector(".wb-head");
    if (head) head.textContent = words ?? a.head;
    for (const row of a.rows ?? []) {
      const node = answer.querySelector(`[data-k="${row.k}"]`);
      const now = p && p.length ? row.p.map((own, m) => (own == null ? null : p[m]?.[row.k] ?? own)) : row.p;
      node.querySelectorAll("i").forEach((i, m) => (i.style.width = `${100 * (now[m] ?? 0)}%`));
      node.querySelectorAll("em").forEach((em, m) => (em.textContent = percent(now[m])));
      node.classList.toggle("top", now[0] >= 0.5);
    }
  };

  // Tiles, each in a place of its own that keeps its size.

  const open = (name) => {
    if (name !== "attack") return ask("view", OPENS[name]);
    if (get("bar").view) ask("view", "");
    model.set("mode", "attack");
    model.save_changes();
  };
  const places = Object.fromEntries(TILES.map((name) => [name, make("div", { class: "wb-tile", "data-tile": name })]));
  tiles.append(...Object.values(places));
  const drawTile = (name) => {
    const [t, node] = [get(name), places[name]];
    if (!t.title && !t.head) return;
    const held = node.contains(document.activeElement);
    const on = OPENS[name] ? get("bar").view === OPENS[name] : get("mode") === "attack" && !get("bar").view;
    const button = make("button", { class: "wb-open", "aria-pressed": String(on), onclick: () => open(name) },
      make("small", {}, t.title), make("strong", { class: { "●": "wb-ok", "▲": "wb-warn" }[t.head[0]] ?? "" }, t.head));
    const fits = (t.fits ?? []).map((fit) => tool(fit, `Look with ${fit}`, () => ask("model", fit)));
    node.dataset.index = t.index;
    node.classList.toggle("on", on);
    node.classList.toggle("busy", !!t.busy);
    fill(node, button, make("div", { class: "wb-small", html: t.html }), ...fits);
    if (held) button.focus();
  };

  // The picture on the stage, as a file.

  async function save() {
    const box = shown.getBoundingClientRect();
    const canvas = make("canvas", { width: 560, height: Math.round((560 * box.height) / box.width) });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    for (const node of shown.querySelectorAll("img, canvas")) {
      pen.globalAlpha = Number(node.style.opacity || 1);
      pen.drawImage(node, 0, 0, canvas.width, canvas.height);
    }
    const b = get("breaking");
    if (shown.querySelector(".wb-sprite")) {
      const image = new Image();
      image.src = b.strip;
      await image.decode();
      pen.drawImage(image, 0, at * b.shape[0], b.shape[1], b.shape[0], 0, 0, canvas.width, canvas.height);
    }
    make("a", { href: canvas.toDataURL(), download: `${get("mode")}.png` }).click();
  }

  const all = () => { drawBar(); drawFilm(); drawAnswer(); drawEps(); drawStage(); TILES.forEach(drawTile); };
  el.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && get("bar").view) ask("view", "");
    if (event.ctrlKey && event.key === "z" && !/INPUT|TEXTAREA/.test(event.target.tagName)) ask("undo");
    if (/^(Arrow|Home|End| $|Enter$)/.test(event.key)) event.stopPropagation(); // else the notebook moves
  });
  model.on("change:bar", () => { drawBar(); TILES.forEach(drawTile); });
  model.on("change:film", drawFilm);
  model.on("change:stage", drawStage);
  model.on("change:answer", drawAnswer);
  model.on("change:breaking", drawEps);
  model.on("change:mode", () => {
    if (get("mode") === "attack" && get("breaking").strip) { fill(below, eps); drawStage(); move(at); }
    else { pause(); drawStage(); bars(); }
    TILES.forEach(drawTile);
  });
  TILES.forEach((name) => model.on(`change:${name}`, () => drawTile(name)));
  all();
  // The handles of ipywidgets' sliders have no name that a screen reader could say.
  let room = null;
  const watch = new MutationObserver(() => {
    for (const handle of room.querySelectorAll(".noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-slider")?.querySelector("label");
      if (label) handle.setAttribute("aria-label", label.textContent);
    }
  });
  requestAnimationFrame(() => {
    room = el.parentElement;
    if (room) watch.observe(room, { subtree: true, childList: true });
  });
  return () => (pause(), watch.disconnect());
}

export default { render };
