"""What CI does: both results count, and no browser test is skipped unseen."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parent
SKIPPED = """
import pytest
@pytest.mark.browser
def test_a(chromium): pass
def test_b(): pytest.skip("elsewhere")
"""


@pytest.mark.parametrize(("ci", "failed"), [("1", 1), ("", 0)])
def test_a_skipped_browser_test_fails_under_ci(ci, failed, pytester, monkeypatch):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyfile(SKIPPED)
    pytester.makeini("[pytest]\nmarkers = browser")
    result = pytester.runpytest_inprocess("-rfs")
    result.assert_outcomes(errors=failed, skipped=2 - failed)
    result.stdout.fnmatch_lines("*skipped under CI: *needs a browser*" if ci else "*needs a br*")


@pytest.mark.parametrize("fails", ["test", "lint", "apt-get", "none"])
def test_ci_runs_tests_and_linters_and_both_count(fails, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(TESTS.parent / ".ci" / "run", tmp_path / ".ci")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    log = f'echo "{{}}" "$@" >> {tmp_path}/log\n'
    parts = {
        "make": log.format("make") + f'[ "$1" != {fails} ]',
        "id": "echo 0",
        "apt-get": log.format("apt-get") + f"[ {fails} != apt-get ]",
    }
    for name, code in parts.items():
        (tools / name).write_text(f"#!{tools}/bash\n{code}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], env={"PATH": str(tools)}, capture_output=True, text=True
    )
    calls = (tmp_path / "log").read_text().splitlines()
    assert calls[-2:] == ["make test", "make lint"]
    assert calls[0].startswith("apt-get update")
    assert done.returncode == (fails in ("test", "lint"))
    assert "chromium is not here and was not installed" in done.stderr


@pytest.mark.xdist_group("here")
def test_a_group_stays_in_one_process(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs several processes, by --dist loadgroup")
    assert request.node.nodeid.endswith("@here")
