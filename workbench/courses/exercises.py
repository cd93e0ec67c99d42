"""Exercises, cut from the one master of a notebook.

An exercise is a code cell: a stub, a line `# solution`, the solution. The next code cell checks
what a student writes. The stub runs, and the check then says what is still to be done.
"""

from __future__ import annotations

import ast
import copy
import re
import symtable
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from nbformat import NotebookNode

MARKER = re.compile(r"^# solution[ \t]*$\n?", re.MULTILINE)
NEAR_MARKER = re.compile(r"^[ \t]*#+[ \t]*(?:begin |end )?solution\b.*", re.MULTILINE | re.I)
PLACE = "# Your code goes here."
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

    A cell with the marker is an exercise, whatever its tags. Exercises and checks are tagged
    `exercise-1`, `check-1`, and so that what fails there does not end a run. outputs: keep
    those of an executed master, apart from the exercises' and their checks'.
    """

    def text(exercise: Exercise) -> str:
        return f"{exercise.stub}\n\n{PLACE}".lstrip()

    def mark(cell: NotebookNode, name: str, solution: bool) -> None:
        cell.metadata["tags"] = [*_tags(cell), name, GOES_ON]

    return _copied(notebook, text, mark, outputs)


def nbgrader(notebook: NotebookNode) -> NotebookNode:
    """The source form that `nbgrader generate_assignment` takes; each check is worth a point."""

    def text(exercise: Exercise) -> str:
        region = f"### BEGIN SOLUTION\n{exercise.solution}\n### END SOLUTION"
        return f"{exercise.stub}\n\n{region}".lstrip()

    def mark(cell: NotebookNode, name: str, solution: bool) -> None:
        points = {} if solution else {"points": 1}
        flags = {"solution": solution, "grade": not solution, "locked": not solution}
        cell.metadata["nbgrader"] = {
            **{"schema_version": 3, "cell_type": "code", "grade_id": name, "task": False},
            **flags,
            **points,
        }

    return _copied(notebook, text, mark, outputs=False)


def _copied(
    notebook: NotebookNode,
    text: Callable[[Exercise], str],
    mark: Callable[[NotebookNode, str, bool], None],
    outputs: bool,
) -> NotebookNode:
    """A copy with `text` in place of each exercise; `mark` is told the cells and their role."""
    made = copy.deepcopy(notebook)
    for cell in made.cells if not outputs else ():
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for number, exercise in enumerate(exercises(made), 1):
        made.cells[exercise.cell].source = text(exercise)
        for index, role in ((exercise.cell, "exercise"), (exercise.check, "check")):
            if index is not None:
                cell = made.cells[index]
                cell.outputs, cell.execution_count = [], None
                cell.metadata["tags"] = [tag for tag in _tags(cell) if tag != "solution"]
                mark(cell, f"{role}-{number}", role == "exercise")
    made.cells = [cell for cell in made.cells if "solution" not in _tags(cell)]
    return made


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the exercises of a master, a sentence each; nothing is run.

    A stub has to bind what its check asks for and its solution binds, with the signatures of
    the solution; a check follows, and each assert says what is wrong; no cell that students
    get may hold more than half of the lines of a solution.
    """
    shown = student(notebook)
    found = [
        f"{_place(cell)} has a line {near[0]!r}, which is not cut: write exactly '# solution'"
        for cell in shown.cells
        if cell.cell_type == "code" and (near := NEAR_MARKER.search(cell.source))
    ]
    for exercise in exercises(notebook):
        check = notebook.cells[exercise.check].source if exercise.check is not None else ""
        try:
            found += _mismatches(exercise, check)
        except SyntaxError as error:
            found.append(f"exercise `{_first(exercise.stub)}`: not Python: {error}")
        lines = {line.partition("  #")[0].strip() for line in exercise.solution.splitlines()} - {""}
        for cell in shown.cells:
            if sum(line in cell.source for line in lines) > len(lines) / 2:
                found.append(f"{_place(cell)} shows the solution of `{_first(exercise.stub)}`")
    return found


def _mismatches(exercise: Exercise, check: str) -> Iterator[str]:
    """How stub, solution and check do not fit together.

    Raises:
        SyntaxError: one of them is not Python.
    """
    where = f"exercise `{_first(exercise.stub)}`"
    stub, solution, checking = (
        ast.parse(text) for text in (exercise.stub, exercise.solution, check)
    )
    given, wanted = _bound(exercise.stub), _bound(exercise.solution)
    read = {node.id for node in ast.walk(checking) if isinstance(node, ast.Name)}
    for name in sorted(wanted & read - given - _bound(check)):
        yield f"{where}: the check reads {name!r}, which the solution binds and the stub does not"
    if not wanted & given:
        yield f"{where}: the solution binds no name of the stub: what is to be filled in?"
    for name, line in _signatures(solution).items():
        if (said := _signatures(stub).get(name, line)) != line:
            yield f"{where}: the stub has {said}, the solution {line}"
    asserts = [node for node in ast.walk(checking) if isinstance(node, ast.Assert)]
    if not asserts:
        yield f"{where}: no cell with an assert follows"
    for node in asserts:
        if node.msg is None:
            yield f"{where}: `{ast.unparse(node)}` does not say what is wrong"


def _bound(source: str) -> set[str]:
    """Names that code binds at its top level."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def _signatures(tree: ast.Module) -> dict[str, str]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name: f"{node.name}({ast.unparse(node.args)})" for node in functions}


def _first(source: str) -> str:
    return source.strip().partition("\n")[0][:60]


def _place(cell: NotebookNode) -> str:
    return f"cell `{_first(cell.source)}`"


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])
