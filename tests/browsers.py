"""A JupyterLab for the browser tests, and what they do on its page."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

WAIT = 60  # seconds that anything may take, however busy the machine; notebooks three times that
TOKEN = "browser-test"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MARKS = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def write(path, cells, kernel="python3"):
    """Write a notebook of code cells, with its folder."""
    import nbformat  # here, since conftest.py imports this module before the workbench

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_code_cell(code) for code in cells]
    metadata = {"kernelspec": {"name": kernel, "display_name": kernel}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def until(condition, process, log):
    """Poll until a condition holds, and return it; fail where the process ends or time is out."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if value := condition():
                return value
        time.sleep(0.1)
    pytest.fail(f"no answer within {WAIT} s:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def lab(root):
    """The address of a JupyterLab on the folder `root`, with settings of its own."""
    folders = {f"JUPYTER_{name}_DIR": str(root / name.lower()) for name in ("CONFIG", "RUNTIME")}
    options = [
        "--ip=127.0.0.1",
        "--port=0",  # the system gives one, and the server's own file names it
        "--no-browser",
        "--allow-root",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=",
    ]
    with open(root / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **folders, "HOME": str(root)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def answering():
        address = json.loads((root / f"runtime/jpserver-{process.pid}.json").read_text())["url"]
        urllib.request.urlopen(f"{address}api?token={TOKEN}", timeout=WAIT).close()
        return address.rstrip("/")

    try:
        yield until(answering, process, root / "server.log")
    finally:
        process.terminate()
        process.wait(WAIT)


def share_kernel(server, names):
    """Start one kernel for several notebooks: each of its own would import all anew."""
    kernel = {"name": "python3"}
    for name in names:
        session = {"path": f"notebooks/{name}", "name": name, "type": "notebook", "kernel": kernel}
        request = urllib.request.Request(
            f"{server}/api/sessions",
            json.dumps(session).encode(),
            {"Authorization": f"token {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            kernel = {"id": json.load(answer)["kernel"]["id"]}


def reserved_port():
    """A port that the system gives to nobody else for a minute, and that a server may take.

    A connection that the server's side has closed is remembered there; whoever asks for any port
    is given another, whoever asks for this one (with SO_REUSEADDR, as servers do) has it.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        server.accept()[0].close()
        return server.getsockname()[1]


def run_all(page, server, name):
    """Open a notebook, run all its cells, and wait until each has its number."""
    workspace = Path(name).stem  # its own, so that no other notebook is open
    page.goto(f"{server}/lab/workspaces/{workspace}/tree/notebooks/{name}?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=| Idle")
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll(
                '.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)')];  // folded
            const failed = '[data-mime-type="application/vnd.jupyter.error"]';
            return document.querySelector(failed)
                || prompts.length && prompts.every(p => /\\[\\d+\\]/.test(p.textContent));
        }""",
        timeout=3000 * WAIT,
    )


def run_code(page, code):
    """Run code in the last cell, in place of what is there."""
    page.locator(".jp-CodeCell .cm-content").last.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")


def draw_a_one(page, canvas, index):
    """Draw a stroke downwards, and wait until all tiles show it, as the image `index`."""
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for i in range(30):
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + (0.2 + 0.02 * i) * box["height"])
    page.mouse.up()
    page.wait_for_function(
        "index => [...document.querySelectorAll('.wb-tile')]"
        ".every(tile => tile.dataset.index === `${index}`)",
        arg=index,
    )


def errors(page):
    return page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")


def shot(page, name):
    """A picture of the page, kept where WORKBENCH_SHOTS says, for people to look at."""
    folder = os.environ.get("WORKBENCH_SHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def drawn(page, selector):
    """How many of the images that a selector matches have pixels."""
    return page.locator(selector).evaluate_all(
        "images => images.filter(i => i.complete && i.naturalWidth > 0).length"
    )
