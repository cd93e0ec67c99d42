"""The bench: five views of one image that follow each other, drawings, and what can be saved."""

import json
import threading
from pathlib import Path

import pytest
import torch
from workbench.widgets import AttackPanel, Bench, ModelPanel, Selection

from workbench import data, models, reports


@pytest.fixture
def bench():
    made = Bench("digits", "digits/prototypes", 3)
    made._repr_mimebundle_()
    settle(made)
    return made


def settle(bench):
    assert bench.wait(60)
    for name, panel in bench.panels.items():
        assert panel.job is None or panel.job.state in ("done", "cancelled"), (name, panel.job)
        assert panel.message.value == "", name
    assert bench.message.value == ""


def indices(bench):
    return {panel.result.index for panel in bench.panels.values()}


def threads():
    return [t for t in threading.enumerate() if t.name == "workbench-job"]


def test_showing_it_draws_all_and_the_slow_parts_follow():
    bench = Bench("digits", "digits/prototypes", 3, auto=False)
    html = bench._repr_mimebundle_()["text/html"]
    assert html.count("<h3>") == 5
    assert "not asked yet" not in html
    assert not any(panel.whole for panel in bench.panels.values())
    bench.start()
    settle(bench)
    assert all(panel.whole for panel in bench.panels.values())
    assert bench.panels["attack"].result.result is not None
    assert bench.panels["patterns"].result.patterns is not None
    assert bench.panels["level set"].result.plane is not None
    assert not threads()


def test_another_image_reaches_every_panel(bench):
    for i in (8, 9, 10):
        bench.selection.index = i
    settle(bench)
    assert indices(bench) == {10}
    assert bench.panels["attack"].result.result is not None
    assert not threads()


def test_another_image_cancels_what_is_stale():
    options = {"attack": {"n_steps": 10_000, "exhaustive": True, "eps": 0.01}}
    bench = Bench("digits", "digits/cnn-robust", 3, panels=options, view="attack")
    bench._repr_mimebundle_()
    attack = bench.panels["attack"]
    while not attack.whole:
        assert not bench.wait(0.01)
    slow = attack.job
    bench.selection.index = 4
    assert slow.wait(20)
    assert slow.state == "cancelled"
    bench.cancel()  # no slow part of the new image; the quick frames come by themselves
    settle(bench)
    assert indices(bench) == {4}


def test_the_panel_in_view_comes_first_and_turning_to_one_completes_it():
    bench = Bench("digits", "digits/prototypes", 3, auto=False)
    bench._repr_mimebundle_()
    bench.auto = True
    bench.tabs.selected_index = 4
    assert bench.view == "patterns"
    bench.panels["patterns"].wait(30)
    assert bench.panels["patterns"].result.patterns is not None
    assert not bench.panels["attack"].whole


def test_a_panel_that_does_not_fit_says_so_and_offers_models():
    bench = Bench("shapes", "shapes/vit", 3, auto=False)
    bench._repr_mimebundle_()
    settle(bench)
    titles = [bench.tabs.get_title(i) for i in range(5)]
    assert titles[4] == "⊘ patterns (not this model)"
    assert titles[2] == "⊘ prototypes (not this model)"
    assert titles[1] == "attack"
    assert "shapes/vit has no ReLU layer" in bench.panels["patterns"].view.value
    bench.panels["patterns"].view.picked = {"name": "model:shapes/resnet", "x": 0.5, "y": 0.5}
    settle(bench)
    assert bench.selection.model == "shapes/resnet"
    assert bench.tabs.get_title(4) == "patterns"


def test_a_class_to_go_towards_is_shared(bench):
    bench.panels["attack"].form.controls["target"].value = "2"
    settle(bench)
    assert bench.selection.towards == "2"
    assert bench.panels["model"].params.target == "2"
    level = bench.panels["level set"].result
    assert int(level.images.labels[level.target]) == 2
    prototypes = bench.panels["prototypes"]
    found = prototypes.result.explanation
    assert int(found.votes[prototypes._chosen(found)]) == 2
    assert int(bench.panels["attack"].result.result.target) == 2
    bench.panels["model"].form.controls["target"].value = ""
    settle(bench)
    assert bench.panels["attack"].params.target == ""


def test_state_goes_through_json_and_gives_the_same(bench):
    bench.panels["attack"].form.controls["target"].value = "7"
    bench.panels["model"].form.controls["method"].value = "gradient"
    bench.tabs.selected_index = 1
    settle(bench)
    first = next(iter(bench.panels["patterns"].result.values))
    bench.panels["patterns"].view.picked = {"name": f"layer:{first}", "x": 0.3, "y": 0.1, "turn": 1}
    settle(bench)
    assert bench.selection.layer == first
    state = json.loads(json.dumps(bench.state()))
    assert state["view"] == "attack"
    again = Bench.from_state(state)
    bench.run()
    again.run()
    assert again.to_html() == bench.to_html()
    text = Bench("digits", "digits/prototypes", panels=json.dumps(state["panels"]))
    assert text.panels["model"].params.method == "gradient"


def test_copied_code_gives_the_same_to_the_bit(bench):
    names = {}
    exec(bench.code(), names)
    assert torch.equal(names["result"].x_adv, bench.panels["attack"].result.result.x_adv)
    for part in ("# model", "# attack", "# prototypes", "# level set", "# patterns"):
        assert part in bench.code()
    reached = bench.panels["level set"].result
    assert torch.equal(names["plane"].confidence, reached.plane.confidence)
    assert float(names["score"]) == bench.panels["patterns"].result.score


def test_a_drawing_is_the_last_image_and_is_kept_in_the_state(bench):
    drawing = data.load("digits").images[11].clone()
    mined = bench.panels["patterns"]._mined
    bench.selection.draw(drawing)
    settle(bench)
    assert bench.selection.dataset == "digits and a drawing"
    assert bench.selection.origin == "digits"
    assert indices(bench) == {360}
    assert bench.panels["patterns"]._mined is mined  # nothing is mined again
    shown = bench.selection.images()
    assert float((shown.images[-1] - drawing).abs().max()) <= 0.5 / 255 + 1e-6
    assert int(shown.labels[-1]) == -1  # nobody said what it is
    model, turned = bench.selection.classifier(), (255 * (1 - drawing)).round() / 255
    k = int(model.predict(turned[None]).label)
    bench.selection.draw(turned, meant=str(k))
    settle(bench)
    assert bench.panels["attack"].result.result.labels.tolist() == [k]
    state = json.loads(json.dumps(bench.state()))
    assert (state["dataset"], state["index"], state["meant"]) == ("digits", 360, str(k))
    again = Bench.from_state(state)
    bench.run()
    again.run()
    assert again.to_html() == bench.to_html()
    names = {}
    exec(bench.code(), names)
    assert torch.equal(names["result"].x_adv, bench.panels["attack"].result.result.x_adv)
    bench.selection.dataset = "digits"
    bench.selection.index = 5
    settle(bench)
    assert indices(bench) == {5}


def test_the_pad_draws_into_the_bench(bench):
    bench.draw.value = True
    assert bench.pad.shape == (1, 8, 8)
    assert float(bench.pad.value.sum()) == 0
    grid = torch.zeros(1, 8, 8)
    grid[:, 1:7, 4] = 1
    bench.pad.image = grid
    bench.meant.value = "1"
    bench._drawn(bench.pad.value)
    settle(bench)
    assert indices(bench) == {360}
    assert int(bench.selection.images().labels[-1]) == 1
    bench.brush.value = True
    assert not bench.draw.value
    assert torch.equal(bench.pad.value, bench.selection.images().images[-1])
    bench.brush.value = False
    assert bench.easel.layout.display == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "attacks"}, "unknown view 'attacks'.*attack"),
        ({"layout": "rows"}, "unknown layout 'rows'"),
        ({"panels": {"atack": {}}}, "unknown panel 'atack'.*attack"),
        ({"panels": "{'attack': 1}"}, "panels: expected JSON, got"),
        ({"panels": '{"attack": 1}'}, "panels: expected parameters by panel"),
        ({"panels": {"attack": {"eps": 7.0}}}, "eps"),
        ({"model": "mnist/cnn"}, "mnist/cnn"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        Bench("digits", **options)


def test_bad_drawings():
    with pytest.raises(ValueError, match=r"drawing: expected \(1, 8, 8\), got \(1, 28, 28\)"):
        Selection("digits").draw(torch.zeros(1, 28, 28), "3")
    with pytest.raises(ValueError, match="meant"):
        Selection("digits").draw(torch.zeros(1, 8, 8), "eleven")
    with pytest.raises(ValueError, match="drawing: expected a PNG in base64, got 'nonsense'"):
        Selection("digits", drawing="nonsense")
    with pytest.raises(ValueError, match="drawing: expected a PNG in base64"):
        Selection("digits", drawing="aGVsbG8=")
    with pytest.raises(ValueError, match="towards"):
        Selection("digits", towards="eleven")


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 32, 32)])
def test_a_drawing_survives_as_text(shape):
    image = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(data.from_text(data.as_text(image)), image)


@pytest.mark.slow
def test_a_saved_bench_runs_as_a_report_with_the_same_numbers(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench.selection.draw(data.load("digits").images[11])
    bench.selection.towards = "7"  # which it is
    settle(bench)
    assert "The model says 7 already" in bench.panels["attack"].view.value
    bench.selection.towards = "3"
    settle(bench)
    bench.saver.start_report()
    assert bench.saver.job.wait(120)
    assert bench.saver.job.state == "done", bench.saver.job.error
    assert "The report is written" in bench.saver.status.value
    kept = json.loads((tmp_path / "reports" / "bench-1" / "results.json").read_text())
    assert kept["results"] == json.loads(json.dumps(bench.run().summary()))
    assert kept["parameters"]["towards"] == "3"
    links = [out["data"]["text/html"] for out in bench.saver.links.outputs]
    assert "bench-1.ipynb" in links[0]
    assert "reports/bench-1/bench-1.html" in links[1]


def test_a_notebook_is_never_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = AttackPanel("digits", "digits/cnn", 3, eps=0.2)
    assert panel.widget is not None
    assert panel.saver.save() == Path("attack-panel-1.ipynb")
    assert panel.saver.file.value == "attack-panel-2.ipynb"
    declared = reports.parameters("attack-panel-1.ipynb")
    assert {name: p.default for name, p in declared.items()}["eps"] == 0.2
    panel.saver.file.value = "attack-panel-1.ipynb"
    panel.saver._clicked(panel.saver.save)
    assert "attack-panel-1.ipynb is there already; give another name" in panel.saver.status.value
    panel.saver.file.value = "attack.txt"
    panel.saver._clicked(panel.saver.save)
    assert "expected a name that ends in .ipynb" in panel.saver.status.value
    panel.saver.file.value = "no/such/folder/attack.ipynb"
    panel.saver._clicked(panel.saver.save)
    assert 'role="alert"' in panel.saver.status.value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attack-panel-1.ipynb"]


def test_ones_own_cannot_be_saved_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = data.ImageDataset(*(getattr(data.load("digits"), k) for k in ("images", "labels")),
                            classes=models.card("digits/cnn").classes, name="mine")  # fmt: skip
    panel = ModelPanel(own, "digits/cnn")
    assert panel.widget is not None
    with pytest.raises(ValueError, match="dataset: 'mine' is your own"):
        panel.saver.save()
    assert not list(tmp_path.iterdir())


def test_code_that_is_unfolded_follows(bench):
    bench.below.selected_index = 0
    assert "images.images[3:4]" in bench.code_view.value
    bench.selection.index = 8
    settle(bench)
    assert "images.images[8:9]" in bench.code_view.value
    assert "[3:4]" not in bench.code_view.value
