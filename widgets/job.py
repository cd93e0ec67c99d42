"""`Job`: long work in a thread of its own, with progress and cancel."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from workbench.steps import Step

logger = logging.getLogger(__name__)

State = Literal["running", "done", "cancelled", "failed"]


class Job:
    """Drives a generator of `Step`s in a daemon thread, started at once.

    `on_step(step)` and `on_end(job)` are called in that thread: steps at most every
    `interval` seconds, the first and the last always. Each yield is a place to stop.
    """

    def __init__(
        self,
        steps: Iterator[Step[Any]],
        on_step: Callable[[Step[Any]], None],
        on_end: Callable[[Job], None],
        *,
        interval: float = 0.1,
    ) -> None:
        self.steps = steps
        self.on_step = on_step
        self.on_end = on_end
        self.interval = interval
        self.state: State = "running"
        self.last: Step[Any] | None = None
        self.error: BaseException | None = None
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drive, daemon=True, name="workbench-job")
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop at its next step; returns at once."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False if it has not come after `timeout` seconds."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far, or None before the first step."""
        if self.last is None or self.last.done == 0:
            return None
        return self.elapsed / self.last.done * max(0, self.last.total - self.last.done)

    def _drive(self) -> None:
        try:
            self.state = self._exhaust()
        except Exception as error:
            self.error = error
            self.state = "failed"
            # Reports scan for these words, so that a failure in a thread is not lost.
            logger.exception("Exception in job")
        self.on_end(self)

    def _exhaust(self) -> State:
        shown, pending = -self.interval, False
        end: State = "done"
        for step in self.steps:
            if self._stop.is_set():
                self.steps.close()  # type: ignore[attr-defined]
                end = "cancelled"
                break
            self.last = step
            pending = time.monotonic() - shown < self.interval
            if not pending:
                self.on_step(step)
                shown = time.monotonic()
        if pending and self.last is not None:
            self.on_step(self.last)  # what was reached is kept
        return end
