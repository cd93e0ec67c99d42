"""axe-core on reports, cards and grids: no serious and no critical finding, light and dark."""

import nbformat
import pandas as pd
import pytest
from browsers import MARKS

from workbench import data, models, reports
from workbench.attacks import PGD
from workbench.reports import cards, grid_page

pytestmark = MARKS

GRAVE = ("serious", "critical")
CELLS = [
    "eps: float = 0.1  # a comment\nname: str = 'digits/cnn'",
    "from workbench.widgets import Bench\n"
    "bench = Bench('digits', 'digits/prototypes', 3)\nbench.run()\nbench",
    "import plotly.express as px\n"
    "from workbench import figures\n"
    "if eps in [0.1] and not eps == 1 / 3:\n"
    "    figure = figures.styled(px.bar(x=['a', 'b'], y=[1, 2]), 'a 1, b 2', title='bars')\n"
    "figure",
    "import pandas as pd\npd.DataFrame({'accuracy': [1.0]})",
    "assert eps < 1, 'it is small'\nassert eps < 0, 'it is below nothing'",
]


@pytest.fixture
def axe():
    return pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    ).Axe()


def grave(axe, page, within=None):
    """What axe holds against a page, or against what a selector finds: the grave part."""
    found = axe.run(page, context=within).response["violations"]
    return [
        f"{rule['impact']}: {rule['help']}: {node['html'][:200]}"
        for rule in found
        for node in rule["nodes"]
        if rule["impact"] in GRAVE
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report, a card and a grid's page, by their names."""
    home, new = tmp_path_factory.mktemp("pages"), nbformat.v4
    link = "Whoever has read this far may read [another](other.html), too."
    words = new.new_markdown_cell(f"# A report\n\n{link}\n\n## One\n\n## Two\n\n## Three")
    cells = [words, *(new.new_code_cell(code) for code in CELLS)]
    cells[1].metadata.tags, cells[-1].metadata.tags = ["parameters"], ["checks"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new.new_notebook(cells=cells, metadata={"kernelspec": kernel}), home / "a.ipynb")
    report = reports.execute(home / "a.ipynb", {"name": "b"}, output=home / "report")
    model, images = models.load("digits/cnn"), data.load("digits").sample(20, seed=0)
    facts = ("clean", "", 0.0, 0.9, 0.8, 1.0), ("worst case", "Linf", 0.1, 0.4, 0.3, 0.5)
    rates = [
        {**dict(zip(("accuracy", "norm", "eps", "rate", "low", "high"), row, strict=True))}
        | {"images": 20, "failed": 0}
        for row in facts
    ]
    finding = {"name": "steps", "says": "few", "why": "they matter", "remedy": "more"}
    content = {"model": model.card.model_dump(mode="json"), "accuracies": rates, "seed": 0}
    content["indicators"] = [finding | {"level": level} for level in ("red", "amber", "green")]
    content["figures"] = {"a curve": "page.html#figure-1"}
    pictures = cards.pictures(model, images, PGD(eps=0.2, n_steps=5), 0)
    (home / "card.html").write_text(cards.to_html(content, pictures))
    rows = {"run": [*"abcd"], "eps": [0.1, 0.2] * 2, "model": ["x", "x", "y", "y"]}
    table = pd.DataFrame({**rows, "accuracy": [0.9, 0.5, 0.8, 0.7], "error": ["", "", "", "no"]})
    grid = grid_page.to_html(table, home, "n.html", "p.png", ["eps", "model"])
    (home / "grid.html").write_text(grid)
    return {"report": report.html, "card": home / "card.html", "grid": home / "grid.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "card", "grid"])
def test_a_page_has_no_grave_finding(axe, page, made, name, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(made[name].as_uri())
    if name == "report":
        page.locator(".main-svg").first.wait_for()
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert grave(axe, page) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in paper.removeprefix("rgb(").rstrip(")").split(",")]
    assert (max(levels) < 40) == (scheme == "dark")
    assert page.problems == []


def test_what_is_planted_is_found(axe, page, made):
    page.goto(made["card"].as_uri())
    page.evaluate("document.querySelector('[role=img]').removeAttribute('aria-label')")
    page.evaluate("document.title = ''")
    assert len(grave(axe, page)) == 2
