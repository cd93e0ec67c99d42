"""Worlds of problems that are solved step by step, with the exact truth of every step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import torch

from workbench import checks

SLIPS = (-2, -1, 1, 2)  # by which a wrong result of arithmetic is off


class World(Protocol):
    """Problems, what can be said of them next, and what is right."""

    def problems(self, n: int, seed: int = 0) -> list[Any]:
        """`n` beginnings, all of which can be solved; the same with the same seed."""

    def moves(self, state: Any) -> list[Any]:
        """All next steps, right or wrong; none where the end is reached."""

    def after(self, state: Any, move: Any) -> Any:
        """The state that a step leads to."""

    def step_right(self, state: Any, move: Any) -> bool:
        """Whether the step itself is right, wherever it leads."""

    def right(self, state: Any) -> bool:
        """Whether this is an end, and the answer is right."""

    def solvable(self, state: Any) -> bool:
        """Whether right steps alone can still lead to the right answer."""

    def told(self, state: Any, move: Any = None) -> str:
        """A state in words, or a step from it."""


@dataclass(frozen=True)
class Numbers:
    """The numbers left, in order, and whether no step was wrong so far."""

    left: tuple[Fraction, ...]
    clean: bool = True


@dataclass(frozen=True)
class TwentyFour:
    """Four numbers from 1 to 9: put together by + - x / they shall make 24.

    A step takes two of the numbers and says what they make: (a, sign, b, result). Beside each
    right result there are those that are off by one or two.
    """

    goal: int = 24

    def problems(self, n: int, seed: int = 0) -> list[Numbers]:
        """Different sets of four numbers, each of which can be solved.

        Raises:
            ValueError: more than there are.
        """
        every = [
            state
            for four in itertools.combinations_with_replacement(range(1, 10), 4)
            if self.solvable(state := Numbers(tuple(map(Fraction, four))))
        ]
        if not 0 < checks.positive("n", n) <= len(every):
            raise ValueError(f"n: expected at most {len(every)}, as many as can be solved, got {n}")
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
        return [every[i] for i in order[:n].tolist()]

    def moves(self, state: Numbers) -> list[tuple[Fraction, str, Fraction, Fraction]]:
        """Each pair of numbers with each sign and result."""
        found = {
            (a, sign, b, result + slip)
            for a, b in pairs(state.left)
            for sign, result in made(a, b)
            for slip in (0, *SLIPS)
        }
        return sorted(found, key=repr)

    def after(self, state: Numbers, move: tuple[Fraction, str, Fraction, Fraction]) -> Numbers:
        """The numbers left, and the result."""
        a, _, b, result = move
        left = [*state.left]
        left.remove(a)
        left.remove(b)
        return Numbers(tuple(sorted([*left, result])), state.clean and self.step_right(state, move))

    def step_right(self, state: Numbers, move: tuple[Fraction, str, Fraction, Fraction]) -> bool:
        """Whether the arithmetic is right."""
        a, sign, b, result = move
        return (sign, result) in made(a, b)

    def right(self, state: Numbers) -> bool:
        """Whether the goal alone is left, and no step was wrong."""
        return state.clean and state.left == (self.goal,)

    def solvable(self, state: Numbers) -> bool:
        """By trying all."""
        return state.clean and reaches(state.left, self.goal)

    def told(
        self, state: Numbers, move: tuple[Fraction, str, Fraction, Fraction] | None = None
    ) -> str:
        """The numbers left; of a step what makes what."""
        if move is None:
            return " ".join(map(str, state.left))
        a, sign, b, result = move
        a, b, sign = (b, a, "/") if sign == "\\" else (a, b, sign)
        return f"{a} {sign} {b} = {result}"


def pairs(left: Sequence[Fraction]) -> set[tuple[Fraction, Fraction]]:
    """Two of the numbers, the larger first."""
    return {(max(a, b), min(a, b)) for a, b in itertools.combinations(left, 2)}


@lru_cache(maxsize=50_000)
def made(a: Fraction, b: Fraction) -> tuple[tuple[str, Fraction], ...]:
    """What two numbers make, by the sign."""
    found = [("+", a + b), ("-", a - b), ("x", a * b)]
    found += [("/", a / b)] if b else []
    return tuple(found + ([("\\", b / a)] if a else []))  # the smaller by the larger


@lru_cache(maxsize=200_000)
def reaches(left: tuple[Fraction, ...], goal: int) -> bool:
    """Whether the numbers can be put together to the goal."""
    if len(left) == 1:
        return left[0] == goal
    for a, b in pairs(left):
        rest = [*left]
        rest.remove(a)
        rest.remove(b)
        results = {result for _, result in made(a, b)} | {b - a}
        if any(reaches(tuple(sorted([*rest, result])), goal) for result in results):
            return True
    return False


@dataclass(frozen=True)
class Line:
    """A chain of arithmetic: what is still to be done, the value claimed, and the right one."""

    value: int
    todo: tuple[tuple[str, int], ...]
    answer: int
    clean: bool = True


@dataclass(frozen=True)
class Chain:
    """A value and operations on it, modulo `modulus`; a step says the next value.

    An error may be made good by a later one: the answer can be right though a step was not.
    """

    length: int = 8
    modulus: int = 13
    signs: tuple[str, ...] = ("+", "-", "x")

    def problems(self, n: int, seed: int = 0) -> list[Line]:
        """Chains drawn at random."""
        checks.positive("n", n)
        draw = torch.Generator().manual_seed(seed)

        def number(high: int) -> int:
            return int(torch.randint(high, (), generator=draw))

        found = []
        for _ in range(n):
            value = number(self.modulus)
            todo = tuple(
                (self.signs[number(len(self.signs))], number(self.modulus))
                for _ in range(self.length)
            )
            found.append(Line(value, todo, self.answer(value, todo)))
        return found

    def result(self, value: int, operation: tuple[str, int]) -> int:
        """The right next value."""
        sign, operand = operation
        change = {"+": value + operand, "-": value - operand, "x": value * operand}
        return change[sign] % self.modulus

    def answer(self, value: int, todo: Sequence[tuple[str, int]]) -> int:
        """The value after all operations, each done right."""
        for operation in todo:
            value = self.result(value, operation)
        return value

    def moves(self, state: Line) -> list[int]:
        """Every value, while there is something to be done."""
        return [*range(self.modulus)] if state.todo else []

    def after(self, state: Line, move: int) -> Line:
        """The value said, and the operations left."""
        right = state.clean and self.step_right(state, move)
        return Line(move, state.todo[1:], state.answer, right)

    def step_right(self, state: Line, move: int) -> bool:
        """Whether the value follows from the one before."""
        return move == self.result(state.value, state.todo[0])

    def right(self, state: Line) -> bool:
        """Whether all is done, and the value is the right one."""
        return not state.todo and state.value == state.answer

    def solvable(self, state: Line) -> bool:
        """Whether going on without an error ends right."""
        return self.answer(state.value, state.todo) == state.answer

    def told(self, state: Line, move: int | None = None) -> str:
        """The value, and what is still to be done to it."""
        steps = " ".join(f"{sign}{operand}" for sign, operand in state.todo)
        if move is None:
            return f"{state.value}, then {steps} = ?" if steps else f"{state.value}"
        sign, operand = state.todo[0]
        return f"{state.value} {sign} {operand} = {move}"


@dataclass(frozen=True)
class Draft:
    """A program as far as it is written, and the pairs (input, output) that it shall fit."""

    examples: tuple[tuple[tuple[int, int], int], ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Programs:
    """Programs of a few lines over two registers, modulo ten, from examples of what they shall do.

    A line is one of `KINDS`; the output is register a. A step is right where some program goes on
    from it to one that fits all examples.
    """

    length: int = 3
    n_examples: int = 4

    def problems(self, n: int, seed: int = 0) -> list[Draft]:
        """Examples of programs drawn at random, whose output is not always the same."""
        checks.positive("n", n)
        draw = torch.Generator().manual_seed(seed)
        found: list[Draft] = []
        while len(found) < n:
            kinds = torch.randint(len(KINDS), (self.length,), generator=draw).tolist()
            lines = tuple(KINDS[k] for k in kinds)
            given = torch.randint(10, (self.n_examples, 2), generator=draw).tolist()
            pairs = [(a, b) for a, b in given]
            examples = tuple((pair, executed(lines, pair)[0]) for pair in pairs)
            if len({output for _, output in examples}) > 1:
                found.append(Draft(examples))
        return found

    def moves(self, state: Draft) -> list[str]:
        """Every kind of line, while there is room."""
        return [*KINDS] if len(state.lines) < self.length else []

    def after(self, state: Draft, move: str) -> Draft:
        """The program with the line."""
        return Draft(state.examples, (*state.lines, move))

    def step_right(self, state: Draft, move: str) -> bool:
        """Whether the program can still be finished."""
        return self.solvable(self.after(state, move))

    def right(self, state: Draft) -> bool:
        """Whether the program is finished, and fits all examples."""
        done = len(state.lines) == self.length
        return done and all(executed(state.lines, x)[0] == y for x, y in state.examples)

    def solvable(self, state: Draft) -> bool:
        """By trying all that is left."""
        rest = self.length - len(state.lines)
        return any(
            self.right(Draft(state.examples, (*state.lines, *more)))
            for more in itertools.product(KINDS, repeat=rest)
        )

    def told(self, state: Draft, move: str | None = None) -> str:
        """What a is after the lines, of what it shall be, for each example."""
        if move is not None:
            return move
        now = ((executed(state.lines, x)[0], x, y) for x, y in state.examples)
        return "; ".join(f"a={x[0]} b={x[1]}: {a} of {y}" for a, x, y in now)


KINDS = ("a+=b", "b+=a", "a-=b", "a*=b", "a*=2", "a+=1", "b=a", "swap")


def executed(lines: Sequence[str], registers: tuple[int, int]) -> tuple[int, int]:
    """The registers after a program."""
    a, b = registers
    for line in lines:
        a, b = {
            "a+=b": (a + b, b),
            "b+=a": (a, a + b),
            "a-=b": (a - b, b),
            "a*=b": (a * b, b),
            "a*=2": (2 * a, b),
            "a+=1": (a + 1, b),
            "b=a": (a, a),
            "swap": (b, a),
        }[line]
        a, b = a % 10, b % 10
    return a, b
