"""`claim`: what a paper says, what was found here, and the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from workbench import atlas, checks

MIME = "application/vnd.workbench.claim+json"
Verdict = Literal["holds", "partly", "refuted here"]
VERDICTS: tuple[Verdict, ...] = ("holds", "partly", "refuted here")
SIGNS = {"holds": "✓", "partly": "◐", "refuted here": "✗"}


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, tested.

    paper: its title. says: the claim, in a sentence with the control. theirs: the paper's figure
    with its source, or "not at hand". ours: the figure found, and its interval over `seeds`.
    setting: on what it was found. expect: the verdict that the notebook was written with; None
    where the parameters are too small to say.
    """

    paper: str
    says: str
    theirs: str
    ours: float
    interval: tuple[float, float] | None
    seeds: int
    verdict: Verdict
    expect: Verdict | None
    setting: str

    @property
    def turned(self) -> bool:
        """Whether the verdict is another than the one expected."""
        return self.expect is not None and self.verdict != self.expect

    def summary(self) -> dict[str, Any]:
        """The fields by their names."""
        return asdict(self)

    def _ipython_display_(self) -> None:
        """Nothing: at the end of a cell it would be shown a second time."""

    def _repr_html_(self) -> str:
        """A row: the verdict, the sentence, both figures, the setting."""
        turned = f" (it was expected: {self.expect})" if self.turned else ""
        found = f"<b>{self.ours:.3g}</b>"
        if self.interval:
            low, high = self.interval
            found += f" [{low:.3g}, {high:.3g}]"
        found += f" over {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f'<div role="note" aria-label="claim" style="border-left:4px solid;padding:2px 12px">'
            f"<b>{SIGNS[self.verdict]} {self.verdict.capitalize()}</b>{turned}: {escape(self.says)}"
            f"<br>here {found} · the paper: {escape(self.theirs)}"
            f"<br><small>{escape(self.paper)} · {escape(self.setting)}</small></div>"
        )

    def __str__(self) -> str:
        """The same in words."""
        turned = f" (expected: {self.expect})" if self.turned else ""
        within = "" if self.interval is None else " in [{:.3g}, {:.3g}]".format(*self.interval)
        head = f"{self.verdict}{turned}: {self.says}"
        return f"{head} Here {self.ours:.3g}{within}; the paper: {self.theirs}. {self.setting}"


def claim(
    paper: str,
    says: str,
    *,
    ours: float,
    holds: bool,
    partly: bool = False,
    expect: Verdict | None = "holds",
    theirs: str = "not at hand",
    interval: tuple[float, float] | None = None,
    seeds: int = 1,
    setting: str,
) -> Claim:
    """Show what became of a claim, and hand it to the report that runs this notebook.

    paper: its title in the atlas, or words that only its title has. holds: whether the claim
    was found; partly: where not, whether a part of it was. interval: of `ours`, over `seeds`
    seeds. The rest as in `Claim`. A verdict that turned is shown and ends no report.

    Raises:
        ValueError: no such paper, or several; no sentence; a figure that is not finite; an
            interval that does not hold `ours`.
    """
    from IPython import get_ipython
    from IPython.display import display

    if expect is not None:
        checks.known("expect", expect, VERDICTS)
    if not says.strip().endswith("."):
        raise ValueError(f"says: expected a sentence with a full stop, got {says!r}")
    if not setting.strip():
        raise ValueError("setting: expected on what it was found (data, model, budget), got none")
    figure = float(ours)
    ends = None if interval is None else (float(interval[0]), float(interval[1]))
    if not math.isfinite(figure):
        raise ValueError(f"ours: expected a finite number, got {ours}")
    if ends is not None and not ends[0] - 1e-9 <= figure <= ends[1] + 1e-9:
        raise ValueError(f"interval: expected one that holds ours={figure:.4g}, got {ends}")
    checks.positive("seeds", seeds)
    verdict = VERDICTS[0 if bool(holds) else 1 if bool(partly) else 2]
    title = atlas.the_one(paper).title
    made = Claim(title, says, theirs, figure, ends, seeds, verdict, expect, setting)
    if hasattr(get_ipython(), "kernel"):
        bundle = {MIME: made.summary(), "text/html": made._repr_html_(), "text/plain": str(made)}
        display(bundle, raw=True)
    return made
