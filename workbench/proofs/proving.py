"""`prove`: a property of one box or of several, by a backend, within a time limit."""

from __future__ import annotations

import math
import pkgutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import islice

from workbench import checks
from workbench.models import Classifier
from workbench.proofs.clock import LATE, Clock
from workbench.proofs.network import Network
from workbench.proofs.properties import Answer, Properties, Property
from workbench.proofs.query import Query
from workbench.steps import Step, work

# Steps towards the answer to a query, with a seed; a TimeoutError leaves it open.
Backend = Callable[[Query, int], Iterator[Step[Answer]]]
# A name in place of a function is imported when it is first asked for.
BACKENDS: dict[str, Backend | str] = {
    "branching": "workbench.proofs.branching:branching_steps",
    "milp": "workbench.proofs.milp:milp_steps",
    "marabou": "workbench.proofs.backends:marabou_steps",
    "z3": "workbench.proofs.backends:z3_steps",
}
AT_ONCE = 64  # boxes that are worked on in turn
WORSE = ["proved", "open", "refuted"]


@work
def prove(
    model: Classifier,
    prop: Property | Properties,
    *,
    backend: str = "branching",
    time_limit: float = 60.0,
    seed: int = 0,
) -> Iterator[Step[Answer]]:
    """Prove or refute a property; each step has the bound and the open branches so far.

    A counterexample was checked on the real network. A proof is of the network in real
    numbers, by float64 with a margin of `TOLERANCE`; what is nearer than that stays open.
    Several boxes share the time; they are proved where each is, refuted where one is.

    Args:
        backend: a name in `BACKENDS`.
        time_limit: seconds, above 0.

    Raises:
        ValueError: an unknown backend, a time limit that is none, layers other than affine ones
            and nn.ReLU, a model in train mode, a property that does not fit the model.
        ImportError: the backend is not installed.
    """
    if backend not in BACKENDS:
        raise checks.unknown("backend", backend, BACKENDS)
    if not 0 < time_limit < math.inf:
        raise ValueError(f"time_limit: expected a number of seconds above 0, got {time_limit}")
    clock = Clock(time_limit)  # what a backend imports counts
    run = BACKENDS[backend]
    run = pkgutil.resolve_name(run) if isinstance(run, str) else run
    try:
        net = Network(model, clock)
    except TimeoutError as late:
        yield Step(1, 1, "open", Answer("open", seconds=clock.seconds, note=str(late)))
        return
    parts = prop.parts if isinstance(prop, Properties) else (prop,)
    work = (attempt(run, Query(model, part, clock, net), seed) for part in parts)
    yield from next(work) if len(parts) == 1 else together(work, len(parts), clock)


def attempt(backend: Backend, query: Query, seed: int) -> Iterator[Step[Answer]]:
    """The steps of a backend; where the time is up, what was reached ends them."""
    try:
        yield from backend(query, seed)
    except TimeoutError as late:
        answer = query.answer("open", bound=query.bound, note=str(late))
        yield Step(1, 1, "open", answer)


def together(
    work: Iterator[Iterator[Step[Answer]]], total: int, clock: Clock
) -> Iterator[Step[Answer]]:
    """The steps of `total` parts in turn, so that one that is hard keeps no other waiting.

    The turns go by steps, not by the clock: the same parts give the same answer.
    """
    ended, count = Answer("proved"), 0
    active = deque((steps, Answer("open")) for steps in islice(work, AT_ONCE))
    while active:
        steps, answer = active.popleft()
        step = next(steps, None)
        if step is None or step.value is None:
            ended, count = merged(ended, answer), count + 1
            if not clock.late:
                active.extend((more, Answer("open")) for more in islice(work, 1))
            continue
        active.append((steps, step.value))
        waiting = total - count - len(active)
        rest = [Answer("open", branches=waiting, open=waiting)] if waiting else []
        current = reduce(merged, [ended, *(other for _, other in active), *rest])
        current = replace(current, seconds=clock.seconds)
        message = f"{count} of {total} boxes; {step.message}"
        yield Step(current.branches - current.open, max(1, current.branches), message, current)
        if current.verdict == "refuted":
            return
    if waiting := total - count:
        ended = merged(ended, Answer("open", branches=waiting, open=waiting, note=LATE))
    yield Step(1, 1, ended.verdict, replace(ended, seconds=clock.seconds))


def merged(first: Answer, second: Answer) -> Answer:
    """The answer to two questions at once: the worst of both, of which it has the rest."""
    verdict = max(first.verdict, second.verdict, key=WORSE.index)
    worst = [answer for answer in (first, second) if answer.verdict == verdict]
    bounds = [answer.bound for answer in (first, second) if answer.bound is not None]
    unbounded = verdict != "proved" and any(answer.bound is None for answer in worst)
    notes = dict.fromkeys(note for answer in worst for note in answer.note.split("; ") if note)
    return Answer(
        verdict,
        worst[0].counterexample,
        bound=None if unbounded or not bounds else min(bounds),
        branches=first.branches + second.branches,
        open=first.open + second.open,
        note="; ".join(notes),
    )
