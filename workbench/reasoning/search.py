"""Search over steps: whole solutions, beams, trees; each call of the policy is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from operator import not_
from typing import Any

import torch

from workbench import checks
from workbench.reasoning.worlds import World
from workbench.steps import Step, work

# From states, how many moves each, and a generator: for each state that many moves.
Policy = Callable[[Sequence[Any], int, torch.Generator], list[list[Any]]]
Path = tuple[Any, ...]  # of states
Score = Callable[[Sequence[Any]], torch.Tensor]  # of states, `(N,)`; larger is better


def careless(world: World, slip: float = 0.1) -> Policy:
    """A policy that says any step that is right by itself; one in 1/slip is any there is.

    Raises:
        ValueError: a share below 0 or above 1.
    """
    if not 0 <= slip <= 1:
        raise ValueError(f"slip: expected 0 to 1, got {slip}")

    def policy(states: Sequence[Any], n: int, draw: torch.Generator) -> list[list[Any]]:
        said = []
        for state in states:
            moves = world.moves(state)
            right = [move for move in moves if world.step_right(state, move)] or moves
            slips = (torch.rand(n, generator=draw) < slip).tolist()
            among = [moves if slipped else right for slipped in slips]
            said.append([m[int(torch.randint(len(m), (), generator=draw))] for m in among])
        return said

    return policy


class Spent(Exception):
    """The budget is used up."""


@dataclass
class Budget:
    """How many steps a policy may propose; `spent` of them so far.

    Raises:
        ValueError: fewer than one.
    """

    calls: int
    spent: int = 0

    def __post_init__(self) -> None:
        checks.positive("calls", self.calls)

    def ask(
        self, policy: Policy, states: Sequence[Any], n: int, draw: torch.Generator
    ) -> list[list[Any]]:
        """`n` proposals for each state, while they last; nothing is proposed beyond.

        Raises:
            Spent: they do not last for one.
        """
        if (room := (self.calls - self.spent) // n) < 1:
            raise Spent
        states = states[:room]
        self.spent += n * len(states)
        return policy(states, n, draw)


@dataclass(frozen=True)
class Found:
    """Ends that a search came to, each with its path of states; `best` is what it answers.

    paths: states from the problem to an end; scores `(N,)` where the search has them.
    """

    paths: tuple[tuple[Any, ...], ...] = ()
    scores: tuple[float, ...] = ()
    best: tuple[Any, ...] | None = None
    spent: int = 0
    tree: dict[Any, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """How many ends, and what was spent."""
        return {"ends": len(self.paths), "spent": self.spent}


@work
def rollouts(
    world: World, policy: Policy, state: Any, n: int, budget: Budget, *, seed: int = 0
) -> Iterator[Step[Found]]:
    """Up to `n` whole solutions from a state, one step of all after the other."""
    checks.positive("n", n)
    draw = torch.Generator().manual_seed(seed)
    going, ended = parted(world, [(state,)] * n)
    done = 0
    while going:
        try:
            said = budget.ask(policy, [path[-1] for path in going], 1, draw)
        except Spent:
            break
        grown = [(*p, world.after(p[-1], m)) for p, (m,) in zip(going, said, strict=False)]
        (going, ended), done = parted(world, ended + grown), done + 1
        yield Step(done, done + 1, f"step {done}", Found(tuple(ended), spent=budget.spent))
    yield Step(done + 1, done + 1, "done", Found(tuple(ended), spent=budget.spent))


def parted(world: World, paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Paths that go on, and those that have ended."""
    on = [bool(world.moves(path[-1])) for path in paths]
    return list(compress(paths, on)), list(compress(paths, map(not_, on)))


@work
def best_of(
    world: World,
    policy: Policy,
    score: Score,
    state: Any,
    n: int,
    budget: Budget,
    *,
    seed: int = 0,
) -> Iterator[Step[Found]]:
    """The best of `n` whole solutions, by the score of their ends."""
    found = Found()
    for step in rollouts.steps(world, policy, state, n, budget, seed=seed):
        found = step.value or found
        yield Step(step.done, step.total + 1, step.message, found)
    if found.paths:
        scores = tuple(score([path[-1] for path in found.paths]).tolist())
        best = found.paths[max(range(len(scores)), key=scores.__getitem__)]
        found = Found(found.paths, scores, best, budget.spent)
    yield Step(1, 1, "done", found)


def vote(
    found: Found, answer: Callable[[Any], Hashable], weights: Sequence[float] | None = None
) -> tuple[Any, ...] | None:
    """The path of the answer with the most votes, or weight; of equal ones the first."""
    weights = [1.0] * len(found.paths) if weights is None else weights
    votes: Counter[Hashable] = Counter()
    for path, weight in zip(found.paths, weights, strict=True):
        votes[answer(path[-1])] += weight  # type: ignore[assignment]
    winner = max(votes, key=votes.__getitem__, default=None)
    return next((path for path in found.paths if answer(path[-1]) == winner), None)


@work
def beam(
    world: World,
    policy: Policy,
    score: Score,
    state: Any,
    budget: Budget,
    *,
    width: int,
    samples: int,
    seed: int = 0,
) -> Iterator[Step[Found]]:
    """Keep the `width` best of `samples` next states, by their score, level by level."""
    checks.positive("width", width)
    if checks.positive("samples", samples) < width:
        raise ValueError(f"samples: expected at least the width, {width}, got {samples}")
    draw, kept, level = torch.Generator().manual_seed(seed), [(state,)], 0
    scores = [0.0]
    while (parts := parted(world, kept))[0]:
        going, ended = parts
        each = max(1, samples // len(going))
        try:
            said = budget.ask(policy, [path[-1] for path in going], each, draw)
        except Spent:
            kept = ended
            break
        grown = {
            (after := world.after(path[-1], move)): (*path, after)
            for path, moves in zip(going, said, strict=False)
            for move in moves
        }
        every = [*ended, *grown.values()]
        values = score([path[-1] for path in every])
        order = values.argsort(descending=True, stable=True)[:width].tolist()
        kept, scores = [every[i] for i in order], values[order].tolist()
        level += 1
        yield Step(level, level + 1, f"level {level}", Found(tuple(kept), tuple(scores)))
    scores = scores[: len(kept)]
    best = kept[0] if kept else None
    yield Step(1, 1, "done", Found(tuple(kept), tuple(scores), best, budget.spent))


@dataclass
class Node:
    """A state of a tree: visits, mean value, the children by their moves with their shares."""

    state: Any
    visits: int = 0
    value: float = 0.0
    prior: dict[Any, float] = field(default_factory=dict)
    children: dict[Any, Node] = field(default_factory=dict)


@work
def mcts(
    world: World,
    prior: Callable[[Any], dict[Any, float]],
    value: Callable[[Any], float],
    state: Any,
    budget: Budget,
    *,
    reach: float = 1.0,
) -> Iterator[Step[Found]]:
    """A tree that grows by one state a simulation, each of which is one call of the budget.

    prior: from a state to its moves with their probabilities. value: of a state in [-1, 1]; an end
    has 1 or -1 by the world. A child is chosen by Q + reach P sqrt(N) / (1 + n) (Rosin, 2011).
    """
    root, paths = Node(state), {}
    for n in range(1, budget.calls - budget.spent + 1):
        budget.spent += 1
        node, way = root, [root]
        while node.visits and node.prior:
            move = max(node.prior, key=lambda move: upper(node, move, reach))
            if move not in node.children:
                node.children[move] = Node(world.after(node.state, move))
            node = node.children[move]
            way.append(node)
        ended = not world.moves(node.state)
        if not node.prior and not ended:
            node.prior = prior(node.state)
        worth = (1.0 if world.right(node.state) else -1.0) if ended else value(node.state)
        if ended:
            paths[tuple(each.state for each in way)] = worth
        for each in way:
            each.visits += 1
            each.value += (worth - each.value) / each.visits
        best = max(paths, key=paths.__getitem__, default=None)
        found = Found(tuple(paths), tuple(paths.values()), best, budget.spent, {"root": root})
        yield Step(n, budget.calls, f"{n} simulations", found)


def upper(node: Node, move: Any, reach: float) -> float:
    """How promising a move is: its mean value, and how little it was tried."""
    child = node.children.get(move)
    mean, visits = (child.value, child.visits) if child else (0.0, 0)
    return mean + reach * node.prior[move] * math.sqrt(node.visits) / (1 + visits)


@dataclass(frozen=True)
class Bisected:
    """Where the first error of a path lies, as far as was looked.

    low, high: after step `low` the end could still be right, after `high` it could not. looks: how
    many of how many rollouts ended right, by the step after which they began. spent: calls so far.
    step: the first error, from 1; None while it is not found.
    """

    low: int
    high: int
    looks: dict[int, tuple[int, int]] = field(default_factory=dict)
    spent: int = 0
    step: int | None = None


@work
def bisect(
    world: World,
    policy: Policy,
    path: Sequence[Any],
    n: int,
    budget: Budget,
    *,
    seed: int = 0,
) -> Iterator[Step[Bisected]]:
    """Look for the first error of a wrong path by binary search (Luo et al., 2024).

    A look asks whether one of `n` rollouts from there ends right. What is lost once stays lost:
    so log2 of the steps are enough. Nothing is found where the end is right, or the calls run out.
    """
    found = Bisected(0, len(path) - 1, spent=budget.spent)
    halvings = math.ceil(math.log2(max(2, len(path) - 1)))
    if world.right(path[-1]):
        yield Step(1, 1, "the end is right", found)
        return
    while found.high - found.low > 1:
        middle = (found.low + found.high) // 2
        ends = rollouts(world, policy, path[middle], n, budget, seed=seed + middle).paths
        right = sum(world.right(each[-1]) for each in ends)
        found = replace(
            found, looks={**found.looks, middle: (right, len(ends))}, spent=budget.spent
        )
        if not right and len(ends) < n:
            yield Step(1, 1, "the calls ran out", found)
            return
        found = replace(found, low=middle) if right else replace(found, high=middle)
        message = f"after step {middle} {right} of {n} end right"
        yield Step(len(found.looks), halvings, message, found)
    yield Step(1, 1, "found", replace(found, step=found.high))


def first_error(
    world: World,
    policy: Policy,
    path: Sequence[Any],
    n: int,
    budget: Budget,
    *,
    seed: int = 0,
) -> int | None:
    """The step that `bisect` finds, from 1."""
    return bisect(world, policy, path, n, budget, seed=seed).step
