"""Rows of a table: numbers, whole numbers and categories, each in its column's unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from workbench import checks
from workbench.spaces.base import InputSpace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column: where its coordinates start, and its categories where it has such."""

    name: str
    start: int
    whole: bool = False
    options: tuple[str, ...] = ()

    @property
    def part(self) -> slice:
        """Its coordinates: one, or one a category."""
        return slice(self.start, self.start + max(len(self.options), 1))


@dataclass(frozen=True, eq=False)
class Rows(InputSpace):
    """Rows `(1, 1, D)` of a table; see `table`."""

    kind: ClassVar[str] = "row"

    columns: tuple[Column, ...] = field(kw_only=True)

    def encode(self, frame: pd.DataFrame) -> torch.Tensor:
        """Rows of a frame with the same columns as points `(N, 1, 1, D)`.

        Raises:
            ValueError: a column or a value that is missing, a category that was never seen, a
                number outside the columns' bounds; each is named.
        """
        parts = []
        for column in self.columns:
            checks.known("column", column.name, [str(name) for name in frame.columns])
            values = complete(column.name, frame[column.name])
            if column.options:
                names = values.astype(str)
                for name in names:
                    checks.known(f"category of {column.name}", name, column.options)
                index = torch.tensor([column.options.index(name) for name in names])
                parts.append(nn.functional.one_hot(index, len(column.options)).double())
            else:
                parts.append(torch.tensor(values.to_numpy("float64"))[:, None])
        return self.points(torch.cat(parts, 1)[:, None, None])

    def decode(self, x: torch.Tensor) -> pd.DataFrame:
        """Points `(N, 1, 1, D)` as rows in natural units; of categories the likeliest."""
        import pandas as pd

        names = [column.name for column in self.columns]
        return pd.DataFrame([self.named(point) for point in x], columns=names)

    def named(self, x: torch.Tensor) -> dict[str, float | str]:
        """The values of a point `(1, 1, D)` by column; of categories the likeliest."""
        values = self.values(x).flatten().tolist()
        found: dict[str, float | str] = {}
        for column in self.columns:
            own = values[column.part]
            found[column.name] = column.options[own.index(max(own))] if column.options else own[0]
        return found

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Whole numbers are rounded, and of each row's categories one is chosen."""
        flat, values = x.flatten(1).clone(), self.values(x).flatten(1)
        low, unit = self.low.flatten().to(x.device), self.unit.flatten().to(x.device)
        for column in self.columns:
            part = column.part
            if column.options:
                own = nn.functional.one_hot(flat[:, part].argmax(1), len(column.options))
                flat[:, part] = own.to(flat)
            elif column.whole:
                number = (values[:, part].round() - low[part].double()) / unit[part].double()
                flat[:, part] = number.to(flat)
        return flat.view_as(x)

    def changes(self, x: torch.Tensor, origin: torch.Tensor) -> list[str]:
        """What was moved in a row, the most moved first; a category by its names."""
        before, after = self.named(origin), self.named(x)
        far = (x - origin).abs().flatten().tolist()
        by = {column: max(far[column.part]) for column in self.columns}
        order = sorted((c for c in by if by[c] > checks.ROUNDING), key=lambda c: -by[c])
        return [
            f"{c.name} {shown(before[c.name])} to {shown(after[c.name])}"
            for c in order
            if not c.options or before[c.name] != after[c.name]
        ]

    def around(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """A module that takes rows `(N, D)`."""
        return nn.Flatten(), module


def table(
    frame: pd.DataFrame,
    *,
    fixed: Sequence[str] = (),
    whole: Sequence[str] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Rows:
    """The space of a table's rows, from the rows that it has.

    Numbers go from the least to the largest value of their column to [0, 1]; a column that is no
    number (or bool) is a category, a coordinate each. fixed: columns that nothing may move. whole:
    those that hold whole numbers; when None the ones of an integer type. bounds: (least, largest)
    by column, where other rows may reach further than these.

    Raises:
        ValueError: no rows, a value that is missing or infinite, an unknown column, bounds that
            are no interval or leave out a row.
    """
    from pandas.api import types

    columns: list[Column] = []
    names: list[str] = []
    low: list[float] = []
    high: list[float] = []
    given = {str(name): frame[name] for name in frame.columns}
    if len(frame) == 0 or len(given) != frame.shape[1]:
        raise ValueError(f"frame: expected rows and different names, got {frame.shape}")
    for name in [*fixed, *(whole or ()), *(bounds or {})]:
        checks.known("column", name, given)
    for name, values in given.items():
        complete(name, values)
        if types.is_numeric_dtype(values) and not types.is_bool_dtype(values):
            number = types.is_integer_dtype(values) if whole is None else name in whole
            least, most = (bounds or {}).get(name, (float(values.min()), float(values.max())))
            if not (float(least) <= float(values.min()) and float(values.max()) <= float(most)):
                raise ValueError(
                    f"bounds: {name}: expected to hold {values.min():g} to {values.max():g}, "
                    f"got {(least, most)}"
                )
            columns.append(Column(name, len(names), number))
            names, low, high = [*names, name], [*low, float(least)], [*high, float(most)]
        else:
            options = tuple(sorted(set(values.astype(str))))
            columns.append(Column(name, len(names), options=options))
            names += [f"{name}: {option}" for option in options]
            low, high = low + [0.0] * len(options), high + [1.0] * len(options)
    still = torch.zeros(len(names), dtype=torch.bool)
    for column in columns:
        still[column.part] = column.name in fixed
    # In float64, since a column may span less than its values' float32 can tell apart.
    lower, upper = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    unit = torch.where(upper > lower, upper - lower, 1.0)  # a constant column
    free = ~still & (upper > lower)
    shaped = (each[None, None] for each in (lower, unit, free))
    return Rows(tuple(names), *shaped, columns=tuple(columns))


def complete(name: str, values: pd.Series[Any]) -> pd.Series[Any]:
    """The values of a column, none of which is missing.

    Raises:
        ValueError: some are.
    """
    if missing := int(values.isna().sum()):
        raise ValueError(
            f"frame: {name}: {missing} of {len(values)} rows have no value; fill them in or leave "
            "these rows out"
        )
    return values


def shown(value: object) -> str:
    """A value as a sentence has it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
