"""`Frame`: where work is shown as it goes on: one result, its picture, progress and messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, ClassVar, Generic, TypeVar

import ipywidgets as ipw

from workbench import steps
from workbench.steps import Step

from .blocks import alert, button, failure, in_words, quiet, status
from .job import Job
from .pick_view import PickView
from .selection import Selection

logger = logging.getLogger(__name__)

R = TypeVar("R")

PATIENCE = 0.3  # seconds of work before the progress bar shows, so that quick work does not flicker
LOOKED_AT = ("dataset", "model", "index", "edition")


class Frame(Generic[R]):
    """Drives steps, here or in a thread, and shows each value; its errors stay in it."""

    title: ClassVar[str]
    picks: ClassVar[bool] = False  # whether something in the view can be clicked

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.result: R | None = None
        self.whole = False  # whether the work last begun is more than a first look
        self.quiet = False  # while the panel itself sets controls
        self.hidden = False  # where nobody sees the view, it is not drawn
        self.watchers: list[Callable[[], None]] = []  # called when result, error or work changed
        self._job: Job | None = None
        self._current: object = None
        self._shown_of: tuple[Any, ...] = ()  # what the picture is of
        self._drawn = ""  # the picture as last made of a result
        self._lock = selection.lock
        self.message = ipw.HTML()
        self.view = PickView()
        if self.picks:
            self.listen(self.view, self._picked, "picked")
        self.bar = ipw.FloatProgress(min=0, max=1, layout={"width": "16em"})
        self.ticks = ipw.HTML()
        cancel = button("Cancel", "Stop and keep what is there", self.cancel)
        self.progress = ipw.HBox([self.bar, self.ticks, cancel], layout={"display": "none"})

    # What a panel writes itself.

    def steps(self) -> Iterator[Step[R]]:
        """The work for the present parameters and selection; each value can be drawn."""
        raise NotImplementedError

    def peek(self) -> Iterator[Step[R]]:
        """A quick first look, for showing a panel on which nothing was run yet."""
        return self.steps()

    def draw(self, result: R) -> str:
        """A result as HTML that needs no script, shown live and in reports; asks no model."""
        raise NotImplementedError

    def updated(self, result: R) -> R:
        """A result with what was picked in the meantime, before it is drawn."""
        return result

    def drawn(self, result: R) -> None:
        """Called after a result was drawn."""

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """`data-pick="WHAT:WHICH"` was clicked, or a key pressed on it; event: see `PickView`."""

    # What every panel has.

    def run(self) -> R:
        """Do the work here and now, show it, and return its result; raises what it raises."""
        self.whole = True
        return self._run(self.steps())

    def first(self) -> R:
        """The value of a first look."""
        value = next(self.peek()).value
        assert value is not None, "a first look has a value"
        return value

    def look(self) -> R:
        """Take a first look here and now, show it, and return it."""
        self.whole = False
        return self._run(self.peek())

    def attempt(self, whole: bool = False) -> Exception | None:
        """Look, or run; an error is shown in the panel's own frame, and returned."""
        try:
            self.run() if whole else self.look()
        except Exception as error:  # whatever a model of one's own raises
            self.fail(error)
            return error
        return None

    def fail(self, error: BaseException | None) -> None:
        """Show an error in place of a picture, which would be of something else."""
        logger.warning("%s shows an error", self.title, exc_info=error)
        with self._lock:
            self.result, self.view.value = None, ""
            self.message.value = failure(self.title, error)
            self._tell()

    @property
    def seen(self) -> bool:
        """Whether there is something to see: a result, or an error."""
        return self.result is not None or bool(self.message.value)

    def _run(self, work: Iterator[Step[R]]) -> R:
        self.cancel()
        token = self._current = object()
        result = steps.run(work)
        self._show(token, result)
        return result

    def start(self, work: Iterator[Step[R]] | None = None) -> None:
        """Do the work in a thread; what was under way is abandoned. Returns at once.

        work: other steps than the panel's own, such as a quick first look.
        """
        with self._lock:
            self.cancel()
            token = self._current = object()
            self._job = Job(
                self.steps() if work is None else work,
                on_step=lambda step: self._tick(token, step),
                on_end=lambda job: self._end(token, job),
            )
            self.whole = work is None

    def cancel(self) -> None:
        """Stop the work at its next step; the last picture stays."""
        if self._job is not None:
            self._job.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for work started; False if it goes on after `timeout` seconds."""
        return self._job is None or self._job.wait(timeout)

    @property
    def job(self) -> Job | None:
        """The work last started."""
        return self._job

    def redraw(self) -> None:
        """Show the result again, with what was picked."""
        if self.result is not None:
            self._show(self._current, self.result)

    def listen(self, control: Any, action: Callable[[Any], None], name: str = "value") -> None:
        """Call `action` with what a control is set to, unless the panel itself sets it."""

        def heard(change: Any) -> None:
            if not self.quiet:
                action(change["new"])

        control.observe(guarded(self, heard), name)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Set controls, or the selection, and not be called by them."""
        with self._lock, quiet(self):
            yield

    def _picked(self, event: dict[str, Any]) -> None:
        what, _, which = event.get("name", "").partition(":")
        if what == "model":
            self.selection.model = which
        elif what == "image":
            self.selection.index = int(which)
        elif self.result is not None:
            self.picked(what, which, {"key": "", **event})

    def _show(self, token: object, result: R) -> None:
        with self._lock:
            if token is not self._current:
                return
            self.result = result = self.updated(result)
            self.view.value = self._drawn = "" if self.hidden else self.draw(result)
            self.message.value = ""
            self._shown_of = self._looked_at_now()
            self.drawn(result)
            self._tell()

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()

    def reveal(self, shown: bool) -> None:
        """Draw the view from now on, or do without, where it is not in sight."""
        if shown is self.hidden:
            self.hidden = not shown
            self.redraw()

    def _looked_at_now(self) -> tuple[Any, ...]:
        return tuple(getattr(self.selection, name) for name in LOOKED_AT)

    def _tick(self, token: object, step: Step[R]) -> None:
        if step.value is not None:
            self._show(token, step.value)
        with self._lock:
            job = self._job
            if token is not self._current or job is None or job.last is None:
                return
            remaining = job.seconds_left
            if remaining is not None and job.elapsed > PATIENCE:
                self.bar.value = step.done / max(1, step.total)
                self.ticks.value = f"<span>{escape(step.message)}, {remaining:.0f} s left</span>"
                self.progress.layout.display = "flex"
                self._tell()

    def _end(self, token: object, job: Job) -> None:
        with self._lock:
            if token is not self._current:
                return
            self.progress.layout.display = "none"
            if job.state == "failed" and self._shown_of != self._looked_at_now():
                self.fail(job.error)
            elif job.state == "failed":
                self.message.value = alert(in_words(job.error))
            elif job.state == "cancelled":
                self.message.value = status("Cancelled; this is what was done so far.")
            self._tell()


def guarded(panel: Any, action: Callable[..., None]) -> Callable[..., None]:
    """A callback that waits its turn and shows its errors in the `message` of a panel.

    Its turn: a job that is just drawing finishes first, so that neither undoes the other.
    """

    def call(*arguments: Any) -> None:
        try:
            with panel.selection.lock:
                action(*arguments)
        except Exception as error:
            # Reports scan for these words, so that a failure in a callback is not lost.
            logger.exception("Exception in panel")
            panel.message.value = alert(in_words(error))

    return call
