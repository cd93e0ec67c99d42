"""The sets of a course, written to folders: students', nbgrader's and teachers'."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbformat import NotebookNode

from workbench import reports
from workbench.courses.checking import outcome
from workbench.courses.exercises import NAMED, nbgrader, problems, student
from workbench.steps import Step, run, work

PLAN = "README.md"  # beside the notebooks: the course plan
UNSOLVED = ("NotImplementedError", "AssertionError")


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
    copies = {path.name: student(master) for path, master in masters(notebooks).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".course-") as scratch:
        made = Path(scratch) / "course"
        for name, copy in copies.items():
            write_notebook(made / name, copy)
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
    read = masters(notebooks, folder / "student", folder / "teacher")
    for path, master in read.items():
        write_notebook(folder / "nbgrader" / "source" / path.stem / path.name, nbgrader(master))
        write_notebook(folder / "student" / path.name, student(master))
    yield from one_by_one(executor, _taught, [(path, folder, verify) for path in read])
    yield Step(len(read), len(read), "written", folder)


def masters(notebooks: Sequence[Path], *folders: Path) -> dict[Path, NotebookNode]:
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


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reports.write(path, nbformat.writes(notebook) + "\n")


def one_by_one(
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


def run_one(path: Path, folder: Path) -> tuple[NotebookNode, reports.Report]:
    """A notebook after a run, and what came of it; one that fails leaves it in `folder`."""
    report = run(reports.execute.steps(path, output=folder / path.stem), progress=False)
    executed = nbformat.read(report.notebook, as_version=4)
    shutil.rmtree(report.notebook.parent)
    return executed, report


def _taught(path: Path, output: Path, verify: bool) -> None:
    """One notebook's part of `student_set`: the teacher's copy, and the student's verified."""
    executed, report = run_one(path, output / "teacher")
    write_notebook(output / "teacher" / path.name, executed)
    page = reports.to_html(executed, folder=path.parent)
    reports.write(output / "teacher" / f"{path.stem}.html", page)
    if not verify:
        return
    if wrong := [f"{check.says} (cell {check.cell})" for check in report.checks if not check.holds]:
        raise RuntimeError(f"checks that do not hold: {'; '.join(wrong)}")
    copy = output / "student" / path.name
    if wrong := _unexpected(run_one(copy, copy.parent)[0]):
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
