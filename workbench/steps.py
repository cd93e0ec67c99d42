"""Long work, written once: a generator of `Step`, which `work` makes a function of.

Every computation that takes more than a second yields `Step`s. Each yield is a
progress tick, a preview and a place where the work can be cancelled: `run` turns
the ticks into a progress bar, a panel's job turns them into live pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Step(Generic[T]):
    """One tick of long work: `done` of `total` units, and the best `value` so far."""

    done: int
    total: int
    message: str = ""
    value: T | None = None


class Later(Step[T]):
    """A tick whose value is made when it is first looked at, as things are then."""

    def __init__(self, done: int, total: int, message: str, make: Callable[[], T]) -> None:
        vars(self).update(done=done, total=total, message=message, make=make)

    @cached_property
    def value(self) -> T:  # type: ignore[override]
        """What `make` gives, once."""
        return vars(self)["make"]()


def run(steps: Iterator[Step[T]], *, progress: bool = True) -> T:
    """Exhaust `steps` behind a progress bar and return the value of the last one.

    The bar appears only after a second, so quick work stays quiet.

    Raises:
        RuntimeError: the generator yielded nothing, or its last step held no value.
    """
    from tqdm.auto import tqdm

    last = None
    # Set in reports; tqdm's bar for notebooks does not look at it.
    off = bool(os.environ.get("TQDM_DISABLE")) or not progress
    with tqdm(total=None, delay=1, leave=False, disable=off) as bar:
        for last in steps:
            bar.total = last.total
            bar.set_postfix_str(last.message, refresh=False)
            bar.update(last.done - bar.n)
    if last is None or last.value is None:
        raise RuntimeError("the work ended without a result: its last Step held no value")
    return last.value


class Work(Protocol[P, T]):
    """What `work` makes: call it for the result, or go through its `steps`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the steps behind a progress bar; the value of the last one."""

    def steps(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Step[T]]:
        """The generator itself, as it was written."""


def work(generator: Callable[P, Iterator[Step[T]]]) -> Work[P, T]:
    """Make of a generator of steps a function that runs it to its end, with `.steps`."""

    @wraps(generator)
    def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(generator(*args, **kwargs))

    made: Any = whole
    made.steps = generator
    returned = str(generator.__annotations__.get("return", ""))
    made.__annotations__["return"] = re.sub(r"^Iterator\[Step\[(.*)\]\]$", r"\1", returned)
    return made
