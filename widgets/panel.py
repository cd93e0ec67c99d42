"""`Panel`: what every panel can do. A panel adds its steps, its drawing and its code."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import ipywidgets as ipw

from workbench import steps
from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.steps import Step

from .form import alert, bundle, told
from .job import Job
from .picker import Picker
from .saver import Saver
from .selection import SELECTED, Selection

logger = logging.getLogger(__name__)

R = TypeVar("R")
P = TypeVar("P", bound=Parameters)

PATIENCE = 0.3  # seconds of work before the progress bar shows, so that quick work does not flicker


class Panel(Generic[P, R]):
    """A view with controls: `run()` in a cell, `start()` behind a button, the same steps.

    A panel is written by giving `Params` and `title`, and the methods `steps` (the work),
    `draw` (a result as HTML), `controls` (the widgets above the view) and `code` (the
    API calls that give the same result); `check` where parameters have to fit one another.

    Args:
        dataset: a name (see `data.available()`) or an `ImageDataset`.
        model: a name (see `models.available()`) or a `Classifier`.
        index: which image to look at first.
        selection: shared with other panels; then dataset, model and index come from it.
        checked: whether to `check` the parameters here and now.
        parameters: the fields of the panel's `Params`.

    Raises:
        ValueError: an unknown name, a value out of bounds, or what does not fit.
    """

    Params: ClassVar[type[Parameters]]
    title: ClassVar[str]
    follows: ClassVar[tuple[str, ...]] = ("dataset", "model", "index", "edition")

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
        *,
        selection: Selection | None = None,
        checked: bool = True,
        **parameters: Any,
    ) -> None:
        self.selection = selection = selection or Selection(dataset, model, index)
        own = {name: self._named(value) for name, value in parameters.items()}
        self.params = cast("P", self.Params(**own))
        self.picker: Picker | None = None
        self._shares_picker = False  # with panels beside it; then another brings it into line
        self.result: R | None = None
        self._job: Job | None = None
        self._current: object = None
        self.whole = False  # whether the work last begun is more than a first look
        self._shown_of: tuple[Any, ...] = ()  # what the picture is of
        self._drawn = ""  # the picture as last made of a result
        self._lock = selection.lock
        self._widget: ipw.Widget | None = None
        self.view = ipw.HTML()
        self.code_view = ipw.HTML()
        self.message = ipw.HTML()
        self.bar = ipw.FloatProgress(min=0, max=1, layout={"width": "16em"})
        self.ticks = ipw.HTML()
        cancel = ipw.Button(description="Cancel", tooltip="Stop and keep what is there")
        cancel.on_click(lambda _: self.cancel())
        self.progress = ipw.HBox([self.bar, self.ticks, cancel], layout={"display": "none"})
        if checked:
            self.check(self.params)
        selection.observe(guarded(self, self._follow), list(self.follows))

    def _named(self, value: Any) -> Any:
        """The name of a classifier given in place of one."""
        return self.selection.add(value) if isinstance(value, Classifier) else value

    # What a panel writes itself.

    def check(self, params: P) -> None:
        """Check that parameters fit the selection and one another, before any work is done.

        Raises:
            ValueError: they do not.
        """

    def followed(self, change: Any) -> None:
        """The selection changed, here or in another panel."""
        self.start()

    def unfit(self, model: str = "") -> str:
        """Why the panel has nothing to show of a model, or the one selected; else empty."""
        return ""

    def offer(self) -> str:
        """Why the panel shows nothing, and the models that fit, to be picked in a `PickView`."""
        names = [n for n in self.selection.models_for(self.selection.dataset) if not self.unfit(n)]
        buttons = [
            f'<button data-pick="model:{html.escape(n)}">{html.escape(n)}</button>' for n in names
        ]
        choose = f"Choose one that fits: {' '.join(buttons)}" if names else "No model here fits."
        return f'<p role="status">{html.escape(self.unfit())}. {choose}</p>'

    def steps(self) -> Iterator[Step[R]]:
        """The work for the present parameters and selection; each value can be drawn."""
        raise NotImplementedError

    def peek(self) -> Iterator[Step[R]]:
        """A quick first look, for showing a panel on which nothing was run yet."""
        return self.steps()

    def draw(self, result: R) -> str:
        """A result as HTML that needs no script: shown live and in reports."""
        raise NotImplementedError

    def controls(self) -> ipw.Widget:
        """The widgets above the view, beside the picker of data, model and image."""
        raise NotImplementedError

    def code(self) -> str:
        """The API calls that give the result shown."""
        raise NotImplementedError

    def details(self) -> list[tuple[str, ipw.Widget]]:
        """What folds out below the view, each with its title."""
        return []

    def shown(self, result: R) -> None:
        """Called after a result is drawn, to bring the controls into line with it."""

    # What every panel has.

    def run(self) -> R:
        """Do the work here and now, show it, and return its result; raises what it raises."""
        self.whole = True
        return self._run(self.steps())

    def look(self) -> R:
        """Take a first look here and now, show it, and return it."""
        self.whole = False
        return self._run(self.peek())

    def attempt(self, whole: bool = False) -> Exception | None:
        """Look, or run; an error is shown in the panel's own frame, and returned."""
        try:
            self.run() if whole else self.look()
        except Exception as error:  # whatever a model of one's own raises
            logger.warning("%s shows an error", self.title, exc_info=True)
            with self._lock:
                self.fail(error)
            return error
        return None

    def fail(self, error: BaseException | None) -> None:
        """Show an error in place of a picture, which would be of something else."""
        self.result = None
        self.view.value = self.code_view.value = ""
        self.message.value = failure(self.title, error)

    def framed(self) -> ipw.Widget:
        """The widgets; where they cannot be made, the frame that says why."""
        try:
            return self.widget
        except Exception as error:  # whatever a model of one's own raises
            logger.warning("%s shows an error", self.title, exc_info=True)
            self.fail(error)
            self._widget = ipw.VBox([self.message])
            return self._widget

    @property
    def seen(self) -> bool:
        """Whether there is something to see: a result, or an error."""
        return self.result is not None or bool(self.message.value)

    def misfit(self) -> str:
        """`unfit`, or why that cannot be said."""
        try:
            return self.unfit()
        except Exception as error:  # whatever a model of one's own raises
            return told(error)

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
            if self._job is not None:
                self._job.cancel()
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

    @property
    def widget(self) -> ipw.Widget:
        """The widgets: controls, progress, messages, view, code."""
        if self._widget is None:
            controls = self._controls()
            self.saver = Saver(self)
            saver = ("Save as notebook or report", self.saver.widget)
            folded = [("Copy as code", self.code_view), saver, *self.details()]
            below = ipw.Accordion([w for _, w in folded], titles=[title for title, _ in folded])
            self._widget = ipw.VBox([controls, self.progress, self.message, self.view, below])
        return self._widget

    def _controls(self) -> ipw.Widget:
        """The panel's own controls beside the picker; without it where panels share one."""
        self._shares_picker = self.picker is not None
        if self._shares_picker:
            return self.controls()
        self.picker = picker = Picker(self.selection, partial(guarded, self))
        shown = picker.widget if "index" in self.follows else ipw.VBox([picker.data, picker.model])
        return ipw.HBox([shown, self.controls()], layout={"flex_flow": "row wrap"})

    def _follow(self, change: Any) -> None:
        if self.picker is not None and not self._shares_picker:
            self.picker.sync()
        self.followed(change)

    def button(self, name: str, tooltip: str) -> ipw.Button:
        """The button that starts the work."""
        made = ipw.Button(description=name, tooltip=tooltip, button_style="primary")
        made.on_click(guarded(self, lambda _: self.start()))
        return made

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        return {**self.selection.state(), **self.params.changes()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Panel[P, R]:
        """A panel as `state()` described it."""
        fields = cls.Params.model_fields
        rest = {n: value for n, value in state.items() if n not in SELECTED or n in fields}
        return cls(selection=Selection.from_state(state), **rest)

    def to_html(self) -> str:
        """The present view without widgets, for reports: works with no kernel."""
        if self.result is None and not self.message.value:
            self.run()
        title = html.escape(self.title)
        if self.result is None:
            return f'<section aria-label="{title}">{self.message.value}</section>'
        caption = html.escape(", ".join(f"{k} {v}" for k, v in self.state().items()))
        # What is on the screen need not be drawn again, unless it was turned to something else.
        as_shown = self._drawn and self.view.value == self._drawn
        picture = self._drawn if as_shown else self.draw(self.result)
        return (
            f'<section aria-label="{title}">{picture}'
            f'<p style="color:#555;font-size:90%">{title}: {caption}</p></section>'
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        if self.result is None:
            self.look()
        static = self.to_html()
        return bundle(self.widget, static, f"{type(self).__name__}({self.state()})")

    def _show(self, token: object, result: R) -> None:
        with self._lock:
            if token is not self._current:
                return
            self.result = result
            self.view.value = self._drawn = self.draw(result)
            self.code_view.value = code_block(self.code())
            self.message.value = ""
            self._shown_of = self._looked_at_now()
            self.shown(result)

    def _looked_at_now(self) -> tuple[Any, ...]:
        return tuple(getattr(self.selection, name) for name in Panel.follows)

    def _tick(self, token: object, step: Step[R]) -> None:
        if step.value is not None:
            self._show(token, step.value)
        with self._lock:
            job = self._job
            if token is not self._current or job is None or job.last is None:
                return
            left = job.seconds_left
            if left is not None and job.elapsed > PATIENCE:
                self.bar.value = step.done / max(1, step.total)
                self.ticks.value = f"<span>{html.escape(step.message)}, {left:.0f} s left</span>"
                self.progress.layout.display = "flex"

    def _end(self, token: object, job: Job) -> None:
        with self._lock:
            if token is not self._current:
                return
            self.progress.layout.display = "none"
            if job.state == "failed" and self._shown_of != self._looked_at_now():
                self.fail(job.error)
            elif job.state == "failed":
                self.message.value = alert(told(job.error))
            elif job.state == "cancelled":
                self.message.value = '<p role="status">Cancelled; this is what was done so far.</p>'


def failure(title: str, error: BaseException | None) -> str:
    """That a panel has nothing to show, and why."""
    return f'<div class="panel-failure">{alert(f"{title}: {told(error)}")}</div>'


def section(*blocks: str) -> str:
    """Blocks of the view, one below the other."""
    return f'<div style="font:13px/1.4 system-ui,sans-serif">{"".join(blocks)}</div>'


def code_block(code: str) -> str:
    """Code with a button that copies it."""
    copy = "navigator.clipboard.writeText(this.nextElementSibling.innerText)"
    return (
        f'<button onclick="{copy}" aria-label="Copy the code">Copy</button>'
        f'<pre style="margin:4px 0;line-height:1.4">{html.escape(code)}</pre>'
    )


class Shown(Protocol):
    """What has a selection, and a place for messages."""

    selection: Selection
    message: ipw.HTML


def guarded(panel: Shown, action: Callable[..., None]) -> Callable[..., None]:
    """A callback that waits its turn and shows its errors in the panel.

    Its turn: a job that is just drawing finishes first, so that neither undoes the other.
    """

    def call(*arguments: Any) -> None:
        try:
            with panel.selection.lock:
                action(*arguments)
        except Exception as error:
            # Reports scan for these words, so that a failure in a callback is not lost.
            logger.exception("Exception in panel")
            panel.message.value = alert(told(error))

    return call
