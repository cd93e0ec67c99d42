"""Worlds against brute force, searches by their budgets, and a network that says the next token."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import data, models
from workbench.reasoning import (
    Budget,
    Chain,
    Found,
    Programs,
    TinyGPT,
    TwentyFour,
    beam,
    best_of,
    bisect,
    careless,
    debate,
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
    return careless(world, slip=1)


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
    assert not world.right(path[-1]), "no later step made it good"
    budget = Budget(1000)
    assert first_error(world, knows(world), path, 1, budget) == 5
    assert budget.spent <= 8 * 3, "three looks of at most eight steps"
    looks = [step.value.looks for step in bisect.steps(world, knows(world), path, 2, Budget(1000))]
    assert looks[-1] == {4: (2, 2), 6: (0, 2), 5: (0, 2)}
    assert [len(look) for look in looks] == [1, 2, 3, 3]


def test_no_error_is_named_where_there_is_none_or_the_calls_run_out():
    world = Chain(4, 13)
    (problem,) = world.problems(1, seed=5)
    right = rollouts(world, knows(world), problem, 1, Budget(9)).paths[0]
    assert first_error(world, knows(world), right, 1, Budget(9)) is None
    wrong = [*right[:-1], world.after(right[-2], (right[-1].value + 1) % 13)]
    assert first_error(world, knows(world), wrong, 1, Budget(99)) == 4
    short = bisect(world, knows(world), wrong, 4, Budget(5))
    assert (short.step, short.low, short.high) == (None, 2, 4), "5 calls end one of 4 rollouts"
    assert short.looks[2] == (1, 1)
    assert short.spent <= 5


@EACH
def test_a_careless_policy_slips_as_often_as_it_is_told(world):
    problem, draw = world.problems(1, seed=3)[0], torch.Generator().manual_seed(0)
    said = careless(world, 0)([problem], 50, draw)[0]
    assert all(world.step_right(problem, move) for move in said)
    moves = world.moves(problem)
    wrong = sum(not world.step_right(problem, move) for move in moves) / len(moves)
    share = 0.4 * wrong
    many = careless(world, 0.4)([problem], 1000, draw)[0]
    found = sum(not world.step_right(problem, move) for move in many) / 1000
    assert abs(found - share) < 4 * (share * (1 - share) / 1000) ** 0.5 + 1e-9
    with pytest.raises(ValueError, match="slip: expected 0 to 1"):
        careless(world, 1.5)


@EACH
def test_worlds_tell_states_and_steps_in_words(world):
    state = world.problems(1)[0]
    for move in world.moves(state):
        assert world.told(state, move)
        assert world.told(world.after(state, move)) != ""


def test_a_quotient_is_told_as_it_is_made():
    state = Numbers((Fraction(2), Fraction(6)))
    told = {TwentyFour().told(state, move) for move in TwentyFour().moves(state)}
    assert {"6 / 2 = 3", "2 / 6 = 1/3", "6 x 2 = 12", "6 - 2 = 4"} <= told


def test_votes_go_by_answer_and_weight():
    world = Chain(1, 5, signs=("+",))
    (problem,) = world.problems(1)
    paths = tuple((problem, world.after(problem, v)) for v in (1, 2, 2, 3))
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


@pytest.fixture(scope="module")
def linear():
    """A linear expert of digits, an image, and the mean image."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    expert = models.wrap(module, input_shape=(1, 8, 8), classes=list("0123456789"))
    images = data.load("digits").images
    return expert, images[3], images.mean(0)


def test_what_all_pixels_say_is_the_difference_of_the_logits_of_a_linear_expert(linear):
    expert, image, mean = linear
    held = debate(expert, image, (2, 7), 4, hidden=mean)
    z, zero = expert(torch.stack([image, mean])).detach()
    assert held.worth.sum() == pytest.approx(float((z - zero)[2] - (z - zero)[7]), abs=1e-5)
    by_fours = debate(expert, image, (2, 7), 2, hidden=mean, square=4)
    assert by_fours.worth[1, 0] == pytest.approx(float(held.worth[4:, :4].sum()), abs=1e-5)
    assert by_fours.masks[1].sum() == 16


def test_sides_take_turns_and_a_consultant_speaks_for_one(linear):
    expert, image, mean = linear
    ranks = debate(expert, image, (2, 7), 6, hidden=mean, way="consultancy")
    others = debate(expert, image, (2, 7), 6, hidden=mean, way="consultancy", side=-1)
    held = debate(expert, image, (2, 7), 6, hidden=mean)
    assert held.order.tolist()[::2] == ranks.order.tolist()[:3]
    assert held.order.tolist()[1::2] == others.order.tolist()[:3]
    assert held.sides.tolist() == [1, -1] * 3
    assert len(set(debate(expert, image, (2, 7), 64, hidden=mean).order.tolist())) == 64
    neutral = debate(expert, image, (2, 7), 1, hidden=mean, way="no side")
    assert neutral.order[0] == held.worth.abs().argmax()


def test_a_judge_sees_what_was_shown_and_nothing_else(linear):
    expert, image, mean = linear
    told = []

    def judge(seen, masks):
        told.extend([seen, masks])
        return expert(seen)

    held = debate(expert, image, (2, 7), 5, hidden=mean, judge=judge, way="random", seed=1)
    seen, masks = told
    assert masks.flatten(1).sum(1).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(seen[0], mean)
    assert ((seen == image) | (seen == mean)).all()
    assert held.shares[0] == pytest.approx(
        float(expert(mean[None])[0, [2, 7]].softmax(0)[0].detach())
    )
    everything = debate(expert, image, (2, 7), 64, hidden=mean)
    assert everything.shares[-1] == pytest.approx(
        float(expert(image[None])[0, [2, 7]].softmax(0)[0].detach())
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 65}, "k: expected at most 64 squares, got 65"),
        ({"k": 0}, "k"),
        ({"claims": (3, 3)}, "claims: expected two different classes, got 3 twice"),
        ({"way": "quarrel"}, "way"),
    ],
)
def test_what_no_debate_can_be_held_of_is_said(linear, options, words):
    expert, image, mean = linear
    with pytest.raises(ValueError, match=words):
        debate(expert, image, **({"claims": (2, 7), "k": 4, "hidden": mean} | options))
