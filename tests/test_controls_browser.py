"""The controls of a panel in JupyterLab, by keyboard alone: what folds, undo, overlay, download."""

from io import BytesIO
from pathlib import Path

import pytest
from browsers import MARKS, errors, run_all, shot, write
from PIL import Image
from test_accessibility import grave

pytestmark = MARKS
CODE = (
    "from workbench.widgets import ModelPanel\n"
    "ModelPanel('digits', 'digits/cnn', 3, method='gradient', compare='digits/mlp')"
)


@pytest.fixture
def panel(page, server, lab_folder):
    write(lab_folder / "notebooks" / "controls.ipynb", [CODE])
    page.set_viewport_size({"width": 1440, "height": 900})
    run_all(page, server, "controls.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".wb-panel").first
    panel.locator("[data-drag=over]").first.wait_for()
    return panel


def press(page, node, key="Enter"):
    """Reach a node with the keyboard, and press a key on it."""
    node.focus()
    assert node.evaluate("node => node === document.activeElement")
    page.keyboard.press(key)


def test_what_is_folded_opens_by_keyboard_and_the_picture_stays_at_the_top(page, panel):
    for name in ("Settings", "Copy as code", "Save as notebook", "Model card", "Layers"):
        button = panel.locator(f"button[aria-expanded]:has-text('{name}')")
        assert button.get_attribute("aria-expanded") == "false"
        press(page, button)
        panel.locator(f"button[aria-expanded=true]:has-text('{name}')").wait_for()
        assert button.evaluate("node => node === document.activeElement"), "the focus stays"
    assert panel.locator("label:has-text('of class'):visible").count() == 1
    press(page, panel.locator("button:has-text('Settings')"), " ")
    panel.locator("label:has-text('of class')").wait_for(state="hidden")
    for size in ((1440, 900), (1024, 768)):
        page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        top = panel.bounding_box()["y"]
        looks = [box.bounding_box() for box in panel.locator(".wb-looks > div").all()]
        assert panel.locator(".wb-looks img").first.bounding_box()["y"] - top < 200
        assert looks[0]["y"] == looks[1]["y"], "the second model stands beside the first"
        assert panel.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
        shot(page, f"controls_{size[0]}")
    assert page.problems == []


def test_a_panel_with_all_unfolded_has_no_grave_finding(page, panel):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    ).Axe()
    for name in ("Settings", "Copy as code"):
        press(page, panel.locator(f"button[aria-expanded]:has-text('{name}')"))
    panel.locator(".wb-code").wait_for()
    for light in ("true", "false"):
        page.evaluate("light => { document.body.dataset.jpThemeLight = light }", light)
        assert grave(axe, page, ".wb-panel") == []
    page.evaluate("document.querySelector('.wb-panel img').removeAttribute('alt')")
    assert len(grave(axe, page, ".wb-panel")) == 1, "and it finds what is planted"


def test_undo_overlay_share_and_download(page, panel):
    image = panel.locator(".wb-looks > figure img")
    before = image.get_attribute("alt")
    press(page, panel.locator("button:has-text('next')"))
    page.wait_for_function(
        "before => document.querySelector('.wb-looks > figure img').alt !== before", arg=before
    )
    press(page, panel.locator("button:has-text('Undo')"))
    page.wait_for_function(
        "before => document.querySelector('.wb-looks > figure img').alt === before", arg=before
    )
    over = panel.locator("[data-drag=over]").first
    layer = over.locator("[data-kind=opacity]")
    press(page, over.locator("input[type=range]"), "Home")
    assert layer.evaluate("node => node.style.opacity") == "0"
    press(page, over.locator("input[type=range]"), "End")
    assert layer.evaluate("node => node.style.opacity") == "1"
    assert over.locator("[role=status]").inner_text() == "100% map"
    press(page, panel.locator("button:has-text('Copy as code')"))
    cell = panel.locator("button[data-words*='from_state']").get_attribute("data-words")
    assert "ModelPanel.from_state({'dataset': 'digits', 'model': 'digits/cnn', 'index': 3" in cell
    with page.expect_download() as saved:
        press(page, panel.locator("button:has-text('Download the picture')"))
    picture = Image.open(BytesIO(Path(saved.value.path()).read_bytes())).convert("RGB")
    assert saved.value.suggested_filename == "model-panel.png"
    assert picture.width > 1500
    assert len(picture.resize((200, 100)).getcolors(20_000)) > 50, "it is no empty sheet"
    assert page.problems == []
