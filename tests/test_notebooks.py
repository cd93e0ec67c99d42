"""Every notebook through papermill, as a report: the defaults, and one other set."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from workbench import reports

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
OTHERS = {
    "90_atlas": {
        "text": "network",
        "family": "attacks",
        "live": True,
        "model": "digits/mlp",
        "seed": 1,
    },
    "00_start_here": {"dataset": "shapes", "model": "shapes/vit", "index": 3},
    "01_models": {"model": "shapes/resnet", "compare": "shapes/vit", "n": 500, "bins": 5},
    "03_honest_evaluation": {"model": "digits/mlp", "n": 80, "temperature": 40.0, "seed": 1},
    "02_attacks": {"model": "digits/mlp", "eps": 0.05, "n": 50, "seed": 1},
    "04_ordered_topk": {
        **{"model": "digits/mlp", "n": 20, "k": 7, "places": [1, 5, 9], "index": 2, "seed": 1}
    },
    "05_black_box": {
        **{"model": "digits/mlp", "surrogate": "digits/cnn", "eps": 0.08, "n": 80},
        **{"n_queries": 400, "frames": [24, 64], "seed": 1},
    },
    "06_fooling_images": {
        **{"model": "digits/mlp", "other": "digits/cnn", "generations": 120},
        **{"rounds": 1, "seed": 1},
    },
    "07_level_sets": {"model": "digits/mlp", "index": 5, "n": 24, "delta": 0.1, "seed": 1},
    "08_linear_regions": {
        **{"model": "digits/mlp", "index": 3, "extent": 0.3, "n_slices": 3, "side": 101},
        **{"batch_size": 50, "n_steps": 2000, "seed": 1},
    },
    "09_geometry_of_features": {
        **{"compared": ["shapes/resnet", "shapes/vit"], "n": 300, "width": 96, "epochs": 100},
        **{"weight_decay": 4e-3, "ratios": [1, 20, 60], "lam": 1e-3, "seed": 1},
    },
    "11_uncertain_prototypes": {"index": 5, "n": 250, "samples": 40, "eps": 0.2, "seed": 1},
    "12_concepts": {
        **{"model": "shapes/vit", "layer": "blocks.3", "early": "blocks.0", "head": "norm"},
        **{"method": "semi-nmf", "n_crops": 600, "n": 100, "label": 4, "spoilt": 0},
        **{"n_train": 3000, "seed": 1},
    },
    "13_pruning_by_explaining": {
        **{"model": "digits/mlp", "n_steps": 600, "n_nets": 1, "n_draws": 4},
        **{"n_each": 3, "n_tasks": 6, "seed": 1},
    },
    "10_prototypes": {
        **{"ordinary": "digits/mlp", "index": 7, "epochs": 40, "n": 60, "eps": 0.08, "seed": 1}
    },
    "14_activation_patterns": {
        **{"model": "digits/cnn", "index": 5, "n": 300, "delta": 0.98},
        **{"deltas": [1.0, 0.98, 0.9], "eps": 0.08, "seed": 1},
    },
    "15_monitors": {
        **{"model": "digits/cnn", "index": 7, "false_alarms": 0.1, "delta": 1.0, "eps": 0.1},
        **{"n_steps": 100, "weight": 5.0, "seed": 1},
    },
    "16_verification": {"delta": 0.95, "n": 5, "radii": [0.06, 0.12], "seed": 1},
    "17_shape_and_texture": {
        **{"n": 600, "n_train": 3000, "agree": 0.9, "epochs": 6, "n_steps": 20, "seed": 1}
    },
    "18_your_own": {
        **{"side": 32, "n_train": 600, "n_test": 160, "epochs": 24, "index": 5},
        **{"eps": 0.05, "seed": 1},
    },
}
# Their second runs take a minute and more of a suite that people wait for.
LONG = ("08_linear_regions", "12_concepts", "13_pruning_by_explaining", "17_shape_and_texture")
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.notebook
@pytest.mark.parametrize("which", ["defaults", "others"])
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_as_a_report(name, which, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "nothing here"))
    if which == "others" and name in LONG and not os.environ.get("WORKBENCH_THOROUGH"):
        pytest.skip("takes long; WORKBENCH_THOROUGH=1 runs it")
    values = OTHERS[name] if which == "others" else {}
    report = reports.execute(NOTEBOOKS / f"{name}.ipynb", values, tmp_path / "report", timeout=600)
    html = report.html.read_text()
    assert html.count("<img ") == html.count("<img alt=")
    assert len(html) < 8e6
    assert "?it/s" not in html, "a progress bar was left in the report"
    content = json.loads(report.results_path.read_text())
    assert content["results"]["accuracy"] > 0.9
    assert values.items() <= content["parameters"].items()


@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_house_form(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert name in OTHERS, "every notebook is also run with another set of parameters"
    first, second = notebook.cells[:2]
    assert first.source.startswith("# ")
    assert "**Goal:**" in first.source
    assert "**Time:**" in first.source
    assert second.metadata.tags == ["parameters"]
    declared = reports.parameters(NOTEBOOKS / f"{name}.ipynb")
    assert all(p.annotation and p.help for p in declared.values())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert any("# solution" in cell.source for cell in code)
    assert any("assert " in cell.source for cell in code)
    assert "## Next" in notebook.cells[-1].source


@pytest.mark.notebook
def test_plain_papermill_runs_a_notebook(tmp_path):
    import papermill

    output = tmp_path / "executed.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / "00_start_here.ipynb", output, {"index": 5}, progress_bar=False
    )
    executed = nbformat.read(output, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
