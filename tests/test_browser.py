"""The notebooks in a real JupyterLab, in headless Chromium: run all, look, click."""

import shutil
from pathlib import Path

import pytest
from browsers import MARKS, WAIT, drawn, errors, run_all, run_code, share_kernel, shot, write

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

SHORT = {  # notebooks of the tests' own
    "model.ipynb": [
        "from workbench.widgets import ModelPanel\n"
        "ModelPanel('digits', 'digits/cnn', 7, method='gradient')",
    ],
    "verify.ipynb": [
        "from workbench.widgets import ProofPanel\nProofPanel('digits', 'digits/mlp', 3, eps=0.01)",
        "print('the kernel answers')",
    ],
    "panels.ipynb": [
        "from workbench.widgets import AttackPanel\n"
        "AttackPanel(model='digits/cnn-robust', eps=0.3, n_steps=10_000, exhaustive=True)",
        "print('the kernel answers')",
    ],
    "levels.ipynb": [
        "from workbench.widgets import LevelSetPanel\n"
        "LevelSetPanel('shapes', 'shapes/resnet', 3, n_steps=20, side=401)",
    ],
    "regions.ipynb": [
        "from workbench.widgets import RegionPanel\n"
        "RegionPanel('digits', 'digits/cnn', 3, compare='digits/cnn-robust', extent=0.05)",
    ],
    "prototypes.ipynb": [
        "from workbench.widgets import PrototypePanel\nPrototypePanel('digits', 'digits/cnn', 3)",
        "print('the kernel answers')",
    ],
    "treatments.ipynb": [
        "import os\n"
        "os.environ['WORKBENCH_DATA'] = os.path.abspath('treated')\n"
        "from workbench.widgets import TreatmentPanel\n"
        "from workbench.models import RECIPES\n"
        "RECIPES['digits/mlp'] = RECIPES['digits/mlp'].changed(epochs=150)\n"
        "TreatmentPanel('digits', 'digits/mlp', 3, treatment='AdversarialTraining', n_steps=2)",
        "print('the kernel answers')",
    ],
    "concepts.ipynb": [
        "from workbench.widgets import ConceptPanel\n"
        "ConceptPanel('shapes', 'shapes/resnet', 3, n_crops=300)",
    ],
    "patterns.ipynb": [
        "from workbench.widgets import PatternPanel\nPatternPanel('digits', 'digits/cnn', 3)",
    ],
    "evaluation.ipynb": [
        "from workbench.widgets import EvaluationPanel\n"
        "EvaluationPanel('digits', 'digits/cnn-robust', n=12)",
    ],
}

CLOSE = """
import gc, ipywidgets
from workbench.widgets import Job
for job in [thing for thing in gc.get_objects() if type(thing) is Job]:
    job.cancel()
ipywidgets.Widget.close_all()
print('all closed')
""".strip()
pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def notebooks(server, lab_folder):
    """A copy of the notebooks, and those above, which share a kernel."""
    shutil.copytree(NOTEBOOKS, lab_folder / "notebooks", dirs_exist_ok=True)
    for name, cells in SHORT.items():
        write(lab_folder / "notebooks" / name, cells)
    share_kernel(server, SHORT)


@pytest.fixture(autouse=True)
def closed(page):
    """End the work and close the widgets: the next page of the kernel would bring them back."""
    yield
    run_code(page, CLOSE)
    page.locator(".jp-OutputArea-output:has-text('all closed')").wait_for()


def test_proof_panel_proves_refutes_and_cancels(page, server):
    run_all(page, server, "verify.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Verify'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("button:has-text('Verify')").click()
    panel.locator("text=Proved: every one of them is").wait_for()
    shot(page, "verify_proved")
    panel.locator(".widget-slider:has-text('eps') [role=slider]").last.focus()
    page.keyboard.press("End")  # the largest
    panel.locator("text=Press Verify").wait_for()
    panel.locator("button:has-text('Verify')").click()
    panel.locator("text=Refuted: here is one").wait_for()
    assert drawn(page, "img[alt*='counterexample']") == 1
    shot(page, "verify_refuted")
    assert page.problems == []


def test_the_model_panel_answers_clicks(page, server):
    run_all(page, server, "model.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('next'))").first
    panel.scroll_into_view_if_needed()
    assert drawn(page, ".wb-view img") >= 2  # the image and its saliency
    image = panel.locator(".wb-view img").first
    before = image.get_attribute("alt")
    shot(page, "panel")
    panel.locator("button:has-text('next')").click()
    page.wait_for_function(
        "before => [...document.querySelectorAll('.wb-view img')].every(i => i.alt !== before)",
        arg=before,
    )
    panel.locator("select:has(option:text-is('mistakes'))").select_option("mistakes")
    panel.locator("text=but it is").first.wait_for()
    panel.locator("select:has(option:text-is('no other model'))").select_option(index=1)
    panel.locator("h4 >> nth=1").wait_for()
    panel.locator("text=Copy as code").click()
    assert "models.load" in panel.locator("pre").inner_text()
    shot(page, "panel_clicked")
    panel.locator("text=Save as notebook or report").click()
    panel.locator("button:text-is('Report')").click()
    link = panel.locator("a:has-text('model-panel-1.html')")
    link.wait_for()
    shot(page, "panel_report")
    answer = page.request.get(link.get_attribute("href"))
    assert answer.ok
    assert "Model panel: digits/" in answer.text()
    assert page.problems == []


def test_models_runs_and_its_figures_are_drawn(page, server):
    run_all(page, server, "01_models.ipynb")
    assert errors(page).count() == 0
    for selector in (".js-plotly-plot .main-svg", ".wb img", "figure img"):
        page.locator(selector).first.scroll_into_view_if_needed()
        page.locator(selector).first.wait_for()
    assert page.locator(".js-plotly-plot").count() >= 2
    shot(page, "models")
    assert page.problems == []


def test_attack_panel_launches_cancels_scrubs_and_leaves_the_kernel_free(page, server):
    run_all(page, server, "panels.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Launch'))").first
    panel.scroll_into_view_if_needed()

    panel.locator("button:has-text('Launch')").click()
    cancel = panel.locator("button:has-text('Cancel')")
    cancel.wait_for()
    for turn in range(5):
        run_code(page, f"print('answer', {turn}, '!')")
        page.locator(f".jp-OutputArea-output:has-text('answer {turn} !')").wait_for()
    assert cancel.is_visible(), "the kernel answered only when the attack was over"
    cancel.click()
    panel.locator("text=Cancelled").wait_for()
    panel.locator("text=Perturbation").first.wait_for()
    shot(page, "attack_cancelled")

    attacked = panel.locator("img[alt^='attacked image']")
    best = attacked.get_attribute("src")
    panel.locator(".widget-slider:has-text('step') [role=slider]").last.focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "best => document.querySelector(`img[alt^='attacked image']`).src !== best", arg=best
    )
    assert panel.locator("text=what was added").count() == 1
    panel.locator("text=Copy as code").click()
    assert "attacks.get('PGD'" in panel.locator("pre").first.inner_text()
    assert drawn(page, ".wb-view img") >= 3  # the image, the perturbation, the result
    shot(page, "attack_scrubbed")
    assert page.problems == []


def test_evaluation_panel_draws_the_curve_and_its_health(page, server):
    run_all(page, server, "evaluation.ipynb")
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Evaluate'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("text=Press Evaluate").wait_for()
    panel.locator("button:has-text('Evaluate')").click()
    panel.locator("text=indicators without alarm").wait_for(timeout=3000 * WAIT)
    panel.locator("button:has-text('Cancel')").wait_for(state="hidden")
    said = panel.locator("svg[role=img]").get_attribute("aria-label")
    assert said.startswith("At eps 0.")
    shot(page, "evaluation")
    assert errors(page).count() == 0
    assert page.problems == []


def test_level_set_panel_runs_cancels_scrubs_and_is_clicked(page, server):
    run_all(page, server, "levels.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Run'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("[data-pick^='target:']").nth(7).click()  # a click on a class runs it
    cancel = panel.locator("button:has-text('Cancel')")
    cancel.wait_for()
    cancel.click()
    panel.locator("text=Cancelled").wait_for()
    panel.locator("text=RMSE to the target").wait_for()
    panel.locator("button:has-text('Settings')").click()
    panel.locator(".widget-slider:has-text('points each way') [role=slider]").last.focus()
    page.keyboard.press("Home")  # the fewest points; runs again
    plane = panel.locator("svg[data-pick=plane]")
    plane.wait_for()
    page.wait_for_function(  # the plane of 17 points is there: the path is whole
        """async () => {
            const picture = document.querySelector('[data-map] figure img');
            if (!picture) return false;
            await picture.decode();
            return picture.naturalWidth === 17;
        }""",
    )
    slider = panel.locator(".widget-slider:has-text('step') [role=slider]").last
    for _ in range(5 * WAIT):  # the plane comes a moment before the slider is free
        slider.focus()
        page.keyboard.press("Home")
        page.wait_for_timeout(200)
        if panel.locator("text=step 0: still").count():
            break
    panel.locator("text=step 0: still").wait_for()
    shot(page, "levels_scrubbed")
    plane.click(position={"x": 90, "y": 60})
    panel.locator("text=Kept.").wait_for()
    plane.focus()
    page.keyboard.press("ArrowRight")  # the page moves the point, the kernel hears where it is kept
    before = panel.locator(".wb-ring").evaluate("node => node.style.transform")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "before => document.querySelector('.wb-ring').style.transform !== before", arg=before
    )
    page.wait_for_function("() => document.activeElement.dataset.pick === 'plane'")
    assert plane.get_attribute("aria-label").startswith("plane: ")
    shot(page, "levels_clicked")
    assert page.problems == []


def test_region_panel_draws_both_models_and_follows_the_image(page, server):
    run_all(page, server, "regions.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('next'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("polygon").first.wait_for()
    maps = panel.locator("svg[role=img]")
    assert maps.count() == 2
    before = maps.first.get_attribute("aria-label")
    assert "linear regions" in before
    assert "relu1" in panel.locator("polygon title").first.text_content()
    panel.locator("button:has-text('next')").click()
    page.wait_for_function(
        "before => { const maps = document.querySelectorAll('svg[role=img]'); "
        "return maps.length === 2 && maps[0].getAttribute('aria-label') !== before; }",
        arg=before,
    )
    shot(page, "regions")
    assert page.problems == []


def test_prototype_panel_offers_chooses_and_trains(page, server):
    run_all(page, server, "prototypes.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('next'))").first
    panel.scroll_into_view_if_needed()
    shot(page, "prototypes_offer")
    panel.locator("button[data-pick='model:digits/prototypes']").click()
    chosen = panel.locator("[data-pick='prototype:5']")
    chosen.wait_for()
    assert panel.locator("[data-pick^='prototype:']").count() == 15
    chosen.focus()
    page.keyboard.press("Enter")
    panel.locator("text=have the class it speaks for").wait_for()
    assert page.evaluate("document.activeElement.dataset.pick") == "prototype:5"
    assert chosen.get_attribute("aria-pressed") == "true"
    panel.locator(".widget-slider:has-text('how far') [role=slider]").last.focus()
    page.keyboard.press("End")
    panel.locator("text=100% of the way").wait_for()
    shot(page, "prototypes_chosen")
    assert page.problems == []


def test_treatment_panel_trains_cancels_resumes_and_opens_the_bench(page, server):
    run_all(page, server, "treatments.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:text-is('Resume'))").first
    panel.scroll_into_view_if_needed()
    resume = panel.locator("button:text-is('Resume')")
    on_bench = panel.locator("button:text-is('Open on the bench')")
    assert resume.is_disabled()
    assert on_bench.is_disabled()
    shot(page, "treatment")
    panel.locator("button:text-is('Start')").click()
    panel.locator("text=/epoch [2-9]\\d.150/").last.wait_for(timeout=3000 * WAIT)
    panel.locator("svg[aria-label^='accuracy on']").wait_for()
    shot(page, "treatment_under_way")
    panel.locator("button:has-text('Cancel')").last.click()
    panel.locator("text=Cancelled").wait_for()
    resume.click()
    panel.locator("text=What it costs").wait_for(timeout=3000 * WAIT)
    shot(page, "treatment_done")
    on_bench.click()
    bench = panel.locator(".wb-bench").last
    bench.scroll_into_view_if_needed()
    for name in ("digits/mlp | AdversarialTraining(n_steps=2)", "digits/mlp"):
        bench.locator(f"text={name}").first.wait_for(state="attached")
    shot(page, "treatment_bench")
    assert page.problems == []


def test_concept_panel_finds_chooses_and_damps(page, server):
    run_all(page, server, "concepts.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Find concepts'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("button:has-text('Find concepts')").click()
    panel.locator("[data-pick^='concept:']").nth(9).wait_for()
    chosen = panel.locator("[data-pick='concept:2']")
    chosen.focus()
    page.keyboard.press("Enter")
    panel.locator("text=where concept 2 is").wait_for()
    assert page.evaluate("document.activeElement.dataset.pick") == "concept:2"
    panel.locator(".widget-slider:has-text('concept ×') [role=slider]").last.focus()
    page.keyboard.press("Home")
    panel.locator("text=concept 2 × 0").wait_for()
    shot(page, "concepts_damped")
    panel.locator("button:has-text('Reset')").click()
    panel.locator("text=concept 2 × 0").wait_for(state="hidden")
    assert page.problems == []


def test_pattern_panel_mines_judges_and_switches(page, server):
    run_all(page, server, "patterns.ipynb")
    assert errors(page).count() == 0
    panel = page.locator(".jp-OutputArea-output:has(button:has-text('Mine'))").first
    panel.scroll_into_view_if_needed()
    panel.locator("button:has-text('Mine')").click()
    strip = panel.locator("[data-pick='layer:relu3']")
    strip.wait_for()
    panel.locator("figure[title*='delta 0.99: mean size 170']").wait_for()
    assert drawn(page, "[data-pick] img") == 3
    box = strip.bounding_box()
    strip.click(position={"x": box["width"] * 10.5 / 64, "y": box["height"] / 4})
    panel.locator("text=relu3, neuron 10:").wait_for()
    strip.focus()
    page.keyboard.press("ArrowDown")
    panel.locator("text=relu3, neuron 74:").wait_for()
    assert page.evaluate("document.activeElement.dataset.pick") == "layer:relu3"
    panel.locator("select:has(option:text-is('off'))").select_option("off")
    panel.locator("th:has-text('neuron at 0')").wait_for()
    panel.locator(".widget-slider:has-text('images that agree') [role=slider]").last.focus()
    page.keyboard.press("End")
    panel.locator("figure[title*='delta 1: mean size 128']").wait_for()
    panel.locator("text=Copy as code").click()
    assert "patterns.switched(model, x, 'relu3'" in panel.locator("pre").first.inner_text()
    shot(page, "patterns_switched")
    assert page.problems == []
