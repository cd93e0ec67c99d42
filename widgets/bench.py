"""`Bench`: one image on one screen: what a model says of it, and five views that follow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from html import escape
from typing import Any, ClassVar

import ipywidgets as ipw

from workbench import checks
from workbench.data import ImageDataset
from workbench.files import REPORT
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.steps import Step

from .attack_panel import AttackPanel
from .blocks import bundle, failure, in_words, section
from .eps_panel import EpsPanel
from .frame import guarded
from .front import MODES, Front
from .job import Job
from .level_set_panel import LevelSetPanel
from .model_panel import ModelPanel
from .panel import Panel
from .pattern_panel import PatternPanel
from .prototype_panel import PrototypePanel
from .screen import Screen
from .selection import SELECTED, Selection

PANELS: dict[str, type[Panel[Any, Any]]] = {
    "model": ModelPanel,
    "eps": EpsPanel,
    "attack": AttackPanel,
    "prototypes": PrototypePanel,
    "level set": LevelSetPanel,
    "patterns": PatternPanel,
}
MOVING = ("eps", "level set")  # their pictures move in a report, too, once they are whole
PAUSE = 0.4  # seconds without another image, or a stroke of the pen, before slow parts start
PAST = 50  # states that undo brings back
START = ("mnist-sample", "mnist/prototypes")  # an image one recognises; a model that fits all views


class Broken(Panel[Parameters, Any]):
    """Stands where a panel could not be made, and says why."""

    Params = Parameters

    def __init__(self, selection: Selection, title: str, error: Exception) -> None:
        super().__init__(selection=selection)
        self.title, self.error = title, error  # type: ignore[misc]

    def steps(self) -> Iterator[Step[Any]]:
        """Raises what the panel raised."""
        raise self.error


def made(
    kind: type[Panel[Any, Any]], selection: Selection, given: dict[str, Any] | None
) -> Panel[Any, Any]:
    """A panel of a bench. What was given is checked; what it makes of a model is its affair."""
    if given is not None:
        return kind(selection=selection, **given)
    try:
        return kind(selection=selection, checked=False)
    except Exception as error:  # whatever a model of one's own raises
        return Broken(selection, kind.title, error)


class BenchView:
    """What every panel of a bench shows, and the errors of those that cannot; by name."""

    def __init__(self, panels: dict[str, Panel[Any, Any]], errors: dict[str, Exception]) -> None:
        self.results = {name: panel.result for name, panel in panels.items()}
        self.errors = errors

    def summary(self) -> dict[str, Any]:
        """The summaries of the results, or what went wrong."""
        shown = {name: r.summary() for name, r in self.results.items() if r is not None}
        return shown | {name: {"error": in_words(error)} for name, error in self.errors.items()}


class Bench:
    """Pick an image once: what the model sees, how it is fooled, what it resembles.

    Filmstrip, stage and answer, and five tiles below, each the small view of a panel; a click
    puts its large one on the stage. Each shows its quick first look at once. The slow part
    follows in the background, of the panel in view first; another image cancels it.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them; by default digits of MNIST.
        compare: a second model, whose answer stands beside the first one's.
        panels: the parameters of each panel by its name in `PANELS`, or the same as JSON.
        view: the panel to show first.
        training: images to mine and to train on, for a data set that is not one of the table.
        auto: whether slow parts start by themselves.

    Raises:
        ValueError: an unknown name, a value out of bounds, or a model that does not fit.
    """

    title: ClassVar[str] = "Bench"

    def __init__(
        self,
        dataset: str | ImageDataset | None = None,
        model: str | Classifier | None = None,
        index: int = 0,
        *,
        compare: str | Classifier = "",
        selection: Selection | None = None,
        panels: dict[str, dict[str, Any]] | str = "{}",
        view: str = "model",
        training: ImageDataset | None = None,
        auto: bool = True,
    ) -> None:
        if dataset is None and model is None:
            dataset, model = START
        self.selection = selection = selection or Selection(dataset, model, index)
        selection.train_on(training)
        given = read(panels)
        checks.known("view", view, PANELS)
        if compare:
            beside = {"compare": selection.add(compare, own=not isinstance(compare, str))}
            given = {**given, **{n: given.get(n, {}) | beside for n in ("model", "eps")}}
        self.panels = {n: made(kind, selection, given.get(n)) for n, kind in PANELS.items()}
        shown = self.panels["model"]
        shown.check(shown.params)  # the model takes the images, and there is such an index
        self.view, self.auto = view, auto
        self.past: list[dict[str, Any]] = []
        self.message = ipw.HTML()
        self._front: Front | None = None
        self._job: Job | None = None
        self._now = selection.state()
        for panel in self.panels.values():
            panel.calm = True
        names = [*Panel.follows, "towards", "layer"]
        selection.observe(guarded(self, self._followed), names)

    # The work.

    def run(self) -> BenchView:
        """Do all the work of all panels here and now; one that fails says so in its frame."""
        ends = {name: panel.attempt(whole=True) for name, panel in self.panels.items()}
        return BenchView(self.panels, {n: error for n, error in ends.items() if error is not None})

    def start(self) -> None:
        """Fill the panels in the background, the one in view first. Returns at once."""
        self.cancel()
        self._job = Job(self._fill(), on_step=lambda _: None, on_end=self._ended)

    def cancel(self) -> None:
        """Start nothing more; what a panel is at goes on."""
        if self._job is not None:
            self._job.cancel()

    def stop(self) -> None:
        """Start nothing more, and cancel what the panels are at; what there is stays."""
        self.cancel()
        for panel in self.panels.values():
            panel.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the panels are filled; False if that goes on after `timeout` seconds."""
        filled = self._job is None or self._job.wait(timeout)
        return filled and all(panel.wait(timeout) for panel in self.panels.values())

    def _fill(self) -> Iterator[Step[None]]:
        time.sleep(PAUSE)
        yield Step(0, len(self.panels), "waiting")
        for panel in self.panels.values():
            panel.wait()
        if self._front is not None:
            self._front.judge()
        # An attack other than that of the tile is launched where one looks at it.
        names = [self.view, *(n for n in self.panels if n not in (self.view, "attack"))]
        for i, name in enumerate(names):
            yield Step(i, len(names), name)
            self.complete(name)
            self.panels[name].wait()

    def complete(self, name: str) -> None:
        """Start the slow part of a panel that has shown a first frame only."""
        with self.selection.lock:
            panel = self.panels[name]
            if not panel.whole and not panel.misfit():
                panel.start()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.message.value = section(escape(str(job.error)))
        elif self._front is not None:
            self._front.show_code()  # of what the panels show by now

    def _followed(self, change: Any) -> None:
        """The selection changed; the panels have started on it by themselves."""
        before, self._now = self._now, self.selection.state()
        drawing = "drawing" in before and "drawing" in self._now  # a stroke is no step to undo
        if not drawing and before != self._now:
            self.past = [*self.past[-PAST + 1 :], before]
        if self._front is not None and change["name"] != "edition":  # a stroke of the pen
            self._front.sync()
        if self.auto:
            self.start()

    def undo(self) -> None:
        """Go back to the image, the model and the classes before the last change."""
        if not self.past:
            return
        state, past = self.past[-1], self.past[:-1]
        s = self.selection
        with s.hold_trait_notifications():
            s.dataset, s.model = state["dataset"], state["model"]
            s.index, s.towards = state["index"], state.get("towards", "")
            s.layer = state.get("layer", "")
        self.past = past
        if self._front is not None:
            self._front.sync()

    @property
    def widget(self) -> ipw.Widget:
        """The screen, with room for a panel's large view and for the pen on its stage."""
        if self._front is None:
            self._front = Front(self)
        return self._front.widget

    @property
    def screen(self) -> Screen:
        """What is seen: values, and what was clicked."""
        assert self.widget is not None
        assert self._front is not None
        return self._front.screen

    def show(self, name: str) -> None:
        """Put a panel's large view on the stage; "" for the image."""
        checks.known("view", name or "model", PANELS)
        self.view = name or MODES[self.screen.mode]
        if self._front is not None:
            self._front.enlarge(name)
        if name and self.auto:
            self.complete(name)

    def compare(self, name: str) -> None:
        """Put a second model beside the first; "" for none."""
        for panel in (self.panels["model"], self.panels["eps"]):
            panel.set(compare=name)
        self.panels["eps"].begin()
        if self.auto:
            self.start()

    # What a bench is, in other forms.

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values, fit for JSON."""
        known = self.selection.state()
        changes: dict[str, dict[str, Any]] = {}
        for name, panel in self.panels.items():
            others = known.keys() - panel.Params.model_fields
            if own := {k: v for k, v in panel.state().items() if k not in others}:
                changes[name] = json.loads(json.dumps(own))
        return {**known, "view": self.view, "panels": changes}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Bench:
        """A bench as `state()` described it."""
        rest = {name: value for name, value in state.items() if name not in SELECTED}
        return cls(selection=Selection.from_state(state), **rest)

    def code(self) -> str:
        """The calls that give what each panel shows, one after the other."""
        # Of a panel that shows an error there is nothing to compute.
        fit = {n: p for n, p in self.panels.items() if not (p.misfit() or p.result is None)}
        return "\n\n".join(f"# {name}\n{code_of(panel)}" for name, panel in fit.items())

    def to_html(self) -> str:
        """The panels as they are now, for reports: works with no kernel."""
        parts = []
        for name, panel in self.panels.items():
            if panel.waits and not panel.whole:
                continue  # nobody has pressed its button
            body = static_of(panel) if panel.seen else "<p>not asked yet</p>"
            parts.append(f"<h3>{escape(name)}</h3>{body}")
        return f'<section aria-label="Bench">{"".join(parts)}</section>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        for name, panel in self.panels.items():
            if not panel.seen:
                panel.attempt(whole=name in MOVING and REPORT in os.environ)
        widget = self.widget
        if self.auto:
            self.start()
        return bundle(widget, self.to_html(), f"Bench({self.state()})")


def static_of(panel: Panel[Any, Any]) -> str:
    """A panel as it stands in a report, or that it cannot be drawn."""
    try:
        return panel.to_html()
    except Exception as error:  # whatever a model of one's own raises
        return failure(panel.title, error)


def code_of(panel: Panel[Any, Any]) -> str:
    """The code of a panel, or a comment that says why there is none."""
    try:
        return panel.code()
    except Exception as error:  # whatever a model of one's own raises
        return f"# no code: {' '.join(in_words(error).split())}"


def read(panels: dict[str, dict[str, Any]] | str) -> dict[str, dict[str, Any]]:
    """The parameters of the panels, checked.

    Raises:
        ValueError: not JSON of an object of objects, or a panel that is none.
    """
    try:
        given = json.loads(panels) if isinstance(panels, str) else panels
    except json.JSONDecodeError as error:
        raise ValueError(f"panels: expected JSON, got {str(panels)[:60]!r}: {error}") from None
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        example, got = '{"attack": {"eps": 0.1}}', f"{str(panels)[:60]!r}"
        raise ValueError(f"panels: expected parameters by panel, such as {example}, got {got}")
    for name in given:
        checks.known("panel", name, PANELS)
    return given
