"""Files, written whole or not at all; and what several pages hold: a script and the one style."""

from __future__ import annotations

import os
import uuid
from importlib.resources import files
from pathlib import Path

# The scripts of figures that move, in a panel and in a report: `drag_eps` and `plane_map`.
LIVE = "".join(Path(__file__).with_name(f"{name}.js").read_text() for name in ("drag", "map"))
STYLE = Path(str(files("workbench.widgets"))) / "style.css"  # of panels, reports, cards, site
REPORT = "WORKBENCH_REPORT"  # set where a notebook runs into a report: nobody waits or clicks


def write(path: Path, content: str | bytes) -> None:
    """Write a file in a folder that is there: a reader sees all of it or nothing."""
    if isinstance(content, str):
        content = content.encode("utf-8", errors="backslashreplace")
    arriving = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        arriving.write_bytes(content)
        os.replace(arriving, path)
    finally:
        arriving.unlink(missing_ok=True)
