"""The sets of a course, written to folders: students', nbgrader's and teachers', and a gallery."""

from __future__ import annotations

import os
import re
import shutil
import struct
from base64 import b64decode
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import nbformat
from nbformat import NotebookNode

import workbench
from workbench import reports
from workbench.courses.exercises import nbgrader, problems, student
from workbench.steps import Step

T = TypeVar("T")
PLAN = "README.md"  # beside the notebooks: the course plan
UNSOLVED = ("NotImplementedError", "AssertionError")
PICTURE = re.compile(r'<img alt="([^"]*)" src="(data:image/png;base64,([^"]+))"')
MARKUP = re.compile(r"[*`]|\[([^]]*)\]\([^)]*\)")
N_PICTURES = 4
STYLE = Path(__file__).with_name("gallery.css")


def masters() -> list[Path]:
    """The notebooks of this checkout, else those in ./notebooks.

    Raises:
        FileNotFoundError: neither is there, as where only the package is installed.
    """
    for folder in (Path(workbench.__file__).resolve().parent.parent, Path.cwd()):
        if found := sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(
        "no notebooks: an installed package brings none, and none are in "
        f"{Path.cwd() / 'notebooks'}; run this in a copy of the repository"
    )


def new_course(path: str | Path, notebooks: Sequence[Path] | None = None) -> Path:
    """Write the students' copies and the course plan to a new folder: all, or nothing.

    notebooks: the masters; by default `masters()`.

    Raises:
        FileExistsError: something is there already; it is never written over.
        FileNotFoundError: no notebooks.
        ValueError: an exercise that is not in order; see `problems`.
    """
    target, notebooks = Path(path).absolute(), notebooks or masters()
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


def student_set(
    notebooks: Sequence[Path], output: str | Path, executor: Executor, *, verify: bool = False
) -> Iterator[Step[Path]]:
    """Write `student/`, `nbgrader/source/` and `teacher/` in `output`; a step a notebook.

    Teachers get each master executed: NAME.ipynb, NAME.html, and what it recorded, NAME.json.
    verify: the students' copies are run, too. Only exercises and their checks may fail there,
    each check has to, and with words.

    Raises:
        FileNotFoundError, ValueError: no such notebook; an exercise that is not in order, see
            `problems`; an output folder that holds the notebooks themselves.
        RuntimeError: notebooks that failed; the others are written all the same.
    """
    folder, read = Path(output).absolute(), _read(notebooks)
    for kind in ("student", "teacher"):
        _keep_apart(folder / kind, read)
    for path, master in read.items():
        _write(folder / "nbgrader" / "source" / path.stem / path.name, nbgrader(master))
        _write(folder / "student" / path.name, student(master))
    _, failed = yield from _each(executor, _taught, [(path, folder, verify) for path in read])
    _raise(failed)
    yield Step(len(read), len(read), "written", folder)


def gallery(
    notebooks: Sequence[Path], output: str | Path, executor: Executor
) -> Iterator[Step[Path]]:
    """Run notebooks into a static site: an index, a page and a student's copy a notebook.

    The pages show no solution and ask nothing of the network. The last step has the index.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `student_set`; the index lists the rest.
    """
    folder, read = Path(output).absolute(), _read(notebooks)
    _keep_apart(folder, read)
    names = [path.stem for path in read]
    entries, failed = yield from _each(executor, _shown, [(path, folder, names) for path in read])
    shutil.copyfile(STYLE, folder / "style.css")
    reports.write(folder / "index.html", _index(sorted(entries, key=lambda entry: entry.name)))
    _raise(failed)
    yield Step(len(read), len(read), "written", folder / "index.html")


def _read(notebooks: Sequence[Path]) -> dict[Path, NotebookNode]:
    """The masters by path; raises a ValueError that lists all problems of their exercises."""
    read = {Path(path).absolute(): nbformat.read(path, as_version=4) for path in notebooks}
    wrong = [f"{path.name}: {text}" for path, nb in read.items() for text in problems(nb)]
    if len({path.name for path in read}) < len(read):
        wrong.append("notebooks: expected every file name once")
    if wrong:
        raise ValueError("\n".join(wrong))
    return read


def _keep_apart(folder: Path, notebooks: dict[Path, Any]) -> None:
    """Make a folder that holds no master; raises a ValueError where it does."""
    if any(path.parent.resolve() == folder.resolve() for path in notebooks):
        raise ValueError(f"output: {folder} holds the notebooks themselves; give another folder")
    folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    reports.write(path, nbformat.writes(notebook) + "\n")


def _each(
    executor: Executor, work: Callable[..., T], tasks: Sequence[tuple[Any, ...]]
) -> Generator[Step[Any], None, tuple[list[T], list[str]]]:
    """Results and failures of `work(*task)`, a step as each is done; closing cancels the rest."""
    waiting = {executor.submit(work, *task): task[0] for task in tasks}
    results: list[T] = []
    failed: list[str] = []
    try:
        for future in as_completed(waiting):
            try:
                results.append(future.result())
            except Exception as error:
                failed.append(str(error) or type(error).__name__)
            yield Step(len(results) + len(failed), len(tasks), waiting[future].stem)
    finally:
        for future in waiting:
            future.cancel()
    return results, failed


def _raise(failed: list[str]) -> None:
    if failed:
        raise RuntimeError("\n".join([f"notebooks that failed: {len(failed)}", *sorted(failed)]))


def _taught(path: Path, output: Path, verify: bool) -> None:
    """One notebook's part of `student_set`: the teacher's copy, and the student's verified."""
    folder = output / "teacher"
    report = reports.execute(path, output=folder / path.stem)
    os.replace(report.notebook, folder / path.name)
    os.replace(report.html, folder / report.html.name)
    os.replace(report.results_path, folder / f"{path.stem}.json")
    report.notebook.parent.rmdir()
    if verify:
        report = reports.execute(output / "student" / path.name, output=output / "tried" / path.stem)
        if wrong := _unexpected(nbformat.read(report.notebook, as_version=4)):
            raise RuntimeError(f"{path.name}, student's copy: {'; '.join(wrong)}")
        shutil.rmtree(report.notebook.parent)


def _unexpected(executed: NotebookNode) -> list[str]:
    """What an executed student's copy does that it should not."""
    wrong, solved = [], set()
    for cell in executed.cells:
        names = [t for t in cell.metadata.get("tags", []) if t.startswith(("exercise-", "check-"))]
        errors = [out for out in cell.get("outputs", []) if out.output_type == "error"]
        for error in errors:
            if error.ename not in UNSOLVED or not error.evalue.strip():
                wrong.append(f"{names[0]} fails without a sentence: {error.ename}: {error.evalue}")
        if names and names[0].startswith("check-") and not errors:
            wrong.append(f"{names[0]} passes before the exercise is done")
    return wrong


@dataclass(frozen=True)
class Entry:
    """What the index says of a notebook. pictures: their alternative texts and data URLs."""

    name: str
    title: str
    goal: str
    time: str
    pictures: list[tuple[str, str]]


def _shown(path: Path, folder: Path, names: list[str]) -> Entry:
    """One notebook's part of `gallery`."""
    report = reports.execute(path, output=folder / path.stem)
    executed = nbformat.read(report.notebook, as_version=4)
    shutil.rmtree(report.notebook.parent)
    page = reports.to_html(student(executed, outputs=True), folder=path.parent)
    for name in names:
        page = page.replace(f'href="{name}.ipynb', f'href="{name}.html')
    links = f'<a href="index.html">All notebooks</a> · <a href="{path.name}" download>Notebook</a>'
    page = page.replace("<main>", f'<nav style="padding: 0.5em">{links}</nav>\n<main>', 1)
    reports.write(folder / f"{path.stem}.html", page)
    _write(folder / path.name, student(executed))
    head = executed.cells[0].source
    title, goal, time = (
        MARKUP.sub(r"\1", found[1]).strip() if (found := re.search(pattern, head, re.M)) else ""
        for pattern in (r"^# (.+)", r"\*\*Goal:\*\* *(.+)", r"\*\*Time:\*\* *([^*\n]+)")
    )
    return Entry(path.stem, title or path.stem, goal, time, _pictures(page))


def _pictures(page: str) -> list[tuple[str, str]]:
    """A few different pictures of a page, those with the most pixels first."""
    found = {data: (alt, url) for alt, url, data in PICTURE.findall(page)}

    def pixels(data: str) -> int:
        width, height = struct.unpack(">II", b64decode(data[:32])[16:24])  # of a PNG's header
        return width * height

    return [found[data] for data in sorted(found, key=pixels, reverse=True)[:N_PICTURES]]


def _index(entries: list[Entry]) -> str:
    """The page that lists the notebooks."""
    cards = []
    for entry in entries:
        pictures = "".join(f'<img alt="{alt}" src="{url}">' for alt, url in entry.pictures)
        cards.append(
            f'<li><h2><a href="{entry.name}.html">{escape(entry.title)}</a></h2>\n'
            f'<div class="pictures">{pictures}</div>\n<p>{escape(entry.goal)}</p>\n'
            f'<p class="links">{escape(entry.time)} <a href="{entry.name}.html">Page</a> '
            f'<a href="{entry.name}.ipynb" download>Notebook</a></p></li>\n'
        )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<title>DNN Workbench: gallery</title>\n<link rel="stylesheet" href="style.css">\n'
        "</head>\n<body>\n<header><h1>DNN Workbench</h1>\n<p>Looking inside image classifiers: "
        f"{len(entries)} notebooks, run with version {workbench.__version__}.</p></header>\n"
        f"<main><ol>\n{''.join(cards)}</ol></main>\n</body>\n</html>\n"
    )
