"""`ForgettingPanel`: tasks learned one after another, and what each learner keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

from pydantic import Field

from workbench import continual, models, registry
from workbench.continual import Continual, Learner, Task
from workbench.data import ImageDataset
from workbench.figures.tables import thin
from workbench.models import Recipe
from workbench.params import Parameters, pieces
from workbench.steps import Step

from .blocks import column, figure, live, row, section, table
from .opened import BLUE, Opened, cell_html
from .trainable import PLAIN, recipe_for, training_of

LEARNERS: dict[str, type[Learner]] = {
    name: getattr(continual, name)
    for name in ("FineTune", "Joint", "Replay", "Importance", "DistilAlign", "Experts")
}
DEFAULT = ("FineTune()", "Replay()", "Joint()")  # the floor, the control, the ceiling
TURN = 90  # degrees from the first task to the last


class ForgettingPanelParameters(Parameters):
    """What `ForgettingPanel` has learned, and in which tasks."""

    stream: Literal["split", "permuted", "rotated"] = Field(
        "split",
        title="tasks",
        description="groups of classes; pixels in other orders; images turned by up to 90 degrees",
    )
    n_tasks: int = Field(5, ge=2, le=20, title="how many", description="tasks")
    learners: tuple[str, ...] = Field(
        DEFAULT, description="how they are learned: Replay(per_task=5), Importance(kind='ewc')"
    )
    told: bool = Field(
        False, title="the task is named", description="count answers among its classes alone"
    )
    recipe: str = Field(
        "", description="to train by; that of the model selected when empty, or else digits/mlp"
    )
    epochs: int = Field(10, ge=1, le=1000, description="passes over the images of each task")
    seed: int = Field(0, ge=0, le=10**6, description="of the trainings and of the tasks")


@dataclass(frozen=True, eq=False)
class ForgettingView:
    """What the panel shows: the tasks, what came of each learner so far, the cell picked.

    cell: the learner, the task after which, and the task on which.
    """

    stream: Sequence[Task]
    results: dict[str, Continual] = field(default_factory=dict)
    cell: tuple[str, int, int] | None = None

    def summary(self) -> dict[str, Any]:
        """How many tasks, and what is read off each matrix."""
        told = {name: result.summary() for name, result in self.results.items()}
        return {"tasks": len(self.stream), **told}


class ForgettingPanel(Opened[ForgettingPanelParameters, ForgettingView]):
    """Learn tasks one after another; click a cell for that model on that task, on the bench.

    Args and Raises: as of `Panel`; the parameters are `ForgettingPanelParameters`. learners: calls,
    or learners. training: images, for a data set that is not one of the table.
    """

    Params = ForgettingPanelParameters
    title = "Forgetting panel"
    follows = ("dataset", "model")
    action = ("Learn", "Learn the tasks one after another, by each learner")
    matter = ("stream", "n_tasks", "learners")
    waits = True
    picks = True

    def __init__(
        self,
        *args: Any,
        learners: Any = DEFAULT,
        training: ImageDataset | None = None,
        **parameters: Any,
    ) -> None:
        given = pieces(learners, ",") if isinstance(learners, str) else learners
        names = tuple(one.code() if isinstance(one, Learner) else one for one in given)
        super().__init__(*args, learners=names, **parameters)
        self.selection.train_on(training)

    def check(self, params: ForgettingPanelParameters) -> None:
        """Check that there are such learners, and a recipe to train by."""
        for name in params.learners:
            learner(name)
        self.plan(params)

    def plan(self, params: ForgettingPanelParameters) -> Recipe:
        """The recipe, for the data selected; a plain one where the model selected has none.

        Raises:
            ValueError: there is no such recipe.
        """
        s = self.selection
        name = params.recipe or (s.model if s.model in models.RECIPES else PLAIN)
        changes = {"epochs": params.epochs, "seed": params.seed}
        return recipe_for(s, name, treatments=(), **changes)

    def tasks(self) -> list[Task]:
        """The stream that the parameters say.

        Raises:
            ValueError: no training images; more tasks than classes.
        """
        p, s = self.params, self.selection
        both = [part[part.labels >= 0] for part in (training_of(s), s.as_it_is())]
        if p.stream == "rotated":
            return continual.rotated(*both, degrees(p.n_tasks))
        make = continual.split if p.stream == "split" else continual.permuted
        return make(*both, p.n_tasks, seed=p.seed)

    def peek(self) -> Iterator[Step[ForgettingView]]:
        """The tasks; nothing is learned."""
        yield Step(1, 1, "ready", ForgettingView(self.tasks()))

    def steps(self) -> Iterator[Step[ForgettingView]]:
        """One learner after the other, one task after the other."""
        view, plan, names = self.first(), self.plan(self.params), self.params.learners
        for done, name in enumerate(names):
            for step in learner(name).steps(view.stream, plan):
                if step.value is not None:
                    view = replace(view, results={**view.results, name: step.value})
                at = done * step.total + step.done
                yield Step(at, len(names) * step.total, f"{name}: {step.message}", view)
        yield Step(1, 1, "done", view)

    def updated(self, result: ForgettingView) -> ForgettingView:
        """Keep the cell that was picked, where it is filled again."""
        cell = self.result.cell if self.result is not None else None
        known = cell is not None and cell[0] in result.results
        filled = known and cell[1] < len(result.results[cell[0]].models)  # type: ignore[index]
        return replace(result, cell=cell) if filled and result.cell is None else result

    # The picture.

    def draw(self, result: ForgettingView) -> str:
        """The tasks, each learner's matrix, and the lengths of the head's rows."""
        stream = result.stream
        seen = [
            figure(task.test.images[0], f"task {u + 1}: {task.name}", height=64)
            for u, task in enumerate(stream)
        ]
        if not result.results:
            return section(row(*seen), live("Press <b>Learn</b>."))
        matrices = [self._matrix(result, name) for name in result.results]
        parts = [row(*seen), row(*matrices)]
        if result.cell is not None:
            parts.append(head_bars(result))
        return section(*parts)

    def _matrix(self, view: ForgettingView, name: str) -> str:
        """A learner's accuracies: after each task (down), on each task (across)."""
        result, told = view.results[name], self.params.told
        matrix = (result.told if told else result.accuracy).tolist()
        rows = [
            (f"after {t + 1}", *(self._cell(view, name, t, u, a) for u, a in enumerate(each)))
            for t, each in enumerate(matrix)
        ]
        rows += [(f"after {t + 1}", "…") for t in range(len(matrix), len(view.stream))]
        said = result.summary()
        kind = "told_" if told else ""
        words = (
            f"<small>{said[kind + 'average_accuracy']:.1%} right in the end, forgotten "
            f"{said[kind + 'forgetting']:.1%}; {result.memory_bytes / 1000:,.3g} kB kept beside "
            f"the network; {result.ledger.backwards:,} backward passes</small>"
        )
        head = ["", *(f"on {u + 1}" for u in range(len(view.stream)))]
        return column(table(name, rows, head), words, width="34em")

    def _cell(self, view: ForgettingView, name: str, t: int, u: int, share: float) -> str:
        """An accuracy with its bar, to be clicked; what was not learned yet is fainter."""
        chosen, faint = view.cell == (name, t, u), "opacity:0.6;" if u > t else ""
        about = f"{name}, after task {t + 1}, on {view.stream[u].name}: {share:.1%} right"
        style = f"{faint}min-width:3em;"
        return cell_html(f"{name}|{t}|{u}", f"{share:.0%}", share, about, style, chosen=chosen)

    def code(self) -> str:
        """The calls that give the matrices shown."""
        p, s = self.params, self.selection
        arguments = degrees(p.n_tasks) if p.stream == "rotated" else f"{p.n_tasks}, seed={p.seed}"
        lines = ["from workbench import continual, data, models", ""]
        for part, call in (("training", s.code("training")), ("test", s.code("dataset"))):
            lines += [f"{part} = {call}", f"{part} = {part}[{part}.labels >= 0]"]
        lines += [f"stream = continual.{p.stream}(training, test, {arguments})"]
        lines += [f"plan = models.{self.plan(p).code()}", "results = {}"]
        for name in p.learners:
            lines += [f"results[{name!r}] = continual.{learner(name).code()}(stream, plan)"]
        return "\n".join(lines)

    # What a click does.

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """A cell: that model on that task, on the bench."""
        if what == "cell" and self.result is not None and not event["key"].startswith("Arrow"):
            name, t, u = which.rsplit("|", 2)
            if name in self.result.results:
                self.open_cell((name, int(t), int(u)))

    def open(self) -> Any:
        """The bench on the task that was picked, with the model as it was then; shown below.

        Raises:
            RuntimeError: no cell was picked.
        """
        from .bench import Bench

        view = self.result
        if view is None or view.cell is None:
            raise RuntimeError("no cell was picked: press Learn, and click a cell of a matrix")
        name, t, u = view.cell
        task, model = view.stream[u], view.results[name].models[t]
        title = f"{name}, after task {t + 1}"
        model.card = model.card.model_copy(update={"name": title})
        images = replace(task.test, name=f"task {u + 1}: {task.name}")
        right = model.predict(images.images).label.cpu() == images.labels
        first = int((~right).float().argmax())  # a mistake, where there is one
        return self.show(Bench(images, model, first, training=task.train))

    # The controls.

    def changed(self, before: ForgettingPanelParameters) -> None:
        """Another way of counting needs no training."""
        same = self.params.changed(told=before.told) == before
        self.redraw() if same else super().changed(before)

    def choices(self) -> dict[str, list[Any]]:
        """The learners, and the recipes."""
        known = [(f"{n}: {kind.title}", kind().code()) for n, kind in LEARNERS.items()]
        given = [(n, n) for n in self.params.learners if n not in {code for _, code in known}]
        return {
            "learners": [*known, *given],
            "recipe": [("that of the model selected", ""), *models.RECIPES],
        }


def learner(name: str) -> Learner:
    """The learner of a call.

    Raises:
        ValueError: there is none, or its values are out of bounds.
    """
    return registry.made("learner", LEARNERS, name, {})


def degrees(n: int) -> list[float]:
    """Angles from 0 to a quarter turn."""
    return [round(TURN * i / (n - 1), 1) for i in range(n)]


def head_bars(view: ForgettingView) -> str:
    """The length of each class's row in the last layer: what came last is often longer."""
    assert view.cell is not None
    name, t, _ = view.cell
    model = view.results[name].models[t]
    head = model.linear_head()
    if head is None:
        return ""
    norms = head.weight.detach().norm(dim=1).tolist()
    task = [
        next((u for u, s in enumerate(view.stream) if bool(s.mask()[k])), 0)
        for k in range(len(norms))
    ]
    order = sorted(range(len(norms)), key=lambda k: task[k])
    rows = [
        (
            escape(model.classes[k]),
            str(task[k] + 1),
            f"{norms[k]:.2f}",
            f'<div style="width:10em">{thin(norms[k] / max(norms), BLUE)}</div>',
        )
        for k in order
    ]
    title = f"{name}, after task {t + 1}: length of each class's weights in the last layer"
    return table(title, rows, ["class", "task", "length", ""])
