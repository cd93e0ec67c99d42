"""Long work, written once: a generator of `Step`, and `run` that exhausts it.

Every computation that takes more than a second yields `Step`s. Each yield is a
progress tick, a preview and a place where the work can be cancelled: `run` turns
the ticks into a progress bar, a panel's job turns them into live pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Step(Generic[T]):
    """One tick of long work: `done` of `total` units, and the best `value` so far."""

    done: int
    total: int
    message: str = ""
    value: T | None = None


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
