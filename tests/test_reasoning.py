"""Worlds against brute force, searches by their budgets, and a network that says the next token."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.reasoning import (
    Budget,
    Chain,
    Programs,
    TinyGPT,
    TwentyFour,
    beam,
    best_of,
    first_error,
    learn,
    mcts,
    rollouts,
    sample,
    vote,
)
from workbench.reasoning.worlds import Numbers, executed

WORLDS = {"twentyfour": TwentyFour(), "chain": Chain(4, 5), "programs": Programs(2, 3)}
EACH = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def at_random(world):
    """A policy that proposes any move."""

    def policy(states, n, draw):
        return [
            [moves[int(torch.randint(len(moves), (), generator=draw))] for _ in range(n)]
            for moves in map(world.moves, states)
        ]

    return policy


def knows(world):
    """A policy that proposes a right step first."""

    def policy(states, n, draw):
        said = []
        for state in states:
            moves = world.moves(state)
            good = [
                m
                for m in moves
                if world.step_right(state, m) and world.solvable(world.after(state, m))
            ]
            said.append([(good or moves)[0]] * n)
        return said

    return policy


def by_hand(four):
    """Whether four numbers make 24, by all orders, signs and brackets."""
    for a, b, c, d in set(itertools.permutations(map(Fraction, four))):
        for x, y, z in itertools.product("+-*/", repeat=3):
            for form in (
                f"((a{x}b){y}c){z}d",
                f"(a{x}(b{y}c)){z}d",
                f"(a{x}b){y}(c{z}d)",
                f"a{x}((b{y}c){z}d)",
                f"a{x}(b{y}(c{z}d))",
            ):
                try:
                    if eval(form, {}, {"a": a, "b": b, "c": c, "d": d}) == 24:
                        return True
                except ZeroDivisionError:
                    pass
    return False


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_what_makes_24_by_brute_force(four):
    state = Numbers(tuple(sorted(map(Fraction, four))))
    assert TwentyFour().solvable(state) == by_hand(four)


def test_404_sets_make_24():
    assert len(TwentyFour().problems(404)) == 404
    with pytest.raises(ValueError, match="n: expected at most 404"):
        TwentyFour().problems(405)


@EACH
def test_solvable_is_what_right_steps_can_reach(world):
    def can(state):
        if not world.moves(state):
            return world.right(state)
        right = [m for m in world.moves(state) if world.step_right(state, m)]
        return any(can(world.after(state, move)) for move in right)

    for problem in world.problems(3, seed=1):
        assert world.solvable(problem)
        state, draw = problem, torch.Generator().manual_seed(0)
        while world.moves(state):
            assert world.solvable(state) == can(state)
            state = world.after(state, at_random(world)([state], 1, draw)[0][0])
        assert not world.right(state) or world.solvable(state)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_chain_by_hand(seed):
    (line,) = Chain(6, 13).problems(1, seed)
    value = line.value
    for sign, operand in line.todo:
        value = {"+": value + operand, "-": value - operand, "x": value * operand}[sign]
    assert line.answer == value % 13


def test_a_program_by_hand():
    assert executed(("a+=b", "swap", "a*=2"), (3, 4)) == (8, 7)
    (draft,) = Programs(2, 3).problems(1)
    assert len({y for _, y in draft.examples}) > 1


@EACH
def test_no_search_passes_its_budget(world):
    problem = world.problems(1)[0]
    policy = at_random(world)
    score = lambda states: torch.tensor([float(world.solvable(s)) for s in states])  # noqa: E731
    for calls in (1, 3, 7, 20):
        for search in (
            lambda budget: rollouts(world, policy, problem, 3, budget),
            lambda budget: best_of(world, policy, score, problem, 3, budget),
            lambda budget: beam(world, policy, score, problem, budget, width=2, samples=4),
            lambda budget: mcts(
                world,
                lambda s: dict.fromkeys(world.moves(s), 1 / len(world.moves(s))),
                lambda s: 0.0,
                problem,
                budget,
            ),
        ):
            budget = Budget(calls)
            found = search(budget)
            assert budget.spent <= calls
            assert all(path[0] == problem and not world.moves(path[-1]) for path in found.paths)


@EACH
def test_a_policy_that_knows_is_always_right(world):
    problem = world.problems(1, seed=2)[0]
    found = rollouts(world, knows(world), problem, 2, Budget(100))
    assert all(world.right(path[-1]) for path in found.paths)
    assert len(found.paths) == 2


def test_a_beam_by_the_truth_finds_the_answer_and_by_a_constant_seldom():
    world = TwentyFour()
    problems = world.problems(6, seed=3)
    truth = lambda states: torch.tensor([float(world.solvable(s)) for s in states])  # noqa: E731
    blind = lambda states: torch.zeros(len(states))  # noqa: E731
    right = {
        name: sum(
            world.right(path[-1])
            for p in problems
            if (
                path := beam(
                    world, at_random(world), score, p, Budget(900), width=5, samples=300
                ).best
            )
        )
        for name, score in (("truth", truth), ("blind", blind))
    }
    assert right["truth"] == 6
    assert right["blind"] <= 1


def test_the_first_error_is_found_by_binary_search():
    world = Chain(8, 13)
    (problem,) = world.problems(1, seed=5)
    path = [problem]
    for i in range(8):
        value = world.result(path[-1].value, path[-1].todo[0])
        path.append(world.after(path[-1], (value + (i == 4)) % 13))
    if world.right(path[-1]):
        pytest.skip("made good by chance")
    budget = Budget(1000)
    assert first_error(world, knows(world), path, 1, budget) == 5
    assert budget.spent <= 8 * 3, "three looks of at most eight steps"


def test_votes_go_by_answer_and_weight():
    world = Chain(1, 5, signs=("+",))
    (problem,) = world.problems(1)
    paths = tuple((problem, world.after(problem, v)) for v in (1, 2, 2, 3))
    from workbench.reasoning import Found

    found = Found(paths)
    assert vote(found, lambda s: s.value)[-1].value == 2
    assert vote(found, lambda s: s.value, [5, 1, 1, 1])[-1].value == 1
    assert vote(Found(), lambda s: s.value) is None


def test_a_cancelled_search_keeps_what_it_found():
    world = Chain(4, 5)
    work = mcts.steps(
        world,
        lambda s: dict.fromkeys(world.moves(s), 0.2),
        lambda s: 0.0,
        world.problems(1)[0],
        Budget(400),
    )
    found = [next(work).value for _ in range(300)][-1]
    work.close()
    assert found.tree["root"].visits == 300
    assert sum(c.visits for c in found.tree["root"].children.values()) == 299


def test_a_tiny_gpt_learns_to_count_and_hears_only_the_past():
    torch.manual_seed(0)
    model = TinyGPT(10, 8)

    def batch(draw):
        start = torch.randint(10, (32, 1), generator=draw)
        tokens = (start + torch.arange(8)) % 10
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    learn(model, batch, steps=60)
    said = sample(model, torch.tensor([[3], [8]]), 5)
    assert said.tolist() == [[3, 4, 5, 6, 7, 8], [8, 9, 0, 1, 2, 3]]
    a = torch.tensor([[1, 2, 3, 4]])
    b = torch.tensor([[1, 2, 9, 9]])
    assert torch.allclose(model(a)[:, :2], model(b)[:, :2], atol=1e-5)
    with pytest.raises(ValueError, match="tokens: expected at most 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature"):
        sample(model, a, 1, temperature=0.5)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="calls"):
        Budget(0)
