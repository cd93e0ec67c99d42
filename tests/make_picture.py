"""Take the README's picture from the running bench: `python tests/make_picture.py`."""

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from browsers import BROWSERS, lab, run_all, write
from PIL import Image
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).parent.parent / "notebooks" / "images" / "bench.png"
CELL = (
    "from workbench.widgets import Bench\n"
    "Bench('mnist-sample', 'mnist/prototypes', {index}, compare='mnist/cnn-robust')"
)
INDEX = 3  # a six
READY = """!document.querySelector('.wb-tile.busy')
    && document.querySelector('[data-tile=map] .wb-tiny-map')"""


def main() -> None:
    """Write the picture: a digit at the eps at which the answer breaks."""
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        root = Path(folder)
        write(root / "notebooks" / "bench.ipynb", [CELL.format(index=INDEX)])
        with lab(root) as server:
            browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900}, device_scale_factor=2)
            run_all(page, server, "bench.ipynb")
            page.locator(".wb-modes button", has_text="Attack").click()
            page.wait_for_function(READY)
            page.locator(".wb-curve").wait_for()
            page.wait_for_timeout(2000)
            raw = page.locator(".wb-bench").screenshot()
            browser.close()
    picture = Image.open(BytesIO(raw)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    print(TARGET.name, picture.size, f"{TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
