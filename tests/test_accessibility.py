"""axe-core on a report: no serious and no critical finding, code unfolded."""

import nbformat
import pytest
from browsers import MARKS

from workbench import reports

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


def test_a_report_has_no_grave_finding(axe, page, tmp_path):
    new = nbformat.v4
    link = "Whoever has read this far may read [another](other.html), too."
    words = new.new_markdown_cell(f"# A report\n\n{link}")
    cells = [words, *(new.new_code_cell(code) for code in CELLS)]
    cells[1].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        new.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "a.ipynb"
    )
    report = reports.execute(tmp_path / "a.ipynb", output=tmp_path / "report")
    page.goto(report.html.as_uri())
    page.locator(".main-svg").first.wait_for()
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert grave(axe, page) == []
    page.evaluate("document.querySelector('img').alt = ''; document.title = ''")
    page.evaluate("document.querySelector('img').removeAttribute('alt')")
    assert len(grave(axe, page)) == 2, "and it finds what is planted"
    assert page.problems == []
