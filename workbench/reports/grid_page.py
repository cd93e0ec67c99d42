"""HTML of a grid's index: charts, and a table of all runs that sorts at a click or a key press."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from workbench.reports.grid_charts import charts
from workbench.reports.sheet import document, html_table

LONGEST = 200  # characters of a cell
FEW = 9  # columns shown at first
SORT = """
<script>
const body = document.querySelector(".wb-scroll tbody");
const heads = [...document.querySelectorAll(".wb-scroll thead th")];
heads.forEach((head, at) => {
  const name = head.textContent, button = document.createElement("button");
  button.innerHTML = head.innerHTML;
  head.replaceChildren(button);
  const key = row => row.cells[at].textContent, number = text => text && !isNaN(text);
  const before = (a, b) => number(a) && number(b) ? a - b
    : number(a) ? -1 : number(b) ? 1 : a.localeCompare(b);
  button.onclick = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((x, y) => {
      const [a, b] = [key(x), key(y)];  // what is empty comes last
      return !a || !b ? !a - !b : up ? before(a, b) : before(b, a);
    });
    body.append(...rows);
    document.getElementById("order").textContent =
      `Sorted by ${name}, ${head.getAttribute("aria-sort")}.`;
  };
});
const more = document.getElementById("more"), few = FEW;
const hide = (cell, at) => {
  cell.hidden = at > few && at < heads.length - 1 && !more.firstChild.checked;
};
const fold = () => document.querySelectorAll(".wb-scroll tr")
  .forEach((row) => [...row.cells].forEach(hide));
more.hidden = heads.length <= few + 2;
more.oninput = fold;
fold();
</script>
""".replace("FEW", str(FEW))


def to_html(
    table: pd.DataFrame, folder: Path, report: str, thumbnail: str, axes: Sequence[str] = ()
) -> str:
    """The page of a grid's table, with relative links; it asks nothing of the network.

    report, thumbnail: the names of these files in the folder of each run, below `folder`.
    axes: the columns of parameters that differ between runs.
    """
    links, pictures = [], []
    for run, error in zip(table["run"], table["error"], strict=True):
        link, picture = f"{quote(run)}/{quote(report)}", f"{quote(run)}/{thumbnail}"
        links.append(f"{run} (failed)" if error else f'<a href="{link}">{run}</a>')
        pictures.append(f'<img src="{picture}" alt="largest picture of {run}" loading="lazy">')
        if not (folder / run / thumbnail).exists():
            pictures[-1] = ""
    same = [] if len(table) < 2 else [n for n in table if len(table[n].unique()) == 1]
    shown = table.drop(columns=same).astype(object).map(cell, na_action="ignore")
    shown.columns = [re.sub("([_.])", r"\1<wbr>", escape(str(name))) for name in shown]
    if any(pictures):
        shown.insert(1, "picture", pictures)
    rows = shown.assign(run=links).set_index("run").rename_axis(columns="run", index=None)
    failed, title = sum(table["error"] != ""), f"{Path(report).stem}: {len(table)} runs"
    said = f'<p class="wb-head">{failed or "None"} of {len(table)} runs failed.</p>'
    known = [name for name in same if table[name].notna().all() and table[name].iloc[0] != ""]
    facts = [f"{escape(str(name))} {cell(table[name].iloc[0])}" for name in known]
    said += f"<p>The same in all runs: {', '.join(facts)}.</p>" if facts else ""
    files = ", ".join(f'<a href="{f.name}">{f.name}</a>' for f in sorted(folder.glob("results.*")))
    below = (
        '<p id="order" role="status">A heading sorts the runs by its column.</p>'
        f'<label id="more" hidden><input type="checkbox"> all {len(rows.columns)} columns</label>'
        f'<div class="wb-scroll" tabindex="0" role="region" aria-label="all runs">'
        f"{html_table(rows, escape=False, na_rep='')}</div><p>The same table: {files}.</p>"
    )
    return document(title, said + charts(table, list(axes)) + below, scripts=SORT)


def cell(value: Any) -> str:
    """One value as text, safe in HTML: numbers to three figures."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.3g}"
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
