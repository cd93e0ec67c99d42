"""What several test files share."""

import os
import shutil
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # two test processes with two threads each would fight
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from browsers import BROWSERS, WAIT, lab

from workbench import data

# JupyterLab's own complaints, which no notebook causes.
EXPECTED = ("favicon", "Failed to load resource", "Statusbar", "plugin", "404")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Under CI a browser test that is skipped has failed."""
    report = yield
    if os.environ.get("CI") and report.skipped and item.get_closest_marker("browser"):
        report.outcome, report.longrepr = "failed", f"skipped under CI: {report.longrepr[2]}"
    return report


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data folder of a file's own, where models are kept that its tests make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory) -> Path:
    """The folder of the one JupyterLab; notebooks lie in `notebooks`."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def server(lab_folder):
    """The address of the one JupyterLab of all browser tests."""
    with lab(lab_folder) as address:
        yield address


@pytest.fixture(scope="module")  # longer, its event loop would be in other tests' way
def chromium():
    """A headless Chromium, on whose pages anything may take `WAIT` seconds."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page; `page.problems` are errors on it, `page.requested` the addresses it asked for."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * WAIT)
    page.problems, page.requested = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            page.problems.append(message.text)
            if message.type == "error" and not any(word in message.text for word in EXPECTED)
            else None
        ),
    )
    yield page
    page.close()


@pytest.fixture
def real_data() -> Path:
    """The data folder that WORKBENCH_DATA names; without one the test is skipped."""
    named = os.environ.get("WORKBENCH_DATA")
    if not named:
        pytest.skip("needs real data: WORKBENCH_DATA is not set")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        pytest.skip(f"needs real data: WORKBENCH_DATA names {folder}, which is no folder")
    return folder


@pytest.fixture
def real_set(real_data):
    """Loads a real data set by name; where it is not in the data folder the test is skipped."""

    def load(name: str, **options) -> data.ImageDataset:
        if not data.present(name, options.get("split", "test")):
            pytest.skip(f"needs {name} in {real_data}")
        return data.load(name, **options)

    return load
