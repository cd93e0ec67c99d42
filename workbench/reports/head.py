"""The head of a report: what came out, on what it was found, the picture to look at first."""

from __future__ import annotations

import ast
import re
from collections import Counter
from contextlib import suppress
from datetime import datetime
from html import escape
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

import workbench
from workbench.reports import asserts, claims, inputs, results
from workbench.reports.contents import PLOTLY, Figure

HEADLINE = "headline"  # the tag of a cell whose figure stands at the head
SHOWN = 6  # recorded figures at the head
ROLES = {"model": "model", "robust": "beside", "compare": "beside", "dataset": "data"}
DRAG, PANEL, DIV = "<div data-drag=", "<section aria-label=", re.compile(r"<(/?)div\b")
SECTION = re.compile("<h2>(.*?)</h2>", re.DOTALL)


def head(notebook: NotebookNode, picture: str) -> str:
    """Result, facts and figures of an executed notebook as HTML; `picture` stands beside them."""
    notes: dict[str, list[Any]] = {results.MIME: [], asserts.CHECKS: [], claims.MIME: []}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for mime in notes.keys() & output.get("data", {}).keys():
                notes[mime].append(output.data[mime])
    values = as_run(notebook)[1]
    recorded = {name: value for call in notes[results.MIME] for name, value in call.items()}
    own = {n: v for n, v in recorded.items() if n not in values and results.short(v)}
    rows = "".join(
        f"<div><dt>{escape(results.words(name))}</dt><dd>{escape(results.short(value, name))}</dd>"
        "</div>"
        for name, value in list(own.items())[:SHOWN]
    )
    facts = f'<dl class="wb-facts">{rows}</dl>' if rows else ""
    checks = [check["holds"] for cell in notes[asserts.CHECKS] for check in cell]
    verdict = _verdict(checks, [claim["verdict"] for claim in notes[claims.MIME]])
    return (
        f'<div class="wb wb-report">{verdict}<p class="wb-soft">{_origin(notebook, values)}</p>'
        f"{facts}{picture}</div>"
    )


def _verdict(checks: list[bool], verdicts: list[str]) -> str:
    """How many checks hold, and what became of claims, in one line."""
    said = []
    if checks:
        held, kind = sum(checks), "ok" if all(checks) else "warn"
        sign = "✓" if all(checks) else "✗"
        said.append(f'<b class="wb-{kind}">{sign} {held} of {len(checks)} checks hold</b>')
    if counts := Counter(verdicts):
        each = [f"{claims.SIGNS[v]} {n} {v}" for v in claims.VERDICTS if (n := counts[v])]
        said.append(f"claims of papers: {', '.join(each)}")
    return f'<p class="wb-head">{" · ".join(said)}</p>' if said else ""


def _origin(notebook: NotebookNode, values: dict[str, Any]) -> str:
    """Model and data, the day of the run, the version."""
    named = [(role, values[name]) for name, role in ROLES.items() if values.get(name)]
    said = [f"{role} {escape(str(value))}" for role, value in named]
    times = [cell.metadata.get("execution", {}).get("iopub.status.busy") for cell in notebook.cells]
    with suppress(ValueError):
        day = datetime.fromisoformat(max(time for time in times if time))
        said.append(f"run on {day.day} {day:%B %Y}")
    return " · ".join([*said, f"DNN Workbench {workbench.__version__}"])


def headline(notebook: NotebookNode, figures: list[Figure]) -> Figure | None:
    """The figure that a cell is tagged for, else one to drag, else the first that is no panel."""
    tagged = [n for n, c in enumerate(notebook.cells, 1) if HEADLINE in c.metadata.get("tags", [])]
    ranks = {}
    for figure in figures:
        html = figure.output.data.get("text/html", "")
        is_panel = PANEL in html and PLOTLY not in figure.output.data
        ranks[figure] = (figure.cell not in tagged, DRAG not in html, is_panel)
    first = min(figures, key=lambda figure: ranks[figure], default=None)
    return None if first is None or ranks[first] == (True, True, True) else first


def dragged(html: str) -> str:
    """The figure to drag inside HTML, or all of it where there is none."""
    start, depth = html.find(DRAG), 0
    for tag in DIV.finditer(html, max(start, 0)):
        depth += -1 if tag[1] else 1
        if depth == 0 and start >= 0:
            return html[start : html.index(">", tag.end()) + 1]
    return html


def contents(html: str) -> tuple[str, str]:
    """Links to the sections of a page, "" where it has few; and the page with their anchors."""
    titles = [re.sub("<[^>]*>", "", text).strip() for text in SECTION.findall(html)]
    named = [(n, title) for n, title in enumerate(titles, 1) if title]
    links = "".join(f'<li><a href="#section-{n}">{title}</a></li>' for n, title in named)
    numbers = iter(range(1, len(titles) + 1))
    html = SECTION.sub(lambda found: f'<h2 id="section-{next(numbers)}">{found[1]}</h2>', html)
    listed = f'<nav class="wb wb-contents" aria-label="Contents"><ol>{links}</ol></nav>'
    return listed if len(named) > 2 else "", html


def as_run(notebook: NotebookNode) -> tuple[dict[str, inputs.Parameter], dict[str, Any]]:
    """The parameters that a notebook declares, and their values in its run."""
    cells = {tag: cell.source for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    try:
        declared = inputs.declared(cells.get("parameters", ""))
        values = {name: parameter.default for name, parameter in declared.items()}
        for line in ast.parse(cells.get("injected-parameters", "")).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                values[line.targets[0].id] = ast.literal_eval(line.value)
    except inputs.UNREADABLE:  # cells that no report of ours has run: they are shown as they are
        return {}, {}
    return declared, values


def once(notebook: NotebookNode) -> None:
    """Show each parameter once, as it was run, in place of the cells that set it."""
    declared, values = as_run(notebook)
    if not declared:
        return
    rows = ""
    for name, each in declared.items():
        changed = "" if values[name] == each.default else f"by default {_value(each.default)}"
        cells = _value(values[name]), changed, each.help
        inner = "".join(f"<td>{escape(text)}</td>" for text in cells)
        rows += f'<tr><th scope="row">{escape(name)}</th>{inner}</tr>'
    table = f'<table class="wb-parameters"><caption>Parameters</caption>{rows}</table>'
    kept = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            cell.source, cell.execution_count = "", None
            cell.outputs = [new_output("display_data", {"text/html": table})]
        if "injected-parameters" not in tags:
            kept.append(cell)
    notebook.cells = kept


def _value(value: Any) -> str:
    """A parameter as a reader would write it; texts are cut."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
