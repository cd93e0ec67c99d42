"""`check`: what an exercise's answer gets to hear, in one line, and how a saved copy keeps it."""

from __future__ import annotations

from collections import Counter
from html import escape
from types import TracebackType
from typing import Any

from nbformat import NotebookNode

from workbench.reports import CHECKS

WRONG: Counter[tuple[str, ...]] = Counter()  # by its hints: how often a check went wrong so far
# Word and colour, as the stylesheet has them; the fallback is for pages without it.
BADGE = (
    '<strong class="wb-{0}" style="background:var(--wb-{0}, {1});color:var(--wb-on, #fff);'
    'border-radius:4px;padding:1px 8px;margin-right:8px">{2}</strong>'
)
RIGHT, NOT_YET = BADGE.format("ok", "#0a7a52", "Right"), BADGE.format("warn", "#b3261e", "Not yet")


class check:
    """The asserts of an exercise: one coloured line says "Right" and why, or what is wrong.

    ```
    with courses.check("A first hint.", "A second one, which says more.") as found:
        assert total >= 0, "put the sum in `total`"
        found.why = f"{total} is the sum"
    ```

    There is no traceback, and nothing of the answer but what the asserts say. Each time that it
    goes wrong again there is a hint more. right, said: None and "" until the block has ended.
    """

    def __init__(self, *hints: str) -> None:
        self.hints, self.shown = hints, 0
        self.why = ""  # what makes the answer right: a sentence, set inside the block
        self.right: bool | None = None
        self.said = ""

    def __enter__(self) -> check:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        from IPython.display import display

        if error is not None and not isinstance(error, Exception):
            return False  # an interrupt
        self.right = error is None
        self.said = in_words(error) if error else self.why or "all that was asked for holds"
        self.shown = 0 if self.right else min(WRONG[self.hints], len(self.hints))
        WRONG[self.hints] = 0 if self.right else WRONG[self.hints] + 1
        display(self)
        return True

    def lines(self) -> list[str]:
        """What was said, and the hints beneath it."""
        shown = enumerate(self.hints[: self.shown], 1)
        return [self.said, *(f"Hint {i} of {len(self.hints)}: {text}" for i, text in shown)]

    def __repr__(self) -> str:
        return "\n".join(
            [f"{'Right' if self.right else 'Not yet'}: {self.said}", *self.lines()[1:]]
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The lines; and as data, which a report and `progress` read."""
        said, *hints = map(escape, self.lines())
        soft = '<br><span style="color:var(--wb-soft, #57606a)">{}</span>'
        line = (RIGHT if self.right else NOT_YET) + said + "".join(map(soft.format, hints))
        html = f'<div class="wb" role="status">{line}</div>'
        mark = [{"says": self.said, "holds": self.right}]
        return {CHECKS: mark, "text/plain": repr(self), "text/html": html}


class graded(check):
    """`check` for nbgrader, which counts the cells that end in an error: raises one, of a line."""

    def __exit__(self, *what: Any) -> bool:
        """As a check does, and the error."""
        told = super().__exit__(*what)
        if self.right is False:
            raise NotYet(self.said) from None
        return told


class NotYet(AssertionError):
    """What IPython shows in its own words, without the way to it."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


def in_words(error: Exception) -> str:
    """What went wrong, as a sentence for the one who wrote the answer."""
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    if isinstance(error, NameError):
        return f"{error}: run the cells above first"
    return f"the code ends in {type(error).__name__}: {error}"


def outcome(cell: NotebookNode) -> tuple[bool, str] | None:
    """Whether an executed check holds, and what it said; None where it has not run."""
    errors = [out for out in cell.outputs if out.output_type == "error"]
    marks = [mark for out in cell.outputs for mark in out.get("data", {}).get(CHECKS, ())]
    if wrong := [mark for mark in marks if not mark["holds"]]:
        return False, str(wrong[0]["says"])
    if errors:
        return False, f"{errors[0].ename}: {errors[0].evalue}"
    if marks:
        return True, str(marks[0]["says"])
    return (True, "") if cell.execution_count else None
