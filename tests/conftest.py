"""What several test files share."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # two test processes with two threads each would fight
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from workbench import data


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
