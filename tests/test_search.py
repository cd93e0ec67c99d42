"""Search: spaces, searchers by what they find where the answer is known, and tables."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import search
from workbench.search import (
    Evolution,
    PolicyGradient,
    Random,
    Search,
    Space,
    Surrogate,
    Table,
    TreeSearch,
)

ALL = [Random(), Evolution(), PolicyGradient(), Surrogate(), TreeSearch()]
EACH = pytest.mark.parametrize("searcher", ALL, ids=lambda s: type(s).__name__)
CELLS = Space({f"edge {i}": ("none", "skip", "1x1", "3x3", "mean") for i in range(3)})


def reaches(point):
    """Whether a cell of three nodes has a path from its first to its last."""
    direct, first, second = (point[f"edge {i}"] != "none" for i in (1, 0, 2))
    return direct or (first and second)


def additive(point, draw=None):
    """Each edge has a part in the value; two of them go well together."""
    worth = {"none": 0, "skip": 1, "1x1": 2, "3x3": 4, "mean": 1}
    together = 3 * (point["edge 0"] == point["edge 2"] == "3x3")
    return sum(worth[option] for option in point.values()) + together


def test_keys_and_points_are_each_others_inverse():
    space = Space(CELLS.choices, reaches)
    assert space.size == 125
    assert len(space.keys) == 116
    for key in space.keys:
        assert space.key(space.point(key)) == key
    rows = space.encode(space.keys)
    assert rows.shape == (116, 15)
    assert bool((rows.sum(1) == 3).all())
    assert len({tuple(row) for row in rows.tolist()}) == 116


def test_every_valid_point_is_as_likely():
    space = Space({"a": (0, 1, 2), "b": (0, 1)}, lambda p: p["a"] or p["b"])
    draw = torch.Generator().manual_seed(0)
    counts = dict.fromkeys(space.keys, 0)
    for _ in range(5000):
        counts[space.draw(draw)] += 1
    assert len(counts) == 5
    assert all(abs(n - 1000) < 6 * math.sqrt(800) for n in counts.values())


@EACH
def test_the_contract(searcher):
    space = Space(CELLS.choices, reaches)
    found = [*searcher.steps(space, additive, budget=20, seed=3)]
    assert [step.done for step in found] == [*range(1, 21), 20]
    result = found[-1].value
    keys = [trial.key for trial in result.trials]
    assert len({*keys}) == 20, "no point twice"
    assert {*keys} <= {*space.keys}
    assert all(trial.value == additive(trial.point) for trial in result.trials)
    assert result.best.value == max(t.value for t in result.trials) == result.so_far[-1]
    assert result.so_far == sorted(result.so_far)
    assert [*result.frame()["value"]] == [t.value for t in result.trials]
    again = searcher(space, additive, budget=20, seed=3)
    assert [t.key for t in again.trials] == keys
    assert type(searcher)(**searcher.changes()) == searcher
    assert [t.key for t in searcher(space, additive, budget=20, seed=4).trials] != keys


@EACH
def test_a_whole_space_is_tried_once_and_then_it_ends(searcher):
    space = Space({"a": (1, 2, 3), "b": (1, 2)})
    found = searcher(space, lambda p, _: p["a"] * p["b"], budget=50)
    assert sorted(t.key for t in found.trials) == space.keys
    assert found.best.point == {"a": 3, "b": 2}


@pytest.mark.parametrize("searcher", ALL[1:], ids=lambda s: type(s).__name__)
def test_where_choices_add_up_a_searcher_beats_chance(searcher):
    space = Space({f"c{i}": tuple(range(4)) for i in range(4)})

    def value(point, draw):
        return sum(point.values()) + 0.1 * float(torch.randn((), generator=draw))

    def mean(who):
        best = [who(space, value, budget=30, seed=s).best.point for s in range(8)]
        return sum(sum(p.values()) for p in best) / 8

    assert mean(searcher) > mean(Random()) + 0.3


def test_a_surrogate_finds_the_best_of_a_sum_at_once():
    found = Surrogate(start=10)(CELLS, additive, budget=25)
    assert found.best.value == 15
    assert found.best.point == dict.fromkeys(CELLS.choices, "3x3")


def test_a_step_of_the_policy_by_hand():
    space, state = Space({"a": ("x", "y")}), {}
    way = PolicyGradient(lr=1.0, memory=0.5)
    way.learn(space, search.Trial((0,), {"a": "x"}, 2.0), state)
    assert state["logits"][0].tolist() == [0, 0], "the first value is the baseline"
    way.learn(space, search.Trial((0,), {"a": "x"}, 4.0), state)
    assert state["logits"][0].tolist() == [1, -1]  # (4 - 2) * ((1, 0) - (1/2, 1/2))
    assert state["baseline"] == 3


def test_a_tree_goes_where_the_upper_bound_is():
    space, state, draw = Space({"a": (0, 1), "b": (0, 1)}), {}, torch.Generator().manual_seed(0)
    way = TreeSearch(reach=0.1, distinct=False)
    for key, value in (((0, 0), 0.2), ((0, 1), 0.4), ((1, 0), 0.9), ((1, 1), 0.1)):
        way.learn(space, search.Trial(key, space.point(key), value), state)
    # 1: .5 + .1 sqrt(log 4 / 2) lies above 0: .3 + the same; then (1, 0): .9 above .1
    assert way.propose(space, Search(), state, draw) == (1, 0)


def test_a_tree_leaves_out_what_was_tried():
    space, state, draw = Space({"a": (0, 1), "b": (0, 1)}), {}, torch.Generator().manual_seed(0)
    way = TreeSearch(reach=0.1)
    for key, value in (((0, 0), 0.2), ((0, 1), 0.4), ((1, 0), 0.9)):
        way.learn(space, search.Trial(key, space.point(key), value), state)
    assert [way.propose(space, Search(), state, draw) for _ in range(5)] == [(1, 1)] * 5


def test_lucky_values_win_where_points_come_again():
    space = Space({"a": (0, 1)})
    found = Random(distinct=False)(
        space, lambda _, d: float(torch.rand((), generator=d)), budget=30
    )
    assert len(found.trials) == 30
    assert found.best.value > 0.9


def test_what_cannot_be_searched_says_why():
    with pytest.raises(ValueError, match=r"got none for \['a'\]"):
        Space({"a": ()})
    nothing = Space({"a": (1, 2)}, lambda _: False)
    with pytest.raises(ValueError, match="no valid point; loosen `valid`"):
        Random()(nothing, additive, budget=3)
    with pytest.raises(ValueError, match="none of its 2 points is valid"):
        _ = nothing.keys
    with pytest.raises(ValueError, match="budget: expected a whole number of at least 1"):
        Random()(CELLS, additive, budget=0)
    with pytest.raises(ValueError, match=r"edge 0: expected one of .*, got '5x5'"):
        CELLS.key({"edge 0": "5x5", "edge 1": "none", "edge 2": "none"})
    with pytest.raises(ValueError, match="objective: expected a number"):
        Random()(CELLS, lambda *_: float("nan"), budget=1)
    with pytest.raises(ValueError, match="nothing was tried"):
        _ = Search().best


def test_a_search_that_is_cancelled_keeps_what_was_tried():
    steps = Evolution().steps(CELLS, additive, budget=100)
    seen = [next(steps).value for _ in range(12)]
    steps.close()
    assert len(seen[-1].trials) == 12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4))
def test_a_surrogate_takes_any_space(seed, n, options):
    space = Space({str(i): tuple(range(options)) for i in range(n)})
    found = Surrogate(start=1)(space, lambda p, _: -sum(p.values()), budget=10, seed=seed)
    assert len(found.trials) == min(10, options**n)


@pytest.fixture
def table(tmp_path):
    space = Space(CELLS.choices, reaches)

    def evaluate(point, seed):
        return {"validation": additive(point) + 0.1 * seed, "test": additive(point) - 0.1 * seed}

    made = search.measure(space, evaluate, seeds=(0, 1, 2))
    made.save(tmp_path / "cells.csv")
    return made, tmp_path / "cells.csv"


def test_a_table_is_read_as_it_was_written(table):
    made, path = table
    again = Table.load(path, made.space)
    assert again.rows == made.rows
    point = made.space.point(made.space.keys[5])
    assert again.true(point) == pytest.approx(additive(point) - 0.1)
    value, draw = again.objective(), torch.Generator().manual_seed(0)
    drawn = {value(point, draw) for _ in range(50)}
    assert drawn == {additive(point) + 0.1 * s for s in range(3)}
    found = Evolution()(again.space, value, budget=30)
    assert again.true(found.best.point) > 8


def test_a_table_that_was_changed_by_hand_is_refused(table):
    made, path = table
    text = path.read_text()
    path.write_text(text.replace("0,1,0,0,", "0,1,0,0,9", 1))
    with pytest.raises(ValueError, match=r"cells.csv was changed since it was measured"):
        Table.load(path, made.space)
    path.write_text(text)
    with pytest.raises(ValueError, match="have other points"):
        Table.load(path, CELLS)
    with pytest.raises(ValueError, match="has the choices"):
        Table.load(path, Space({"a": (1,)}))


def test_relative_improvement_is_in_per_cent():
    assert search.relative_improvement([0.9, 1.1], 0.8) == pytest.approx(25)
