"""The index of a grid: one table of all runs that sorts at a click or a key press."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 80  # characters of a cell

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:;
  style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
  body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; color: #1b1b1b; }}
  .scroll {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; }}
  caption {{ text-align: left; padding: .5em 0; }}
  th, td {{ padding: .3em .7em; border-bottom: 1px solid #ccc; text-align: left; }}
  td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
  tr.failed td {{ background: #fdf0e6; }}
  thead th {{ background: #fff; position: sticky; top: 0; }}
  th button {{ font: inherit; font-weight: bold; background: none; border: 0; cursor: pointer; }}
  th button::after {{ content: " \\2195"; color: #595959; }}
  th[aria-sort=ascending] button::after {{ content: " \\2191"; color: inherit; }}
  th[aria-sort=descending] button::after {{ content: " \\2193"; color: inherit; }}
  button:focus-visible, a:focus-visible, .scroll:focus-visible {{ outline: 3px solid #0072b2; }}
  img {{ max-height: 60px; max-width: 120px; display: block; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{said} The same table: {files}.</p>
<p id="order" role="status"></p>
<div class="scroll" role="region" aria-label="Runs" tabindex="0">
<table>
<caption>One row a run. A heading sorts the rows by its column.</caption>
<thead><tr>{headings}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</main>
<script>
const body = document.querySelector("tbody"), order = document.getElementById("order");
document.querySelectorAll("th button").forEach(button => button.onclick = () => {{
  const th = button.parentNode, at = th.cellIndex;
  const up = th.getAttribute("aria-sort") !== "ascending";
  document.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => JSON.parse(row.cells[at].dataset.key ?? "null");
  const before = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0)
    : typeof a === "number" ? -1 : 1;
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => a === null || b === null  // what is missing comes last
    ? (a === null) - (b === null) : up ? before(a, b) : before(b, a));
  body.append(...rows.map(([, row]) => row));
  order.textContent = `Sorted by ${{button.textContent}}, ${{th.getAttribute("aria-sort")}}.`;
}});
</script>
</body>
</html>
"""


def to_html(table: pd.DataFrame, folder: Path, report: str, thumbnail: str) -> str:
    """The page of a grid's table, with links relative to `folder`; it asks nothing of the network.

    report, thumbnail: the names of these files in the folder of each run.
    """
    names = [name for name in table if name != "run"]
    failed = int((table["error"] != "").sum())
    said = f"{len(table)} runs, {failed} of them failed." if failed else f"{len(table)} runs."
    files = [name for name in ("results.csv", "results.parquet") if (folder / name).exists()]
    pictured = any((folder / run / thumbnail).exists() for run in table["run"])
    headings = ["report", *(["picture"] if pictured else []), *names]
    rows = []
    for row in table.to_dict("records"):
        place, run = f"{quote(row['run'])}/", escape(row["run"])
        link, alt = f'<a href="{place}{quote(report)}">{run}</a>', f"first picture of {run}"
        if row["error"]:
            link = f"{run} (failed)"
        picture = f'<img src="{place}{thumbnail}" alt="{alt}" loading="lazy">'
        if not (folder / row["run"] / thumbnail).exists():
            picture = ""
        cells = [f'<th scope="row" data-key="{key(row["run"])}">{link}</th>']
        cells += [f"<td>{picture}</td>"] if pictured else []
        cells += [cell(row[name]) for name in names]
        rows.append(f"<tr{' class=failed' if row['error'] else ''}>{''.join(cells)}</tr>")
    return PAGE.format(
        title=escape(f"{Path(report).stem}: {len(table)} reports"),
        said=said,
        files=", ".join(f'<a href="{name}">{name}</a>' for name in files),
        headings="".join(heading(str(name)) for name in headings),
        rows="\n".join(rows),
    )


def heading(name: str) -> str:
    """The heading of a column, which sorts by it."""
    if name == "picture":
        return '<th scope="col">picture</th>'
    return f'<th scope="col"><button type="button">{escape(name)}</button></th>'


def cell(value: Any) -> str:
    """One value, and what to sort it by."""
    if value is None or value != value:
        return "<td></td>"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="number" data-key="{value!r}">{value:.6g}</td>'
    text = str(value)
    shown = escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
    return f'<td data-key="{key(text)}">{shown}</td>'


def key(text: str) -> str:
    """Text to sort by, as JSON in an attribute."""
    return escape(json.dumps(text[:LONGEST].lower()))
