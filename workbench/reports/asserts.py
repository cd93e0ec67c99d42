"""Cells tagged `checks`: each `assert` is evaluated, and one that does not hold ends no cell.

Opened in JupyterLab such a cell is plain Python; the kernel of a report makes an `Asserts`.
"""

from __future__ import annotations

import ast
from html import escape
from typing import Any

CHECKS = "application/vnd.workbench.checks+json"
TAG = "checks"
NOTE = "__check__"  # the name that an assert calls
FAILS = '<br>✗ <strong style="color:var(--wb-warn, #b3261e)">Does not hold:</strong> {}'
# What a kernel runs before the first cell, and binds no name by.
BEGIN = f"__import__({__name__!r}, fromlist=['Asserts']).Asserts(get_ipython(), {{!r}})"


class Asserts(ast.NodeTransformer):
    """Makes of `assert test, sentence` a note of what held; shows them when the cell ends.

    sources: of the cells that hold checks.
    """

    def __init__(self, shell: Any, sources: list[str]) -> None:
        self.shell, self.sources, self.active = shell, sources, False
        self.notes: dict[tuple[int, int, str], list[str | None]] = {}  # None where it held
        shell.ast_transformers.append(self)
        shell.events.register("pre_run_cell", self.begin)
        shell.events.register("post_run_cell", self.end)

    def begin(self, info: Any) -> None:
        """Before a cell: is it one of checks?"""
        self.active, self.notes = info.raw_cell in self.sources, {}
        if self.active:
            self.shell.user_ns[NOTE] = self.note

    def visit_Module(self, tree: ast.Module) -> ast.AST:
        """The code of a cell."""
        return self.generic_visit(tree) if self.active else tree

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """`if test: note(check) else: note(check, sentence)`: plain until it fails."""
        constant = node.msg.value if isinstance(node.msg, ast.Constant) else None
        text = ast.Constant(str(constant or ast.unparse(node.test)))
        name, place = ast.Name(NOTE, ast.Load()), (node.lineno, node.col_offset)
        check: list[ast.expr] = [*(ast.Constant(number) for number in place), text]
        held = ast.Expr(ast.Call(name, check, []))
        failed = ast.Expr(ast.Call(name, [*check, node.msg or text], []))
        made = ast.copy_location(ast.If(node.test, [held], [failed]), node)
        return ast.fix_missing_locations(made)

    def note(self, line: int, column: int, text: str, *says: Any) -> None:
        """Keep what an assert found; for a function that a later cell calls it is an assert."""
        if self.active:
            notes = self.notes.setdefault((line, column, text), [])
            notes.append(str(says[0] or text) if says else None)
        elif says:
            raise AssertionError(*says)

    def end(self, result: Any) -> None:
        """After a cell: show how many of its checks hold, and the sentences of the others."""
        from IPython.display import display

        self.active = False
        checks: list[dict[str, Any]] = []
        for (*_, text), notes in sorted(self.notes.items()):
            failed = [says for says in notes if says is not None]
            often = f" ({len(failed)} of {len(notes)} times)" if len(notes) > 1 else ""
            checks.append({"says": failed[0] + often if failed else text, "holds": not failed})
        if checks:
            failing = [check["says"] for check in checks if not check["holds"]]
            head = f"{len(checks) - len(failing)} of {len(checks)} checks hold"
            listed = "".join(FAILS.format(escape(says)) for says in failing)
            html = f"<p><strong>{head}.</strong>{listed}</p>"
            plain = "\n".join([head, *(f"does not hold: {says}" for says in failing)])
            display({CHECKS: checks, "text/plain": plain, "text/html": html}, raw=True)
