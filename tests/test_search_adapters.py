"""Searchers of other libraries: seeds, points that are not valid, a library that is missing."""

import sys

import numpy as np
import pytest
import torch

from workbench.search import Nevergrad, Optuna, Space

CHOICES = {f"edge {i}": ("none", "skip", "1x1", "3x3", "mean") for i in range(3)}
SPACE = Space(CHOICES, lambda point: "none" not in (point["edge 0"], point["edge 2"]))
ALL = [Optuna(), Optuna(sampler="NSGAII"), Nevergrad(), Nevergrad(optimiser="TwoPointsDE")]


@pytest.fixture(params=ALL, ids=lambda searcher: searcher.code())
def searcher(request):
    library = type(request.param).__name__.lower()
    pytest.importorskip(library, reason="needs dnn-workbench[search]")
    return request.param


def numpys():
    """The state of numpy's own generator."""
    return np.random.get_state()[1].tolist()  # noqa: NPY002


def worth(point, draw=None):
    """The sum of the options' numbers."""
    return float(sum(CHOICES["edge 0"].index(option) for option in point.values()))


def test_equal_seeds_search_alike_and_no_point_comes_twice(searcher):
    before = torch.get_rng_state(), numpys()
    found = searcher(SPACE, worth, budget=20, seed=3)
    keys = [trial.key for trial in found.trials]
    assert len({*keys}) == 20
    assert {*keys} <= {*SPACE.keys}
    assert [t.key for t in searcher(SPACE, worth, budget=20, seed=3).trials] == keys
    assert [t.key for t in searcher(SPACE, worth, budget=20, seed=4).trials] != keys
    after = torch.get_rng_state(), numpys()
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


def test_a_point_that_is_not_valid_is_worse_than_any(searcher):
    space = Space({"a": tuple(range(8)), "b": tuple(range(8))}, lambda point: point["a"] > 4)
    found = searcher(space, lambda p, _: p["b"] - 100.0, budget=12, seed=1)
    assert all(trial.point["a"] > 4 for trial in found.trials)
    assert found.best.value > -95


def test_a_whole_space_is_tried_once_and_then_it_ends(searcher):
    space = Space({"a": (1, 2, 3), "b": (1, 2)})
    found = searcher(space, lambda p, _: p["a"] * p["b"], budget=50)
    assert sorted(trial.key for trial in found.trials) == space.keys


def test_what_is_told_is_used(searcher):
    space = Space({f"c{i}": tuple(range(4)) for i in range(4)})
    free = searcher.changed(distinct=False)

    def late(sign):
        found = free(space, lambda p, _: sign * sum(p.values()), budget=200, seed=0)
        return sum(sum(trial.point.values()) for trial in found.trials[150:]) / 50

    assert late(1) > 8  # of points at random: 6
    assert late(-1) < 4


def test_points_may_come_again_where_that_is_asked_for(searcher):
    space = Space({"a": (1, 2)})
    again = searcher.changed(distinct=False)
    assert len(again(space, lambda p, _: p["a"], budget=10).trials) == 10


@pytest.mark.parametrize("kind", [Optuna, Nevergrad])
def test_a_library_that_is_missing_is_asked_for(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind.__name__.lower(), None)
    with pytest.raises(
        ImportError, match=rf"{kind.__name__}.*pip install 'dnn-workbench\[search\]"
    ):
        kind()(SPACE, worth, budget=3)
