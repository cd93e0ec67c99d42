"""One run of a notebook in a fresh kernel: two limits, and an ear on all the kernel says.

Errors inside `interact`, `with Output()` and threads end no cell, and those of threads
may come while another cell runs: so every message of the kernel is heard.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient, exceptions
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from workbench.files import REPORT
from workbench.reports import asserts, claims
from workbench.reports.results import MIME
from workbench.steps import Step

THREAD_ERROR = re.compile(r"Exception in (?:thread|job|panel)\b.*")
LAST_LINE = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$", re.MULTILINE)  # of a traceback
HIDDEN = "workbench-hidden"  # the tag of a cell that is not the notebook's
PASSIVE = {"parameters", "injected-parameters", "skip-execution"}
# Ends what a cell left running for a moment, and flushes what it said.
LAST_WORDS = """
import sys, threading
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(1)
sys.stderr.flush()
"""


class ReportError(RuntimeError):
    """A notebook that failed: says the cell, its first line, the error and where to look.

    cell: its number in the executed notebook, from 1, or None. notebook: the executed copy.
    """

    cell: int | None = None
    ename: str = ""
    evalue: str = ""
    notebook: Path | None = None


class Client(NotebookClient):
    """nbclient's client on this interpreter's own kernel, in the folder of the notebook.

    source: the notebook file; executed: where its executed copy will be. cell_timeout,
    timeout: seconds, for a cell and for the whole notebook. `recorded` is what the notebook
    recorded, a call each, `claims` its claims, and `checks` the asserts of its cells of checks,
    each with the number of its `cell`, None where that is not known.
    """

    def __init__(
        self, nb: NotebookNode, source: Path, executed: Path, cell_timeout: float, timeout: float
    ) -> None:
        specs = KernelSpecManager(kernel_dirs=[])  # whatever kernels are installed
        super().__init__(
            nb,
            km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs),
            timeout_func=self.limit,
            startup_timeout=max(1, int(min(60, timeout))),
            iopub_timeout=30,
            extra_arguments=["--log-level=40"],  # errors only: not that TCP is unencrypted
            store_widget_state=False,
            shutdown_kernel="immediate",  # a hanging kernel never says goodbye
            resources={"metadata": {"path": str(source.parent)}},
            on_cell_executed=self._hear_exit,
        )
        self._exits = False
        self.source, self.executed = source, executed
        self.cell_timeout, self.whole_timeout = cell_timeout, timeout
        self.deadline = float("inf")
        self.recorded: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.claims: list[dict[str, Any]] = []
        self._cell_of: dict[str, int] = {}  # id of a request -> index of its cell
        self._errors: list[tuple[int | None, str, str]] = []
        self._stderr: dict[int | None, str] = defaultdict(str)
        self._in_output = False

    def run_cells(self) -> Iterator[Step[Any]]:
        """Run every cell; a step is told before its cell runs. Closing kills the kernel.

        Raises:
            ReportError: the first error of a cell, a limit, or an error that went silent.
        """
        self.deadline = time.monotonic() + self.whole_timeout
        cells = list(self.nb.cells)
        code = (cell for cell in cells if cell.cell_type == "code" and cell.source.strip())
        if all(PASSIVE & _tags(cell) for cell in code):
            raise self.error(None, "EmptyNotebook", "no code cell to run, apart from parameters")
        try:
            env = os.environ | {"TQDM_DISABLE": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
            env[REPORT] = "1"
            if env.get("WORKBENCH_DATA"):  # perhaps relative to our folder; the kernel has another
                env["WORKBENCH_DATA"] = os.path.abspath(os.path.expanduser(env["WORKBENCH_DATA"]))
            self.start_new_kernel(env=env)
            self.start_new_kernel_client()
        except (RuntimeError, OSError) as error:
            raise self.error(None, "KernelError", f"no kernel started: {error}") from error
        checks = [cell.source for cell in cells if asserts.TAG in _tags(cell)]
        with self.setup_kernel(cleanup_kc=True):
            if checks:
                self._run_hidden(asserts.BEGIN.format(checks))
            for index, cell in enumerate(cells):
                yield Step(index, len(cells), f"cell {index + 1}: {_first_line(cell)}")
                self._run_cell(cell, index)
            self._run_hidden(LAST_WORDS)
            self.shutdown_kernel = "graceful"
        self._check_silent_errors()

    def limit(self, cell: NotebookNode) -> float:
        """Seconds a cell may take; above zero, since zero would mean no limit."""
        return max(min(self.cell_timeout, self.deadline - time.monotonic()), 0.001)

    def error(self, index: int | None, ename: str, evalue: str, how: str = "") -> ReportError:
        """The error that says what failed, where, and where the executed notebook is."""
        where, number = "", None
        cells = [cell for cell in self.nb.cells if HIDDEN not in _tags(cell)]
        if index is not None and index >= len(cells):
            where = "after the last cell: "
        elif index is not None:
            cell, number = cells[index], index + 1
            where = f"cell {number} `{_first_line(cell)}`: "
        error = ReportError(
            f"{self.source.name}: {where}{ename}{evalue and ': '}{evalue.rstrip('.'):.500}"
            f"{how and f' ({how})'}. The executed notebook is in {self.executed}."
        )
        error.cell, error.ename, error.evalue = number, ename, evalue
        error.notebook = self.executed
        return error

    def handle_comm_msg(
        self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int
    ) -> None:
        """Answer no widget: what goes into an Output widget then shows in its cell.

        nbclient's Output widget hides it, and can miss the end of a cell while it answers.
        """
        state = msg["content"]["data"].get("state", {})
        self._in_output = bool(state.get("msg_id", self._in_output))

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        """Clear a cell, but not where an Output widget clears only itself."""
        if not self._in_output:
            super().clear_output(outs, msg, cell_index)

    async def _async_poll_output_msg(
        self, parent_msg_id: str, cell: NotebookNode, cell_index: int
    ) -> None:
        """As nbclient's, but the messages of other cells are heard, too.

        The method is private to nbclient, which is why pyproject.toml keeps it below 1.
        """
        assert self.kc is not None
        self._cell_of[parent_msg_id] = cell_index
        while True:
            message = await self.kc.iopub_channel.get_msg(timeout=None)  # type: ignore[misc]
            parent = message["parent_header"].get("msg_id")
            self._hear(message, self._cell_of.get(parent))
            if parent == parent_msg_id:
                try:
                    self.process_message(message, cell, cell_index)
                except exceptions.CellExecutionComplete:
                    return

    def _hear(self, message: dict[str, Any], index: int | None) -> None:
        """Keep the errors, the stderr text, the records and the checks in one message."""
        kind, content = message["msg_type"], message["content"]
        cell = None if index is None else index + 1
        if kind == "error":
            self._errors.append((index, content["ename"], content["evalue"]))
        elif kind == "stream" and content["name"] == "stderr":
            self._stderr[index] += content["text"]
        elif kind == "display_data":
            if values := content["data"].get(MIME):
                self.recorded.append({"cell": cell, "values": values})
            if claim := content["data"].get(claims.MIME):
                self.claims.append(claim | {"cell": cell})
            self.checks += [c | {"cell": cell} for c in content["data"].get(asserts.CHECKS, ())]

    def _hear_exit(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        """Hear exit() and quit(), which answer well and then end the kernel."""
        for asked in execute_reply["content"].get("payload", ()):
            self._exits |= asked["source"] == "ask_exit" and not asked.get("keepkernel")

    def _run_hidden(self, source: str) -> None:
        """Run code that is no cell of the notebook."""
        cell = new_code_cell(source, metadata={"tags": [HIDDEN]})
        self.nb.cells.append(cell)  # nbclient runs only its own cells
        try:
            self._run_cell(cell, len(self.nb.cells) - 1)
        finally:
            self.nb.cells.pop()

    def _run_cell(self, cell: NotebookNode, index: int) -> None:
        try:
            self.execute_cell(cell, index, store_history=HIDDEN not in _tags(cell))
            if not self._exits:
                return
            ename, evalue = "SystemExit", "exit() ended Python here, before the notebook did"
        except exceptions.CellExecutionError as error:
            # The reply does not know what a cell's value raised when it was to be shown.
            shown = [(ename, evalue) for i, ename, evalue in self._errors if i == index]
            raise self.error(index, *(shown[-1:] or [(error.ename, error.evalue)])[0]) from None
        except exceptions.CellTimeoutError:
            ename = "TimeoutError"
            evalue = f"the cell ran past its limit of {self.cell_timeout:g} s (cell_timeout)"
            if time.monotonic() >= self.deadline:
                whole = f"{self.whole_timeout:g} s (timeout)"
                evalue = f"the whole notebook ran past its limit of {whole}"
        except exceptions.DeadKernelError:
            ename, evalue = "DeadKernelError", "the kernel died (out of memory, perhaps)"
        except Exception as error:  # such as an output that no notebook can hold
            ename, evalue = type(error).__name__, str(error).strip()
        # So that the executed notebook shows why it ends here.
        cell.outputs.append(new_output("error", ename=ename, evalue=evalue, traceback=[evalue]))
        raise self.error(index, ename, evalue)

    def _check_silent_errors(self) -> None:
        """Raise what no cell raised: an error inside a widget, a callback or a thread."""
        allowed = {i for i, cell in enumerate(self.nb.cells) if "raises-exception" in _tags(cell)}
        for index, ename, evalue in self._errors:
            if index not in allowed:
                raise self.error(index, ename, evalue, "inside a widget or callback")
        for index, text in self._stderr.items():
            found = THREAD_ERROR.search(text)
            if found and index not in allowed:
                last = LAST_LINE.search(text, found.end())
                ename, evalue = last.groups("") if last else ("Exception", "see the notebook")
                raise self.error(index, ename, evalue, found.group().strip(": "))


def _first_line(cell: NotebookNode) -> str:
    """The first line of a cell that says something, at most 80 characters of it."""
    return cell.source.strip().partition("\n")[0][:80]


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags") or [])
