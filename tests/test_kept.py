"""Kept evaluations are never stale: what decides a run is in its key, or it is not kept."""

import copy
import functools
import importlib
import random
import subprocess
import sys
import textwrap
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from workbench import attacks, data, models
from workbench.attacks import PGD, FixedBudget, RandomSearch, Transfer, wrap
from workbench.robustness import evaluate, keys, specimens
from workbench.robustness.keys import Undecided, key

SHAPE = {"input_shape": (1, 8, 8)}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")[:12]


@pytest.fixture(scope="module")
def model():
    return models.load("digits/cnn")


def robust(model, images, attack, output):
    """The rows of one run, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = evaluate(model, images, {"it": attack}, eps=[0.5], output=output)
    texts = [str(w.message) for w in caught if "output:" in str(w.message)]
    return found.rows["distance"].fillna(-1).tolist(), texts


def always_fresh(model, images, makes, folder):
    """Whether runs that may be kept say what runs that are not kept say."""
    for make in makes:
        kept, _ = robust(model, images, make(), folder)
        fresh, _ = robust(model, images, make(), None)
        assert kept == fresh
    return len(list(folder.iterdir())) if folder.exists() else 0


# Attacks of one's own, edited


def moved(level):
    return lambda m, x, y: (x + level).clamp(0, 1)


def by_default(level):
    def go(m, x, y, level=level):
        return (x + level).clamp(0, 1)

    return go


def by_keyword(level):
    def go(m, x, y, *, level=level):
        return (x + level).clamp(0, 1)

    return go


def by_global(level):
    namespace = {"level": level}
    exec("def go(m, x, y):\n    return (x + level).clamp(0, 1)", namespace)
    return namespace["go"]


def by_helper(level):
    namespace = {}
    code = f"def step(x):\n    return x + {level}\ndef go(m, x, y):\n    return step(x).clamp(0, 1)"
    exec(code, namespace)
    return namespace["go"]


def by_attribute(level):
    def go(m, x, y):
        return (x + go.level).clamp(0, 1)

    go.level = level
    return go


def by_partial(level):
    return functools.partial(lambda level, m, x, y: (x + level).clamp(0, 1), level)


def by_decorator(level):
    @torch.no_grad()
    def go(m, x, y):
        return (x + level).clamp(0, 1)

    return go


@dataclass
class Mover:
    level: float

    def __call__(self, m, x, y):
        return (x + self.level).clamp(0, 1)

    def go(self, m, x, y):
        return (x + self.level).clamp(0, 1)


def by_array(level):
    shift = np.full((1, 8, 8), level, dtype=np.float32)
    return lambda m, x, y: (x + torch.from_numpy(shift)).clamp(0, 1)


def by_surrogate(level):
    other = copy.deepcopy(models.load("digits/mlp"))
    with torch.no_grad():
        other.body.fc3.weight.mul_(1 - level).roll(int(10 * level), 0)
    return lambda m, x, y: PGD(eps=0.5, n_steps=2, exhaustive=True)(other, x, y).last


KEPT = [
    *(moved, by_default, by_keyword, by_global, by_helper, by_attribute, by_partial, by_decorator),
    *(Mover, lambda level: Mover(level).go, by_array, by_surrogate),
]


@pytest.mark.parametrize("make", KEPT, ids=lambda f: f.__name__)
def test_an_edited_function_is_another_attack_and_the_same_one_is_kept(
    make, model, digits, tmp_path
):
    folder = tmp_path / "kept"
    makes = [lambda e=e: wrap(make(e), name="mine") for e in (0.0, 0.4, 0.0, 0.2)]
    assert always_fresh(model, digits, makes, folder) == 3


def test_lambdas_of_one_line_are_told_apart():
    one, two = (lambda m, x, y: x), (lambda m, x, y: 1 - x)
    assert key(wrap(one)) != key(wrap(two))
    assert key(wrap(one)) == key(wrap(lambda m, x, y: x))


def test_an_edited_subclass_is_another_attack(model, digits, tmp_path):
    def edition(step):
        class Mine(FixedBudget):
            title = "mine"
            needs_gradient = False
            goals = attacks.FGSM.goals
            reach: ClassVar[float] = step

            def search(self, problem):
                everyone = torch.arange(len(problem))
                images = (problem.x + self.reach * self.eps).clamp(0, 1)
                problem.offer(images, problem.logits(images, everyone), everyone)
                yield 1, 1

        return Mine()

    makes = [functools.partial(edition, step) for step in (0.0, 1.0, 0.0, 0.5)]
    assert always_fresh(model, digits, makes, tmp_path) == 3


def test_a_method_put_into_a_shipped_attack_is_another_attack(monkeypatch):
    plain = key(PGD())
    original = PGD.search
    monkeypatch.setattr(PGD, "search", lambda self, problem: original(self, problem))
    assert key(PGD()) != plain
    monkeypatch.undo()
    assert key(PGD()) == plain


def test_parameters_count_all_of_them():
    made = [PGD(), PGD(n_steps=41), PGD(loss="margin"), attacks.BIM(n_steps=40, random_start=True)]
    assert len({key(attack) for attack in made}) == 4


def test_another_source_or_release_is_another_key(monkeypatch):
    plain = key(PGD())
    monkeypatch.setattr(keys, "source_hash", lambda: "edited")
    assert key(PGD()) != plain


def test_a_surrogate_that_was_trained_again_is_another_attack(monkeypatch):
    attack = Transfer(surrogate="digits/mlp")
    plain, other = key(attack), models.load("digits/mlp")
    assert key(attack) == plain
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    monkeypatch.setattr(models, "load", lambda name: other)
    assert key(attack) != plain


def test_a_key_is_the_same_in_another_process(monkeypatch):
    for name in ("LOADED", "source_hash"):  # put back after the code below, which sets both
        monkeypatch.setattr(keys, name, getattr(keys, name))
    code = """
        from workbench import attacks
        from workbench.robustness import keys
        keys.LOADED, keys.source_hash = "", str
        level = 0.25
        class Mine:
            names = {"b", "a", "c"}
            def __call__(self, m, x, y):
                return (x + level).clamp(0, 1)
        found = keys.key(attacks.wrap(Mine()), attacks.PGD())
    """
    here = {"__name__": "__main__"}
    exec(textwrap.dedent(code), here)
    run = [sys.executable, "-c", textwrap.dedent(code) + "\nprint(found)"]
    there = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert there.strip() == here["found"]


# What cannot be followed


GENERATOR, RNG = torch.Generator(), np.random.default_rng(0)


def drawn_from_generator(m, x, y):
    return (x + 0.2 * torch.rand(x.shape, generator=GENERATOR)).clamp(0, 1)


def drawn_from_rng(m, x, y):
    return (x + 0.2 * torch.from_numpy(RNG.random(x.shape, dtype=np.float32))).clamp(0, 1)


def of_a_file(m, x, y):
    return (x + float(open("level.txt").read())).clamp(0, 1)


def of_a_name(m, x, y):
    return PGD(n_steps=2)(models.load("digits/mlp"), x, y).x_adv


class Slotted:
    __slots__ = ("level",)

    def __call__(self, m, x, y):
        return x


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (drawn_from_generator, "torch._C.Generator"),
        (drawn_from_rng, "Generator"),
        (of_a_file, r"more than it is given \(open, read\)"),
        (of_a_name, r"more than it is given \(load\)"),
        (Slotted(), "Slotted"),
        (functools.lru_cache(moved(0.1)), "_lru_cache_wrapper"),
        ([].append, "append of a list"),
    ],
)
def test_what_cannot_be_followed_is_named(function, words):
    with pytest.raises(Undecided, match=words):
        key(function)


def test_a_module_of_ones_own_is_not_kept(tmp_path, monkeypatch, model, digits):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_helpers.py").write_text("def step(x):\n    return x + 0.3\n")
    mine = importlib.import_module("my_helpers")

    def go(m, x, y):
        return mine.step(x).clamp(0, 1)

    def imports(m, x, y):
        import my_helpers

        return my_helpers.step(x).clamp(0, 1)

    for function in (go, imports):
        folder = tmp_path / function.__name__
        rows, said = robust(model, digits, wrap(function), folder)
        assert said == [said[0]]
        assert said[0].startswith("output: what it finds is computed each time, not kept: it ")
        assert said[0].endswith(" my_helpers, which may change")
        assert not folder.exists() or not list(folder.iterdir())
        assert max(rows) > 0.25


def test_what_is_not_kept_is_said_once_for_all_its_runs(model, digits, tmp_path):
    attack = {"it": RandomDraws(n_queries=2), "kept": RandomSearch(n_queries=2)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(model, digits, attack, eps=[0.1, 0.2], output=tmp_path)
    texts = [str(w.message) for w in caught if "output:" in str(w.message)]
    assert len(texts) == 1
    assert "it draws from a global generator" in texts[0]
    assert len(list(tmp_path.iterdir())) == 2


class RandomDraws(RandomSearch):
    def search(self, problem):
        random.random()
        np.random.rand()  # noqa: NPY002
        yield from super().search(problem)


def test_an_attack_with_a_state_is_kept_by_its_state(model, digits, tmp_path):
    calls = []

    def worse_each_time(m, x, y):
        calls.append(1)
        return (x + 0.4 * len(calls)).clamp(0, 1)

    first, _ = robust(model, digits, wrap(worse_each_time), tmp_path)
    second, _ = robust(model, digits, wrap(worse_each_time), tmp_path)
    assert (max(first), max(second)) == pytest.approx((0.4, 0.8))
    assert len(calls) == 2
    calls.clear()
    again, _ = robust(model, digits, wrap(worse_each_time), tmp_path)
    assert (again, calls) == (first, [])


# Models


class Defended(nn.Module):
    """The settings of a defence, wherever people put them."""

    def __init__(self, model, **settings):
        super().__init__()
        self.body = copy.deepcopy(model.body)
        self.__dict__.update(settings)

    def forward(self, x):
        levels = self.levels if isinstance(self.levels, int) else self.levels["of"]
        rounded = torch.round(x * levels) / levels
        return self.body(x + (rounded - x).detach() if self.through else rounded)


def defended(model, levels, through=True):
    return models.wrap(Defended(model, levels=levels, through=through).eval(), **SHAPE)


def test_a_model_counts_by_what_it_answers(model, digits, tmp_path):
    for levels in (1, 255, 2, {"of": 1}, {"of": 3}):
        kept = robust(defended(model, levels), digits, PGD(n_steps=3), tmp_path)
        assert kept == robust(defended(model, levels), digits, PGD(n_steps=3), None)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_backward_pass_of_its_own_is_another_model(model, digits, tmp_path):
    """The same answers everywhere, and other gradients."""
    rows = []
    for through in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has no gradient
            one = defended(model, 4, through)
        rows.append(robust(one, digits, PGD(n_steps=3), tmp_path)[0])
        assert rows[-1] == robust(one, digits, PGD(n_steps=3), None)[0]
    assert rows[0] != rows[1]


def test_a_setting_that_no_answer_shows_is_another_model(model, digits, tmp_path):
    """It answers all images and what is near them alike, and differs far away."""

    class Far(nn.Module):
        def __init__(self, limit):
            super().__init__()
            self.body, self.limit = copy.deepcopy(model.body), limit

        def forward(self, x):
            far = (x.flatten(1).mean(1) > self.limit)[:, None]
            return torch.where(far, -self.body(x), self.body(x))

    bright = wrap(lambda m, x, y: (x + 0.5).clamp(0, 1), name="bright")
    found = []
    for limit in (0.95, 0.6, 2.0):
        one = models.wrap(Far(limit), **SHAPE)
        found.append(robust(one, digits, bright, tmp_path)[0])
        assert found[-1] == robust(one, digits, bright, None)[0]
    assert found[0] != found[1]


def test_nothing_is_kept_of_a_model_that_draws(model, digits, tmp_path):
    draws = specimens.MODELS["dropout left on"](model)
    _, said = robust(draws, digits, PGD(n_steps=2), tmp_path)
    assert len(said) == 1
    assert said[0].startswith("output: nothing is kept: digits/cnn answers the same images diff")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_release_is_not_read(model, digits, tmp_path, monkeypatch):
    first, _ = robust(model, digits, PGD(n_steps=2), tmp_path)
    (file,) = tmp_path.iterdir()
    text = file.read_text().replace("0.", "9.")
    file.write_text(text)
    assert robust(model, digits, PGD(n_steps=2), tmp_path)[0] != first  # it is what is read
    monkeypatch.setattr(keys, "LOADED", "of an older release")
    assert robust(model, digits, PGD(n_steps=2), tmp_path)[0] == first
