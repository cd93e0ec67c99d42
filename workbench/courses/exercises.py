"""Exercises, cut from the one master of a notebook.

An exercise is a code cell: a stub, a line `# solution`, the solution. The next code cell checks
what a student writes. The stub runs, and the check then says what is still to be done.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from nbformat import NotebookNode

MARKER = re.compile(r"^# solution[ \t]*$\n?", re.MULTILINE)
NEAR_MARKER = re.compile(r"^[ \t]*#+[ \t]*(?:begin |end )?solution\b.*", re.MULTILINE | re.I)
FUNCTION = re.compile(r"^def (\w+)\(.*", re.MULTILINE)
PLACE = "# Your code goes here."
NAMED = re.compile(r"(exercise|check)-(\d+)$")  # a tag in students' copies, nbgrader's grade_id
CHECKED = re.compile(r"\bcourses\.check\(")
GOES_ON = "raises-exception"  # a tag: JupyterLab and reports go on behind an unsolved exercise


@dataclass(frozen=True)
class Exercise:
    """One exercise. cell, check: indices of cells; check is None where no code cell follows."""

    cell: int
    stub: str
    solution: str
    check: int | None


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a master notebook, in order."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    found = []
    for cell, check in zip_longest(code, code[1:]):
        stub, *rest = MARKER.split(notebook.cells[cell].source, maxsplit=1)
        if rest:
            found.append(Exercise(cell, stub.strip(), rest[0].strip(), check))
    return found


def student(notebook: NotebookNode, *, outputs: bool = False) -> NotebookNode:
    """The copy for students: solutions cut, cells tagged `solution` dropped.

    A cell with the marker is an exercise, whatever its tags. Exercises and checks get the tags
    `exercise-1`, `check-1`, ..., and one so that a run goes on behind what fails there, in place
    of `checks`: a student's own check ends at the first assert that does not hold.
    outputs: keep those of an executed master, except the exercises' and their checks'.
    """
    made, cells = _prepared(notebook, outputs)
    for name, cell, exercise in cells:
        if exercise:
            cell.source = f"{exercise.stub}\n\n{PLACE}".lstrip()
            cell.metadata["workbench"] = {"given": _digest(cell.source)}
        cell.metadata["tags"] = [*_tags(cell), name, GOES_ON]
    return made


def nbgrader(notebook: NotebookNode) -> NotebookNode:
    """The source form that `nbgrader generate_assignment` takes; each check is worth a point."""
    made, cells = _prepared(notebook)
    for name, cell, exercise in cells:
        given = {"schema_version": 3, "cell_type": "code", "grade_id": name, "task": False}
        given |= {"solution": bool(exercise), "grade": not exercise, "locked": not exercise}
        if exercise:
            region = f"### BEGIN SOLUTION\n{exercise.solution}\n### END SOLUTION"
            cell.source = f"{exercise.stub}\n\n{region}".lstrip()
        else:
            cell.source = CHECKED.sub("courses.graded(", cell.source)
        cell.metadata["nbgrader"] = given if exercise else given | {"points": 1}
    return made


def untouched(cell: NotebookNode) -> bool:
    """Whether a student's copy of an exercise is as it was given out."""
    given = cell.metadata.get("workbench", {}).get("given")
    if given is None:  # nbgrader's, or of a release before
        return cell.source.rstrip().endswith((PLACE, "raise NotImplementedError()"))
    return given == _digest(cell.source)


def _digest(source: str) -> str:
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def _prepared(
    notebook: NotebookNode, outputs: bool = False
) -> tuple[NotebookNode, list[tuple[str, NotebookNode, Exercise | None]]]:
    """A copy without `solution` cells; its exercises and checks, by name."""
    made = copy.deepcopy(notebook)
    named: list[tuple[str, NotebookNode, Exercise | None]] = []
    for number, exercise in enumerate(exercises(made), 1):
        named.append((f"exercise-{number}", made.cells[exercise.cell], exercise))
        if exercise.check is not None:
            named.append((f"check-{number}", made.cells[exercise.check], None))
    cells = [cell for _, cell, _ in named]
    for cell in cells:
        cell.metadata["tags"] = [tag for tag in _tags(cell) if tag not in ("solution", "checks")]
    for cell in cells if outputs else made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.cells = [cell for cell in made.cells if "solution" not in _tags(cell)]
    return made, named


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the exercises of a master, a sentence each; nothing is run.

    A stub binds what its check reads and its solution binds, with the solution's signatures; a
    check follows, and its asserts say what is wrong; no cell that students get holds more than
    half of the lines of a solution.
    """
    shown, found = student(notebook).cells, []
    for cell in shown:
        if cell.cell_type == "code" and (near := NEAR_MARKER.search(cell.source)):
            found.append(f"`{near[0]}` cuts nothing: a solution begins with the line `# solution`")
    for number, exercise in enumerate(exercises(notebook), 1):
        check = notebook.cells[exercise.check].source if exercise.check is not None else ""
        try:
            found += [f"exercise {number}: {text}" for text in _mismatches(exercise, check)]
        except SyntaxError as error:
            found.append(f"exercise {number}: not Python: {error}")
        lines = {line.partition("  #")[0].strip() for line in exercise.solution.splitlines()} - {""}
        for cell in shown:
            if sum(line in cell.source for line in lines) > len(lines) / 2:
                place = cell.source.partition("\n")[0][:60]
                found.append(f"exercise {number}: students see the solution in `{place}`")
    return found


def _mismatches(exercise: Exercise, check: str) -> Iterator[str]:
    """How stub, solution and check do not fit; raises a SyntaxError where one is not Python."""
    checking = ast.parse(check)
    given, wanted = _bound(exercise.stub), _bound(exercise.solution)
    read = {node.id for node in ast.walk(checking) if isinstance(node, ast.Name)}
    for name in sorted(wanted & read - given - _bound(check)):
        yield f"the check reads {name!r}, which the solution binds and the stub does not"
    if not wanted & given:
        yield "the solution binds no name of the stub: what is to be filled in?"
    defined = {found[1]: found[0] for found in FUNCTION.finditer(exercise.solution)}
    for found in FUNCTION.finditer(exercise.stub):
        if (line := defined.get(found[1], found[0])) != found[0]:
            yield f"the stub has `{found[0]}`, the solution `{line}`"
    asserts = [node for node in ast.walk(checking) if isinstance(node, ast.Assert)]
    if not asserts:
        yield "no cell with an assert follows"
    for node in (node for node in asserts if node.msg is None):
        yield f"`{ast.unparse(node)}` does not say what is wrong"


def _bound(source: str) -> set[str]:
    """Names that code binds at its top level."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])
