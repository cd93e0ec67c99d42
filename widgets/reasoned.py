"""What `ReasoningPanel` shows: the steps of a solution, their truth, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from workbench.reasoning import Bisected, Found, World

from .blocks import pick, section, status, table


@dataclass(frozen=True, eq=False)
class Reasoned:
    """A solution, as its states and steps; scores of its states by judge.

    n: rollouts from a step, when asked. lead: who leads a beam. looks: how many of how many
    rollouts ended right, by the step after which they began. found: where the first error was
    sought. levels: what a beam kept, level by level. spent: calls of the policy, but for the
    solution's own.
    """

    world: World
    path: tuple[Any, ...]
    moves: tuple[Any, ...]
    scores: dict[str, list[float]]
    n: int
    lead: str
    looks: dict[int, tuple[int, int]] = field(default_factory=dict)
    found: Bisected | None = None
    levels: tuple[Found, ...] = ()
    spent: int = 0

    @property
    def truth(self) -> int | None:
        """The first step after which no right steps lead to the answer, from 1."""
        lost = (i for i, s in enumerate(self.path) if not self.world.solvable(s))
        return next(lost, None)

    def summary(self) -> dict[str, Any]:
        """Whether the end is right, the first error that was found, the true one, the calls."""
        found = self.found.step if self.found else None
        right = self.world.right(self.path[-1])
        return {"right": right, "found": found, "truth": self.truth, "calls": self.spent}


def picture(view: Reasoned) -> str:
    """The problem, its steps, what was found, and the beam: HTML."""
    w, path = view.world, view.path
    head = f"<p><b>{escape(w.told(path[0]))}</b> {opened(view, 0)}</p>"
    names = ["step", "says", "then there is", "truth", *view.scores, "rollouts that end right"]
    rows = [line(view, i) for i in range(1, len(path))]
    steps = table("", rows, [*map(escape, names)])
    return section(head, steps, status(escape(told(view))), tree(view))


def line(view: Reasoned, i: int) -> list[str]:
    """A step, from 1: what it says, what is left, its truth, its scores, its rollouts."""
    w, before, after, move = view.world, view.path[i - 1], view.path[i], view.moves[i - 1]
    mark = " ◀ first error found" * (view.found is not None and view.found.step == i)
    said = [bar(values, i - 1) for values in view.scores.values()]
    words = (w.told(before, move), w.told(after), judged(w, before, move))
    return [f"{i}{mark}", *map(escape, words), *said, opened(view, i)]


def judged(world: World, state: Any, move: Any) -> str:
    """The truth of a step, in words."""
    right, can = world.step_right(state, move), world.solvable(world.after(state, move))
    if can:
        return "✓ right" if right else "✗ wrong, but it can still end right"
    if not world.solvable(state):
        return "· after the error" if right else "✗ wrong, after the error"
    return "✗ right, but leads nowhere" if right else "✗ wrong"


def bar(values: Sequence[float], i: int) -> str:
    """A judge's score, and how high it is among those of this solution."""
    low, high = min(values), max(values)
    width = 60 * (values[i] - low) / ((high - low) or 1)
    style = f"display:inline-block;height:9px;width:{width:.0f}px;background:var(--wb-a, #0072b2)"
    return f'{values[i]:+.2f} <span aria-hidden="true" style="{style}"></span>'


def opened(view: Reasoned, i: int) -> str:
    """What rollouts from after a step gave, and a button that asks for them."""
    looked = "{} of {}".format(*view.looks[i]) if i in view.looks else ""
    ended = i and not view.world.moves(view.path[i])
    if ended:
        return "the end: " + ("right" if view.world.right(view.path[i]) else "wrong")
    room = f'<span style="display:inline-block;min-width:5em">{looked}</span>'  # nothing moves
    return room + pick(f"look:{i}", f"Roll out {view.n}")


def told(view: Reasoned) -> str:
    """What was found, beside the truth, and what it cost."""
    spent = f" {view.spent} calls of the policy." if view.spent else ""
    if view.world.right(view.path[-1]):
        return "The end is right: there is no error to be found." + spent
    if view.found is None:
        return "The end is wrong." + spent
    if view.found.step is None:
        low, high = view.found.low, view.found.high
        return f"The first error is in steps {low + 1} to {high}, as far as was looked.{spent}"
    true = "so it is" if view.truth == view.found.step else f"in truth it is step {view.truth}"
    return f"First error found: step {view.found.step}; {true}.{spent}"


def tree(view: Reasoned) -> str:
    """What a beam kept, level by level, and a button that leads one."""
    act = pick("beam", f"Let {view.lead} lead a beam")
    if not view.levels:
        return f"<p>{act}</p>"
    rows = []
    for i, found in enumerate(view.levels, 1):
        kept = []
        for path, score in zip(found.paths, found.scores, strict=True):
            can = view.world.solvable(path[-1])
            mark = "✓" if can else "✗"
            kept.append(f"{mark} {escape(view.world.told(path[-1]))} <small>{score:+.2f}</small>")
        rows.append([str(i), " &nbsp; ".join(kept)])
    ends = view.levels[-1].paths
    right = sum(view.world.right(path[-1]) for path in ends)
    words = f"✓: can still end right; {right} of {len(ends)} kept at the end are right"
    return table("", rows, ["level", f"kept, by {escape(view.lead)}"]) + f"<p>{words}. {act}</p>"
