"""What the tests of panels share."""

import threading
from itertools import count

TURNS = count()


def settle(panel):
    """Wait until a panel has come to rest, well."""
    while not panel.wait(0):  # work that ends may start other work
        assert panel.wait(60)
    assert panel.job is None or panel.job.state == "done", panel.job.error
    assert panel.message.value == ""


def pick(panel, name, key="", x=0.5, y=0.5):
    """Click on what the view calls `name`, or press a key on it."""
    panel.view.picked = {"name": name, "x": x, "y": y, "key": key, "turn": next(TURNS)}


class Gate:
    """Holds a generator of steps at its step `at` until it is opened; further ones run freely."""

    def __init__(self, steps, at=1):
        self.plain, self.at, self.yielded = steps, at, 0
        self._reached, self._opened = threading.Event(), threading.Event()

    def steps(self, *arguments, **options):
        for i, step in enumerate(self.plain(*arguments, **options)):
            if i == self.at and not self._opened.is_set():
                self._reached.set()
                assert self._opened.wait(60)
            self.yielded += 1
            yield step

    def reached(self):
        return self._reached.wait(60)

    def open(self):
        self._opened.set()
