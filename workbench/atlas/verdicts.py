"""What became of the papers' claims here: `claims.toml`, which `workbench claims` writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from workbench.params import Parameters

CLAIMS = Path(__file__).with_name("claims.toml")
HEAD = """# What became of the papers' claims, run by run. Made by: make claims
# verdict: of all seeds together; "partly" where they do not agree.
"""


class Run(Parameters):
    """One run of a claim: its seed, the verdict, the figure and its interval."""

    seed: int
    verdict: str
    ours: float
    low: float | None = None
    high: float | None = None


class Tested(Parameters):
    """A claim of a paper over all seeds it was run with.

    notebook, section: where. The rest as in `reports.Claim`.
    """

    paper: str
    says: str
    notebook: str
    section: str
    theirs: str
    setting: str
    expect: str | None = None
    verdict: str
    runs: tuple[Run, ...] = Field(min_length=1)

    @property
    def share(self) -> str:
        """With how many seeds the claim holds: "2 of 3 seeds"."""
        held = sum(run.verdict == "holds" for run in self.runs)
        return f"{held} of {len(self.runs)} seeds"


@cache
def claims(path: Path = CLAIMS) -> tuple[Tested, ...]:
    """Every claim that was tested.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return ()
    try:
        return tuple(
            Tested(**row) for row in tomllib.loads(path.read_text("utf-8")).get("claim", ())
        )
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def verdict_of(paper: str) -> str:
    """The verdict on a paper, by its title: that of its claims, "partly" where they differ."""
    return together(tested.verdict for tested in claims() if tested.paper == paper)


def together(verdicts: Iterable[str]) -> str:
    """One verdict of several: "partly" where they differ, "" where there is none."""
    each = set(verdicts)
    return each.pop() if len(each) == 1 else "partly" if each else ""


def as_toml(tested: Iterable[Tested]) -> str:
    """The text of claims.toml."""
    return HEAD + "".join(f"\n[[claim]]\n{_table(one)}" for one in tested)


def _table(one: Tested) -> str:
    facts = one.model_dump(exclude={"runs"}, exclude_none=True)
    lines = [f"{key} = {_value(value)}" for key, value in facts.items()]
    runs = [run.model_dump(exclude_none=True).items() for run in one.runs]
    rows = ["{ " + ", ".join(f"{k} = {_value(v)}" for k, v in run) + " }" for run in runs]
    return "\n".join([*lines, "runs = [", *(f"    {row}," for row in rows), "]\n"])


def _value(value: Any) -> str:
    """A text or number as TOML has it; numbers to four figures."""
    if isinstance(value, float):
        return repr(float(f"{value:.4g}"))
    return json.dumps(value, ensure_ascii=False)
