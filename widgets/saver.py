"""`Saver`: from what a panel shows to a notebook with parameters, and on to a report."""

from __future__ import annotations

import json
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import ipywidgets as ipw
from IPython.display import FileLink

from workbench import reports
from workbench.steps import Step

from .blocks import alert, button, in_words, status
from .job import Job
from .selection import Selection

if TYPE_CHECKING:  # nbformat takes two seconds to import: only who saves waits for it
    from nbformat import NotebookNode

    from workbench.reports import Report


class Saved(Protocol):
    """What can be saved: a panel, or the bench."""

    title: ClassVar[str]
    selection: Selection

    def state(self) -> dict[str, Any]:
        """Plain values that `from_state` takes."""

    def code(self) -> str:
        """The calls that give the same."""


class Saver:
    """A file name, a button that saves a notebook, one that also runs it, and the link."""

    def __init__(self, shown: Saved) -> None:
        self.shown = shown
        self.job: Job | None = None
        about = "File name of the notebook"
        self.file = ipw.Text(self._free(), description="file name", tooltip=about)
        self.file.continuous_update = False
        saves = partial(self._clicked, self.save)
        runs = partial(self._clicked, self.start_report)
        hidden, about = {"display": "none"}, "Stop; the notebook stays"
        self.cancel = button("Stop the report", about, self._stopped, layout=hidden)
        self.status, self.links = ipw.HTML(), ipw.Output()
        buttons = [
            button("Save as notebook", "Write a notebook of this view", saves),
            button("Report", "Save it, run it, and link to its page", runs),
        ]
        line = ipw.HBox([self.file, *buttons, self.cancel])
        self.widget = ipw.VBox([line, self.status, self.links])

    def save(self) -> Path:
        """Write the notebook; the next one gets another name.

        Raises:
            ValueError: the file is there already, or is no .ipynb; data or a model of one's own.
        """
        import nbformat

        path = Path(self.file.value)
        if path.suffix != ".ipynb":
            raise ValueError(f"notebook: expected a name that ends in .ipynb, got {path}")
        if path.exists():
            raise ValueError(f"notebook: {path} is there already; give another name")
        reports.write(path, nbformat.writes(as_notebook(self.shown)))
        self.file.value = self._free()
        self.status.value = status(f"Saved {escape(str(path))}.")
        self._link(path)
        return path

    def start_report(self) -> None:
        """Save the notebook and run it into a report, in a thread; then link to the page."""
        path = self.save()
        self._stopped()
        self.cancel.layout.display = None
        work = reports.execute.steps(path, output=Path("reports") / path.stem)
        self.job = Job(work, on_step=self._tick, on_end=self._ended)

    def _stopped(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _tick(self, step: Step[Report]) -> None:
        share = f"{step.done} of {step.total}"
        self.status.value = status(f"Report: {escape(step.message)} ({share})")

    def _ended(self, job: Job) -> None:
        self.cancel.layout.display = "none"
        if job.error is not None:
            self.status.value = alert(in_words(job.error))
        elif job.state == "cancelled" or job.last is None or job.last.value is None:
            self.status.value = status("The report was cancelled.")
        else:
            self.status.value = status("The report is written.")
            self._link(job.last.value.html)

    def _link(self, path: Path) -> None:
        near, here = path.absolute(), Path.cwd()
        shown = near.relative_to(here) if near.is_relative_to(here) else near
        self.links.append_display_data(FileLink(str(shown)))

    def _clicked(self, action: Any) -> None:
        try:
            action()
        except (ValueError, OSError) as error:
            self.status.value = alert(in_words(error))

    def _free(self) -> str:
        """The first of panel-1.ipynb, panel-2.ipynb, ... that is not there."""
        stem, n = str(self.shown.title).lower().replace(" ", "-"), 1
        while Path(f"{stem}-{n}.ipynb").exists():
            n += 1
        return f"{stem}-{n}.ipynb"


def as_notebook(shown: Saved) -> NotebookNode:
    """A notebook that shows the same; what it shows is set in its cell of parameters.

    Raises:
        ValueError: the data or the model is one's own, which a name alone does not bring back.
    """
    from nbformat import v4 as new

    state, kind = shown.state(), type(shown).__name__
    for what in ("dataset", "model"):
        if shown.selection.is_own(state.get(what, "")):
            raise ValueError(
                f"{what}: {state[what]!r} is your own, which a notebook cannot load by its name; "
                "keep images as a folder ('folder:PATH'), a model as a file ('onnx:PATH'), or "
                "copy the code"
            )
    nested = [name for name, value in state.items() if isinstance(value, dict)]
    given = [f"    {name}={f'json.loads({name})' if name in nested else name}," for name in state]
    lines = [
        *["import json\n"] * bool(nested),
        "from workbench import reports",
        f"from workbench.widgets import {kind}\n",
        *("state = dict(", *given, ")"),
        f"panel = {kind}.from_state(state)",
        "reports.result(**panel.run().summary())",
        "panel",
    ]
    where = ": {model} on image {index} of {dataset}".format(**state) if "model" in state else ""
    parameters = "\n".join(declared(name, value) for name, value in state.items())
    cells = [
        new.new_markdown_cell(f"# {shown.title}{where}"),
        new.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new.new_code_cell("\n".join(lines)),
        new.new_markdown_cell("## The same without a panel\n\nAs it was when this was saved."),
        new.new_code_cell(shown.code()),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def declared(name: str, value: Any) -> str:
    """A line of a cell of parameters."""
    if isinstance(value, dict):
        return f"{name}: str = {json.dumps(value)!r}  # JSON"
    if isinstance(value, (list, tuple)):
        item = type(value[0]).__name__ if value else "str"
        return f"{name}: list[{item}] = {list(value)!r}"
    return f"{name}: {type(value).__name__} = {value!r}"
