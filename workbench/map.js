// A map of a plane through image space that follows the pointer (`figures.plane_map`): the image
// there, and what the models say of it. The page holds the images that span the plane and the
// probabilities on a grid, deflated; nobody is asked.

const unpacked = new Map(); // the last of them, so that a map drawn anew is there at once

const unpack = async (text, kind) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new kind(await new Response(stream).arrayBuffer());
  unpacked.set(text, values);
  if (unpacked.size > 12) unpacked.delete(unpacked.keys().next().value);
  return values;
};

// The probabilities at a share of the width and height, bilinear in those of the grid.
const valueAt = (grid, n, classes, x, y) => {
  const across = x * (n - 1), up = (1 - y) * (n - 1);
  const i = Math.min(Math.floor(across), n - 2), j = Math.min(Math.floor(up), n - 2);
  const s = across - i, t = up - j;
  const weights = [(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t];
  const corners = [j * n + i, j * n + i + 1, j * n + n + i, j * n + n + i + 1];
  return Array.from({ length: classes }, (_, k) =>
    corners.reduce((sum, at, c) => sum + weights[c] * grid[at * classes + k], 0) / 65535);
};

// The map itself, in the same colours as the still picture, sharp at the borders of classes.
const paint = (canvas, grid, n, colours) => {
  const { width, height } = canvas, classes = colours.length;
  const pixels = new ImageData(width, height), row = new Float32Array(n * classes);
  for (let y = 0; y < height; y++) {
    const up = (1 - (y + 0.5) / height) * (n - 1), j = Math.min(Math.floor(up), n - 2), t = up - j;
    const low = j * n * classes, high = low + n * classes;
    for (let k = 0; k < row.length; k++) row[k] = (1 - t) * grid[low + k] + t * grid[high + k];
    for (let x = 0; x < width; x++) {
      const across = ((x + 0.5) / width) * (n - 1), i = Math.min(Math.floor(across), n - 2);
      const s = across - i, left = i * classes, right = left + classes;
      let best = 0, most = -1;
      for (let k = 0; k < classes; k++) {
        const p = (1 - s) * row[left + k] + s * row[right + k];
        if (p > most) { most = p; best = k; }
      }
      const at = 4 * (y * width + x), strength = (0.8 * most) / 65535;
      for (let c = 0; c < 3; c++) pixels.data[at + c] = 255 + strength * (colours[best][c] - 255);
      pixels.data[at + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
};

// Draws the image at plane coordinates (a, b), clipped to [0, 1]; returns by how much, L2.
const picture = (canvas, basis, [channels, height, width], scales, a, b) => {
  const pixels = new ImageData(width, height), area = height * width, size = channels * area;
  const [o, u, v] = [scales[0], a * scales[1], b * scales[2]];
  let lost = 0;
  for (let i = 0; i < size; i++) {
    const value = o * basis[i] + u * basis[size + i] + v * basis[2 * size + i];
    const clipped = Math.min(1, Math.max(0, value));
    lost += (value - clipped) ** 2;
    const at = 4 * (i % area), level = 255 * clipped;
    if (channels === 1) pixels.data.fill(Math.round(level), at, at + 3);
    else pixels.data[at + Math.floor(i / area)] = level;
    pixels.data[at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return Math.sqrt(lost);
};

const over = (node, width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.className = "wb-over";
  node.after(canvas);
  return canvas;
};

const follow = (root, data, [basis, ...grids]) => {
  const [left, right, bottom, top] = data.window, classes = data.classes.length;
  const all = (selector) => [...root.querySelectorAll(selector)];
  const part = (name) => root.querySelector(`[data-${name}]`);
  const maps = all("svg[role=img]"), bars = all("[data-bar]"), numbers = all("[data-number]");
  const canvas = data.words.length // what is no picture is said in words, on a grid of its own
    ? document.createElement("canvas")
    : over(part("image").firstElementChild, data.shape[2], data.shape[1]);
  const first = part("words")?.textContent; // at the point that is shown at first
  const wordsAt = (x, y) => {
    const last = Math.sqrt(data.words.length) - 1;
    return data.words[Math.round((1 - y) * last) * (last + 1) + Math.round(x * last)];
  };
  const sign = (name) => maps.map((svg) => {
    svg.after(Object.assign(document.createElement("div"), { className: name }));
    return svg.nextElementSibling;
  });
  const rings = sign("wb-ring"), crosses = sign("wb-cross");
  const move = (nodes, [x, y]) => nodes.forEach((node) => {
    node.style.transform = `translate(${100 * x}%,${100 * y}%)`;
  });
  const last = data.sides[0] - 1; // of the grid, from one end to the other
  const nearest = (share) => Math.round(share * last) / last;
  const between = (share) => Math.abs(nearest(share) - share) > 1e-6;
  let here = data.here, pinned = here, asked = null;

  const show = ([x, y, own]) => {
    here = [x, y, own];
    const a = left + x * (right - left), b = top - y * (top - bottom);
    const lost = data.words.length ? 0 : picture(canvas, basis, data.shape, data.scales, a, b);
    if (data.words.length) part("words").textContent = own ? first : wordsAt(x, y);
    const values = own ?? grids.map((grid, m) => valueAt(grid, data.sides[m], classes, x, y));
    const sentence = (p, m) => {
      const most = Math.max(...p), sure = most >= 0.9995 && most < 1 ? ">0.999" : most.toFixed(3);
      return `${data.names[m] || "here"}: ${data.classes[p.indexOf(most)]}, ${sure}`;
    };
    part("said").textContent = values.map(sentence).join("\n");
    const box = lost >= 0.005 ? `clipped by L2 ${lost.toFixed(2)}` : "inside [0, 1]";
    const whose = !own && (between(x) || between(y)) ? "interpolated" : "as the model says";
    part("note").textContent = `${box}; ${whose}`;
    values.forEach((p, m) => p.forEach((share, k) => {
      const i = k * values.length + m;
      bars[i].style.width = `${100 * share}%`;
      numbers[i].textContent = share.toFixed(3);
    }));
    move(crosses, here);
  };
  const go = (place, words) => {
    if (!asked) requestAnimationFrame(() => { show(asked); asked = null; });
    asked = place;
    part("region").textContent = words ?? "";
  };
  const pin = (svg) => {
    pinned = asked ?? here;
    [svg.dataset.x, svg.dataset.y] = pinned;
    move(rings, pinned);
  };

  maps.forEach((svg, m) => {
    const { width, height } = svg.viewBox.baseVal;
    paint(over(svg.previousElementSibling, width, height), grids[m], data.sides[m], data.colours);
    svg.tabIndex = 0;
    const title = (node) => node?.querySelector("title")?.textContent;
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      // A pointer points to half a pixel: where a point of the grid is so near, it is that.
      const share = (pixels, size) => {
        const raw = Math.min(1, Math.max(0, pixels / size)), near = nearest(raw);
        return Math.abs(near - raw) * size < 0.5 ? near : raw;
      };
      const x = share(event.clientX - box.left, box.width);
      part("said").ariaLive = "off"; // read out what the keys say, not all that the pointer meets
      go([x, share(event.clientY - box.top, box.height)], title(event.target.closest("polygon")));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerleave", () => go(pinned));
    svg.addEventListener("click", (event) => { point(event); pin(svg); });
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key === "Enter" || event.key === " ") return event.preventDefault(), pin(svg);
      if (!steps[event.key]) return;
      event.preventDefault(); // nor does a panel hear of it
      event.stopPropagation();
      const [x, y] = (asked ?? here).slice(0, 2).map((share, i) => {
        const moved = nearest(share) + (steps[event.key][i] * (event.shiftKey ? 5 : 1)) / last;
        return Math.min(1, Math.max(0, moved));
      });
      const box = svg.getBoundingClientRect();
      const under = document.elementsFromPoint(box.left + x * box.width, box.top + y * box.height);
      part("said").ariaLive = "polite";
      go([x, y], title(under.find((node) => node.tagName === "polygon")));
    });
  });
  move(rings, pinned);
  show(here);
};

// Makes maps live that are not yet; those whose data were here before, at once.
const maps = () => document.querySelectorAll("[data-map]:not([data-live])").forEach(async (root) => {
  root.dataset.live = "";
  const data = JSON.parse(root.dataset.map);
  const texts = [data.basis, ...data.grids], known = texts.map((text) => unpacked.get(text));
  const kind = (i) => (i ? Uint16Array : Int16Array);
  const unpacking = texts.map((text, i) => known[i] ?? unpack(text, kind(i)));
  follow(root, data, known.every(Boolean) ? known : await Promise.all(unpacking));
});

if (!document.mapping && window.DecompressionStream) { // once a page, however many panels bring it
  document.mapping = new MutationObserver(maps);
  document.mapping.observe(document.body, { childList: true, subtree: true });
  maps();
}
