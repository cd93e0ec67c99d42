"""Running every claim with several seeds: `workbench claims`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

from workbench import suite
from workbench.atlas import CLAIMS, Run, Tested, as_toml, claims, together
from workbench.files import write
from workbench.reports import inputs
from workbench.reports.runner import execute
from workbench.steps import Step, work

SEEDS = (0, 7, 11)
CALL = "reports.claim("


def with_claims() -> list[Path]:
    """The notebooks of the suite that make claims."""
    made = []
    for path in suite.notebooks():
        cells = nbformat.read(path, as_version=4).cells
        if any(CALL in cell.source for cell in cells if cell.cell_type == "code"):
            made.append(path)
    return made


@work
def collect(
    notebooks: Sequence[Path], output: Path, *, seeds: Sequence[int] = SEEDS, file: Path = CLAIMS
) -> Iterator[Step[tuple[Tested, ...]]]:
    """Run notebooks with each seed, and write what became of their claims to `file`.

    output: a folder for the reports. The claims of other notebooks stay as they are in the file.

    Raises:
        ReportError: a notebook failed; what the others said is written all the same.
    """
    total, done = len(notebooks) * len(seeds), 0
    for path in notebooks:
        found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for seed in seeds:
            yield Step(done, total, f"{path.stem}, seed {seed}")
            takes = "seed" in inputs.parameters(path)
            values = {"seed": seed} if takes else {}
            report = execute(path, values, output / f"{path.stem}-{seed}", timeout=1800)
            for claim in report.claims:
                key = claim["paper"], claim["section"], claim["says"]
                found.setdefault(key, []).append({**claim, "seed": seed})
            done += 1
            if not takes:
                done += len(seeds) - 1
                break
        place = f"notebooks/{path.name}"
        others = [tested for tested in claims(file) if tested.notebook != place]
        mine = [_tested(place, runs) for runs in found.values()]
        ordered = sorted([*others, *mine], key=lambda tested: tested.notebook)
        write(file, as_toml(ordered))
        claims.cache_clear()
    yield Step(total, total, "written", claims(file))


def _tested(place: str, runs: list[dict[str, Any]]) -> Tested:
    """One claim, from what each run said of it."""
    first = runs[0]
    facts = ("paper", "says", "section", "theirs", "setting", "expect")
    return Tested(
        **{name: first[name] for name in facts},
        notebook=place,
        verdict=together(run["verdict"] for run in runs),
        runs=tuple(
            Run(
                **{name: run[name] for name in ("seed", "verdict", "ours")},
                **dict(zip(("low", "high"), run["interval"] or (), strict=False)),
            )
            for run in runs
        ),
    )
