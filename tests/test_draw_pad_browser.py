"""The draw pad in a real JupyterLab: mouse, finger, keys, files, and Python following."""

import io

import pytest
from browsers import MARKS, WAIT, errors, run_all, shot, write
from PIL import Image

pytestmark = MARKS

TOLD = """
import torch, ipywidgets as ipw
from workbench.widgets import DrawPad
def show(pad, most=1e9):
    told, updates = ipw.HTML(), []
    def follow(value):
        updates.append(value)
        image = pad.image.amax(0)
        rows, columns = (image.amax(k).nonzero().flatten().tolist() for k in (1, 0))
        box = [rows[0], columns[0], rows[-1], columns[-1]] if rows else []
        told.value = (f"<span class='told' data-updates='{len(updates)}' "
            f"data-sum='{float(image.sum()):.3f}' data-box='{box}' "
            f"data-value='{float(value.sum()):.3f}'>Python has it</span>")
        if value.sum() > most:
            raise ValueError('the model is not at home')
    pad.on_drawn(follow)
    follow(pad.value)
    return ipw.VBox([pad, told])
"""
GREY, SMALL, COLOUR = 0, 1, 2  # the pads, in the order of the cells
CELLS = [
    TOLD,
    "show(DrawPad())",
    "show(DrawPad((1, 8, 8)), most=20)",
    "colour = DrawPad(image=torch.full((3, 32, 32), 0.2))\nshow(colour)",
    "colour.image = torch.full((3, 32, 32), 0.4)",
]


@pytest.fixture(scope="module", autouse=True)
def notebook(lab_folder):
    write(lab_folder / "notebooks" / "pads.ipynb", CELLS)


class Pad:
    """A draw pad on a page, and what Python says of it."""

    def __init__(self, page, server, which):
        self.page, self.which = page, which
        run_all(page, server, "pads.ipynb")
        assert errors(page).count() == 0
        self.view = page.locator(".wb-pad").nth(which)
        self.canvas = self.view.locator("canvas")
        self.canvas.scroll_into_view_if_needed()
        self.status = self.view.locator(".status")
        self.alert = self.view.locator(".alert")

    def tool(self, name):
        return self.view.locator(f"[name={name}]")

    def at(self, x, y):
        """A place in shares of the canvas, on the page."""
        box = self.canvas.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def told(self, what):
        return self.page.locator(".told").nth(self.which).get_attribute(f"data-{what}")

    def wait(self, condition):
        """Wait until a condition on Python's data (sum, box as `d`) holds."""
        self.page.wait_for_function(
            "([condition, which]) => { const e = document.querySelectorAll('.told')[which]; "
            "const d = {sum: +e.dataset.sum, box: JSON.parse(e.dataset.box)}; "
            "return new Function('d', `return ${condition}`)(d); }",
            arg=[condition, self.which],
        )

    def follows(self):
        """Wait until Python has all that is on the canvas; the sum of the brightest channel."""
        total = self.canvas.evaluate(
            """c => { const {data} = c.getContext('2d').getImageData(0, 0, c.width, c.height);
            let sum = 0;
            for (let i = 0; i < data.length; i += 4)
                sum += Math.max(data[i], data[i + 1], data[i + 2]) / 255;
            return sum / c.width / c.height; }"""
        )
        total *= 28 * 28
        self.wait(f"Math.abs(d.sum - {total}) < 0.5")
        return total

    def colours(self):
        """Of the middle and of a corner."""
        return self.canvas.evaluate(
            "c => [[160, 145], [10, 10]].map(p => [...c.getContext('2d')"
            ".getImageData(...p, 1, 1).data].slice(0, 3))"
        )

    def stroke(self, start, end, steps=10):
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=steps)
        self.page.mouse.up()


def test_mouse_undo_erase_and_updates_while_drawing(page, server):
    pad = Pad(page, server, GREY)
    pad.stroke((0.25, 0.5), (0.75, 0.5))
    first = pad.follows()
    pad.wait("d.box[1] <= 7 && d.box[3] >= 20 && d.box[2] - d.box[0] <= 4")
    assert 14 * 2 < first < 14 * 2.25 + 8  # half of 28 pixels long, a brush of 2.25
    assert float(pad.told("value")) > 1.05 * first  # 16.5 pixels with round ends, made 20
    pad.status.locator("text=/stroke drawn: [45].*% ink/").wait_for()

    pad.stroke((0.5, 0.2), (0.5, 0.8))
    assert pad.follows() > first * 1.5
    pad.tool("undo").click()
    assert pad.follows() == pytest.approx(first)
    page.keyboard.press("Control+z")
    pad.wait("d.sum === 0")
    page.keyboard.press("Control+z")
    pad.status.locator("text=nothing to undo").wait_for()

    pad.stroke((0.25, 0.5), (0.75, 0.5))
    pad.tool("erase").click()
    assert pad.tool("erase").get_attribute("aria-pressed") == "true"
    pad.stroke((0.5, 0.5), (0.9, 0.5))
    assert 5 < pad.follows() < first * 0.6
    pad.tool("erase").click()
    pad.tool("clear").click()
    pad.wait("d.sum === 0")

    page.mouse.move(*pad.at(0.1, 0.1))
    page.mouse.down()
    before = int(pad.told("updates"))
    for turn in range(100 * WAIT):  # it follows the pen while it draws
        if int(pad.told("updates")) >= before + 30:
            break
        page.mouse.move(*pad.at(0.1 + 0.8 * (turn % 60) / 60, 0.1 + 0.8 * (turn // 6 % 60) / 60))
        page.wait_for_timeout(10)
    assert int(pad.told("updates")) >= before + 30
    last = pad.at(0.95, 0.05)
    page.mouse.move(*last)
    page.mouse.up()
    pad.follows()  # the last one always comes
    pad.wait("d.box[3] === 27 && d.box[0] <= 1")
    shot(page, "draw_pad")
    assert page.problems == []


def test_keys_draw_without_a_mouse_and_leave_the_notebook_alone(page, server):
    pad = Pad(page, server, GREY)
    pad.canvas.focus()
    cells = "all => all.map(c => c.classList.contains('jp-mod-active'))"
    before = page.locator(".jp-CodeCell").evaluate_all(cells)
    for key in ["ArrowLeft", "Shift+ArrowUp", "Space", *["ArrowDown"] * 6]:
        page.keyboard.press(key)
    pad.status.locator("text=column 14 of 28, row 17 of 28, drawing").wait_for()
    pad.wait("d.box.length && d.box[2] === 17 && d.box[0] === 9 && d.box[3] - d.box[1] === 2")
    assert pad.view.locator(".cursor").is_visible()
    page.keyboard.press("Enter")
    pad.status.locator("text=stroke drawn").wait_for()
    page.keyboard.press("ArrowDown")
    pad.status.locator("text=/^column 14 of 28, row 18 of 28$/").wait_for()
    pad.wait("d.box[2] === 17")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    shot(page, "draw_pad_keys")
    page.keyboard.press("Delete")
    pad.wait("d.sum === 0")
    assert page.locator(".jp-CodeCell").evaluate_all(cells) == before
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "brush"
    names = pad.view.locator("input").evaluate_all("all => all.map(i => i.labels.length)")
    assert names == [1, 1, 1]
    assert page.problems == []


def test_a_finger_draws_and_a_listeners_error_is_shown(page, server):
    pad = Pad(page, server, SMALL)
    touch = page.context.new_cdp_session(page)

    def send(kind, *places):
        points = [dict(zip("xy", pad.at(*place), strict=True)) for place in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (0.2, 0.2))
    for k in range(10):
        send("touchMove", (0.2, 0.2 + 0.06 * k))
    send("touchEnd")
    pad.wait("d.box.length && d.box[2] >= 5 && d.box[3] <= 2 && d.sum > 2 && d.sum < 6")
    assert pad.alert.inner_text() == ""
    pad.tool("brush").focus()
    page.keyboard.press("End")
    for k in range(5):
        pad.stroke((0, 0.2 * k), (1, 0.2 * k))
    alert = pad.view.locator(".alert:has-text('Error: the model is not at home')")
    alert.wait_for()
    pad.tool("clear").click()
    alert.wait_for(state="detached")
    assert page.problems == []


def test_colour_an_image_below_and_files(page, server):
    pad = Pad(page, server, COLOUR)
    pad.tool("ink").fill("#ff0000")
    pad.stroke((0.2, 0.5), (0.8, 0.5))
    pad.wait("d.sum > 0.4 * 1024 + 20 && d.box.join() === '0,0,31,31'")  # on top of the image
    assert pad.colours() == [[255, 0, 0], [102, 102, 102]]

    file = pad.tool("file")
    file.set_input_files({"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"})
    pad.view.locator(".alert:has-text('notes.png is no image')").wait_for()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 128), (0, 255, 0)).save(buffer, "PNG")
    file.set_input_files({"name": "tall.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    pad.wait("d.box.join() === '0,8,31,23' && Math.abs(d.sum - 512) < 1")  # its shape is kept
    assert pad.alert.inner_text() == ""
    shot(page, "draw_pad_colour")
    page.locator(".jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")  # Python lays another image on the pad
    for _ in range(20 * WAIT):
        if pad.colours() == [[102] * 3] * 2:
            break
        page.wait_for_timeout(50)
    assert pad.colours() == [[102] * 3] * 2
    pad.tool("undo").click()
    pad.wait("d.box.join() === '0,8,31,23'")
    assert page.problems == []
