"""The sets of a course, written to folders: students', nbgrader's and teachers', and a gallery."""

from __future__ import annotations

import os
import re
import shutil
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from html import escape
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from nbformat import NotebookNode

import workbench
from workbench import reports
from workbench.courses.checking import outcome
from workbench.courses.exercises import NAMED, nbgrader, problems, student
from workbench.reports import DATA, PLOTLY
from workbench.steps import Step, run, work

PLAN = "README.md"  # beside the notebooks: the course plan
UNSOLVED = ("NotImplementedError", "AssertionError")
HEAD = (r"# (.+)", r"\*\*Goal:\*\* *(.+)", r"\*\*Time:\*\* *([^*\n]+)")  # of a notebook
MARKUP = re.compile(r"[*`]|\[([^]]*)\]\([^)]*\)")
STYLE = Path(__file__).with_name("gallery.css")


def new_course(path: str | Path, notebooks: Sequence[Path]) -> Path:
    """Write the students' copies and the course plan to a new folder: all, or nothing.

    Raises:
        FileExistsError: something is there already; it is never written over.
        FileNotFoundError: no such notebook.
        ValueError: an exercise that is not in order; see `problems`.
    """
    target = Path(path).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(
            f"{target} is there already, and nothing is written over; name a new folder"
        )
    copies = {path.name: student(master) for path, master in _read(notebooks).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".course-") as scratch:
        made = Path(scratch) / "course"
        for name, copy in copies.items():
            _write(made / name, copy)
        if (plan := Path(notebooks[0]).with_name(PLAN)).is_file():
            shutil.copyfile(plan, made / PLAN)
        os.replace(made, target)  # fails where files have come meanwhile
    return target


@work
def student_set(
    notebooks: Sequence[Path], output: str | Path, executor: Executor, *, verify: bool = False
) -> Iterator[Step[Path]]:
    """Write `student/`, `nbgrader/source/` and `teacher/` in `output`; a step a notebook.

    Teachers get each master executed, as a notebook and as a page. verify: its checks have to
    hold, and the students' copies are run, too: only exercises and their checks may fail, each
    check has to, and with words.

    Raises:
        FileNotFoundError, ValueError: no such notebook; an exercise that is not in order, see
            `problems`; an output folder that holds the notebooks themselves.
        RuntimeError: notebooks that failed; the others are written all the same.
    """
    folder = Path(output).absolute()
    read = _read(notebooks, folder / "student", folder / "teacher")
    for path, master in read.items():
        _write(folder / "nbgrader" / "source" / path.stem / path.name, nbgrader(master))
        _write(folder / "student" / path.name, student(master))
    yield from _each(executor, _taught, [(path, folder, verify) for path in read])
    yield Step(len(read), len(read), "written", folder)


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
    read = _read(notebooks, folder)
    names = [path.stem for path in read]
    entries = yield from _each(executor, _shown, [(path, folder, names) for path in read])
    shutil.copyfile(STYLE, folder / STYLE.name)
    index = Template(STYLE.with_suffix(".html").read_text(encoding="utf-8")).substitute(
        number=len(entries), version=workbench.__version__, cards="\n".join(entries)
    )
    reports.write(folder / "index.html", index)
    yield Step(len(read), len(read), "written", folder / "index.html")


def _read(notebooks: Sequence[Path], *folders: Path) -> dict[Path, NotebookNode]:
    """The masters by path, and the folders made; raises a ValueError with all that is wrong."""
    read = {Path(path).absolute(): nbformat.read(path, as_version=4) for path in notebooks}
    wrong = [f"{path.name}: {text}" for path, nb in read.items() for text in problems(nb)]
    if mixed := {path.parent.resolve() for path in read} & {folder.resolve() for folder in folders}:
        wrong.append(f"output: {mixed.pop()} holds the notebooks themselves; give another folder")
    if wrong:
        raise ValueError("\n".join(wrong))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return read


def _write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    reports.write(path, nbformat.writes(notebook) + "\n")


def _each(
    executor: Executor, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
) -> Generator[Step[Any], None, list[Any]]:
    """The results of `work(*task)`, a step as each is done; closing cancels the rest."""
    waiting = {executor.submit(work, *task): task[0] for task in tasks}
    failed = []
    try:
        for done, future in enumerate(as_completed(waiting), 1):
            if error := future.exception():
                name = waiting[future].name
                failed.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
            yield Step(done, len(tasks), waiting[future].stem)
    finally:
        for future in waiting:
            future.cancel()
    if failed:
        raise RuntimeError("\n".join([f"notebooks that failed: {len(failed)}", *sorted(failed)]))
    return [future.result() for future in waiting]


def _executed(path: Path, folder: Path) -> tuple[NotebookNode, reports.Report]:
    """A notebook after a run, and what came of it; one that fails leaves it in `folder`."""
    report = run(reports.execute.steps(path, output=folder / path.stem), progress=False)
    executed = nbformat.read(report.notebook, as_version=4)
    shutil.rmtree(report.notebook.parent)
    return executed, report


def _taught(path: Path, output: Path, verify: bool) -> None:
    """One notebook's part of `student_set`: the teacher's copy, and the student's verified."""
    executed, report = _executed(path, output / "teacher")
    _write(output / "teacher" / path.name, executed)
    page = reports.to_html(executed, folder=path.parent)
    reports.write(output / "teacher" / f"{path.stem}.html", page)
    if not verify:
        return
    if wrong := [f"{check.says} (cell {check.cell})" for check in report.checks if not check.holds]:
        raise RuntimeError(f"checks that do not hold: {'; '.join(wrong)}")
    copy = output / "student" / path.name
    if wrong := _unexpected(_executed(copy, copy.parent)[0]):
        raise RuntimeError(f"students' copy: {'; '.join(wrong)}")


def _unexpected(executed: NotebookNode) -> list[str]:
    """What an executed students' copy does that it should not."""
    wrong = []
    for cell in executed.cells:
        for name in filter(NAMED.match, cell.metadata.get("tags", [])):
            for error in (out for out in cell.outputs if out.output_type == "error"):
                if error.ename not in UNSOLVED or not error.evalue.strip():
                    wrong.append(f"{name} ends in {error.ename}: {error.evalue or 'not a word'}")
            if name.startswith("check") and (found := outcome(cell)) and found[0]:
                wrong.append(f"{name} passes before the exercise is done")
    return wrong


def _shown(path: Path, folder: Path, names: list[str]) -> str:
    """One notebook's part of `gallery`: page and student's copy; returns its entry in the index."""
    executed, report = _executed(path, folder)
    shown = student(executed, outputs=True)
    page = reports.to_html(shown, folder=path.parent)
    for name in names:
        page = page.replace(f'href="{name}.ipynb', f'href="{name}.html')
    download = f'<a href="{path.name}" download>Notebook</a>'
    links = f'<a href="index.html">All notebooks</a> · {download}'
    page = page.replace("<main>", f'<main>\n<nav class="jp-RenderedHTMLCommon">{links}</nav>', 1)
    reports.write(folder / f"{path.stem}.html", page)
    _write(folder / path.name, student(executed))
    title, goal, time = (
        escape(MARKUP.sub(r"\1", found[1]).strip()) if found else ""
        for found in (re.search(f"^{line}", executed.cells[0].source, re.M) for line in HEAD)
    )
    figures = reports.figures(shown)
    different = {png: escape(alt) for figure in figures for alt, png in figure.pictures}
    pictures = [f'<img alt="{alt}" src="{DATA}{png}">' for png, alt in different.items()][:4]
    charts = [_sketch(each.output.data[PLOTLY]) for each in figures if PLOTLY in each.output.data]
    pictures.insert(0, next(filter(None, charts), ""))
    link = f'<a href="{path.stem}.html">'
    return (
        f"<li><h2>{link}{title or escape(path.stem)}</a></h2>\n"
        f'<div class="pictures">{"".join(pictures)}</div>\n<p>{goal}</p>\n{_verdicts(report)}'
        f'<p class="links">{time} {link}Page</a> {download}</p></li>'
    )


def _verdicts(report: reports.Report) -> str:
    """What became of the papers' claims in a notebook, counted; "" where it makes none."""
    counts = Counter(claim["verdict"] for claim in report.claims)
    listed = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    return f"<p>Claims of papers, tested: {escape(listed)}</p>\n" if listed else ""


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
