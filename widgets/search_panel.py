"""`SearchPanel`: a search beside those at random; click a point, train it, open it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import ipywidgets as ipw
from pydantic import Field

from workbench import checks, models, registry, search
from workbench.models import Classifier, Treated
from workbench.params import Parameters
from workbench.search import Searcher, Table, cells
from workbench.search.space import Key, Point
from workbench.steps import Step

from .form import Form
from .frame import guarded
from .job import Job
from .opened import Opened
from .searched import Measured, SearchView, picture

OWN = "my_table"  # what a table that is given is called
SEARCHERS: dict[str, type[Searcher]] = {
    name: getattr(search, name)
    for name in (
        *("Random", "Evolution", "PolicyGradient", "Surrogate", "TreeSearch"),
        *(library for library in ("Optuna", "Nevergrad") if find_spec(library.lower())),
    )
}
Make = Callable[[Point, int], Iterator[Step[Treated]]]


class SearchPanelParameters(Parameters):
    """What `SearchPanel` searches, and how, and what is looked at."""

    table: str = Field("digits", description="all cells, as they were trained on these images")
    searcher: str = Field("Evolution", description="how the next point is chosen")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the searcher")
    budget: int = Field(40, ge=1, le=500, title="evaluations", description="how many, at most")
    chosen: tuple[int, ...] = Field(
        (), description="the point looked at, by its options' numbers; the best so far when empty"
    )
    seed: int = Field(0, ge=0, le=10**6, description="of the search, and of a training afresh")


class SearchPanel(Opened[SearchPanelParameters, SearchView]):
    """Search a table, beside 300 searches at random; click a point to train it and open it.

    Args and Raises: as of `Panel`; the parameters are `SearchPanelParameters`. table: the name of
    one that is shipped, or a `Table` with the shares `validation` and `test` and a cost. make: for
    that, from a point and a seed to the steps of a training on images like those selected.
    searcher: a name, a call or a `Searcher`.
    """

    Params = SearchPanelParameters
    title = "Search panel"
    follows = ("dataset", "model")
    only = ("table", "searcher", "budget", "seed")
    matter = ("table", "searcher", "budget")
    action = ("Search", "Evaluate one point after another")
    waits = True
    picks = True

    def __init__(
        self,
        *args: Any,
        table: str | Table = "digits",
        searcher: str | Searcher = "Evolution",
        make: Make | None = None,
        **parameters: Any,
    ) -> None:
        own = isinstance(table, Table)
        name = searcher if isinstance(searcher, str) else searcher.code()
        searcher = registry.made("searcher", SEARCHERS, name, parameters.pop("settings", {}))
        parameters |= {"searcher": type(searcher).__name__, "settings": searcher.changes()}
        self.measured = {OWN: Measured(table)} if isinstance(table, Table) else {}
        self.make = make
        self.made: dict[tuple[str, Key, int], tuple[Classifier, float]] = {}
        self.opening: tuple[Job | None, Key, int] = (None, (), 0)  # what opens when it is trained
        super().__init__(*args, table=OWN if own else table, **parameters)

    def check(self, params: SearchPanelParameters) -> None:
        """Check that there are such a table, such a searcher and such a point."""
        m = self.measures(params.table)
        self.searcher(params)
        if params.chosen and params.chosen not in m.numbers:
            expected = f"expected the numbers of a point's options, such as {m.best}"
            raise ValueError(f"chosen: {expected}, got {params.chosen}")

    def measures(self, name: str) -> Measured:
        """A table by name, with what was read off it."""
        if name not in self.measured:
            checks.known("table", name, [*self.measured, *cells.IMAGES])
            self.measured[name] = Measured(cells.table(name))
        return self.measured[name]

    def searcher(self, params: SearchPanelParameters) -> Searcher:
        """The searcher that the parameters say."""
        return registry.made("searcher", SEARCHERS, params.searcher, params.settings)

    # The work.

    def peek(self) -> Iterator[Step[SearchView]]:
        """All points, then the band of searches at random; nothing is searched."""
        p, m = self.params, self.measures(self.params.table)
        view = self.updated(SearchView(m, self.searcher(p).code(), p.budget))
        yield Step(0, 1, "searches at random", view)
        m.band(p.budget)
        yield Step(1, 1, "ready", view)

    def steps(self) -> Iterator[Step[SearchView]]:
        """The band, then one evaluation after another."""
        p, view = self.params, self.first()
        yield from self.peek()
        table = view.measured.table
        run = self.searcher(p).steps(table.space, table.objective(), budget=p.budget, seed=p.seed)
        for step in run:
            assert step.value is not None, "a search shows all it tried"
            view = self.updated(replace(view, search=step.value))
            yield Step(step.done, step.total, step.message, view)

    def updated(self, result: SearchView) -> SearchView:
        """The point that is looked at now, and what was trained of it."""
        p, s, trials = self.params, self.selection, result.search.trials
        chosen = p.chosen or (result.search.best.key if trials else result.measured.best)
        known = self.made.items()
        made = {seed: share for (*of, seed), (_, share) in known if of == [p.table, chosen]}
        opens = f"opens on {self.home}" + f", beside {s.model}" * (s.origin == self.home)
        opens = "" if p.table == OWN and self.make is None else opens
        return replace(result, chosen=chosen, made=made, opens=opens)

    @property
    def home(self) -> str:
        """The data set on which networks are trained and opened: the table's, or the selected."""
        table = self.params.table
        return self.selection.origin if table == OWN else cells.IMAGES[table][0]

    def training(self, key: Key) -> Iterator[Step[SearchView]]:
        """Train a point afresh, and count what it gets right."""
        p, view = self.params, self.result or self.first()
        view.measured.band(view.budget)  # where a first look was cut short
        point, step = view.measured.table.space.point(key), Step[Treated](0, 1)
        if p.table != OWN:
            work, test = cells.train.steps(point, p.table, p.seed), cells.images(p.table)[2]
        elif self.make is not None:
            work, test = self.make(point, p.seed), self.selection.as_it_is()
        else:
            raise RuntimeError("this table says how no point is trained: give make=")
        for step in work:  # the picture stays as it is
            yield Step(step.done, step.total, f"training: {step.message}")
        assert step.value is not None, "a training gives a model"
        model = step.value.model
        counts = models.measure(model, test)
        self.made[p.table, key, p.seed] = model, counts["test_correct"] / counts["test_total"]
        yield Step(1, 1, "trained", self.updated(self.result or view))

    def train(self) -> None:
        """Train the point looked at in a thread, then open it; what was trained opens at once."""
        key, seed = (self.result or self.look()).chosen, self.params.seed
        self.set(chosen=key)  # another best so far does not take its place
        if (self.params.table, key, seed) in self.made:
            self.open()
        else:
            with self._lock:  # its end waits until it is known what opens
                self.start(self.training(key))
                self.opening = (self.job, key, seed)

    def _end(self, token: object, job: Job) -> None:
        super()._end(token, job)
        if token is self._current and job.state == "done" and job is self.opening[0]:
            guarded(self, self.open)(*self.opening[1:])

    def open(self, key: Key | None = None, seed: int | None = None) -> Any:
        """The bench with a network that was trained, beside the model selected; shown below.

        key, seed: the point looked at, and the present seed, when None.

        Raises:
            RuntimeError: it was not trained.
        """
        from .bench import Bench

        p, s = self.params, self.selection
        of = (p.table, key or p.chosen, p.seed if seed is None else seed)
        if of not in self.made:
            raise RuntimeError(f"not trained with seed {of[2]} yet: press Train it and open it")
        model, images = self.made[of][0], s.as_it_is(self.home)
        first = int((model.predict(images.images).label.cpu() != images.labels).float().argmax())
        own = s.is_own(self.home)
        options = {"compare": s.classifier()} if s.origin == self.home else {}
        options |= {"training": s.own_training()} if own else {}
        return self.show(Bench(images if own else self.home, model, first, **options))

    # The picture.

    def draw(self, result: SearchView) -> str:
        """The best so far beside random's band, all points, and the one looked at."""
        return picture(result)

    def code(self) -> str:
        """The calls that give the search shown, and the network that was trained."""
        p = self.params
        table = OWN if p.table == OWN else f"cells.table({p.table!r})"
        call = f"table.space, table.objective(), budget={p.budget}, seed={p.seed}"
        lines = ["from workbench import search", "from workbench.search import cells", ""]
        lines += [f"table = {table}", f"result = search.{self.searcher(p).code()}({call})"]
        key = self.result.chosen if self.result is not None else ()
        if p.table != OWN and (p.table, key, p.seed) in self.made:
            train = f"cells.train(table.space.point({key}), {p.table!r}, seed={p.seed})"
            lines += [f"model = {train}.model"]
        return "\n".join(lines)

    # The controls.

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """The chart: the point nearest to a click, or the next by an arrow; the button: train."""
        arrow = event["key"].startswith("Arrow")
        if what == "train" and not arrow:
            self.train()
        elif what == "points" and self.result is not None and (arrow or not event["key"]):
            self.set(chosen=self.result.next(event))
            self.redraw()

    def choices(self) -> dict[str, list[Any]]:
        """The tables and the searchers."""
        named = [(kind.title, name) for name, kind in SEARCHERS.items()]
        return {"table": [*dict.fromkeys([*self.measured, *cells.IMAGES])], "searcher": named}

    def controls(self) -> ipw.Widget:
        """The form; that of the searcher is folded."""
        self.others = ipw.Box()
        self._show_settings()
        return super().controls()

    def folded(self) -> list[ipw.Widget]:
        """What the searcher and the panel can be told."""
        return [self.others, *super().folded()]

    def _show_settings(self) -> None:
        self.settings = Form(self.searcher(self.params), matter=())
        self.settings.observe(guarded(self, self._settings_changed))
        self.others.children = [self.settings.rest]

    def _settings_changed(self, values: Parameters) -> None:
        self.accept(self.params.changed(settings=values.changes()))

    def taken(self, values: SearchPanelParameters) -> SearchPanelParameters:
        """Another searcher has settings of its own, another table other points."""
        other = values.searcher != self.params.searcher
        values = values.changed(settings={}) if other else values
        return values if values.table == self.params.table else values.changed(chosen=())

    def changed(self, before: SearchPanelParameters) -> None:
        """Another searcher brings its form, and an undo what it was."""
        if self.live and self.settings.values != self.searcher(self.params):
            self._show_settings()
        self.begin()

    def followed(self, change: Any) -> None:
        """Another model stands beside what is opened; no search is lost."""
        self.redraw() if self.result is not None else super().followed(change)
