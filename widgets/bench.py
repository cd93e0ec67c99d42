"""`Bench`: one image and five views of it, side by side and linked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from html import escape
from typing import Any, ClassVar, Literal

import ipywidgets as ipw

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.steps import Step

from .attack_panel import AttackPanel
from .blocks import bundle, code_block, in_words, section
from .draw_pad import DrawPad
from .form import choose_from
from .frame import guarded
from .job import Job
from .level_set_panel import LevelSetPanel
from .model_panel import ModelPanel
from .panel import Panel
from .pattern_panel import PatternPanel
from .picker import Picker
from .prototype_panel import PrototypePanel
from .saver import Saver
from .selection import SELECTED, Selection

PANELS: dict[str, type[Panel[Any, Any]]] = {
    "model": ModelPanel,
    "attack": AttackPanel,
    "prototypes": PrototypePanel,
    "level set": LevelSetPanel,
    "patterns": PatternPanel,
}
COLUMNS = "repeat(auto-fit, minmax(30em, 1fr))"
PAUSE = 0.4  # seconds without another image, or a stroke of the pen, before slow parts start


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

    Each panel shows its quick first frame at once. The slow part follows in the background,
    of the panel in view first; another image cancels what is under way.

    Args:
        dataset, model, index, selection: as `ModelPanel` takes them.
        panels: the parameters of each panel by its name in `PANELS`, or the same as JSON.
        view: the panel to show first. layout: "tabs", or "grid" for all side by side.
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
        selection: Selection | None = None,
        panels: dict[str, dict[str, Any]] | str = "{}",
        view: str = "model",
        layout: Literal["tabs", "grid"] = "tabs",
        training: ImageDataset | None = None,
        auto: bool = True,
    ) -> None:
        self.selection = selection = selection or Selection(dataset, model, index)
        selection.train_on(training)
        given = read(panels)
        checks.known("view", view, PANELS)
        checks.known("layout", layout, ("tabs", "grid"))
        self.panels = {n: made(kind, selection, given.get(n)) for n, kind in PANELS.items()}
        shown = self.panels["model"]
        shown.check(shown.params)  # the model takes the images, and there is such an index
        self.view, self.layout, self.auto = view, layout, auto
        self.message = ipw.HTML()
        self.code_view = ipw.HTML()
        self.picker: Picker | None = None
        self.pad: DrawPad | None = None
        self._widget: ipw.Widget | None = None
        self._job: Job | None = None
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

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the panels are filled; False if that goes on after `timeout` seconds."""
        filled = self._job is None or self._job.wait(timeout)
        return filled and all(panel.wait(timeout) for panel in self.panels.values())

    def _fill(self) -> Iterator[Step[None]]:
        time.sleep(PAUSE)
        yield Step(0, len(self.panels), "waiting")
        for panel in self.panels.values():
            panel.wait()
        names = [self.view, *(name for name in self.panels if name != self.view)]
        for i, name in enumerate(names):
            yield Step(i, len(names), name)
            self._complete(name)
            self.panels[name].wait()

    def _complete(self, name: str) -> None:
        """Start the slow part of a panel that has shown a first frame only."""
        with self.selection.lock:
            panel = self.panels[name]
            if not panel.whole and not panel.misfit():
                panel.start()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.message.value = section(escape(str(job.error)))
        elif self._widget is not None:
            self._show_code()  # of what the panels show by now

    def _followed(self, change: Any) -> None:
        """The selection changed; the panels have started on it by themselves."""
        if self._widget is not None:
            self._sync()
        if self.auto:
            self.start()

    # The widgets.

    @property
    def widget(self) -> ipw.Widget:
        """The picker and the draw pad above, the panels below."""
        if self._widget is None:
            self.picker = picker = Picker(self.selection, partial(guarded, self))
            for panel in self.panels.values():
                panel.picker = picker
            shown = [panel.framed() for panel in self.panels.values()]
            self.heads = [ipw.HTML() for _ in shown]
            self.tabs = ipw.Tab(shown, selected_index=list(PANELS).index(self.view))
            self.tabs.observe(guarded(self, self._turned), "selected_index")
            pairs = [ipw.VBox(pair) for pair in zip(self.heads, shown, strict=True)]
            grid = ipw.GridBox(pairs, layout={"grid_template_columns": COLUMNS, "grid_gap": "1em"})
            panels = self.tabs if self.layout == "tabs" else grid
            draw, brush = "Draw an image, or load one", "Draw on the image selected"
            follow = "; the panels follow"
            self.draw = ipw.ToggleButton(description="✎ draw", tooltip=draw + follow)
            self.brush = ipw.ToggleButton(description="✎ brush", tooltip=brush + follow)
            for button in (self.draw, self.brush):
                button.observe(guarded(self, self._drawing_toggled), "value")
            about = "Class of what you draw; type to search"
            self.meant = ipw.Combobox(description="it is", tooltip=about, ensure_option=True)
            self.easel = ipw.VBox(layout={"display": "none"})
            left = ipw.VBox([picker.widget, ipw.HBox([self.draw, self.brush, self.meant])])
            top = ipw.HBox([left, self.easel], layout={"flex_flow": "row wrap"})
            self.saver = Saver(self)
            titles = ["Copy the bench as code", "Save as notebook or report"]
            self.below = ipw.Accordion([self.code_view, self.saver.widget], titles=titles)
            self.below.observe(guarded(self, lambda _: self._show_code()), "selected_index")
            self._widget = ipw.VBox([top, self.message, panels, self.below])
            self._sync()
        return self._widget

    def _sync(self) -> None:
        """Bring the tabs' titles and the classes into line with the selection."""
        assert self.picker is not None
        self.picker.sync()
        for i, (name, panel) in enumerate(self.panels.items()):
            title = f"⊘ {name} (not this model)" if panel.misfit() else name
            self.tabs.set_title(i, title)
            self.heads[i].value = f"<h3>{title}</h3>"
        classes, meant = self.selection.class_names(), self.meant.value
        choices = [("not said", ""), *((name, name) for name in classes)]
        choose_from(self.meant, choices, meant if meant in classes else "")
        self._show_code()

    def _show_code(self) -> None:
        """Show the code, where it is unfolded: it is not made anew at every stroke of a pen."""
        if self.below.selected_index == 0:
            self.code_view.value = code_block(self.code())

    def _turned(self, change: Any) -> None:
        """Another panel is in view: its slow part does not wait for the others."""
        if change["new"] is not None:
            self.view = list(self.panels)[change["new"]]
            if self.auto:
                self._complete(self.view)

    def _drawing_toggled(self, change: Any) -> None:
        button, other = change["owner"], self.brush if change["owner"] is self.draw else self.draw
        if button.value and other.value:
            other.value = False
        if not button.value:
            self.easel.layout.display = None if other.value else "none"
            return
        image = self.selection.images()[self.selection.index][0]
        on_it = button is self.brush
        self.pad = DrawPad(tuple(image.shape), image if on_it else None, centre=not on_it)
        self.pad.on_drawn(self._drawn)
        self.easel.children = [self.pad]
        self.easel.layout.display = None

    def _drawn(self, drawing: Any) -> None:
        with self.selection.lock:
            self.selection.draw(drawing, self.meant.value)

    # What a bench is, in other forms.

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values, fit for JSON."""
        known = self.selection.state()
        changes: dict[str, dict[str, Any]] = {}
        for name, panel in self.panels.items():
            others = known.keys() - panel.Params.model_fields
            if own := {k: v for k, v in panel.state().items() if k not in others}:
                changes[name] = json.loads(json.dumps(own))
        return {**known, "view": self.view, "layout": self.layout, "panels": changes}

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
            body = panel.to_html() if panel.seen else "<p>not asked yet</p>"
            parts.append(f"<h3>{escape(name)}</h3>{body}")
        return f'<section aria-label="Bench">{"".join(parts)}</section>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        for panel in self.panels.values():
            if not panel.seen:
                panel.attempt()
        widget = self.widget
        if self.auto:
            self.start()
        return bundle(widget, self.to_html(), f"Bench({self.state()})")


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
