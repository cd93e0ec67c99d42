"""`Table`: every point of a small space with its values over seeds, measured once and kept."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from workbench.search.space import Key, Point, Space
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

MARK = "# sha256 "


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a space: by key and seed, numbers by name (`validation`, `test`, costs)."""

    space: Space
    rows: dict[tuple[Key, int], dict[str, float]]

    @property
    def seeds(self) -> list[int]:
        """The seeds of which there are rows."""
        return sorted({seed for _, seed in self.rows})

    def objective(self, column: str = "validation") -> Callable[[Point, torch.Generator], float]:
        """What a search is given: the value of a seed that is drawn, as noisy as a training is."""
        seeds = self.seeds

        def value(point: Point, draw: torch.Generator) -> float:
            seed = seeds[int(torch.randint(len(seeds), (), generator=draw))]
            return self.rows[self.space.key(point), seed][column]

        return value

    def true(self, point: Point, column: str = "test") -> float:
        """The mean over seeds."""
        key = self.space.key(point)
        return fmean(self.rows[key, seed][column] for seed in self.seeds)

    def frame(self) -> pd.DataFrame:
        """One row a point and seed."""
        import pandas as pd

        return pd.DataFrame(
            [
                {**self.space.point(key), "seed": seed, **values}
                for (key, seed), values in self.rows.items()
            ]
        )

    def save(self, path: Path | str) -> None:
        """Write it as CSV, with a line at the end that says what it holds."""
        text = io.StringIO()
        columns = [*next(iter(self.rows.values()))]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.space.choices, "seed", *columns])
        for (key, seed), values in self.rows.items():
            writer.writerow([*key, seed, *(f"{values[c]:.6g}" for c in columns)])
        body = text.getvalue()
        digest = hashlib.sha256(body.encode()).hexdigest()
        Path(path).write_text(f"{body}{MARK}{digest}\n")

    @classmethod
    def load(cls, path: Path | str, space: Space) -> Table:
        """Read what `save` wrote, of the same space.

        Raises:
            ValueError: another space, a point or a seed without a row, or a file that was changed
                since it was measured.
        """
        body, mark, digest = Path(path).read_text().rpartition(MARK)
        name = Path(path).name
        if not mark or hashlib.sha256(body.encode()).hexdigest() != digest.strip():
            raise ValueError(
                f"table: {name} was changed since it was measured, or is none: its rows and its "
                "last line do not agree; measure it again"
            )
        head, *lines = csv.reader(io.StringIO(body))
        names = [*space.choices]
        if head[: len(names) + 1] != [*names, "seed"]:
            raise ValueError(f"table: {name} has the choices {head}, the space {names}")
        rows: dict[tuple[Key, int], dict[str, float]] = {}
        for line in lines:
            *key, seed = map(int, line[: len(names) + 1])
            values = map(float, line[len(names) + 1 :])
            rows[tuple(key), seed] = dict(zip(head[len(names) + 1 :], values, strict=True))
        table = cls(space, rows)
        missing = [k for k in space.keys for s in table.seeds if (k, s) not in rows]
        if missing or len(rows) != len(space.keys) * len(table.seeds):
            raise ValueError(f"table: {name} and the space have other points: {missing[:3]}")
        return table


@work
def measure(
    space: Space, evaluate: Callable[[Point, int], dict[str, float]], seeds: Sequence[int]
) -> Iterator[Step[Table]]:
    """Evaluate every valid point with every seed: one Step each.

    evaluate: from a point and a seed to numbers by name.
    """
    rows: dict[tuple[Key, int], dict[str, float]] = {}
    pairs: list[Any] = [(key, seed) for key in space.keys for seed in seeds]
    for n, (key, seed) in enumerate(pairs, 1):
        rows[key, seed] = evaluate(space.point(key), seed)
        yield Step(n, len(pairs), f"{space.point(key)}", Table(space, rows))


def relative_improvement(values: Sequence[float], usual: float) -> float:
    """By how many per cent the mean lies above that of points at random (Yang et al., 2020)."""
    return 100 * (fmean(values) - usual) / usual
