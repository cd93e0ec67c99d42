"""How quickly the bench answers, measured in the page: in JupyterLab, in headless Chromium.

Run it with `python tests/benchmarks/bench.py`; it prints a table and asserts nothing.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from browsers import lab, run_all, run_code, write
from playwright.sync_api import sync_playwright

MODELS = ("mnist/cnn", "mnist/prototypes")
CHANGES, STROKES = 40, 10
ROW = "{:<64}{:>12}{:>10}".format
CELL = """
from workbench.widgets import Bench
bench = Bench("mnist-sample", "{model}", 3, compare="mnist/cnn-robust")
bench
""".strip()
TIMED = """
import time, torch
from workbench import attacks, robustness
x = bench.selection.images().images[3:4]
for name in (bench.selection.model, "mnist/cnn-robust"):
    model, times = bench.selection.classifier(name), []
    for _ in range(9):
        start = time.perf_counter()
        robustness.breaking(model, x, bench.panels["eps"].attack)
        times.append(time.perf_counter() - start)
    print(f"eps {name} {sorted(times)[4]:.3f} s")
""".strip()

# From a key on the filmstrip to the last of stage, answer and tiles that show the next image.
TURN = """async ([key, pause]) => {
    const tiles = [...document.querySelectorAll(".wb-tile")];
    const chosen = () => document.querySelector(".wb-frame[aria-selected=true]");
    const at = Number(tiles[0].dataset.index) + (key === "ArrowRight" ? 1 : -1);
    const start = performance.now();
    chosen().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const there = () => tiles.every((tile) => Number(tile.dataset.index) === at)
        && document.querySelector(".wb-picture img")?.alt.startsWith(`image ${at} `);
    while (!there()) await new Promise(requestAnimationFrame);
    const time = performance.now() - start;
    await new Promise((done) => setTimeout(done, pause));
    return time;
}"""
# The time of one frame while eps is moved, with the layout it causes.
DRAG = """() => {
    const [slider, times] = [document.querySelector(".wb-curve"), []];
    for (let i = 0; i < 120; i++) {
        const start = performance.now();
        const key = i % 24 < 12 ? "ArrowLeft" : "ArrowRight";
        slider.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        document.querySelector(".wb-answer").getBoundingClientRect();
        times.push(performance.now() - start);
    }
    return times;
}"""
# How long the page is busy with each frame while the pointer moves.
FRAMES = """() => {
    window.frames_ = [];
    let last = performance.now();
    const tick = (now) => {
        window.frames_.push(now - last);
        last = now;
        window.ticking = requestAnimationFrame(tick);
    };
    window.ticking = requestAnimationFrame(tick);
}"""
# How often each tile, and the answer, is drawn anew while one draws.
WATCH = """() => {
    window.drawn = {};
    const nodes = [...document.querySelectorAll(".wb-tile"), document.querySelector(".wb-answer")];
    for (const node of nodes) {
        const name = node.dataset.tile ?? "answer";
        window.drawn[name] = 0;
        new MutationObserver((all) => all.some((m) => m.target === node) && window.drawn[name]++)
            .observe(node, { childList: true });
    }
    window.began = performance.now();
}"""


def main() -> None:
    """Print the table."""
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} processes waiting at the start\n")
    print(ROW("", "measured", "goal"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        root = Path(folder)
        for i in range(len(MODELS)):
            write(root / "notebooks" / f"{i}.ipynb", ["print('the kernel answers')"])
        path = shutil.which("chromium")
        with lab(root) as server:
            browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for i, model in enumerate(MODELS):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                measure(page, server, f"{i}.ipynb", model)
                page.close()
            browser.close()


def measure(page, server: str, name: str, model: str) -> None:
    """All rows of one model."""
    sent: list[int] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(1)))
    run_all(page, server, name)
    print(f"\n{model}, beside mnist/cnn-robust")
    for words, goal in (("in a new kernel, imports and all", ""), ("once more", "2 s")):
        page.evaluate("for (const old of document.querySelectorAll('.wb-tile')) old.id = 'old'")
        page.locator(".jp-CodeCell .cm-content").last.click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(CELL.format(model=model))
        start = time.perf_counter()
        page.keyboard.press("Control+Enter")
        page.locator(".wb-tile:not(#old)").first.wait_for()
        seconds = time.perf_counter() - start
        print(ROW(f"bench shown, {words}", f"{seconds:.2f} s", goal))
        rest(page)
    page.locator(".wb-frame[aria-selected=true]").focus()
    for words, pause in (("one after the other", 30), ("with slow parts in between", 700)):
        keys = ["ArrowRight", "ArrowLeft"] * (CHANGES // 2)
        times = sorted(page.evaluate(TURN, [key, pause]) for key in keys)
        median, high = statistics.median(times), times[int(0.95 * len(times))]
        print(ROW(f"next image to all tiles, {words}: median", f"{median:.0f} ms", "150 ms"))
        print(ROW(f"next image to all tiles, {words}: 95 %", f"{high:.0f} ms", ""))
    rest(page)
    page.locator(".wb-modes button", has_text="Attack").click()
    page.locator(".wb-curve").wait_for()
    rest(page)
    before = len(sent)
    times = sorted(page.evaluate(DRAG))
    print(
        ROW(
            "a frame while eps is dragged: 95 %", f"{times[int(0.95 * len(times))]:.1f} ms", "16 ms"
        )
    )
    print(ROW("  messages to the kernel", f"{len(sent) - before}", "0"))
    page.locator("[data-tile=map] .wb-open").click()
    chart = page.locator(".wb-large [data-map] canvas, .wb-large [data-live=map] canvas").first
    chart.wait_for()
    rest(page)
    box, before = chart.bounding_box(), len(sent)
    page.evaluate(FRAMES)
    for i in range(120):
        page.mouse.move(box["x"] + box["width"] * (0.2 + 0.005 * i), box["y"] + box["height"] * 0.5)
    page.evaluate("cancelAnimationFrame(window.ticking)")
    times = sorted(page.evaluate("window.frames_"))
    print(
        ROW(
            "frame to frame with the pointer on the map: median",
            f"{times[len(times) // 2]:.1f} ms",
            "16 ms",
        )
    )
    print(ROW("  95 %", f"{times[int(0.95 * len(times))]:.1f} ms", ""))
    print(ROW("  messages to the kernel", f"{len(sent) - before}", "0"))
    page.locator("button", has_text="close").click()
    for name_, rate in draw(page).items():
        print(ROW(f"drawing, {name_}", f"{rate:.1f} / s", "12 / s"))
    run_code(page, TIMED)
    out = page.locator(".jp-OutputArea-output pre", has_text="eps mnist/cnn-robust")
    out.wait_for()
    for line in out.inner_text().splitlines():
        print(ROW(f"the curve of 12 budgets: {line.split()[1]}", " ".join(line.split()[2:]), "1 s"))


def rest(page) -> None:
    """Wait until nothing is at work, and the slow parts have come."""
    page.wait_for_timeout(1500)
    page.wait_for_function("!document.querySelector('.wb-tile.busy')")
    page.wait_for_timeout(500)


def draw(page) -> dict[str, float]:
    """How often the slowest tile and the answer follow, over ten strokes."""
    page.locator(".wb-modes button", has_text="Draw").click()
    page.locator("button", has_text="Blank sheet").click()
    canvas = page.locator(".wb-easel canvas")
    canvas.wait_for()
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    page.evaluate(WATCH)
    for stroke in range(STROKES):
        page.mouse.move(
            box["x"] + box["width"] * (0.15 + 0.07 * stroke), box["y"] + 0.2 * box["height"]
        )
        page.mouse.down()
        for i in range(40):
            page.mouse.move(
                box["x"] + box["width"] * (0.15 + 0.07 * stroke + 0.001 * i),
                box["y"] + box["height"] * (0.2 + 0.015 * i),
            )
            page.wait_for_timeout(16)
        page.mouse.up()
    seconds = page.evaluate("(performance.now() - window.began) / 1000")
    drawn = page.evaluate("window.drawn")
    return {name: count / seconds for name, count in sorted(drawn.items())}


if __name__ == "__main__":
    main()
