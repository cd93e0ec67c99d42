"""The notebooks of the suite: found by name, and copied to a folder where nothing is lost."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from typer.testing import CliRunner

from workbench import cli, reports, servers, suite

FIRST, SECOND = "00_start_here.ipynb", "01_models.ipynb"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An installed package with three files beside it, and a current folder that is empty."""
    package, here = tmp_path / "site" / "workbench", tmp_path / "here"
    (package / "notebooks" / "images").mkdir(parents=True)
    here.mkdir()
    for name in (FIRST, SECOND, "images/bench.png"):
        (package / "notebooks" / name).write_text(f"{name} as shipped")
    (package / "notebooks" / "Untitled.ipynb").write_text("somebody's own")
    monkeypatch.setattr("workbench.__file__", str(package / "__init__.py"))
    monkeypatch.chdir(here)
    return package / "notebooks"


@pytest.fixture
def lab(monkeypatch):
    """Runs `workbench lab`; returns what it says, the folder and the page that it would open."""
    commands = []
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append(command))
    monkeypatch.setattr(servers, "require_free", lambda port: None)

    def run(*words):
        commands.clear()
        result = CliRunner().invoke(cli.app, ["lab", "--no-browser", *words])
        if result.exit_code:
            return result.stderr, None, None
        text = " ".join(commands[0])
        root, page = re.search(r"root_dir=(\S+) .*default_url=(\S+)", text).groups()
        return result.stderr, root, page

    return run


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_an_installed_bench_opens_copies_of_its_notebooks(shipped, lab, tmp_path):
    shown, root, page = lab()
    folder = tmp_path / "here" / "dnn-workbench"
    assert (root, page) == (str(folder), f"/lab/tree/{FIRST}")
    assert shown.startswith(f"notebooks: {folder} (3 new)\n")
    assert set(contents(folder)) == {FIRST, SECOND, "images/bench.png", suite.RECORD}
    before = contents(folder)
    shown, root, page = lab()
    assert contents(folder) == before
    assert f"{folder} (0 new)" in shown


def test_from_within_the_copies_no_folder_has_to_be_named(shipped, lab, tmp_path, monkeypatch):
    lab("mine")
    monkeypatch.chdir(tmp_path / "here" / "mine")
    assert lab()[1] == str(tmp_path / "here" / "mine")


def test_what_was_changed_is_kept_and_named(shipped, lab, tmp_path):
    lab("mine")
    folder = tmp_path / "here" / "mine"
    (folder / FIRST).write_text("mine")
    for words in (["mine"], ["mine", "--update"]):
        shown, *_ = lab(*words)
        assert f"kept as you changed them: {FIRST}\n" in shown
        assert contents(folder)[FIRST] == "mine"
        assert len(contents(folder)) == 4


def test_update_replaces_what_was_not_touched_and_puts_the_rest_beside(shipped, lab, tmp_path):
    lab("mine")
    folder = tmp_path / "here" / "mine"
    (folder / FIRST).write_text("mine")
    for name in (FIRST, SECOND):
        (shipped / name).write_text(f"{name} made better")
    before = contents(folder)
    shown, *_ = lab("mine")
    assert contents(folder) == before
    assert f"--update brings: {FIRST}, {SECOND}\n" in shown

    shown, *_ = lab("mine", "--update")
    after = contents(folder)
    assert after[FIRST] == "mine"
    assert after["00_start_here.new.ipynb"] == f"{FIRST} made better"
    assert after[SECOND] == f"{SECOND} made better"
    assert f"replaced by newer ones: {SECOND}\n" in shown
    assert "put beside those that you changed: 00_start_here.new.ipynb\n" in shown

    shown, *_ = lab("mine", "--update")
    assert contents(folder) == after
    assert f"kept as you changed them: {FIRST}\n" in shown

    (folder / "00_start_here.new.ipynb").write_text("mine too")
    (shipped / FIRST).write_text("better still")
    lab("mine", "--update")
    assert contents(folder)["00_start_here.new.ipynb"] == "mine too"


def test_files_that_were_there_before_are_not_taken_for_ours(shipped, lab, tmp_path):
    folder = tmp_path / "here" / "mine"
    folder.mkdir()
    (folder / SECOND).write_text("somebody's")
    (folder / suite.RECORD).write_text("[no JSON")
    assert f"--update brings: {SECOND}\n" in lab("mine")[0]
    assert contents(folder)[SECOND] == "somebody's"
    assert set(json.loads(contents(folder)[suite.RECORD])) == {FIRST, "images/bench.png"}


def test_a_file_is_no_folder(shipped, lab, tmp_path):
    (tmp_path / "here" / "mine").write_text("a file")
    shown, *_ = lab("mine")
    assert (
        shown == f"error: folder: {tmp_path}/here/mine is a file; name a folder for the notebooks\n"
    )


def test_a_checkout_opens_its_own_notebooks_or_copies(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = suite.folder()
    _, root, page = lab()
    assert (root, page) == (str(own.parent), f"/lab/tree/notebooks/{FIRST}")
    shown, root, _ = lab("mine")
    files = len([*suite.notebooks(), *own.glob("images/*"), own / "README.md"])
    assert root == str(tmp_path / "mine")
    assert f"({files} new)" in shown
    assert "notebooks: " not in lab(str(own))[0]
    assert not (own / suite.RECORD).exists()


def test_jupyterlab_asks_nothing_about_news(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    lab()
    code = "from jupyter_core import paths\n"
    code += "paths.ENV_CONFIG_PATH.clear()  # where make lab once turned them off\n"
    code += "from jupyterlab_server.config import get_static_page_config as page\n"
    code += "print(page(level='all').get('disabledExtensions'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "apputils-extension:announcements" in done.stdout


def test_a_report_takes_the_name_of_a_notebook_of_the_suite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert suite.find(SECOND) == suite.folder() / SECOND
    assert suite.find(f"./elsewhere/{SECOND}").name == SECOND
    assert not suite.find(f"elsewhere/{SECOND}").exists()
    assert str(suite.find("none.ipynb")) == "none.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / SECOND)
    assert suite.find(SECOND).samefile(tmp_path / SECOND)  # what is here comes first
    seen = []
    monkeypatch.setattr(reports, "execute", lambda notebook, *_, **__: seen.append(notebook))
    CliRunner().invoke(cli.app, ["report", "02_attacks.ipynb"])
    assert seen == [suite.folder() / "02_attacks.ipynb"]
