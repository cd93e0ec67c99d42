"""How quickly the bench answers: first frame, another image, 500 of them, and a pen.

Run it with `python tests/benchmarks/bench.py`; it prints a table and asserts nothing. It needs
MNIST in the data folder (else it takes digits), and Chromium for the pen.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil
from workbench.widgets import Bench

from workbench import data

CHANGES = 40  # of the image, timed
MANY = 500  # changes after which memory and threads are looked at
WARM = 50  # changes before the memory is looked at first
SECONDS = 5.0  # of drawing
LIMIT = 60.0  # seconds that anything may take
ROW = "{:<58}{:>12}{:>14}".format

NOTEBOOK = """
from workbench.widgets import Bench
bench = Bench("{dataset}", "{dataset}/cnn")
bench
"""


def main() -> None:
    """Print the table."""
    dataset = "mnist" if data.present("mnist") else "digits"
    load = os.getloadavg()[0]
    print(f"{dataset}/cnn, {os.cpu_count()} cores, {load:.1f} processes waiting at the start\n")
    print(ROW("", "measured", "goal"))
    bench = Bench(dataset, f"{dataset}/cnn", 3)
    bench.selection.classifier(), bench.selection.images()
    start = time.perf_counter()
    bench._repr_mimebundle_()
    print(ROW("first complete frame", f"{time.perf_counter() - start:.2f} s", "3 s"))
    bench.wait(LIMIT)
    print(ROW("  and all slow parts", f"{time.perf_counter() - start:.2f} s", ""))
    for quiet, what in ((True, "nothing else at work"), (False, "slow parts under way")):
        times = sorted(1000 * changed(bench, 10 + i, quiet) for i in range(CHANGES))
        high = times[int(0.95 * len(times))]
        print(ROW(f"another image, {what}: median", f"{statistics.median(times):.0f} ms", "400 ms"))
        print(ROW(f"another image, {what}: 95%", f"{high:.0f} ms", "800 ms"))
    grown, left = many(bench)
    print(ROW(f"{MANY} images: memory grown", f"{grown:.1f} MB", "50 MB"))
    print(ROW(f"{MANY} images: threads left", left, "0"))
    if shutil.which("chromium"):
        for name, rate in drawing(dataset).items():
            print(ROW(f"pen in Chromium: {name}", f"{rate:.1f} / s", "10 / s"))


def changed(bench: Bench, index: int, quiet: bool = False) -> float:
    """Seconds from a change of image to the quick frames of all five panels."""
    if quiet:
        bench.wait(LIMIT)
    else:
        time.sleep(0.3)
    start = time.perf_counter()
    bench.selection.index = index
    while any(getattr(panel.result, "index", None) != index for panel in bench.panels.values()):
        time.sleep(0.002)
        assert time.perf_counter() - start < LIMIT, "a panel does not follow"
    return time.perf_counter() - start


def many(bench: Bench) -> tuple[float, int]:
    """MB by which memory grows in many changes of image, and jobs that are left."""
    sizes = []
    for count in (WARM, MANY):
        for i in range(count):
            changed(bench, 100 + i % 250)
        bench.wait(LIMIT)
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss / 1e6)
    left = sum(thread.name == "workbench-job" for thread in threading.enumerate())
    return sizes[1] - sizes[0], left


def drawing(dataset: str) -> dict[str, float]:
    """Pictures a second that the model's panel shows while one draws, in a JupyterLab."""
    import nbformat
    from browsers import lab, run_all
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        root = Path(folder)
        (root / "notebooks").mkdir()
        cell = nbformat.v4.new_code_cell(NOTEBOOK.format(dataset=dataset).strip())
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
        nbformat.write(notebook, root / "notebooks" / "bench.ipynb")
        with lab(root) as server:
            path = shutil.which("chromium")
            browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 1200})
            run_all(page, server, "bench.ipynb")
            page.locator("button:has-text('draw')").first.click()
            canvas = page.locator("canvas").first
            canvas.wait_for()
            box = canvas.bounding_box()
            assert box is not None
            found = {}
            for turn in ("first stroke", "later strokes"):
                page.evaluate(WATCH)
                draw(page, box)
                found[f"{turn}, pictures"] = page.evaluate("window.pictures / window.seconds()")
                page.wait_for_timeout(2000)
            browser.close()
    return found


def draw(page, box) -> None:
    """Draw for some seconds, as fast as a hand does."""
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    end, turn = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        turn += 1
        x, y = 0.1 + 0.8 * (turn % 60) / 60, 0.1 + 0.8 * (turn // 6 % 60) / 60
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.wait_for_timeout(15)
    page.mouse.up()


# Counts the pictures of the model's panel that follow each other, until the last of them.
WATCH = """() => {
    const start = performance.now();
    let [source, last] = ["", start];
    window.pictures = 0;
    window.seconds = () => (last - start) / 1000;
    window.watch?.disconnect();
    window.watch = new MutationObserver(() => {
        const image = document.querySelector("img[alt^='index ']")?.src;
        if (image && image !== source) [source, last] = [image, performance.now()];
        else return;
        window.pictures++;
    });
    window.watch.observe(document.body, {subtree: true, childList: true});
}"""


if __name__ == "__main__":
    main()
