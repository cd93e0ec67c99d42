"""`workbench app`: the bench as a page of its own, and what is said when it cannot be."""

import contextlib
import re
import socket
import subprocess
import sys

import pytest
from browsers import WAIT, reserved_port, shot, until
from test_accessibility import axe, grave  # noqa: F401
from typer.testing import CliRunner

from workbench import cli

WORKBENCH = [sys.executable, "-c", "from workbench.cli import app; app()"]
REFUSED = "Content Security Policy"  # a font that voila's template would load from the network


def app(*words):
    return CliRunner().invoke(cli.app, ["app", "--no-browser", *words])


def test_without_voila_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "voila.app", None)
    result = app()
    assert result.exit_code == 1
    assert "pip install 'dnn-workbench[app]'" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digit"], "unknown data set 'digit'"),
        (["--model", "digits/cn"], "unknown model 'digits/cn'"),
        (["--port", "0"], "--port"),
    ],
)
def test_wrong_names_start_nothing(words, message):
    pytest.importorskip("voila", reason="needs voila")
    result = app(*words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_busy_port_is_said():
    pytest.importorskip("voila", reason="needs voila")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        result = app("--port", str(port))
    assert result.exit_code == 1
    assert f"port {port} on 127.0.0.1 cannot be used" in result.stderr


@contextlib.contextmanager
def served(folder, *words):
    """The address of the page, once it answers."""
    port, log = reserved_port(), folder / "app.log"
    command = [*WORKBENCH, "app", "--no-browser", "--port", str(port), *words]
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)

    def listening():
        socket.create_connection(("127.0.0.1", port), WAIT).close()
        return re.search(r"http\S+", log.read_text())[0]

    try:
        yield until(listening, process, log)
    finally:
        process.terminate()
        process.wait(WAIT)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_page_draws_and_answers_a_click(axe, page, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila")
    outside = []

    def answered(response):
        if not re.match(r"data:|blob:|http://127\.0\.0\.1", response.url):
            outside.append(response.url)

    page.on("response", answered)
    with served(tmp_path) as address:
        refused = page.request.get(address.split("?")[0])
        assert "Bench" not in refused.text(), "the page asks for the token"
        page.goto(address)
        page.locator("h1:has-text('DNN Workbench')").wait_for()
        page.locator(".wb-picture img[alt^='image 0 ']").wait_for()
        page.locator(".wb-frame[aria-selected=true]").press("ArrowRight")
        page.locator(".wb-picture img[alt^='image 1 ']").wait_for()
        page.locator("[data-tile=attack] .wb-open").click()
        page.locator(".wb-curve").wait_for()
        assert grave(axe, page, ".wb-room") == []
        shot(page, "app")
        page.locator("button:has-text('report')").first.click()
        page.locator("button:text-is('Save as notebook')").last.click()
        page.locator("text=Saved bench-1.ipynb").wait_for()
        assert (tmp_path / "bench-1.ipynb").exists()
    assert outside == []
    assert [problem for problem in page.problems if REFUSED not in problem] == []
