"""Every notebook through papermill, as a report: the defaults, and the set in its metadata."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest

from workbench import atlas, reports

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def as_kept(name, claim):
    """Whether the atlas's claims.toml says of a claim what a run with seed 0 found."""
    place, runs = f"notebooks/{name}.ipynb", []
    for kept in atlas.claims():
        if (kept.notebook, kept.section, kept.says) == (place, claim["section"], claim["says"]):
            runs += [run for run in kept.runs if run.seed == 0 and kept.paper == claim["paper"]]
    (run,) = runs or [None]  # made by: make claims
    low, high = claim["interval"] or (claim["ours"], claim["ours"])
    near = max(0.02 * abs(claim["ours"]), 0.1 * (high - low), 1e-3)  # what rounding may turn
    return run is not None and all(
        abs(found - stands) <= near
        for found, stands in ((claim["ours"], run.ours), (low, run.low), (high, run.high))
        if stands is not None
    )


@pytest.mark.notebook
@pytest.mark.parametrize("which", ["defaults", "other"])
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_as_a_report(name, which, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "nothing here"))
    kept = read(name).metadata.workbench
    if which == "other" and kept.get("slow") and not os.environ.get("WORKBENCH_THOROUGH"):
        pytest.skip("takes long; WORKBENCH_THOROUGH=1 runs it")
    values = kept.other if which == "other" else {}
    report = reports.execute(NOTEBOOKS / f"{name}.ipynb", values, tmp_path / "report", timeout=600)
    assert report.checks
    assert [check for check in report.checks if not check.holds] == []
    assert [c for c in report.claims if c["expect"] not in (c["verdict"], None)] == []
    if which == "defaults":
        assert [c["says"] for c in report.claims if not as_kept(name, c)] == []
    html = report.html.read_text()
    assert html.count("<img ") == html.count("<img alt=")
    assert len(html) < 8e6
    assert "?it/s" not in html, "a progress bar was left in the report"
    content = json.loads(report.results_path.read_text())
    assert content["results"]["accuracy"] > 0.9
    assert values.items() <= content["parameters"].items()


@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_house_form(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.workbench.other, "a second set of parameters"
    first, second = notebook.cells[:2]
    assert first.source.startswith("# ")
    assert "**Goal:**" in first.source
    assert "**Time:**" in first.source
    assert second.metadata.tags == ["parameters"]
    declared = reports.parameters(NOTEBOOKS / f"{name}.ipynb")
    assert all(p.annotation and p.help for p in declared.values())
    assert set(notebook.metadata.workbench.other) <= set(declared)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert any("# solution" in cell.source for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 40
    checks = [cell.source for cell in code if "checks" in cell.metadata.get("tags", ())]
    asserts = [n for n in ast.walk(ast.parse("\n".join(checks))) if isinstance(n, ast.Assert)]
    assert [ast.unparse(n) for n in asserts if not n.msg] == [], "a check is a sentence"
    assert asserts
    assert "## Next" in notebook.cells[-1].source
    drawn = [c for c in code if c.metadata.get("jupyter", {}).get("source_hidden")]
    assert [c for c in code if "courses.check(" in c.source and c not in drawn] == [], "a check"
    plots = [c for c in code if "figures.styled(" in c.source and "def " not in c.source]
    assert [c.source for c in plots if c not in drawn] == [], "what only draws is folded"


@pytest.mark.notebook
def test_plain_papermill_runs_a_notebook(tmp_path):
    import papermill

    output = tmp_path / "executed.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / "00_start_here.ipynb", output, {"index": 5}, progress_bar=False
    )
    executed = nbformat.read(output, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
