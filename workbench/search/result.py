"""`Search`: what was tried, in the order of the evaluations, and the best of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from workbench.search.space import Key, Point

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Trial:
    """A point that was evaluated, and what the objective gave for it: larger is better."""

    key: Key
    point: Point
    value: float


@dataclass(frozen=True, eq=False)
class Search:
    """The trials of a search so far."""

    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial:
        """The trial with the largest value; of equal ones the first.

        Raises:
            ValueError: nothing was tried.
        """
        if not self.trials:
            raise ValueError("search: nothing was tried yet")
        return max(self.trials, key=lambda trial: trial.value)

    @property
    def so_far(self) -> list[float]:
        """After each evaluation, the largest value until then."""
        return list(accumulate((trial.value for trial in self.trials), max))

    def frame(self) -> pd.DataFrame:
        """One row an evaluation: its number, the point, the value, the best so far."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {"evaluation": n, **trial.point, "value": trial.value, "best": best}
            for n, (trial, best) in enumerate(zip(self.trials, self.so_far, strict=True), 1)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """How many evaluations, and the best of them."""
        best = {"best": self.best.value, "point": self.best.point} if self.trials else {}
        return {"evaluations": len(self.trials), **best}
