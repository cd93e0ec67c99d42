"""The gallery: every notebook as a page, and an index with pictures and verdicts."""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import workbench
from workbench import reports
from workbench.courses.building import masters, one_by_one, run_one, write_notebook
from workbench.courses.exercises import student
from workbench.reports import DATA, PLOTLY, SIGNS, VERDICTS
from workbench.steps import Step, work

HEAD = (r"# (.+)", r"\*\*Goal:\*\* *(.+)", r"\*\*Time:\*\* *([^*\n]+)")  # of a notebook
MARKUP = re.compile(r"[*`]|\[([^]]*)\]\([^)]*\)")


@work
def gallery(
    notebooks: Sequence[Path], output: str | Path, executor: Executor
) -> Iterator[Step[Path]]:
    """Run notebooks into a static site: an index, a page and a student's copy a notebook.

    The pages show no solution and ask nothing of the network. The last step has the index.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `student_set`.
    """
    folder = Path(output).absolute()
    read = masters(notebooks, folder)
    names = [path.stem for path in read]
    entries = yield from one_by_one(executor, _shown, [(path, folder, names) for path in read])
    said = f"{len(entries)} notebooks, run with version {workbench.__version__}."
    body = f'<p class="wb-soft">Looking inside image classifiers: {said}</p>\n'
    body += "\n".join(['<ol class="wb-gallery">', *entries, "</ol>"])
    reports.write(folder / "index.html", reports.document("DNN Workbench: gallery", body))
    yield Step(len(read), len(read), "written", folder / "index.html")


def _shown(path: Path, folder: Path, names: list[str]) -> str:
    """One notebook's part of `gallery`: page and student's copy; returns its entry in the index."""
    executed, report = run_one(path, folder)
    shown = student(executed, outputs=True)
    page = reports.to_html(shown, folder=path.parent)
    for name in names:
        page = page.replace(f'href="{name}.ipynb', f'href="{name}.html')
    download = f'<a href="{path.name}" download>Notebook</a>'
    links = f'<a href="index.html">All notebooks</a> · {download}'
    page = page.replace("<main>", f'<main>\n<nav class="jp-RenderedHTMLCommon">{links}</nav>', 1)
    reports.write(folder / f"{path.stem}.html", page)
    write_notebook(folder / path.name, student(executed))
    title, goal, time = (
        escape(MARKUP.sub(r"\1", found[1]).strip()) if found else ""
        for found in (re.search(f"^{line}", executed.cells[0].source, re.M) for line in HEAD)
    )
    link = f'<a href="{path.stem}.html">'
    return (
        f'<li class="wb-card"><h2>{link}{title or escape(path.stem)}</a></h2>\n'
        f'<div class="wb-pictures">{_pictures(shown)}</div>\n<p>{goal}</p>\n{_verdicts(report)}'
        f'<p class="wb-soft wb-links">{time} {link}Page</a> {download}</p></li>'
    )


def _pictures(shown: Any) -> str:
    """The first chart of a notebook, small, and its first pictures."""
    figures = reports.figures(shown)
    different = {png: escape(alt) for figure in figures for alt, png in figure.pictures}
    pictures = [f'<img alt="{alt}" src="{DATA}{png}">' for png, alt in different.items()][:4]
    charts = [_sketch(each.output.data[PLOTLY]) for each in figures if PLOTLY in each.output.data]
    return "".join([next(filter(None, charts), ""), *pictures])


def _verdicts(report: reports.Report) -> str:
    """How many checks hold, and what became of the papers' claims in a notebook; "" for none."""
    said, held = [], sum(check.holds for check in report.checks)
    if report.checks:
        kind = "ok" if held == len(report.checks) else "warn"
        said.append(f'<b class="wb-{kind}">{held} of {len(report.checks)} checks hold</b>')
    if counts := Counter(claim["verdict"] for claim in report.claims):
        each = [f"{SIGNS[v]} {counts[v]} {v}" for v in VERDICTS if counts[v]]
        said.append(f"claims of papers: {', '.join(each)}")
    return f"<p>{' · '.join(said)}</p>\n" if said else ""


def _sketch(figure: dict[str, Any]) -> str:
    """The lines of a plotly figure as a small drawing; "" where it has none."""
    lines = []
    for trace in figure["data"]:
        y = trace.get("y", [])
        if isinstance(y, dict):  # an array's bytes
            y = np.frombuffer(b64decode(y["bdata"]), y["dtype"])
        numbers = pd.to_numeric(pd.Series(y), errors="coerce").dropna()
        if "lines" in (trace.get("mode") or "") and len(numbers) > 1:
            lines.append(numbers)
    if not lines:
        return ""
    low, high = min(y.min() for y in lines), max(y.max() for y in lines)
    drawn = ""
    for y in lines:
        across, down = np.linspace(2, 118, len(y)), 78 - 76 * (y - low) / (high - low or 1)
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(across, down, strict=True))
        drawn += f'<polyline points="{points}"/>'
    return f'<svg viewBox="0 0 120 80" role="img" aria-label="a chart inside">{drawn}</svg>'
