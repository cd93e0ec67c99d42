"""The bench: one image, views that follow it on one screen, drawings, and what can be saved."""

import base64
import json
import threading
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from workbench.widgets import AttackPanel, Bench, ModelPanel, Selection
from workbench.widgets.screen import head

from workbench import data, models, reports
from workbench.files import REPORT


@pytest.fixture
def bench():
    made = Bench("digits", "digits/prototypes", 3, view="attack")
    made._repr_mimebundle_()
    settle(made)
    return made


TURNS = count()


def ask(bench, what, value=None):
    """What a click on the screen sends."""
    bench.screen.asked = {"what": what, "value": value, "turn": next(TURNS)}
    settle(bench)


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
    assert html.count("<h3>") == 5  # no attack was launched
    assert "not asked yet" not in html
    assert not any(panel.whole for panel in bench.panels.values())
    bench.start()
    settle(bench)
    assert {n for n, p in bench.panels.items() if not p.whole} == {"attack"}  # where one looks
    assert bench.panels["eps"].result.breaking
    assert bench.panels["patterns"].result.patterns is not None
    assert bench.panels["level set"].result.plane is not None
    assert not threads()


def test_in_a_report_the_pictures_that_move_are_whole(monkeypatch):
    monkeypatch.setenv(REPORT, "1")
    bench = Bench("digits", "digits/cnn", 3, auto=False)
    html = bench._repr_mimebundle_()["text/html"]
    assert {n for n, p in bench.panels.items() if p.whole} == {"eps", "level set"}
    assert "data-drag=" in html
    assert "data-map=" in html


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


def test_a_tile_that_is_opened_is_completed_first_and_drawn_alone():
    bench = Bench("digits", "digits/prototypes", 3, auto=False)
    bench._repr_mimebundle_()
    assert all(panel.hidden for panel in bench.panels.values())
    ask(bench, "index", 4)
    assert bench.panels["patterns"].view.value == ""  # nobody sees it
    bench.auto = True
    ask(bench, "view", "patterns")
    assert bench.view == "patterns"
    assert bench.panels["patterns"].result.patterns is not None
    assert "<img" in bench.panels["patterns"].view.value
    assert not bench.panels["attack"].whole
    assert bench.screen.bar["view"] == "patterns"
    ask(bench, "view", "")
    assert (bench.view, bench.screen.bar["view"]) == ("model", "")
    assert bench.panels["patterns"].hidden


def test_a_panel_that_does_not_fit_says_so_and_offers_models():
    bench = Bench("shapes", "shapes/vit", 3, auto=False)
    bench._repr_mimebundle_()
    settle(bench)
    assert bench.screen.pattern["head"] == "not of this model"
    assert "shapes/vit has no ReLU layer" in bench.screen.pattern["html"]
    assert "shapes/resnet" in bench.screen.pattern["fits"]
    assert "has no prototypes" in bench.screen.prototypes["html"]
    assert bench.screen.attack["head"] == "drag eps, watch it break"
    ask(bench, "model", "shapes/resnet")
    assert bench.selection.model == "shapes/resnet"
    assert bench.screen.pattern["head"].endswith(" fires")


def test_the_answer_is_the_models(bench):
    told, look = bench.screen.answer, bench.panels["model"].result.looks[0]
    shares = look.prediction.probabilities[0]
    assert [row["p"][0] for row in told["rows"]] == shares.tolist()
    assert [row["name"] for row in told["rows"] if row["label"]] == ["0"]
    assert told["says"] == "Labelled 0: digits/prototypes is right."
    ask(bench, "compare", "digits/cnn-robust")
    told, looks = bench.screen.answer, bench.panels["model"].result.looks
    assert told["names"] == ["digits/prototypes", "digits/cnn-robust"]
    other = looks[1].prediction.probabilities[0]
    assert [row["p"][1] for row in told["rows"]] == other.tolist()
    first, second = bench.panels["eps"].result.breaking
    assert (first.model, second.model) == tuple(told["names"])
    assert bench.screen.breaking["p"][1] == second.probabilities.tolist()
    state = json.loads(json.dumps(bench.state()))
    assert state["panels"]["eps"]["compare"] == "digits/cnn-robust"
    assert Bench.from_state(state).panels["model"].params.compare == "digits/cnn-robust"
    given = Bench("digits", "digits/cnn", compare="digits/mlp")
    assert given.panels["eps"].params.compare == "digits/mlp"


def test_an_answer_is_as_sure_as_its_numbers():
    classes = ("4", "9")
    for first, words in ((0.995, "4, surely."), (0.93, "4, most likely."), (0.6, "4, probably.")):
        assert head(torch.tensor([first, 1 - first]), classes) == words
    assert head(torch.tensor([0.2, 0.45, 0.35]), ("a", "b", "c")) == "b or c?"


def test_the_strip_shows_mistakes_and_offers_one_that_is_right():
    bench = Bench("digits", "digits/cnn", 0, auto=False)
    bench._repr_mimebundle_()
    model, images = bench.selection.classifier(), bench.selection.images()
    strip = bench.screen.film
    assert [item["index"] for item in strip["items"]] == list(range(24))
    assert (strip["at"], strip["total"]) == (0, len(images))
    assert [item["says"] is None for item in strip["items"]] == [False] + [True] * 23
    bench.start()
    settle(bench)
    answers = model.predict(images.images[:24])
    names = [images.classes[k] for k in answers.label.tolist()]
    assert [item["says"] for item in bench.screen.film["items"]] == names
    ask(bench, "show", "mistakes")
    wrong = (model.predict(images.images).label != images.labels).nonzero().flatten().tolist()
    strip = bench.screen.film
    assert [item["index"] for item in strip["items"]] == wrong[:24]
    assert all(item["wrong"] for item in strip["items"])
    assert bench.screen.answer["wrong"]
    assert "is wrong and says" in bench.screen.answer["says"]
    ask(bench, "step", 1)
    assert bench.selection.index == wrong[1]
    ask(bench, "right")
    right = bench.selection.index
    assert int(model.predict(images.images[right : right + 1]).label) == int(images.labels[right])
    assert not bench.screen.answer["wrong"]


def test_where_there_is_no_image_the_screen_says_so_and_shows_none():
    bench = Bench("digits", "digits/prototypes", 3, auto=False)
    bench._repr_mimebundle_()
    bench.panels["model"].set(browse="mistakes", only="0")  # of which it makes none
    settle(bench)
    assert bench.screen.film["items"] == []
    assert bench.screen.stage == {
        "words": "digits/prototypes makes no mistake on the images of class '0' of digits."
    }
    assert bench.screen.answer == {}
    ask(bench, "show", "in order")
    bench.panels["model"].set(only="")
    settle(bench)
    assert len(bench.screen.film["items"]) == 24


def test_undo_goes_back_through_images_and_models_and_forgets_strokes(bench):
    for i in (8, 9):
        ask(bench, "index", i)
    ask(bench, "model", "digits/cnn")
    bench.selection.draw(data.load("digits").images[11])
    bench.selection.draw(data.load("digits").images[12])
    settle(bench)
    ask(bench, "undo")
    assert (bench.selection.dataset, bench.selection.index) == ("digits", 9)
    ask(bench, "undo")
    assert bench.selection.model == "digits/prototypes"
    ask(bench, "undo")
    ask(bench, "undo")
    assert bench.selection.index == 3
    assert not bench.screen.bar["undo"]
    ask(bench, "undo")
    assert bench.selection.index == 3


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
    bench.panels["model"].set(target="")
    settle(bench)
    assert bench.panels["attack"].params.target == ""


def test_state_goes_through_json_and_gives_the_same(bench):
    bench.panels["attack"].form.controls["target"].value = "7"
    bench.panels["model"].set(method="gradient")
    bench.show("attack")
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
    for part in ("# model", "# eps", "# attack", "# prototypes", "# level set", "# patterns"):
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


def test_the_second_model_stays_while_one_draws_and_goes_with_other_data():
    bench = Bench("digits", "digits/prototypes", 3, compare="digits/cnn-robust", auto=False)
    bench._repr_mimebundle_()
    bench.selection.draw(data.load("digits").images[11])
    settle(bench)
    assert bench.screen.answer["names"] == ["digits/prototypes", "digits/cnn-robust"]
    assert bench.panels["eps"].params.compare == "digits/cnn-robust"
    ask(bench, "data", "shapes")
    assert len(bench.screen.answer["names"]) == 1
    assert bench.panels["eps"].params.compare == ""


def test_the_pen_draws_on_the_stage_and_the_answer_follows(bench):
    bench.screen.mode = "draw"
    front = bench._front
    shown = bench.selection.images().images[3]
    assert float((front.pad.value - shown).abs().max()) <= 0.5 / 255 + 1e-6
    front.easel.children[0].children[0].click()  # a blank sheet
    assert front.pad.shape == (1, 8, 8)
    assert float(front.pad.value.sum()) == 0
    grid = torch.zeros(1, 8, 8)
    grid[:, 1:7, 4] = 1
    front.pad.image = grid
    front._drawn(front.pad.value)
    settle(bench)
    assert indices(bench) == {360}
    assert bench.screen.answer["ask"]  # nobody has said what it is
    assert bench.screen.answer["says"] == "No label: no answer is right or wrong."
    ask(bench, "meant", "1")
    assert int(bench.selection.images().labels[-1]) == 1
    assert bench.screen.answer["says"].startswith("Labelled 1: ")
    bench.screen.mode = "image"
    assert front.easel.layout.display == "none"


def test_why_lays_maps_of_one_scale_over_the_image(bench):
    ask(bench, "compare", "digits/cnn-robust")
    bench.screen.mode = "why"
    settle(bench)
    looks = bench.panels["model"].result.looks
    assert [m["model"] for m in bench.screen.stage["maps"]] == [k.model.card.name for k in looks]
    most = max(float(look.saliency.values.abs().max()) for look in looks)
    for told, look in zip(bench.screen.stage["maps"], looks, strict=True):
        raw = base64.b64decode(told["src"].partition(",")[2])
        alpha = np.asarray(Image.open(BytesIO(raw)))[..., 3] / 255
        expected = (look.saliency.values[0].abs() / most).sqrt().numpy()
        assert np.abs(alpha - expected).max() < 1 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "attacks"}, "unknown view 'attacks'.*attack"),
        ({"compare": "digits/cn"}, "digits/cn"),
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
    saver = bench._front.saver
    saver.start_report()
    assert saver.job.wait(120)
    assert saver.job.state == "done", saver.job.error
    assert "The report is written" in saver.status.value
    kept = json.loads((tmp_path / "reports" / "bench-1" / "results.json").read_text())
    assert kept["results"] == json.loads(json.dumps(bench.run().summary()))
    assert kept["parameters"]["towards"] == "3"
    links = [out["data"]["text/html"] for out in saver.links.outputs]
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
    shown = bench._front.code_view
    ask(bench, "code")
    assert "images.images[3:4]" in shown.value
    ask(bench, "index", 8)
    assert "images.images[8:9]" in shown.value
    assert "[3:4]" not in shown.value
    assert "Bench.from_state({" in shown.value
    ask(bench, "code")
    assert bench._front.below.layout.display == "none"
