"""`progress`: which exercises of a class are right, read from what its notebooks have saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode

from workbench.courses.checking import outcome
from workbench.courses.exercises import NAMED, untouched
from workbench.files import STYLE, write

STATES = {  # sign, class and what it means
    "right": ("✓", "wb-ok", "the check held"),
    "wrong": ("✗", "wb-warn", "the check did not hold"),
    "not checked": ("○", "wb-soft", "changed, and not checked since"),
    "not tried": ("·", "wb-soft", "as it was given out"),
}


@dataclass(frozen=True)
class Progress:
    """One row an exercise: student, notebook, exercise, state, says; and what could not be read.

    table: `state` is one of `STATES`, `says` what the check said. damaged: why, by file.
    """

    folder: Path
    table: pd.DataFrame
    damaged: dict[str, str]

    def counts(self, by: str) -> pd.DataFrame:
        """How many exercises are in which state, a row for each of `by`: notebook or student."""
        found = pd.crosstab(self.table[by], self.table["state"])
        return found.reindex(columns=[*STATES], fill_value=0).rename_axis(columns=None)

    def summary(self) -> str:
        """A sentence."""
        students, n = self.table["student"].nunique(), len(self.table)
        states = self.table["state"].value_counts()
        listed = ", ".join(f"{states.get(state, 0)} {state}" for state in STATES)
        said = f"{students} student{'s'[: students != 1]}, {n} exercise{'s'[: n != 1]}: {listed}."
        unread = f" {len(self.damaged)} of the files could not be read." if self.damaged else ""
        return said + unread

    def page(self) -> str:
        """For a teacher: a table of students and exercises, as one HTML document."""
        several = self.table.groupby("notebook")["exercise"].transform("max") > 1
        numbers = (" " + self.table["exercise"].astype(str)).where(several, "")
        rows = self.table.assign(exercise=self.table["notebook"].str.replace("_", " ") + numbers)
        columns = sorted(rows["exercise"].unique())
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        body = ""
        for student, own in rows.groupby("student"):
            found = dict(
                zip(own["exercise"], zip(own["state"], own["says"], strict=True), strict=True)
            )
            cells = "".join(_cell(*found.get(name, ("", ""))) for name in columns)
            done = f"{int((own['state'] == 'right').sum())} of {len(own)}"
            body += f'<tr><th scope="row">{escape(str(student))}</th><td>{done}</td>{cells}</tr>\n'
        key = " ".join(f"{_sign(state)} {why}." for state, (_, _, why) in STATES.items())
        bad = "".join(f"<li>{escape(f'{k}: {why}')}</li>" for k, why in self.damaged.items())
        bad = f"<h4>Could not be read</h4><ul>{bad}</ul>" if bad else ""
        title = f"Progress: {self.folder.name}"
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
            f"</title>\n<style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
            f'<body class="wb-sheet"><main class="wb wb-progress"><h1 class="wb-head">'
            f"{escape(title)}</h1>\n<p>{escape(self.summary())}</p>\n"
            f'<div tabindex="0" role="region" aria-label="students and exercises"><table><thead>'
            f'<tr><th scope="col">student</th><th scope="col">right</th>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>\n<p>{key}</p>{bad}\n"
            '<p class="wb-soft">Read from saved notebooks; nothing of them was run.</p>'
            "</main></body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to a file; returns its path."""
        target = Path(path).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, self.page())
        return target


def progress(folder: str | Path) -> Progress:
    """Read the exercises of a student's folder, or of a folder with one for each student.

    Students are the folders right below `folder`, nbgrader's `submitted` among such. What counts
    is saved in the notebooks: the source of an exercise, and what its check put out. No code runs,
    so an output that was written by hand is believed; nbgrader runs the checks anew.

    Raises:
        NotADirectoryError: no such folder.
        ValueError: no notebook in it has an exercise.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise NotADirectoryError(f"folder: {folder} is no folder; name that of the notebooks")
    rows, damaged = [], {}
    for path in sorted(folder.rglob("*.ipynb")):
        place = path.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue  # such as JupyterLab's checkpoints
        student = place.parts[0] if len(place.parts) > 1 else folder.name
        try:
            found = list(_states(nbformat.read(path, as_version=4)))
        except Exception as error:  # whatever a damaged file makes of nbformat
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            damaged[place.as_posix()] = f"{why:.120}"
            continue
        rows += [(student, path.stem, *row) for row in found]
    if not rows:
        unread = "".join(f"; {name}: {why}" for name, why in damaged.items())
        raise ValueError(
            f"folder: no notebook in {folder} has an exercise{unread}; expected copies that "
            "`workbench course new` or `workbench student` made"
        )
    columns = ["student", "notebook", "exercise", "state", "says"]
    return Progress(folder, pd.DataFrame(rows, columns=columns), damaged)


def _states(notebook: NotebookNode) -> Iterator[tuple[int, str, str]]:
    """Number, state and what was said of each exercise of a student's copy."""
    nbformat.validate(notebook)
    named = {name: cell for cell in notebook.cells for name in _names(cell)}
    for name, cell in named.items():
        kind, _, number = name.partition("-")
        if kind != "exercise":
            continue
        check = named.get(f"check-{number}")
        found = outcome(check) if check else None
        if check and found and (cell.execution_count or 0) > (check.execution_count or 0):
            found = None  # of an answer before this one
        if untouched(cell) and not (found and found[0]):
            yield int(number), "not tried", ""
        elif found is None:
            yield int(number), "not checked", ""
        else:
            yield int(number), "right" if found[0] else "wrong", found[1]


def _names(cell: NotebookNode) -> list[str]:
    """The names of a code cell as an exercise or a check."""
    if cell.cell_type != "code":
        return []
    names = [*cell.metadata.get("tags", []), cell.metadata.get("nbgrader", {}).get("grade_id", "")]
    return [name for name in names if NAMED.match(name)]


def _sign(state: str) -> str:
    sign, style, _ = STATES[state]
    return f'<span class="{style}"><span aria-hidden="true">{sign}</span> {state}</span>'


def _cell(state: str, says: str) -> str:
    """A cell of the page; empty where a student has no such notebook."""
    title = f' title="{escape(says, quote=True)}"' if says else ""
    return f"<td{title}>{_sign(state) if state else ''}</td>"
