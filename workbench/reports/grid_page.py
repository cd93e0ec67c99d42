"""HTML of a grid's index: one table of all runs that sorts at a click or a key press."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

LONGEST = 200  # characters of a cell
PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:;
  style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
  body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; color: #1b1b1b; }}
  table {{ border-collapse: collapse; margin: 1em 0; }}
  th, td {{ padding: .3em .7em; border-bottom: 1px solid #ccc; text-align: left; }}
  td {{ font-variant-numeric: tabular-nums; overflow-wrap: break-word; max-width: 40em; }}
  td:last-child:not(:empty) {{ min-width: 20em; }}
  th button {{ font: inherit; background: none; border: 0; padding: 0; cursor: pointer;
    white-space: nowrap; }}
  th button::after {{ content: " \\2195" / ""; }}
  th[aria-sort=ascending] button::after {{ content: " \\2191" / ""; }}
  th[aria-sort=descending] button::after {{ content: " \\2193" / ""; }}
  button:focus-visible, a:focus-visible {{ outline: 3px solid #0072b2; }}
  img {{ height: 60px; max-width: 160px; object-fit: contain; image-rendering: pixelated; }}
</style></head>
<body><main><h1>{title}</h1>
{body}
</main></body></html>
"""
SORT = """
<script>
const heads = [...document.querySelectorAll("thead th")], body = document.querySelector("tbody");
heads.forEach((head, at) => {
  const name = head.textContent, button = document.createElement("button");
  button.textContent = name;
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
</script>
"""


def to_html(table: pd.DataFrame, folder: Path, report: str, thumbnail: str) -> str:
    """The page of a grid's table, with relative links; it asks nothing of the network.

    report, thumbnail: the names of these files in the folder of each run, below `folder`.
    """
    shown = table.astype(object).map(cell, na_action="ignore")
    shown.columns = [escape(str(name)) for name in shown]
    links, pictures = [], []
    for run, error in zip(table["run"], table["error"], strict=True):
        link, picture = f"{quote(run)}/{quote(report)}", f"{quote(run)}/{thumbnail}"
        links.append(f"{run} (failed)" if error else f'<a href="{link}">{run}</a>')
        pictures.append(f'<img src="{picture}" alt="largest picture of {run}" loading="lazy">')
        if not (folder / run / thumbnail).exists():
            pictures[-1] = ""
    if any(pictures):
        shown.insert(1, "picture", pictures)
    failed, title = sum(table["error"] != ""), f"{Path(report).stem}: {len(table)} runs"
    said = f"<p>{failed or 'None'} failed. The same table: "
    said += ", ".join(f'<a href="{f.name}">{f.name}</a>' for f in sorted(folder.glob("results.*")))
    rows = shown.assign(run=links).set_index("run").rename_axis(columns="run", index=None)
    html = html_table(rows, escape=False, na_rep="")
    said += '.</p>\n<p id="order" role="status">A heading sorts the runs by its column.</p>\n'
    return PAGE.format(title=escape(title), body=said + html + SORT)


def cell(value: Any) -> str:
    """One value as text, safe in HTML."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def html_table(frame: pd.DataFrame, **options: Any) -> str:
    """A frame as an HTML table, whole; options: of `DataFrame.to_html`."""
    with pd.option_context("display.max_colwidth", None):
        return frame.to_html(border=0, justify="left", **options)
