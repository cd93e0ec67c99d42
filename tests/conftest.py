"""What several test files share."""

import os
from pathlib import Path

import pytest


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
