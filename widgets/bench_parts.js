// Parts of the bench's screen that are made from plain values alone (see `screen.frames`).

const [WIDE, HIGH] = [404, 92]; // of the curve, in pixels
const LIKELY = [0.02, 0.3]; // least share of a class that is drawn, and of one that is named
const SVG = ["svg", "polygon", "polyline", "line", "circle", "text"];

// An element: make("p", { class: "x", onclick: f }, "words", child).
const make = (tag, attributes = {}, ...children) => {
  const node = SVG.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "html") node.innerHTML = value;
    else if (value !== false && value != null)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child));
  return node;
};
const fill = (node, ...children) => node.replaceChildren(...children.filter((child) => child));
const percent = (p) => {
  if (p == null) return "";
  return p < 0.01 ? "<1" : p > 0.99 ? ">99" : `${Math.round(100 * p)}`;
};
const picture = (src, words, kind = "") => make("img", { src, alt: words, class: kind });

// The attacked image at budget `i`: a place in the strip of all of them.
const sprite = (b, i) => {
  const node = make("div", { role: "img", class: "wb-sprite" });
  node.style.backgroundImage = `url(${b.strip})`;
  node.style.backgroundSize = `100% ${100 * b.radii.length}%`;
  return turned(node, b, i);
};
const turned = (node, b, i) => {
  node.style.backgroundPositionY = `${(100 * i) / (b.radii.length - 1)}%`;
  node.setAttribute("aria-label", `the image as attacked, ${b.sizes[i]}`);
  return node;
};

// What was added at budget `i`, from the pixels of the strip: blue darker, orange brighter.
const difference = (b, i, pixels) => {
  const [h, w] = b.shape;
  const words = "the change: blue darker, orange brighter";
  const canvas = make("canvas", { width: w, height: h, role: "img", "aria-label": words });
  if (!pixels) return canvas;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(w, h);
  const most = Math.max(1, 255 * b.radii[i]);
  for (let k = 0; k < h * w; k++) {
    let sum = 0;
    for (let c = 0; c < 3; c++) sum += pixels[4 * (i * h * w + k) + c] - pixels[4 * k + c];
    const share = Math.max(-1, Math.min(1, sum / 3 / most));
    const colour = share > 0 ? [213, 94, 0] : [0, 114, 178];
    const mixed = colour.map((level) => 255 + Math.abs(share) * (level - 255));
    image.data.set([...mixed, 255], 4 * k);
  }
  pen.putImageData(image, 0, 0);
  return canvas;
};

// The confidences over eps, stacked; dashed: how sure the second model is of its first answer.
const curve = (b) => {
  const x = (i) => (WIDE * b.radii[i]) / b.radii.at(-1);
  const y = (share) => HIGH * (1 - share);
  const [p, own] = [b.p[0], b.labels[0]];
  const line = (values) => values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
  const others = b.classes
    .map((_, k) => k)
    .filter((k) => k !== own && Math.max(...p.map((row) => row[k])) > LIKELY[0])
    .sort((j, k) => p.at(-1)[j] - p.at(-1)[k]);
  const svg = make("svg", {
    viewBox: `0 -1 ${WIDE} ${HIGH + 16}`, class: "wb-curve", role: "slider", tabindex: 0,
    "aria-label": "eps, the largest change of a pixel", "aria-valuemin": 0,
    "aria-valuemax": b.radii.length - 1,
  });
  let floor = p.map(() => 0);
  for (const k of [own, ...others]) {
    const roof = floor.map((low, i) => low + p[i][k]);
    const points = [...line(roof), ...line(floor).reverse()].join(" ");
    const kind = k === own ? "own" : "";
    svg.append(make("polygon", { points, fill: b.colours[k], class: kind }));
    const shares = p.map((row) => row[k]);
    const most = Math.max(...shares);
    if (most > LIKELY[1]) {
      const i = Math.min(Math.max(shares.indexOf(most), 1), p.length - 2);
      const middle = y(floor[i] + p[i][k] / 2) + 5;
      const at = { x: x(i), y: middle, class: "wb-in", "text-anchor": "middle" };
      svg.append(make("text", at, b.classes[k]));
    }
    floor = roof;
  }
  b.p.slice(1).forEach((rows, m) => {
    const points = line(rows.map((row) => row[b.labels[m + 1]])).join(" ");
    svg.append(make("polyline", { class: "wb-beside", points }));
  });
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    const at = { x: WIDE * share, y: HIGH + 12, class: "wb-tick", "text-anchor": anchor };
    svg.append(make("text", at, `${+(b.radii.at(-1) * share).toPrecision(2)}`));
  }
  const knob = make("circle", { class: "wb-knob", r: 7 });
  svg.append(make("line", { class: "wb-here", y1: 0, y2: HIGH }), knob);
  return svg;
};
const mark = (svg, b, i) => {
  const [x, share] = [(WIDE * b.radii[i]) / b.radii.at(-1), b.p[0][i][b.labels[0]]];
  svg.querySelector(".wb-here").setAttribute("transform", `translate(${x} 0)`);
  svg.querySelector(".wb-knob").setAttribute("transform", `translate(${x} ${HIGH * (1 - share)})`);
};
