"""The bench in a real JupyterLab, in headless Chromium: by mouse, by keyboard, in its place."""

import shutil
from pathlib import Path

import pytest
from browsers import MARKS, WAIT, draw_a_one, errors, run_all, run_code, share_kernel, shot, write
from test_accessibility import axe, grave  # noqa: F401

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
START = "00_start_here.ipynb"
OWN = {
    "photographs.ipynb": [
        "import shutil, torch, transformers\n"
        "from pathlib import Path\n"
        "import skimage\n"
        "from workbench import models\n"
        "from workbench.widgets import Bench\n"
        "torch.manual_seed(0)\n"
        "folder = Path('photographs')\n"
        "folder.mkdir(exist_ok=True)\n"
        "for name in ('astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.jpg', 'horse.png'):\n"
        "    shutil.copy(Path(skimage.__file__).parent / 'data' / name, folder)\n"
        "config = transformers.ResNetConfig(num_labels=1000)\n"
        "net = transformers.ResNetForImageClassification(config).eval()\n"
        "model = models.wrap(net, input_shape=(3, 224, 224), name='resnet-50',\n"
        "    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))\n"
        "bench = Bench(f'folder:{folder}', model)\n"
        "bench",
        "print('the kernel answers')",
    ],
    "compared.ipynb": [
        "from workbench.widgets import Bench\n"
        "bench = Bench('mnist-sample', 'mnist/cnn', 3, compare='mnist/cnn-robust')\n"
        "bench",
        "print('the kernel answers')",
    ],
}
SIZES = {"wide": (1440, 900), "narrow": (1024, 768)}
PLACES = (".wb-top", ".wb-film", ".wb-picture", ".wb-answer .wb-classes", ".wb-tile")
BOXES = """selectors => selectors.flatMap(s => [...document.querySelectorAll(s)].map(node => {
    const box = node.getBoundingClientRect();
    return [s, box.left, box.top, box.right, box.bottom];
}))"""
pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def notebooks(server, lab_folder):
    """A copy of the first notebook, and those above, which share a kernel."""
    (lab_folder / "notebooks").mkdir(exist_ok=True)
    shutil.copy(NOTEBOOKS / START, lab_folder / "notebooks" / START)
    shutil.copytree(NOTEBOOKS / "images", lab_folder / "notebooks" / "images", dirs_exist_ok=True)
    for name, cells in OWN.items():
        write(lab_folder / "notebooks" / name, cells)
    share_kernel(server, OWN)


@pytest.fixture
def sent(page):
    """What the page sends to the kernel, message by message."""
    messages = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda each: messages.append(each)))
    return messages


def opened(page, server, name):
    """The bench of a notebook that was run, with all that comes late."""
    run_all(page, server, name)
    assert errors(page).count() == 0
    bench = page.locator(".wb-room").first
    bench.locator(".wb-top").evaluate("node => node.scrollIntoView({ block: 'start' })")
    settled(page)
    return bench


def settled(page):
    """Wait until every tile shows the image looked at, and none is at work."""
    page.wait_for_function(
        """() => {
            const tiles = [...document.querySelectorAll('.wb-tile')];
            const numbers = new Set(tiles.map(tile => tile.dataset.index));
            const late = tiles.some(tile => /watch it break|not asked yet/.test(tile.textContent));
            return numbers.size === 1 && !late && !document.querySelector('.wb-tile.busy');
        }"""
    )


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def tab_to(page, words, limit=60):
    """Press Tab until what has the focus says `words`."""
    for _ in range(limit):
        name = page.evaluate(
            "() => { const e = document.activeElement;"
            " return `${e.getAttribute('aria-label') ?? ''} ${e.textContent}`; }"
        )
        if words in name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"no {words!r} within {limit} tabs")


def test_the_guided_way_by_mouse(page, server, sent):
    page.set_viewport_size(dict(zip(("width", "height"), SIZES["wide"], strict=True)))
    bench = opened(page, server, START)
    assert bench.locator(".wb-picture img").get_attribute("alt").startswith("image ")
    shot(page, "bench_image")

    bench.locator("[data-tile=attack] .wb-open").click()
    curve = bench.locator(".wb-curve")
    box, head = curve.bounding_box(), bench.locator(".wb-head")
    y = box["y"] + 0.4 * box["height"]
    page.mouse.move(box["x"] + 1, y)
    page.mouse.down()
    page.wait_for_function("document.querySelector('.wb-curve').ariaValueNow === '0'")
    before, said = len(sent), head.inner_text()
    for i in range(40):
        page.mouse.move(box["x"] + i / 39 * (box["width"] - 1), y)
    page.mouse.up()
    page.wait_for_function("document.querySelector('.wb-curve').ariaValueNow === '12'")
    assert head.inner_text() != said, "the answer breaks"
    assert "attacked with eps" in bench.locator(".wb-caption").inner_text()
    assert len(sent) == before, "no word to the kernel"
    shot(page, "bench_attack")

    bench.locator("[data-tile=map] .wb-open").click()
    chart = bench.locator(".wb-large canvas").first
    chart.wait_for()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    here = bench.locator(".wb-large >> text=/^here: /").first
    here.wait_for()
    before, said = len(sent), here.inner_text()
    for i in range(30):
        at = 0.2 + 0.02 * i
        page.mouse.move(box["x"] + at * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function(
        "said => [...document.querySelectorAll('.wb-large *')].every(n => n.textContent !== said)",
        arg=said,
    )
    assert len(sent) == before, "no word to the kernel"
    shot(page, "bench_map")
    bench.locator("button:has-text('close')").click()

    bench.locator(".wb-modes button:text-is('Draw')").click()
    bench.locator("button:has-text('Blank sheet')").click()
    page.wait_for_function(
        """() => {
            const canvas = document.querySelector('.wb-easel canvas');
            const pen = canvas?.getContext('2d');
            const ink = pen?.getImageData(0, 0, canvas.width, canvas.height).data;
            return ink?.every((level, i) => i % 4 === 3 || level === 0);
        }"""
    )
    canvas = bench.locator(".wb-easel canvas")
    draw_a_one(page, canvas, 1000)
    head.filter(has_text="1, ").wait_for()
    _, _, top, _, bottom = page.evaluate(BOXES, [".wb-classes"])[0]
    assert 0 < top < bottom < SIZES["wide"][1], "in the window"
    assert bench.locator(".wb-ask select").is_visible()
    shot(page, "bench_drawn")
    bench.locator(".wb-ask select").select_option("1")
    bench.locator(".wb-says:has-text('Labelled 1')").wait_for()

    bench.locator("button:has-text('report')").first.click()
    bench.locator("button:text-is('Save as notebook')").last.click()
    saved = bench.locator("a:has-text('bench-')").inner_text()  # others may have saved one before
    assert page.problems == []
    again = opened(page, server, Path(saved).name)
    assert again.locator(".wb-says").inner_text().startswith("Labelled 1")
    assert page.problems == []


def test_the_guided_way_by_keyboard_alone(page, server):
    bench = opened(page, server, "compared.ipynb")
    bench.locator("select").first.focus()
    tab_to(page, "image 3")
    press(page, "ArrowRight", "ArrowRight")
    bench.locator(".wb-picture img[alt^='image 5 ']").wait_for()
    settled(page)
    assert page.evaluate("document.activeElement.ariaLabel").startswith("image 5")
    press(page, "ArrowUp")
    bench.locator(".wb-picture img[alt^='image 3 ']").wait_for()
    settled(page)
    tab_to(page, "Attack")
    press(page, "Enter")
    tab_to(page, "eps, the largest change")
    head = bench.locator(".wb-head")
    press(page, "Home")
    page.wait_for_function("document.querySelector('.wb-curve').ariaValueNow === '0'")
    said = head.inner_text()
    press(page, "End")
    page.wait_for_function("document.querySelector('.wb-curve').ariaValueNow === '12'")
    assert head.inner_text() != said
    tab_to(page, "map")
    press(page, "Enter")
    bench.locator(".wb-large canvas").first.wait_for()
    press(page, "Escape")
    bench.locator(".wb-large").wait_for(state="hidden")
    tab_to(page, "monitor")
    press(page, "Enter")
    bench.locator(".wb-large button:has-text('Mine')").wait_for()
    press(page, "Escape")
    bench.locator(".wb-large").wait_for(state="hidden")
    bench.locator("select").first.focus()
    tab_to(page, "Draw")
    press(page, "Enter")
    canvas = bench.locator(".wb-easel canvas")
    canvas.wait_for()
    tab_to(page, "Draw pad")
    press(page, "Space", *["ArrowDown"] * 5, "Space")
    bench.locator(".wb-answer .wb-ask").wait_for()
    bench.locator("select").first.focus()
    tab_to(page, "undo")
    press(page, "Enter")
    bench.locator(".wb-answer .wb-ask").wait_for(state="hidden")
    assert page.problems == []


@pytest.mark.parametrize("size", SIZES)
def test_it_stands_in_the_window_and_nothing_moves_when_more_comes(page, server, size):
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    run_all(page, server, "compared.ipynb")
    run_code(page, "bench.stop(); bench.auto = False; bench.selection.index = 7; print('turned')")
    page.locator(".jp-OutputArea-output:has-text('turned')").wait_for()
    page.locator(".wb-picture img[alt^='image 7 ']").wait_for()
    page.locator(".wb-top").evaluate("node => node.scrollIntoView({ block: 'start' })")
    first = page.evaluate(BOXES, list(PLACES))
    assert "watch it break" in page.locator("[data-tile=attack]").inner_text()
    top, bottom = min(box[2] for box in first), max(box[4] for box in first)
    assert bottom - top < height - 110, "with the bars of JupyterLab it is in sight"
    room = page.locator(".wb-room").bounding_box()
    assert max(box[3] for box in first) <= room["x"] + room["width"] + 1
    run_code(page, "bench.start(); print('started')")
    page.locator(".jp-OutputArea-output:has-text('started')").wait_for()
    settled(page)
    page.locator(".wb-top").evaluate("node => node.scrollIntoView({ block: 'start' })")
    later = page.evaluate(BOXES, list(PLACES))
    assert len(first) == len(later) == 9
    moved = max(
        abs(a - b)
        for one, two in zip(first, later, strict=True)
        for a, b in zip(one[1:], two[1:], strict=True)
    )
    assert moved <= 4, "pixels"
    shot(page, f"bench_{size}")


def test_no_grave_finding_of_axe(axe, page, server):  # noqa: F811
    bench = opened(page, server, "compared.ipynb")
    for mode in ("Image", "Attack", "Why", "Draw"):
        bench.locator(f".wb-modes button:text-is('{mode}')").click()
        page.locator(f".wb-stage[data-mode={mode.lower()}]").wait_for()
        assert grave(axe, page, ".wb-room") == [], mode
    bench.locator("[data-tile=map] .wb-open").click()
    bench.locator(".wb-large canvas").first.wait_for()
    assert grave(axe, page, ".wb-room") == []
    bench.locator("button:has-text('close')").click()


def test_photographs_on_a_network_of_real_size(page, server):
    pytest.importorskip("transformers", reason="needs transformers")
    run_all(page, server, "photographs.ipynb")
    assert errors(page).count() == 0
    bench = page.locator(".wb-room").first
    bench.locator("text=No label: no answer is right or wrong.").wait_for()
    bench.locator("text=resnet-50 has no prototypes").wait_for()
    bench.locator("[data-tile=attack] img").first.wait_for()
    shot(page, "photographs")
    bench.locator(".wb-frame[aria-selected=true]").press("ArrowRight")
    bench.locator(".wb-picture img[alt^='image 1 ']").wait_for(timeout=3000 * WAIT)
    assert page.locator(".panel-failure").count() == 0
    assert page.problems == []
    run_code(page, "bench.stop(); print('stopped')")
    page.locator(".jp-OutputArea-output:has-text('stopped')").wait_for()
