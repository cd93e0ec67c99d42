// What `DrawPad` does in the browser: a fine canvas to draw on, averaged down to a grid. It is
// the model's own, or for small images `grain` times finer, for Python to centre. The grid's
// H x W x C bytes go to Python as they are, in the order of the canvas.

const GAP = 45; // least ms between two messages: three frames of 1/60 s, so 20 a second
const KEPT = 30; // drawings that undo brings back
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The buttons have the class of ipywidgets' own, and with it the theme of the page.
const markup = (channels, size, id) => `
<div class="wb-pad">
  <div class="stage">
    <canvas tabindex="0" role="application" aria-roledescription="draw pad"
      aria-label="Draw pad, ${size} pixels" aria-describedby="${id}"></canvas>
    <span class="cursor"></span>
  </div>
  <div class="tools" role="group" aria-label="Drawing tools">
    <label>brush
      <input name="brush" type="range" min="2" max="30" value="8"><output></output></label>
    <label>ink <input name="ink" ${
      channels === 3 ? 'type="color" value="#ffffff"' : 'type="range" min="5" value="100"'
    }><output></output></label>
    <button class="jupyter-button" name="erase" aria-pressed="false">Erase</button>
    <button class="jupyter-button" name="undo">Undo</button>
    <button class="jupyter-button" name="clear">Clear</button>
    <label>load an image <input name="file" type="file" accept="image/*"></label>
  </div>
  <p id="${id}">Draw with mouse, pen or finger. Keys: arrows move (with Shift further),
    Space lowers and lifts the pen, Delete clears, Ctrl+Z undoes.</p>
  <p class="status" role="status" aria-live="polite"></p>
  <p class="alert" role="alert"></p>
</div>`;

function render({ model, el }) {
  const [grain, [channels, ...size]] = [model.get("grain"), model.get("shape")];
  const [height, width] = size.map((side) => side * grain);
  const fine = Math.max(2, Math.round(280 / Math.max(height, width)));
  const id = `wb-pad-${Math.random().toString(36).slice(2)}`;
  el.innerHTML = markup(channels, size.join(" by "), id);
  const find = (selector) => el.querySelector(selector);
  const tool = (name) => find(`[name=${name}]`);
  const say = (text) => (find(".status").textContent = text);
  const complain = (text) => (find(".alert").textContent = text && `Error: ${text}`);
  const canvas = Object.assign(find("canvas"), { width: width * fine, height: height * fine });
  const area = [0, 0, canvas.width, canvas.height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const cells = Uint32Array.from({ length: canvas.width * canvas.height }, (_, i) => {
    const [x, y] = [i % canvas.width, Math.floor(i / canvas.width)];
    return channels * (Math.floor(y / fine) * width + Math.floor(x / fine));
  }); // where in the grid's bytes a fine pixel belongs
  const at = { x: Math.floor(width / 2), y: Math.floor(height / 2) }; // the keyboard's cursor
  const past = [];
  let sent = null; // the bytes that the model has
  let sentAt = 0;
  let frame = 0;
  let from = null; // how far a stroke has come, in fine pixels; null while the pen is up

  // To and from the model's grid.

  const grid = () => {
    const { data } = pen.getImageData(...area);
    const sums = new Float64Array(channels * height * width);
    for (let i = 0; i < cells.length; i++)
      for (let c = 0; c < channels; c++) sums[cells[i] + c] += data[4 * i + c];
    return Uint8Array.from(sums, (sum) => Math.round(sum / fine ** 2));
  };
  const show = (bytes) => {
    const picture = pen.createImageData(canvas.width, canvas.height);
    picture.data.fill(255);
    for (let i = 0; i < cells.length; i++)
      for (let c = 0; c < 3; c++) picture.data[4 * i + c] = bytes[cells[i] + (c % channels)];
    pen.putImageData(picture, 0, 0);
  };
  const send = (now) => {
    frame = now - sentAt < GAP ? requestAnimationFrame(send) : 0;
    if (frame) return;
    sentAt = now;
    sent = grid();
    model.set("pixels", new DataView(sent.buffer));
    model.save_changes();
  };
  const changed = () => (frame ||= requestAnimationFrame(send));
  const receive = () => {
    const { buffer, byteOffset, byteLength } = model.get("pixels");
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    if (sent && bytes.every((byte, i) => byte === sent[i])) return; // our own, come back
    if (sent) remember();
    sent = bytes.slice();
    show(sent);
  };

  // What one can do.

  const remember = () => past.push(pen.getImageData(...area)) > KEPT && past.shift();
  const report = (done) => {
    const bytes = grid();
    const share = bytes.reduce((sum, byte) => sum + byte, 0) / 255 / bytes.length;
    say(`${done}: ${(100 * share).toFixed(1)}% ink`);
    changed();
  };
  const line = (to) => {
    const ink = tool("ink").value;
    const colour = channels === 3 ? ink : `rgb(${ink}%,${ink}%,${ink}%)`;
    pen.strokeStyle = tool("erase").ariaPressed === "true" ? "#000" : colour;
    pen.lineWidth = (tool("brush").value / 100) * canvas.width;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo((from ?? to).x, (from ?? to).y);
    pen.lineTo(to.x + 0.01, to.y); // a line of no length would not be drawn
    pen.stroke();
    from = to;
    changed();
  };
  const lift = () => {
    if (from) report("stroke drawn");
    from = null;
  };
  const undo = () => {
    lift();
    if (!past.length) return say("nothing to undo");
    pen.putImageData(past.pop(), 0, 0);
    report("undone");
  };
  const clear = () => {
    lift();
    remember();
    show(new Uint8Array(channels * height * width));
    report("cleared");
  };
  const load = async (file) => {
    const picture = await createImageBitmap(file).catch(() => null);
    complain(picture ? "" : `${file.name} is no image this browser reads; choose a PNG or JPEG`);
    if (!picture) return;
    clear();
    const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    pen.drawImage(picture, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
    if (channels === 1) {
      pen.globalCompositeOperation = "color"; // black has none: what stays is the luminance
      pen.fillStyle = "#000";
      pen.fillRect(...area);
      pen.globalCompositeOperation = "source-over";
    }
    report(`${file.name} loaded`);
  };

  // Pointer, keyboard, tools.

  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    lift();
    canvas.setPointerCapture(event.pointerId);
    remember();
    line(point(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) line(point(each));
  });
  canvas.addEventListener("lostpointercapture", lift); // the pointer is up, or was taken away
  canvas.addEventListener("blur", lift);

  const place = () => `column ${at.x + 1} of ${width}, row ${at.y + 1} of ${height}`;
  const draw = () => line({ x: (at.x + 0.5) * fine, y: (at.y + 0.5) * fine });
  const align = () => {
    const { style } = find(".cursor");
    style.left = `${(100 * (at.x + 0.5)) / width}%`;
    style.top = `${(100 * (at.y + 0.5)) / height}%`;
    style.width = find("[name=brush] + output").value = `${tool("brush").value}%`;
    if (channels === 1) find("[name=ink] + output").value = `${tool("ink").value}%`;
  };
  const press = ({ key, shiftKey, repeat }) => {
    if (key in STEPS) {
      const far = shiftKey ? Math.max(2, Math.round(width / 8)) : 1;
      at.x = Math.min(width - 1, Math.max(0, at.x + far * STEPS[key][0]));
      at.y = Math.min(height - 1, Math.max(0, at.y + far * STEPS[key][1]));
      align();
      if (from) draw();
      say(place() + (from ? ", drawing" : ""));
    } else if (key === "Delete") clear();
    else if (![" ", "Enter"].includes(key) || shiftKey) return false;
    else if (from && !repeat) lift();
    else if (!repeat) {
      remember();
      draw();
      say(`pen down at ${place()}`);
    }
    return true;
  };
  el.addEventListener("keydown", (event) => {
    const held = event.ctrlKey || event.metaKey || event.altKey;
    if (held && event.key === "z") undo();
    else if (held || event.target !== canvas || !press(event)) return;
    event.preventDefault();
    event.stopPropagation(); // else the notebook would move or run its cells
  });

  find(".tools").addEventListener("input", align);
  tool("erase").addEventListener("click", ({ target }) => {
    target.ariaPressed = String(target.ariaPressed !== "true");
  });
  tool("undo").addEventListener("click", undo);
  tool("clear").addEventListener("click", clear);
  tool("file").addEventListener("click", ({ target }) => (target.value = "")); // again the same
  tool("file").addEventListener("change", ({ target: { files } }) => files[0] && load(files[0]));
  model.on("change:pixels", receive);
  model.on("change:message", () => complain(model.get("message")));
  align();
  receive();
  complain(model.get("message"));
}

export default { render };
