"""`execute`: run a notebook with papermill's parameters and leave a report in a folder."""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from papermill.parameterize import parameterize_notebook

import workbench
from workbench.files import write
from workbench.reports import inputs
from workbench.reports.contents import Figure, figures, sections
from workbench.reports.kernel import Client
from workbench.reports.page import to_html
from workbench.steps import Step, work

PACKAGES = ("torch", "captum", "numpy", "scikit-learn", "plotly", "papermill")


@dataclass(frozen=True)
class Check:
    """An assert in a cell tagged `checks`: its sentence, and whether it holds.

    cell: its number in the executed notebook, from 1. section: the heading above it.
    """

    says: str
    holds: bool
    cell: int
    section: str


@dataclass(frozen=True)
class Report:
    """What a run left behind.

    notebook: the executed copy. html: the page. results: what the notebook recorded, by
    name. results_path: results.json. checks: of its cells tagged `checks`, in order. claims: of
    papers, each with its verdict, cell and section.
    """

    notebook: Path
    html: Path
    results: dict[str, Any]
    results_path: Path
    seconds: float
    checks: list[Check]
    figures: list[Figure]
    claims: list[dict[str, Any]]


@work
def execute(
    notebook: str | Path,
    parameters: Mapping[str, object] | None = None,
    output: str | Path | None = None,
    *,
    cell_timeout: float = 120,
    timeout: float = 600,
) -> Iterator[Step[Report]]:
    """Run a notebook and write its report.

    The notebook runs in its own folder, in a fresh kernel of this Python; the file itself
    is never changed. `output` is a folder: it gets the executed notebook and one
    self-contained page, both named as the notebook, and results.json: the parameters, what
    was recorded, checks, claims, figures and sections with their cells, and versions. By default it
    is `reports/<notebook>` here. Errors inside widgets, callbacks and threads are failures.
    An assert that does not hold in a cell tagged `checks` is none: it is shown and counted.

    parameters: checked by `coerce`. cell_timeout, timeout: seconds for a cell, and for the
    whole notebook with the start of its kernel; the kernel is killed when either is over.

    Raises:
        FileNotFoundError, ValueError: no such notebook; an unknown or ill-typed parameter;
            a limit that is not positive; an output folder that holds the notebook itself.
        ReportError: the notebook failed. Its executed copy is written all the same.
    """
    source = Path(notebook).absolute()
    declared = inputs.parameters(source)
    given = inputs.coerce(declared, parameters or {})
    for name, limit in (("cell_timeout", cell_timeout), ("timeout", timeout)):
        if isinstance(limit, bool) or not 0 < limit < float("inf"):
            raise ValueError(f"{name}: expected a positive number of seconds, got {limit!r}")
    values = {name: parameter.default for name, parameter in declared.items()} | given
    folder = Path(output or Path("reports") / source.stem).absolute()
    if folder.resolve() == source.parent.resolve():
        why = "holds the notebook itself, which a report never overwrites; give another folder"
        raise ValueError(f"output: {folder} {why}")
    folder.mkdir(parents=True, exist_ok=True)
    prepared = _prepared(source)
    for what in inputs.reassigned(prepared, declared):
        warnings.warn(
            f"{source.name}: {what} again, so that the parameter has no effect from there on; "
            "what is recorded is the parameter",
            stacklevel=2,
        )
    if given:
        prepared = parameterize_notebook(prepared, given, kernel_name="python3", language="python")
    return _steps(Client(prepared, source, folder / source.name, cell_timeout, timeout), values)


def _prepared(source: Path) -> nbformat.NotebookNode:
    """The notebook as papermill takes it, without outputs.

    A cell of parameters that an earlier run left is taken out: it would run unrecorded.
    """
    notebook = inputs.read_notebook(source)
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    if injected:
        notebook.cells = [cell for cell in notebook.cells if cell not in injected]
        warnings.warn(
            f"{source.name}: its injected-parameters cell, of an earlier run, is left out",
            stacklevel=3,
        )
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif "parameters" in cell.metadata.tags:  # papermill would put the values behind it
            cell.metadata.tags.remove("parameters")
    notebook.metadata["papermill"] = {}
    return notebook


def _steps(client: Client, values: dict[str, Any]) -> Iterator[Step[Report]]:
    executed = client.executed
    page, results = executed.with_suffix(".html"), executed.with_name("results.json")
    for path in (executed, page, results):  # of an earlier run
        path.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        yield from client.run_cells()
    finally:
        write(executed, nbformat.writes(client.nb))
    try:
        write(page, to_html(client.nb, folder=client.source.parent))
    except ValueError as error:
        raise client.error(None, "ValueError", str(error), "making the page") from error
    seconds = round(time.monotonic() - start, 3)
    parts, shown = sections(client.nb), figures(client.nb)
    section: dict[int | None, str] = {n: part["title"] for part in parts for n in part["cells"]}

    def placed(entry: dict[str, Any]) -> dict[str, Any]:
        return entry | {"section": section.get(entry["cell"], "")}

    checks = [Check(**placed(check)) for check in client.checks]
    recorded, claims = ([placed(e) for e in kind] for kind in (client.recorded, client.claims))
    kept = {name: value for call in recorded for name, value in call["values"].items()}
    content = {
        "notebook": executed.name,
        "parameters": values,
        "results": kept,
        "cells": {name: call["cell"] for call in recorded for name in call["values"]},
        "recorded": recorded,
        "checks": [asdict(check) for check in checks],
        "figures": [placed({"id": f.id, "cell": f.cell, "alt": f.alt}) for f in shown],
        "claims": claims,
        "sections": parts,
        "versions": versions(),
        "seconds": seconds,
    }
    write(results, json.dumps(content, indent=2, allow_nan=False) + "\n")
    report = Report(executed, page, kept, results, seconds, checks, shown, claims)
    yield Step(len(client.nb.cells), len(client.nb.cells), "report written", report)


def versions() -> dict[str, str]:
    """Versions of Python, workbench and what its results rest on."""
    found = {"python": platform.python_version(), "workbench": workbench.__version__}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
