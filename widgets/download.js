// Saves what the panel around a button shows as a PNG: its HTML, with the stylesheet and the
// colours of the theme, is drawn inside an SVG image. Nothing is asked of a server.
(async (button) => {
  const view = button.closest(".wb-panel").querySelector(".wb-view");
  const { width, height } = view.getBoundingClientRect();
  const sheets = [...document.querySelectorAll("style")].map((sheet) => sheet.textContent);
  const rules = sheets.find((text) => text.includes("--wb-ink:"));
  const look = getComputedStyle(view);
  const colours = [...new Set(rules.match(/--wb-\w+/g))].map((n) => `${n}:${look.getPropertyValue(n)}`);
  const copy = view.cloneNode(true);
  copy.setAttribute("style", `${colours.join(";")};background:var(--wb-page);height:${height}px`);
  const inside = new XMLSerializer().serializeToString(copy);
  const picture = new Image();
  picture.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">` +
    `<style>${rules.replace(/[<&]/g, " ")}</style>` +
    `<foreignObject width="100%" height="100%">${inside}</foreignObject></svg>`);
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(picture, 0, 0, 2 * width, 2 * height);
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = button.dataset.name;
  link.click();
})(this);
