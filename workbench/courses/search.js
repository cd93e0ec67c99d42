// Finds the pages of the site (`index.js`) that have every word; those with them in the title first.

const box = document.getElementById("q"), list = document.getElementById("found");

const search = () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (text) => words.every((word) => text.toLowerCase().includes(word));
  const fits = words.length ? window.pages.filter((page) => has(`${page.title} ${page.text}`)) : [];
  fits.sort((a, b) => has(b.title) - has(a.title));
  list.replaceChildren(...fits.slice(0, 50).map((page) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = page.address;
    link.textContent = page.title.replace("#", ": ");
    const about = document.createElement("p");
    const at = Math.max(0, page.text.toLowerCase().indexOf(words[0]) - 60);
    about.textContent = `${page.kind}: ${at ? "…" : ""}${page.text.slice(at, at + 180)}`;
    item.append(link, about);
    return item;
  }));
  const most = fits.length > 50 ? ", the first 50 shown" : "";
  document.getElementById("count").textContent = words.length ? `${fits.length} found${most}` : "";
};

box.value = new URLSearchParams(location.search).get("q") ?? "";
box.addEventListener("input", search);
search();
