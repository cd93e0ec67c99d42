// What `Screen` does in the browser: bar, filmstrip, stage, answer and tiles, drawn from plain
// values; dragging eps, laying layers over each other and saving a picture ask nobody.

const TILES = ["attack", "prototypes", "map", "pattern", "monitor"];
const OPENS = {
  prototypes: "prototypes", map: "level set", pattern: "patterns", monitor: "patterns",
};
const MODES = { image: "Image", why: "Why", attack: "Attack", draw: "Draw" };
const BEHIND = { image: "model", why: "model", attack: "eps", draw: "model" };
const SHOW = { "in order": "all", mistakes: "mistakes", "least confident first": "unsure" };
const LAMP = { "●": "wb-ok", "▲": "wb-warn" };
const PACE = 160; // ms a budget is shown while they play
const SAVED = 560; // pixels, of the width of a saved picture

function render({ model, el }) {
  const get = (name) => model.get(name);
  const set = (name, value) => (model.set(name, value), model.save_changes());
  const ask = (what, value) => set("asked", { what, value, turn: performance.now() });
  const part = (name, tag = "div", more = {}) => make(tag, { class: `wb-${name}`, ...more });
  const bar = part("top", "div", { role: "group", "aria-label": "What is looked at" });
  const film = part("film", "nav", { "aria-label": "Images" });
  const stage = part("stage", "section", { "aria-label": "Stage" });
  const answer = part("answer", "section", { "aria-label": "Answer", "aria-live": "polite" });
  const tiles = part("tiles", "div", { role: "group", "aria-label": "Views of this image" });
  el.classList.add("wb", "wb-screen");
  fill(el, bar, film, stage, answer, tiles);
  const tool = (name, title, onclick, disabled = false) =>
    make("button", { class: "wb-tool", title, onclick, disabled }, name);

  // The bar.

  const pill = (name, dot, items, value, choose) => {
    const options = items.map(([label, v]) =>
      make("option", { value: v, selected: v === value }, label));
    const colour = dot && make("span", { class: `wb-dot ${dot}`, "aria-hidden": "true" });
    const onchange = (event) => choose(event.target.value);
    const select = make("select", { "aria-label": name, title: name, onchange }, ...options);
    const right = get("bar").accuracy[value];
    return make("label", { class: "wb-pill" }, colour, select, right && make("small", {}, right));
  };
  const drawBar = () => {
    const b = get("bar");
    if (!b.model) return;
    const all = () => [...bar.querySelectorAll("select, button")];
    const held = all().indexOf(document.activeElement);
    const others = b.models.filter(([, name]) => name !== b.model);
    const beside = [["no second model", ""], ...others];
    const settings = () => ask("view", BEHIND[get("mode")]);
    fill(
      bar,
      pill("images", "", b.data, b.dataset, (v) => ask("data", v)),
      pill("model", "a", b.models, b.model, (v) => ask("model", v)),
      pill("a second model beside it", "b", beside, b.compare, (v) => ask("compare", v)),
      make("span", { class: "wb-gap" }),
      tool("↶ undo", "Back to the image and the model before", () => ask("undo"), !b.undo),
      tool("↓ picture", "Save the picture on the stage as PNG", save),
      tool("{ } code", "The same bench as a cell, and its calls", () => ask("code")),
      tool("report", "Save as a notebook, or run it into a report", () => ask("save")),
      b.view
        ? tool("✕ close", "Back to the image (Escape)", () => ask("view", ""))
        : tool("⚙ settings", "All that can be set of what is on the stage", settings),
    );
    if (held >= 0) all()[held]?.focus();
  };

  // The filmstrip: arrow keys move through it, over its ends to the next images.

  const frame = (item, at) => {
    const node = make("button", {
      class: `wb-frame${item.wrong ? " wrong" : ""}`, role: "option", title: item.words,
      "aria-label": item.words, "aria-selected": `${item.index === at}`,
      tabindex: item.index === at ? 0 : -1, html: item.html,
      onclick: () => ask("index", item.index),
    });
    if (item.wrong) node.append(make("u", { "aria-hidden": "true" }, item.says));
    return node;
  };
  const turn = (event) => {
    const across = getComputedStyle(event.currentTarget).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    if (!(event.key in steps)) return;
    event.preventDefault();
    ask("step", steps[event.key]);
  };
  const drawFilm = () => {
    const f = get("film");
    if (!f.items) return;
    const held = film.contains(document.activeElement) && document.activeElement.role;
    const chips = Object.entries(SHOW).map(([value, name]) => {
      const chosen = { "aria-pressed": `${f.show === value}`, onclick: () => ask("show", value) };
      return make("button", { class: "wb-chip", ...chosen }, name);
    });
    const listed = { role: "listbox", "aria-label": "Images", onkeydown: turn };
    const strip = part("strip", "div", listed);
    fill(strip, ...f.items.map((item) => frame(item, f.at)));
    const more = part("more");
    const last = Math.min(f.first + f.items.length, f.total);
    fill(
      more,
      tool("◀", "Image before", () => ask("step", -1)),
      make("span", {}, `${Math.min(f.first + 1, last)}–${last} of ${f.total}`),
      tool("▶", "Next image", () => ask("step", 1)),
    );
    const which = part("chips", "div", { role: "group", "aria-label": "Which images" });
    fill(which, ...chips);
    fill(film, which, strip, more);
    const chosen = strip.querySelector("[aria-selected=true]");
    if (held === "option") chosen?.focus({ preventScroll: true });
    if (chosen) strip.scrollTop = chosen.offsetTop - strip.clientHeight / 2;
  };

  // The stage: its layers.

  let [at, timer, blend, change, pixels] = [0, 0, 70, false, null];
  const heads = part("modes", "div", { role: "group", "aria-label": "Layer on the stage" });
  const [shown, caption, below, eps] = [
    part("picture"), part("caption", "p"), part("below"), part("eps"),
  ];
  fill(stage, heads, shown, caption, below);
  // Whether the stage shows attacks, and they are on its image.
  const attacked = () => {
    const b = get("breaking");
    return get("mode") === "attack" && b.strip && b.index === get("stage").index;
  };
  const mix = (value = blend) => {
    blend = value;
    for (const layer of stage.querySelectorAll(".wb-over")) layer.style.opacity = blend / 100;
  };
  const drawWhy = (s) => {
    const [first, second] = s.maps;
    const wait = "Looking for the pixels that matter …";
    caption.textContent = first?.words ?? wait;
    if (first && !first.src) { // no map lies over what is no picture: it is said in words
      fill(shown, picture(s.image, s.words));
      return fill(below);
    }
    fill(shown, picture(s.image, s.words), first && picture(first.src, first.words, "wb-over"));
    const slide = make("input", {
      type: "range", min: 0, max: 100, value: blend,
      "aria-label": "Strength of the map over the image",
      oninput: (event) => mix(event.target.value),
    });
    const small = second && make("figure", { class: "wb-second" },
      make("div", {}, picture(s.image, s.words), picture(second.src, second.words, "wb-over")),
      make("figcaption", {}, second.model));
    fill(below, make("label", { class: "wb-slide" }, "image", slide, "map"), small);
    mix();
  };
  const drawStage = () => {
    const [s, b, mode] = [get("stage"), get("breaking"), get("mode")];
    stage.dataset.mode = mode;
    fill(heads, ...Object.entries(MODES).map(([value, name]) => {
      const onclick = () => set("mode", value);
      return make("button", { "aria-pressed": `${mode === value}`, onclick }, name);
    }));
    if (mode === "draw") return;
    if (!s.image) { // no image is of this kind
      [shown, below].forEach((node) => fill(node));
      caption.textContent = s.words ?? "";
      return;
    }
    shown.style.aspectRatio = `${s.shape[2]} / ${s.shape[1]}`;
    if (mode === "why") return drawWhy(s);
    if (attacked()) {
      fill(shown, change ? difference(b, at, pixels) : sprite(b, at));
      return fill(below, eps);
    }
    fill(shown, picture(s.image, s.words));
    fill(below);
    caption.textContent = mode === "attack" ? "Attacking with growing eps …" : s.words;
  };

  // Eps: what moves with it, and how it is moved.

  const move = (i) => {
    const b = get("breaking");
    at = Math.max(0, Math.min(b.radii.length - 1, i));
    const svg = eps.querySelector("svg");
    mark(svg, b, at);
    const share = Math.max(...b.p[0][at]);
    const answer = b.classes[b.p[0][at].indexOf(share)];
    const words = `${b.sizes[at]}: ${b.models[0]} says ${answer}, ${percent(share)} %`;
    svg.setAttribute("aria-valuenow", at);
    svg.setAttribute("aria-valuetext", words);
    if (!attacked()) return;
    const there = shown.querySelector(".wb-sprite");
    if (there && !change) turned(there, b, at);
    else drawStage();
    caption.textContent = at ? `attacked with ${words}` : "not attacked: drag eps, or press play";
    bars(b.p.map((rows) => rows[at]), b.heads[at]);
  };
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    const button = eps.querySelector(".wb-play");
    if (button) button.textContent = "▶ play";
  };
  const play = (event) => {
    if (timer) return pause();
    const last = get("breaking").radii.length - 1;
    if (at >= last) move(0);
    event.target.textContent = "❚❚ pause";
    timer = setInterval(() => (at < last ? move(at + 1) : pause()), PACE);
  };
  const dragged = (svg, last) => {
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      move(Math.round(((event.clientX - box.left) / box.width) * last));
    };
    svg.addEventListener("pointerdown", (event) => {
      pause();
      svg.setPointerCapture(event.pointerId);
      point(event);
    });
    svg.addEventListener("pointermove", (event) => {
      if (svg.hasPointerCapture(event.pointerId)) point(event);
    });
    svg.addEventListener("keydown", (event) => {
      const [less, more] = [at - 1, at + 1];
      const to = { ArrowLeft: less, ArrowDown: less, ArrowRight: more, ArrowUp: more,
        Home: 0, End: last }[event.key];
      if (to == null) return;
      event.preventDefault();
      pause();
      move(to);
    });
    return svg;
  };
  const read = async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = make("canvas", { width: image.width, height: image.height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    if (source !== get("breaking").strip) return; // another image by now
    pixels = pen.getImageData(0, 0, image.width, image.height).data;
    if (change) move(at);
  };
  const drawEps = () => {
    pause();
    const b = get("breaking");
    pixels = null;
    if (!b.strip) {
      fill(eps);
      return drawStage();
    }
    read(b.strip);
    const [last, flip] = [b.radii.length - 1, b.flips[0]];
    const where = flip == null ? `holds up to ${b.sizes[last]}` : `breaks at ${b.sizes[flip]}`;
    const beside = b.models[1] && `dashed: ${b.classes[b.labels[1]]}, ${b.models[1]}`;
    const toggle = tool("the change alone", "What was added, without the image", (event) => {
      change = !change;
      event.target.setAttribute("aria-pressed", `${change}`);
      move(at);
    });
    toggle.setAttribute("aria-pressed", `${change}`);
    toggle.hidden = b.drawn; // the change of a drawing means nothing
    change &&= !b.drawn;
    const about = "Choose another attack, its settings and a target";
    const others = tool("other attacks …", about, () => ask("view", "attack"));
    const start = make("button", { class: "wb-tool wb-play", onclick: play }, "▶ play");
    const title = make("h4", {}, `Drag eps: ${where}`, make("span", {}, beside || b.attack));
    const line = make("div", { class: "wb-line" }, start, toggle, others);
    fill(eps, title, dragged(curve(b), last), line);
    drawStage();
    move(flip ?? last);
  };

  // The answer: a sentence, and bars that keep their places.

  const drawAnswer = () => {
    const a = get("answer");
    if (!a.rows) return fill(answer);
    const two = (tag) => a.names.map((_, m) => make(tag, { class: "ab"[m] }));
    const rows = a.rows.map((row) =>
      make("div", { class: `wb-class${row.label ? " label" : ""}`, "data-k": row.k },
        make("b", { title: row.name }, row.name),
        make("span", { class: "wb-track" }, ...two("i")), ...two("em")));
    const key = a.names.map((name, m) =>
      make("span", {}, make("i", { class: `wb-dot ${"ab"[m]}` }), name));
    const choose = (event) => ask("meant", event.target.value);
    const classes = ["", ...a.classes].map((name) =>
      make("option", { value: name }, name || "choose"));
    const what = a.ask && make("label", { class: "wb-ask" }, "What is it? ",
      make("select", { "aria-label": "What you drew", onchange: choose }, ...classes));
    const another = "Another image, which the model is right about";
    const way = a.wrong && tool("Show one that is right", another, () => ask("right"));
    const tone = a.wrong ? "wb-says wb-warn" : "wb-says";
    fill(
      answer,
      make("p", { class: "wb-head" }, a.head),
      make("p", { class: tone }, a.says, way),
      what,
      make("p", { class: "wb-then" }, a.then),
      make("div", { class: "wb-classes" }, ...rows),
      make("p", { class: "wb-key" }, ...key, "confidence, %"),
    );
    if (attacked()) move(at);
    else bars();
  };
  // p: of each model, of every class, where that is another than that of the image itself.
  const bars = (p, words) => {
    const a = get("answer");
    if (!a.rows) return;
    answer.querySelector(".wb-head").textContent = words ?? a.head;
    for (const row of a.rows) {
      const node = answer.querySelector(`[data-k="${row.k}"]`);
      const now = row.p.map((own, m) => (own == null ? null : (p?.[m]?.[row.k] ?? own)));
      node.querySelectorAll("i").forEach((i, m) => (i.style.width = `${100 * (now[m] ?? 0)}%`));
      node.querySelectorAll("em").forEach((em, m) => (em.textContent = percent(now[m])));
      node.classList.toggle("top", now[0] >= 0.5);
    }
  };

  // Tiles, each in a place of its own that keeps its size.

  const open = (name) => {
    if (name in OPENS) return ask("view", OPENS[name]);
    if (get("bar").view) ask("view", "");
    set("mode", "attack");
  };
  const places = Object.fromEntries(
    TILES.map((name) => [name, part("tile", "div", { "data-tile": name })]));
  tiles.append(...Object.values(places));
  const drawTile = (name) => {
    const [t, node, view] = [get(name), places[name], get("bar").view];
    if (!t.title) return;
    const held = node.contains(document.activeElement);
    const on = name in OPENS ? view === OPENS[name] : get("mode") === "attack" && !view;
    const button = make("button",
      { class: "wb-open", "aria-pressed": `${on}`, onclick: () => open(name) },
      make("small", {}, t.title),
      make("strong", { class: LAMP[t.head[0]] ?? "" }, t.head));
    const fits = (t.fits ?? []).map((fit) =>
      tool(fit, `Look with ${fit}`, () => ask("model", fit)));
    node.dataset.index = t.index;
    node.classList.toggle("on", on);
    node.classList.toggle("busy", !!t.busy);
    fill(node, button, make("div", { class: "wb-small", html: t.html }), ...fits);
    if (held) button.focus();
  };
  const drawTiles = () => TILES.forEach(drawTile);

  // The picture on the stage, as a file.

  async function save() {
    const [box, b] = [shown.getBoundingClientRect(), get("breaking")];
    const height = Math.round((SAVED * box.height) / box.width);
    const canvas = make("canvas", { width: SAVED, height });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    for (const node of shown.querySelectorAll("img, canvas")) {
      pen.globalAlpha = Number(node.style.opacity || 1);
      pen.drawImage(node, 0, 0, SAVED, height);
    }
    if (shown.querySelector(".wb-sprite")) {
      const image = new Image();
      image.src = b.strip;
      await image.decode();
      const [h, w] = b.shape;
      pen.drawImage(image, 0, at * h, w, h, 0, 0, SAVED, height);
    }
    make("a", { href: canvas.toDataURL(), download: `${get("mode")}.png` }).click();
  }

  el.addEventListener("keydown", (event) => {
    const { key, ctrlKey, target } = event;
    if (key === "Escape" && get("bar").view) ask("view", "");
    if (ctrlKey && key === "z" && !/INPUT|TEXTAREA/.test(target.tagName)) ask("undo");
    // Else the notebook would move or run its cells.
    if (/^(Arrow.*|Home|End| |Enter)$/.test(key)) event.stopPropagation();
  });
  model.on("change:bar", () => (drawBar(), drawTiles()));
  model.on("change:film", drawFilm);
  model.on("change:stage", drawStage);
  model.on("change:answer", drawAnswer);
  model.on("change:breaking", drawEps);
  model.on("change:mode", () => {
    pause();
    drawStage();
    if (attacked()) move(at);
    else bars();
    drawTiles();
  });
  TILES.forEach((name) => model.on(`change:${name}`, () => drawTile(name)));
  drawBar();
  drawFilm();
  drawEps();
  drawAnswer();
  drawTiles();
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
