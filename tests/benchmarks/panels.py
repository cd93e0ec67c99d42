"""How long a click takes: from the event to the new picture, in the process and in a browser.

Run it with `python tests/benchmarks/panels.py`; it prints a table and asserts nothing.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from workbench.widgets import ModelPanel

from workbench import data

CLICKS = 20
NOTEBOOK = """
from workbench.widgets import ModelPanel
panel = ModelPanel("{dataset}", "{dataset}/cnn")
panel
"""


def main() -> None:
    """Print the table."""
    dataset = "mnist" if data.present("mnist") else "digits"
    measured = {"in the process": in_process(dataset)}
    if shutil.which("chromium"):
        measured["in Chromium"] = in_browser(dataset)
    print(f"{dataset}/cnn and {dataset}/cnn-robust by turns, {CLICKS} images, no attribution")
    print(f"{'':<16}{'median':>10}{'slowest':>10}")
    for name, times in measured.items():
        print(f"{name:<16}{statistics.median(times):>7.0f} ms{max(times):>7.0f} ms")


def in_process(dataset: str) -> list[float]:
    """Milliseconds from a changed control to the picture set, next image and other model."""
    names = [f"{dataset}/cnn", f"{dataset}/cnn-robust"]
    panel = ModelPanel(dataset, names[0])
    panel.run()
    assert panel.widget is not None
    times = []
    for i in range(CLICKS + 2):
        before = panel.view.value
        start = time.perf_counter()
        panel.picker.model.value = names[(i + 1) % 2]
        panel.picker.step(1)
        panel.wait()
        times.append(1000 * (time.perf_counter() - start))
        assert panel.view.value != before
    return times[2:]  # the first two load the models


def in_browser(dataset: str) -> list[float]:
    """Milliseconds from a click to the new image in the page; every second one switches."""
    import nbformat
    from browsers import lab, run_all
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        root = Path(folder)
        (root / "notebooks").mkdir()
        cell = nbformat.v4.new_code_cell(NOTEBOOK.format(dataset=dataset).strip())
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, root / "notebooks" / "panel.ipynb")
        with lab(root) as server:
            path = shutil.which("chromium")
            browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            run_all(page, server, "panel.ipynb")
            times = [page.evaluate(CLICK, i % 2) for i in range(CLICKS + 2)]
            browser.close()
    return times[2:]


# Switches the model where asked, clicks next, and waits for an image with another alt text.
CLICK = """switched => new Promise(done => {
    const image = () => document.querySelector('.widget-html img').alt;
    const before = image(), start = performance.now();
    const watch = new MutationObserver(() => {
        if (image() !== before) { watch.disconnect(); done(performance.now() - start); }
    });
    watch.observe(document.body, {subtree: true, childList: true});
    if (switched) {
        const model = document.querySelectorAll('.widget-dropdown select')[1];
        model.selectedIndex = 1 - model.selectedIndex % 2;
        model.dispatchEvent(new Event('change', {bubbles: true}));
    }
    [...document.querySelectorAll('button')].find(b => b.innerText.includes('next')).click();
})"""


if __name__ == "__main__":
    main()
