"""The bench in JupyterLab on several kernels: where threads and messages go differs by version.

WORKBENCH_KERNELS names further kernelspecs, separated by commas, such as one with ipykernel 6:
in a folder that JUPYTER_PATH names, `kernels/NAME/kernel.json`.
"""

import os
import shutil

import pytest
from browsers import MARKS, WAIT, draw_a_one, errors, run_all, shot, write
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

pytestmark = MARKS

KERNELS = ["python3", *filter(None, os.environ.get("WORKBENCH_KERNELS", "").split(","))]
CELLS = [
    "import ipykernel\nprint('ipykernel', ipykernel.__version__)",
    "from workbench.widgets import Bench\n"
    "panels = {'attack': {'n_steps': 10_000, 'exhaustive': True, 'eps': 0.3}}\n"
    "bench = Bench('digits', 'digits/prototypes', 3, view='model', auto=False, panels=panels)\n"
    "bench",
    "print('the kernel answers')",
    "import threading, time\n"
    f"end = time.monotonic() + {WAIT}\n"
    "while any(t.name == 'workbench-job' for t in threading.enumerate()):\n"
    "    assert time.monotonic() < end, 'a job was left'\n"
    "    time.sleep(0.05)\n"
    "print('no job is left')",
    "bench.panels['eps'].start()",
]


@pytest.fixture(params=KERNELS)
def notebook(request, lab_folder):
    """A notebook of the kernel asked for."""
    try:
        spec = KernelSpecManager().get_kernel_spec(request.param)
    except NoSuchKernel:
        pytest.skip(f"needs the kernelspec {request.param!r}, which WORKBENCH_KERNELS names")
    home = lab_folder / ".local" / "share" / "jupyter" / "kernels" / request.param
    shutil.copytree(spec.resource_dir, home)
    name = f"kernel_{request.param}.ipynb"
    write(lab_folder / "notebooks" / name, CELLS, request.param)
    return name


def run_cell(page, number):
    """Run one cell once more, and wait for its end."""
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(number)
    before = prompt.inner_text()
    page.locator(".jp-CodeCell .cm-content").nth(number).click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "([number, before]) => { const text = document.querySelectorAll("
        "'.jp-CodeCell .jp-InputPrompt')[number].innerText; "
        "return text !== before && /\\d/.test(text); }",
        arg=[number, before],
    )


def test_the_bench_on_a_kernel(page, server, notebook):
    run_all(page, server, notebook)
    assert errors(page).count() == 0
    print(page.locator(".jp-OutputArea-output:has-text('ipykernel')").first.inner_text())
    bench = page.locator(".wb-room").first
    bench.scroll_into_view_if_needed()
    for index in (4, 5, 6):
        bench.locator(".wb-more button").last.click()
        bench.locator(f".wb-picture img[alt^='image {index} ']").wait_for()

    bench.locator(".wb-modes button:text-is('Attack')").click()
    run_cell(page, 4)  # the curve of budgets
    bench.locator("button:has-text('other attacks')").click()
    launch = bench.locator("button:has-text('Launch')")
    launch.click()
    cancel = bench.locator("button:has-text('Cancel'):visible").first
    cancel.wait_for()
    run_cell(page, 2)  # while the attack goes on
    assert cancel.is_visible()
    cancel.click()
    bench.locator("text=Cancelled").first.wait_for()

    launch.click()
    cancel.wait_for()
    bench.locator("button:has-text('close')").click()
    bench.locator(".wb-modes button:text-is('Draw')").click()
    canvas = bench.locator(".wb-easel canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    draw_a_one(page, canvas, 360)
    bench.locator("button:has-text('report')").first.click()
    bench.locator("button:text-is('Save as notebook')").last.click()
    bench.locator("a:has-text('bench-')").first.wait_for()
    run_cell(page, 3)
    assert errors(page).count() == 0
    assert page.locator("text=no job is left").count() >= 1
    shot(page, "kernel")
    assert page.problems == []
