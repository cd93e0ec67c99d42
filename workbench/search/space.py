"""`Space`: what can be chosen, and which choices go together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

Point = dict[str, Any]
Key = tuple[int, ...]
DRAWS = 10_000  # after which no valid point is looked for any more
LISTED = 100_000  # points at most that are listed


@dataclass(frozen=True, eq=False)
class Space:
    """Choices by name, each with its options; `valid` says which points there are (all, when None).

    A point has one option of each choice.

    Raises:
        ValueError: no choice, or a choice without options.
    """

    choices: Mapping[str, Sequence[Any]]
    valid: Callable[[Point], bool] | None = None

    def __post_init__(self) -> None:
        empty = [name for name, options in self.choices.items() if not len(options)]
        if not self.choices or empty:
            raise ValueError(f"choices: expected options for each, got none for {empty or 'any'}")

    @property
    def size(self) -> int:
        """How many points there are, valid or not."""
        return math.prod(len(options) for options in self.choices.values())

    def point(self, key: Sequence[int]) -> Point:
        """The point whose options have these numbers."""
        return {n: options[i] for i, (n, options) in zip(key, self.choices.items(), strict=True)}

    def key(self, point: Point) -> Key:
        """The numbers of a point's options, in the order of the choices.

        Raises:
            ValueError: another choice or option than the space has.
        """
        if set(point) != set(self.choices):
            raise ValueError(f"point: expected the choices {[*self.choices]}, got {[*point]}")
        for name, options in self.choices.items():
            if point[name] not in options:
                raise ValueError(
                    f"point: {name}: expected one of {[*options]}, got {point[name]!r}"
                )
        return tuple([*options].index(point[name]) for name, options in self.choices.items())

    def holds(self, key: Sequence[int]) -> bool:
        """Whether the point is valid."""
        return self.valid is None or bool(self.valid(self.point(key)))

    @cached_property
    def keys(self) -> list[Key]:
        """All valid points, by their keys.

        Raises:
            ValueError: there is none, or there are too many to be listed.
        """
        if self.size > LISTED:
            raise ValueError(
                f"space: {self.size:,} points are too many to list, {LISTED:,} at most"
            )
        found = [k for k in itertools.product(*map(range, self.counts)) if self.holds(k)]
        if not found:
            raise ValueError(f"space: none of its {self.size:,} points is valid; loosen `valid`")
        return found

    @property
    def counts(self) -> list[int]:
        """How many options each choice has."""
        return [len(options) for options in self.choices.values()]

    def draw(self, generator: torch.Generator, prefix: Key = ()) -> Key | None:
        """A valid point at random, each as likely, that begins with `prefix`; None where none is.

        Raises:
            ValueError: there is no valid point at all, as far as could be seen.
        """
        free = len(prefix) < len(self.counts)  # else there is nothing to draw
        for _ in range(DRAWS if not prefix else DRAWS // 50 if free else 1):
            rest = [
                int(torch.randint(n, (), generator=generator)) for n in self.counts[len(prefix) :]
            ]
            if self.holds(key := (*prefix, *rest)):
                return key
        if prefix:
            return None
        raise ValueError(f"space: {DRAWS:,} draws gave no valid point; loosen `valid`")

    def encode(self, keys: Sequence[Key]) -> torch.Tensor:
        """Points as rows of zeros and ones, a column an option; float64 `(N, options)`."""
        rows = torch.zeros(len(keys), sum(self.counts), dtype=torch.float64)
        starts = [0, *itertools.accumulate(self.counts)]
        for row, key in zip(rows, keys, strict=True):
            row[[start + i for start, i in zip(starts, key, strict=False)]] = 1
        return rows
