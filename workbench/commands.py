"""What commands of `workbench` do beside calling the bench: measured models, grids, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def check_model(name: str) -> None:
    """Measure a model on its test images; raise a RuntimeError where its card says otherwise."""
    from workbench import data, models

    model = models.load(name)
    card = model.card
    if card.dataset not in data.available():
        raise ValueError(f"model {name!r} names no data set of the bench, so it has no test images")
    counts = models.measure(model, data.load(card.dataset, "test"), eps=card.eps)
    keys = ("test_correct", "test_total", "robust_correct", "robust_total")
    for key in keys:
        typer.echo(f"{key:15} card {getattr(card, key)}, measured {counts.get(key)}")
    if wrong := [key for key in keys if getattr(card, key) != counts.get(key)]:
        raise RuntimeError(f"the card of {name} is not what was measured: {', '.join(wrong)}")


def values(grids: Sequence[str]) -> dict[str, list[str]]:
    """`["eps=0.1,0.2"]` as `{"eps": ["0.1", "0.2"]}`; commas in brackets belong to a value."""
    from workbench.params import pieces

    found: dict[str, list[str]] = {}
    for text in grids:
        name, equals, listed = text.partition("=")
        if not (name and equals):
            raise ValueError(f"--grid takes a name and values, as in eps=0.1,0.2; got {text!r:.99}")
        found.setdefault(name, []).extend(pieces(listed, ","))
    return found


def run_grid(
    notebook: Path,
    grid: dict[str, list[str]],
    output: Path | None,
    workers: int | None,
    dask: str | None,
    options: dict[str, Any],
) -> None:
    """Run a grid with options of `reports.grid`; a RuntimeError at the end if a run failed."""
    from functools import partial

    from workbench import reports

    if workers and dask:
        raise ValueError("expected --workers or --dask, got both: a cluster has its own workers")
    executor = partial(reports.cluster, dask) if dask else None
    executor = partial(reports.processes, workers) if workers else executor
    made = reports.grid(notebook, grid, output, executor=executor, **options)
    typer.echo(made.page)
    if not made.parquet:
        typer.echo("no results.parquet: pip install 'dnn-workbench[cluster]' for it", err=True)
    if failed := made.summary()["failed"]:
        raise RuntimeError(f"{failed} of {len(made.table)} runs failed; {made.page} says why")


def percent(rate: float | None) -> str:
    """A share as percent, rounded down: 99.995 is not 100."""
    return "" if rate is None else f"{int(rate * 10_000 + 1e-6) / 100:.2f}"
