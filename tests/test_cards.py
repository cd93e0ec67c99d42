import dataclasses
import json
import re
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from workbench import cli, data, models, reports, robustness
from workbench.reports import cards, needs

FIGURES = [{"id": "figure-1", "alt": "Curve <of> 'x'"}, {"id": "figure-2", "alt": "Bars"}]


@pytest.fixture(scope="module")
def quick():
    """Two indicators in place of twenty."""
    few = {name: robustness.INDICATORS[name] for name in ("outputs are logits", "enough images")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.robustness.diagnosis.INDICATORS", few)
        yield


@pytest.fixture(scope="module")
def card(quick, tmp_path_factory):
    home = tmp_path_factory.mktemp("cards")
    (home / "a report.html").write_text("<p>no figure is read from here</p>")
    (home / "results.json").write_text(json.dumps({"figures": FIGURES}))
    return reports.card("digits/mlp", home / "out", n=40, report=home / "a report.html")


def test_clean_accuracy_and_its_interval_are_those_of_the_sample(card):
    images = data.load("digits").sample(40, seed=0)
    right = int((models.load("digits/mlp").predict(images.images).label == images.labels).sum())
    clean = card.frame().iloc[0]
    assert clean["rate"] == right / 40
    assert (clean["low"], clean["high"]) == pytest.approx(robustness.wilson(right, 40))
    assert card.content["sample"]["sha256"] == images.sha256()


def test_robust_accuracies_are_those_of_evaluate_and_the_worst_case_is_the_lowest(card):
    images = data.load("digits").sample(40, seed=0)
    found = robustness.evaluate(models.load("digits/mlp"), images, cards.ATTACKS, eps=[0.1])
    expected = found.curve()["robust_accuracy"].tolist()
    rates = card.frame()["rate"].tolist()
    assert rates[1:] == pytest.approx(expected)
    assert rates[0] >= max(rates[1:])
    assert min(rates) == rates[-1]
    assert card.summary()["worst case"] == rates[-1]


def test_the_json_names_all_it_takes_to_check(card):
    content = json.loads(card.json.read_text())
    assert content == json.loads(json.dumps(card.content))
    assert content["model"]["name"] == "digits/mlp"
    assert content["seed"] == 0
    assert content["diagnosed"]["images"] == 40
    assert {row["name"] for row in content["indicators"]} == {"outputs are logits", "enough images"}
    assert set(content["attacks"]) == {"FGSM", "PGD", "APGD"}
    assert {"python", "workbench", "torch"} <= set(content["versions"])
    weights = models.checkpoints.SHIPPED / "digits" / "mlp.safetensors"
    label = "models/digits/mlp.safetensors"
    assert content["files"] == {label: needs.digest(weights.parent, f"file:{weights}")}
    assert card.json.name == "digits-mlp.json"


def test_the_page_holds_the_figures_as_links_and_no_cut_text(card):
    html = re.sub("<(script|style).*?</\\1>", "", card.html.read_text(), flags=re.DOTALL)
    links = re.findall(r'href="([^"]+)">([^<]+)<', html)
    assert links == [
        ("../a%20report.html#figure-1", "Curve &lt;of&gt; &#x27;x&#x27;"),
        ("../a%20report.html#figure-2", "Bars"),
    ]
    assert "<h1>Card: digits/mlp</h1>" in html
    assert card.content["sample"]["sha256"] in html
    assert "..." not in html
    for row in card.content["indicators"]:
        assert row["level"] in html
    assert "http" not in html.replace("http-equiv", "")


def test_the_page_shows_percent_words_and_pictures(card):
    html = card.html.read_text().split("<main>")[1]
    plain = re.sub("<[^>]*>", " ", html.split("<script")[0])
    assert not re.search(r"0\.\d{4}", plain), "no rate of six figures"
    assert not re.search(r"[{}]|\w\"", plain), "no raw JSON"
    clean = card.frame().iloc[0]
    low, high = (f"{clean[end]:.1%}".replace("%", "\u2009%") for end in ("low", "high"))
    assert f"{low} to {high}" in plain
    assert "data-drag=" in html
    images, model = data.load("digits").sample(40, seed=0), models.load("digits/mlp")
    prediction = model.predict(images.images)
    wrong = prediction.label != images.labels
    assert wrong.any(), "a sample that shows mistakes"
    assert html.count("✗ ") == min(8, int(wrong.sum()))
    first = images.classes[images.labels[~wrong][0]]
    assert re.search(rf'<th scope="row"[^>]*>{first}</th>', html), "bars begin with the right class"
    assert (
        f"✗ {images.classes[prediction.label[wrong][prediction.confidence[wrong].argmax()]]}, is"
        in html
    )


def test_a_model_without_mistakes_and_one_without_a_hit_have_a_page(tmp_path):
    """The two ends: nothing to show as a mistake, nothing to attack."""
    images, model = data.load("digits").sample(10, seed=0), models.load("digits/cnn")
    answer = model.predict(images.images).label
    attack = cards.ATTACKS[1].changed(eps=0.1)
    right = cards.pictures(model, dataclasses.replace(images, labels=answer), attack, 0)
    assert "No mistake among 10 images." in right
    wrong = cards.pictures(model, dataclasses.replace(images, labels=(answer + 1) % 10), attack, 0)
    assert "data-drag=" not in wrong
    assert wrong.count("✗ ") == 8


def test_a_run_that_raises_leaves_the_rate_unknown(quick, tmp_path, monkeypatch):
    class Broken(cards.FGSM):
        def search(self, problem):
            raise ArithmeticError("no")
            yield

    monkeypatch.setattr(cards, "ATTACKS", (Broken(), cards.FGSM()))
    card = reports.card("digits/mlp", tmp_path, n=10)
    assert card.summary()["Broken"] is None
    assert "not known" in card.html.read_text()


def test_steps_go_up_to_the_total(quick, tmp_path):
    ticks = list(reports.card.steps("digits/mlp", tmp_path, n=5, eps=0.02, seed=3))
    done = [tick.done for tick in ticks]
    assert all(a <= b for a, b in pairwise(done))
    assert done[-1] == ticks[-1].total
    assert ticks[-1].value.content["accuracies"][1]["eps"] == 0.02


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("digits/ml", {}, "Did you mean 'digits/mlp'"),
        ("digits/mlp", {"n": 100_000}, "has 360 images"),
        ("digits/mlp", {"n": 0}, "n: expected a whole number"),
        ("digits/mlp", {"eps": -1.0}, "eps"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(model, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        reports.card(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.html"):
        reports.card("digits/mlp", tmp_path / "out", report=tmp_path / "gone.html")


def test_the_command_prints_the_table_and_the_page(quick, tmp_path):
    words = ["card", "digits/mlp", "-n", "10", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "digits-mlp.html")
    assert "worst case" in result.stdout


def test_images_of_no_known_class_are_not_in_the_clean_accuracy(quick, tmp_path, monkeypatch):
    digits = data.load("digits").sample(20, seed=0)
    labels = digits.labels.clone()
    labels[:5] = -1
    some = dataclasses.replace(digits, labels=labels)
    monkeypatch.setattr(data, "load", lambda name: some)
    clean = reports.card("digits/mlp", tmp_path, n=20).frame().iloc[0]
    known = digits[5:]
    right = int((models.load("digits/mlp").predict(known.images).label == known.labels).sum())
    assert (clean["rate"], clean["images"]) == (right / 15, 15)
