"""When work must end: the one place of the verifiers that looks at the clock."""

from __future__ import annotations

import math
import time

LATE = "the time limit was reached"


class Clock:
    """The seconds since it was made, and a limit of them."""

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds that have passed."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """The seconds that are left, below 0 where the limit is over."""
        return self.limit - self.seconds

    @property
    def late(self) -> bool:
        """Whether the limit is over."""
        return self.left < 0

    def check(self, what: str = LATE) -> None:
        """Raise a TimeoutError that says `what` where the limit is over."""
        if self.late:
            raise TimeoutError(what)
