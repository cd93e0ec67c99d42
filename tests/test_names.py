"""Names that say how a model was made: made once, kept, restored, refused with the stage."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from typer.testing import CliRunner
from workbench.widgets import AttackPanel, ModelPanel
from workbench.widgets.saver import as_notebook

from workbench import cli, data, models, reports, treatments
from workbench.models import checkpoints
from workbench.models.recipes import RECIPES
from workbench.params import pieces
from workbench.reports import needs
from workbench.treatments import naming

BOTH = "digits/cnn | Prune(share=0.6) | Quantise(bits=4)"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def images():
    return data.load("digits").images


def kept(home):
    return sorted(path.name for path in (home / "treated").glob("*.safetensors"))


def test_a_name_makes_a_model_and_keeps_it(home, images):
    model = models.load(BOTH)
    assert model.card.name == BOTH
    assert model.card.test_total == 360
    parts = kept(home)
    assert len(parts) == 2  # the pruned one too, for the next that starts with it
    by_hand = treatments.Quantise(bits=4)(
        treatments.Prune(share=0.6)(models.load("digits/cnn")).model
    )
    assert torch.equal(model(images), by_hand.model(images))
    assert torch.equal(models.load(BOTH)(images), model(images))
    assert models.card(BOTH).accuracy == model.card.accuracy
    assert kept(home) == parts


def test_a_fresh_process_restores_the_same_logits_to_the_bit(images):
    model = models.load(BOTH)
    code = (
        f"import torch; from workbench import data, models, treatments\n"
        f"treatments.Prune.apply = None  # it is restored, not made\n"
        f"print(models.load({BOTH!r})(data.load('digits').images).double().sum().item().hex())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == float(model(images).double().sum()).hex()


def test_a_changed_structure_is_restored(home, images):
    name = "digits/cnn | LowRank(share=0.5) | Quantise(bits=6)"
    model = models.load(name)
    assert "body.fc1.1.weight" in model.state_dict()
    again = models.load(name)
    assert torch.equal(again(images), model(images))
    assert again.layers().keys() == model.layers().keys()


@pytest.mark.parametrize(
    "spelling",
    [
        "digits/cnn|Prune(share=0.6)|Quantise(bits=4)",
        "digits/cnn | Prune( share = .6 ) | Quantise()",
        "digits/cnn | Prune(share=0.6, of='weights') | Quantise(bits=4, per_channel=True)",
    ],
)
def test_every_spelling_is_one_file(home, spelling):
    assert naming.path_of(spelling) == naming.path_of(BOTH)
    assert naming.canonical(spelling) == "digits/cnn | Prune(share=0.6) | Quantise()"


def test_a_name_inside_a_name():
    inner = "digits/mlp | Prune(share=0.5)"
    name = f"digits/cnn | Distil(teacher={inner!r}, temperature=2.0) | Quantise()"
    base, chain = naming.stages(name)
    assert base == "digits/cnn"
    assert [type(stage).__name__ for stage in chain] == ["Distil", "Quantise"]
    assert chain[0].teacher == inner
    assert naming.split(name)[1] == f"Distil(teacher={inner!r}, temperature=2.0)"


def test_stages_that_train_make_one_run_of_the_recipe(monkeypatch, images):
    monkeypatch.setitem(RECIPES, "digits/tiny", RECIPES["digits/mlp"].changed(epochs=2))
    name = "digits/tiny | GradientNoise(eta=0.1) | AdversarialTraining(eps=0.05, n_steps=1)"
    model = models.load(name)
    plan = RECIPES["digits/tiny"].changed(
        treatments=("GradientNoise(eta=0.1)", "AdversarialTraining(eps=0.05, n_steps=1)")
    )
    ours = models.fit(plan, data.load("digits", "train"), device="cpu").model
    assert torch.equal(model(images), ours(images))
    assert model.card.training["treatments"] == plan.treatments


def test_the_robust_recipe_is_a_treatment_of_the_plain_one():
    robust = RECIPES["digits/cnn-robust"]
    _, chain = naming.stages(f"digits/cnn | {robust.treatments[0]}")
    assert chain == [treatments.AdversarialTraining(eps=0.1)]
    assert naming.recipe_of("digits/cnn", []) == robust.changed(treatments=())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits/cnn | Prun()", r"stage 1, Prun\(\): unknown treatment 'Prun'. Did you mean 'Pr"),
        ("digits/cnn | Prune() | Quantise(bits=40)", r"stage 2, Quantise\(bits=40\): .*got 40"),
        ("digits/cnn | Prune(0.5)", r"stage 1, Prune\(0.5\): .*expected a name, or a call"),
        ("digits/cnn |", "stage 1, : unknown treatment ''"),
        ("| Prune()", "it starts with a stage; a model has to stand first"),
        ("digits/cx | Prune()", "unknown model 'digits/cx'. Did you mean 'digits/cnn'"),
        ("digits/cnn | Prune(criterion='lrp')", "stage 1: Prune: criterion 'lrp' is of units"),
        ("digits/cnn | Prune() | GradientNoise()", r"stage 2, GradientNoise\(\): it trains from"),
        (
            "digits/cnn | Distil() | Distil(temperature=2.0)",
            "stage Distil: Distil has the slot 'loss'",
        ),
        (
            "digits/cnn | Distil(teacher='mnist/cnn')",
            r"stage Distil\(teacher='mnist/cnn'\): the teacher mnist/cnn takes \(1, 28, 28\)",
        ),
        ("onnx:a.onnx | GradientNoise()", "'onnx:a.onnx' has no recipe to train by"),
    ],
)
def test_what_is_wrong_is_said_with_its_stage(name, said):
    with pytest.raises(ValueError, match=said):
        models.load(name)


def test_data_that_is_absent_is_said_with_the_stage(monkeypatch):
    def absent(*_):
        raise FileNotFoundError("mnist: not in the data folder")

    monkeypatch.setattr(data, "load", absent)
    with pytest.raises(FileNotFoundError, match=r"stage Prune\(criterion='taylor'\): it needs tra"):
        models.load("mnist/cnn | Prune(criterion='taylor')")


def test_options_are_refused():
    with pytest.raises(TypeError, match=r"takes no options, got \['mean'\]"):
        models.load(BOTH, mean=0.5)


@pytest.mark.parametrize(
    ("key", "said"),
    [("code", "the code of its stages"), ("parent", "what it was made from")],
)
def test_what_has_changed_since_is_said_and_made_anew(home, key, said):
    name = "digits/cnn | Prune(share=0.6)"
    model = models.load(name)
    path = naming.path_of(name)
    marks = {**naming.marks_of(*naming.stages(name)), key: "another"}
    model.body[0].weight.data += 1  # what is kept is wrong now
    checkpoints.save(model, path, **marks)
    with pytest.warns(UserWarning, match=f"made anew, since changed: {said}$"):
        again = models.load(name)
    assert not torch.equal(again.body[0].weight, model.body[0].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load(name)


def test_a_damaged_file_is_made_anew(home, images):
    model = models.load(BOTH)
    naming.path_of(BOTH).write_bytes(b"neither weights nor card")
    assert BOTH not in models.available()
    with pytest.warns(UserWarning, match="made anew, since what was kept is damaged"):
        again = models.load(BOTH)
    assert torch.equal(again(images), model(images))


def test_what_is_kept_needs_no_training_data(monkeypatch):
    name = "digits/cnn | Prune(criterion='taylor')"
    model = models.load(name)
    monkeypatch.setattr(data, "present", lambda *_: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(models.load(name).body[0].weight, model.body[0].weight)


def test_a_base_trained_anew_is_noticed(home, monkeypatch):
    monkeypatch.setitem(RECIPES, "mine/mlp", RECIPES["digits/mlp"].changed(epochs=1))
    models.train("mine/mlp")
    models.load("mine/mlp | Quantise()")
    monkeypatch.setitem(RECIPES, "mine/mlp", RECIPES["digits/mlp"].changed(epochs=1, seed=5))
    models.train("mine/mlp")
    with pytest.warns(UserWarning, match="made anew, since changed: what it was made from"):
        models.load("mine/mlp | Quantise()")


def test_two_processes_that_make_one_name_both_succeed(images):
    code = f"from workbench import models; print(models.load({BOTH!r}).card.test_correct)"
    pair = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0].strip() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert told[0] == told[1] == str(models.load(BOTH).card.test_correct)


def test_a_folder_that_cannot_be_written_to_keeps_nothing_and_says_so(home, images):
    (home / "treated").write_text("a file in the way")
    with pytest.warns(UserWarning, match="made, and not kept"):
        model = models.load("digits/cnn | Quantise()")
    assert model.card.name == "digits/cnn | Quantise()"


def test_cancelled_on_the_way_and_gone_on_with(home, monkeypatch, images):
    monkeypatch.setitem(RECIPES, "digits/tiny", RECIPES["digits/mlp"].changed(epochs=3))
    name = "digits/tiny | GradientNoise()"
    straight = models.fit(
        RECIPES["digits/tiny"].changed(treatments=("GradientNoise()",)),
        data.load("digits", "train"),
        device="cpu",
    ).model
    steps = treatments.make.steps(name)
    first = next(step for step in steps if step.message == "epoch 2 done")
    steps.close()
    rest = list(treatments.make.steps(name))
    assert rest[0].done == first.done + 1
    assert torch.equal(rest[-1].value.model(images), straight(images))
    assert not list(home.glob("treated/*.unfinished"))


# One's own modules.


class Own(nn.Module):
    """A module with a forward, attributes and functions of its own."""

    def __init__(self, width=12):
        super().__init__()
        self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.out = nn.Linear(width, 10)
        self.twin = self.out  # the same layer under two names
        self.scale, self.sides, self.act = 0.5, (1, 8, [8]), torch.relu
        self.register_buffer("shift", torch.ones(width), persistent=False)

    def forward(self, x):
        return self.twin(self.act(self.inside(x)) * self.scale + self.shift)


@pytest.fixture
def own():
    torch.manual_seed(3)
    return models.wrap(Own(), input_shape=(1, 8, 8), name="my net", mean=0.3, std=0.4)


def test_ones_own_is_pruned_quantised_kept_and_loaded(own, home, images):
    small = treatments.Quantise(bits=5)(treatments.Prune(share=0.4)(own).model).model
    assert small.card.name == "my net | Prune(share=0.4) | Quantise(bits=5)"
    models.keep(small, "mine/small")
    again = models.load("mine/small")
    assert torch.equal(again(images), small(images))
    assert again.card.name == "mine/small"
    assert "mine/small" in models.available()
    assert again.body.out is again.body.twin
    assert again.body.sides == (1, 8, [8])
    assert again.body.act is torch.relu
    finer = models.load("mine/small | Quantise(bits=3)")  # a name like any other
    assert finer.card.name == "mine/small | Quantise(bits=3)"
    assert not torch.equal(finer(images), again(images))


def test_a_kept_model_is_not_lost_by_another(own, home):
    models.keep(own, "mine/net")
    with pytest.raises(ValueError, match=r"mine/net is there already .*, or replace=True"):
        models.keep(own, "mine/net")
    models.keep(own, "mine/net", replace=True)
    with pytest.raises(ValueError, match="digits/cnn is there already"):
        models.keep(own, "digits/cnn", replace=True)
    for name in ("net", "a/b/c", "../x/y", "a/..", "a | Prune()", ""):
        with pytest.raises(ValueError, match="expected two words with a slash"):
            models.keep(own, name)


def test_tied_weights_stay_tied(home):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.up.weight = self.down.weight

        def forward(self, x):
            return self.up(self.down(x.flatten(1)))

    globals()["Tied"], Tied.__qualname__ = Tied, "Tied"
    models.keep(models.wrap(Tied(), input_shape=(1, 2, 2)), "mine/tied")
    again = models.load("mine/tied").body
    assert again.up.weight is again.down.weight


def test_what_cannot_be_described_is_said(home):
    class Local(nn.Flatten):
        pass

    local = models.wrap(Local(), input_shape=(1, 2, 2))
    with pytest.raises(ValueError, match=r"class .*Local, which cannot be found by its name again"):
        models.keep(local, "mine/local")
    hooked = models.wrap(nn.Flatten(), input_shape=(1, 2, 2))
    hooked.body.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="Flatten has hooks, which cannot be kept"):
        models.keep(hooked, "mine/hooked")
    odd = models.wrap(nn.Flatten(), input_shape=(1, 2, 2))
    odd.body.thing = object()
    with pytest.raises(ValueError, match=r"Flatten.thing holds a object, which cannot be kept"):
        models.keep(odd, "mine/odd")
    assert not (home / "models").exists()


def test_a_class_that_is_not_there_is_asked_for(own, home):
    path = models.keep(own, "mine/net")
    for name, said in (("__main__:Own", "define it in this notebook"), ("my.nets:Own", "my.nets")):
        metadata, _ = checkpoints.read_header(path)
        about = json.loads(metadata["structure"])
        about["class"] = name
        tensors = checkpoints.read_tensors(path)
        checkpoints.write_tensors(path, tensors, {**metadata, "structure": json.dumps(about)})
        with pytest.raises(ValueError, match=f"its class Own is not known here; .*{said}"):
            models.load("mine/net")


@pytest.mark.parametrize("evil", ["os:system", "subprocess:Popen", "builtins:eval", "torch:load"])
def test_a_file_names_no_code_to_run(own, home, evil):
    path = models.keep(own, "mine/net")
    metadata, _ = checkpoints.read_header(path)
    about = json.loads(metadata["structure"])
    about["class"] = evil
    tensors = checkpoints.read_tensors(path)
    checkpoints.write_tensors(path, tensors, {**metadata, "structure": json.dumps(about)})
    with pytest.raises(ValueError, match="is not known here"):
        models.load("mine/net")


# Where names go.


def test_pieces_respect_brackets_and_their_texts():
    assert pieces("a, b(c, 'd)', e), [f, g]", ",") == ["a", "b(c, 'd)', e)", "[f, g]"]
    assert pieces("it's, b", ",") == ["it's", "b"]
    assert pieces("", ",") == [""]


def test_a_name_is_a_value_of_a_grid_and_of_a_list():
    one, two = "digits/cnn | Prune(share=0.5, of='weights')", "digits/mlp"
    assert cli.values([f"model={one},{two}"]) == {"model": [one, two]}
    declared = {"models": reports.Parameter("models", "list[str]", [])}
    assert reports.coerce(declared, {"models": f"{one}, {two}"}) == {"models": [one, two]}


def test_what_a_run_with_such_a_name_needs():
    labels = needs.labels(Path(), "digits/cnn | Distil(teacher='mnist/cnn') | Quantise()")
    assert labels == ["models/digits/cnn.safetensors", "models/mnist/cnn.safetensors"]
    assert needs.labels(Path(), "a sentence | with a bar") == []


def test_a_panel_takes_such_a_name_shows_it_and_comes_back(home):
    panel = ModelPanel("digits", BOTH, index=2, compare="digits/cnn | Prune(share=0.6)")
    names = [look.model.card.name for look in panel.run().looks]
    assert names == [BOTH, "digits/cnn | Prune(share=0.6)"]
    assert panel.code().count("models.load(") == 2
    shown = {}
    exec(panel.code(), shown)
    assert torch.equal(shown["prediction"].logits, panel.result.looks[0].prediction.logits)
    assert ModelPanel.from_state(panel.state()).run().summary() == panel.result.summary()
    assert BOTH in dict(map(reversed, panel.picker.model.options)) if panel.widget else False
    assert BOTH in models.available()


def test_the_command_makes_and_keeps(home):
    told = CliRunner().invoke(cli.app, ["train", "digits/cnn | Quantise(bits=3)"])
    assert told.exit_code == 0, told.output
    assert "% clean" in told.stdout
    assert len(kept(home)) == 1


@pytest.mark.slow
def test_a_report_a_card_and_a_saved_notebook_of_such_a_name(home, tmp_path):
    notebook = Path(__file__).parent.parent / "notebooks" / "02_attacks.ipynb"
    given = {"model": BOTH, "robust": "digits/cnn-robust"}
    report = reports.execute(notebook, given, tmp_path / "out", timeout=600)
    content = json.loads(report.results_path.read_text())
    assert content["parameters"]["model"] == BOTH
    card = reports.card(BOTH, tmp_path / "cards", n=20, eps=0.1)
    assert card.content["model"]["name"] == BOTH
    assert card.html.name == "digits-cnn-Prune-share-0-6-Quantise-bits-4.html"
    panel = AttackPanel("digits", BOTH, index=3, eps=0.1, n_steps=3)
    path = tmp_path / "saved.ipynb"
    path.write_text(nbformat.writes(as_notebook(panel)))
    saved = reports.execute(path, {}, tmp_path / "saved", timeout=600)
    assert BOTH in json.loads(saved.results_path.read_text())["parameters"].values()
