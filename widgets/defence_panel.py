"""`DefencePanel`: defences beside the attacks that know them, as a table that fills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from pydantic import Field

from workbench import attacks, models, treatments
from workbench.data import ImageDataset
from workbench.figures import health_table, image_grid
from workbench.models import Classifier
from workbench.params import Parameters, pieces
from workbench.robustness import Defences, compare_defences
from workbench.robustness.defending import COLUMNS
from workbench.steps import Step
from workbench.treatments import Change

from .blocks import live, section, table
from .opened import Opened, cell_html
from .views import filled

SHOWN = 16  # images of the cell that was picked
ABOUT = {  # what each column is, in words
    "clean": "no attack",
    "unknowing": "made for the undefended model",
    "gradient": "the attack on the defence",
    "softened": "the attack on what it computes without rounding, draws and maxima",
    "black box": "Square, which asks for answers alone",
    "knowing": "worst of the attacks that know it",
}


class DefencePanelParameters(Parameters):
    """What `DefencePanel` compares with the model selected, which is undefended."""

    defences: tuple[str, ...] = Field(
        (),
        description="models by name, and treatments of the model selected: Quantise(bits=2)",
    )
    eps: float = Field(
        0.1,
        ge=0.001,
        le=1,
        title="largest change (eps)",
        description="of each pixel (the L-infinity radius)",
        json_schema_extra={"log": True},
    )
    n: int = Field(
        100, ge=1, le=10_000, title="test images", description="how many, from the first on"
    )
    n_steps: int = Field(50, ge=1, le=1000, description="steps of the gradient attack (APGD)")
    n_queries: int = Field(
        300, ge=0, le=10_000, title="queries of Square", description="for an image; 0: without it"
    )
    health: bool = Field(
        True,
        title="ask whether it can be trusted",
        description="run the indicators that show hidden gradients",
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the random draws")


@dataclass(frozen=True, eq=False)
class DefenceView:
    """What the panel shows: the images, the models made so far, the table, the cell picked."""

    images: ImageDataset
    made: dict[str, Classifier] = field(default_factory=dict)
    table: Defences | None = None
    cell: tuple[str, str] | None = None

    def summary(self) -> dict[str, Any]:
        """How many images, and the table as plain values."""
        filled = {} if self.table is None else self.table.summary()
        return {"images": len(self.images), **filled}


class DefencePanel(Opened[DefencePanelParameters, DefenceView]):
    """Choose defences; see what is left of each clean, unknowing and knowing; click a cell.

    Args and Raises: as of `Panel`; the parameters are `DefencePanelParameters`. The model selected
    is the control. defences: names, or classifiers; the robust sibling of the model when None. A
    cell that is clicked opens on the bench.
    """

    Params = DefencePanelParameters
    title = "Defence panel"
    follows = ("dataset", "model")
    action = ("Attack", "Attack every defence, without and with knowledge of it")
    matter = ("defences", "eps", "n")
    waits = True
    picks = True

    def __init__(self, *args: Any, defences: Any = None, **parameters: Any) -> None:
        given = pieces(defences, ",") if isinstance(defences, str) else defences or ()
        self.own = {d.card.name: d for d in given if isinstance(d, Classifier)}
        names = tuple(d.card.name if isinstance(d, Classifier) else d for d in given)
        super().__init__(*args, defences=names, **parameters)
        sibling = f"{self.selection.model}-robust"
        if defences is None and sibling in models.available():
            self.params = self.params.changed(defences=(sibling,))

    def check(self, params: DefencePanelParameters) -> None:
        """Check that there are such models and treatments, and that these fit."""
        model = self.selection.classifier()
        for name in params.defences:
            if name in self.own or is_model(name):
                continue
            treatment = treatments.get(name)
            if isinstance(treatment, Change) and (reason := treatment.unfit(model)):
                raise ValueError(f"{name}: {reason}")

    def images(self) -> ImageDataset:
        """The images attacked: the first of the test split."""
        return self.selection.images()[: self.params.n]

    def peek(self) -> Iterator[Step[DefenceView]]:
        """The images and the control; nothing is made or attacked."""
        control = self.selection.classifier()
        yield Step(1, 1, "ready", DefenceView(self.images(), {control.card.name: control}))

    def steps(self) -> Iterator[Step[DefenceView]]:
        """The defences, made one after the other, then the table, cell by cell."""
        p, view = self.params, self.first()
        parts = len(p.defences) + 1
        for done, name in enumerate(p.defences):
            for step in self._make(name):
                model = step.value.model if step.value is not None else None
                share = done + step.done / max(1, step.total)
                yield Step(int(100 * share), 200 * parts, f"{name}: {step.message}", view)
            assert model is not None
            view = replace(view, made={**view.made, model.card.name: model})
        attack = attacks.APGD(eps=p.eps, n_steps=p.n_steps)
        asked = {} if p.health else {"indicators": ()}
        work = compare_defences.steps(
            view.made, view.images, attack=attack, n_queries=p.n_queries, seed=p.seed, **asked
        )
        yield from filled(view, "table", work, part=1, of=2)

    def _make(self, name: str) -> Iterator[Step[Any]]:
        """The steps that make a defence: a model as it is, or the model selected, treated."""
        s = self.selection
        if name in self.own:
            yield Step(1, 1, "given", models.Treated(self.own[name]))
        elif is_model(name):
            if "|" in name:
                yield from treatments.make.steps(name)
            else:
                yield Step(1, 1, "loaded", models.Treated(models.load(name)))
        elif not s.is_own(s.model):
            yield from treatments.make.steps(f"{s.model} | {name}")
        else:
            stage = treatments.get(name)
            if not isinstance(stage, Change):
                raise ValueError(
                    f"{name}: it trains by a recipe, and {s.model!r}, given as an object, has "
                    "none; train it with TreatmentPanel, and give the result as a defence"
                )
            yield from stage.steps(s.classifier(), s.training(), seed=self.params.seed)

    def updated(self, result: DefenceView) -> DefenceView:
        """Keep the cell that was picked, where it is filled again."""
        before = self.result.cell if self.result is not None else None
        known = result.table is not None and before in result.table.cells
        return replace(result, cell=before) if known and result.cell is None else result

    # The picture.

    def draw(self, result: DefenceView) -> str:
        """The table, what speaks against it, and the images of the cell that was picked."""
        control = next(iter(result.made))
        n = len(result.images)
        if result.table is None:
            others = ", ".join(map(escape, self.params.defences)) or "none chosen yet"
            words = f"<p>{n:,} images; the control is <b>{escape(control)}</b>; defences: {others}."
            return section(words + "</p>", live("Press <b>Attack</b> to fill the table."))
        told, known = result.table, {column for _, column in result.table.cells}
        columns = [c for c in COLUMNS if c in known]
        frame = told.frame().set_index(["defence", "attack"])
        rows = []
        for name in told.order:
            cells = [
                accuracy_html(frame.loc[(name, c)], name, c, result.cell == (name, c))
                if (name, c) in told.cells
                else ('<span class="wb-soft">–</span>' if c == "softened" else "…")
                for c in columns
            ]
            rows.append([escape(name), *cells, trust(told, name)])
        head = [
            "",
            *(f'<span title="{ABOUT[c]}">{c}</span>' for c in columns),
            "can it be trusted?",
        ]
        caption = f"Accuracy on {n:,} images within {self.params.eps:.3g}, with 95 % intervals"
        blocks = [table(caption, rows, head), warned(told)]
        if result.cell in told.cells:
            blocks.append(self._cell(result))
        else:
            blocks.append(live("Click a cell to see its images, here and on the bench."))
        return section(*blocks)

    def _cell(self, result: DefenceView) -> str:
        """The images of a cell, with what the defence says of them."""
        assert result.table is not None
        assert result.cell is not None
        name, column = result.cell
        cell = result.table.cells[name, column]
        data = result.table.dataset
        grid = image_grid(
            cell.images[:SHOWN],
            data.labels[:SHOWN],
            cell.predicted[:SHOWN],
            classes=data.classes,
            height=64,
        )
        parts = [f"<h4>{escape(name)}, {column}: {ABOUT[column]}</h4>", grid.html]
        if name in result.table.health:
            parts.append(health_table(result.table.health[name].findings).html)
        return "".join(parts)

    def code(self) -> str:
        """The calls that give the table shown."""
        p, s = self.params, self.selection
        made = list(self.result.made) if self.result is not None else [s.model]
        calls = [f"models.load({name!r})" for name in made[1:]]
        lines = [
            *self.code_head("from workbench import attacks, data, models, robustness"),
            f"defences = [{', '.join(['model', *calls])}]",
            f"attack = attacks.APGD(eps={p.eps:g}, n_steps={p.n_steps})",
            f"options = {{'n_queries': {p.n_queries}, 'seed': {p.seed}}}"
            + ("" if p.health else " | {'indicators': ()}"),
            f"images = images[:{p.n}]",
            "result = robustness.compare_defences(defences, images, attack=attack, **options)",
        ]
        return "\n".join(lines)

    # What can be clicked.

    def picked(self, what: str, which: str, event: dict[str, Any]) -> None:
        """Show the images of a cell, and open them on the bench."""
        if what == "cell" and self.result is not None and self.result.table is not None:
            name, _, column = which.rpartition("|")
            if (name, column) in self.result.table.cells and not event["key"].startswith("Arrow"):
                self.open_cell((name, column))

    def open(self) -> Any:
        """The bench on the images of the cell that was picked, with the defence; shown below.

        Raises:
            RuntimeError: no cell was picked.
        """
        from .bench import Bench

        view = self.result
        if view is None or view.table is None or view.cell is None:
            raise RuntimeError("no cell was picked: run the panel, and click a cell of its table")
        name, column = view.cell
        data, cell = view.table.dataset, view.table.cells[name, column]
        own = replace(data, images=cell.images, name=f"{data.name}, {column}", factors=None)
        model = view.made[name]
        index = int((~cell.right).float().argmax())  # the first that is fooled
        return self.show(Bench(own, model, index))

    # The controls.

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """The defences: other models of the data, and the treatments that defend."""
        s = self.selection
        home = f"{s.model.partition('/')[0]}/"  # trained on the same data
        others = [n for n in models.available() if n.startswith(home) and n.endswith("-robust")]
        others = [n for n in others if n != s.model]
        known = treatments.available().items()
        stages = [(f"{name}: {kind.title}", name) for name, kind in known if kind.defends]
        given = [(name, name) for name in self.params.defences]
        listed = {name: label for label, name in [*((n, n) for n in others), *stages, *given]}
        return {"defences": [(label, name) for name, label in listed.items()]}


def is_model(name: str) -> bool:
    """Whether a defence is named as a model is, and not as a treatment of the one selected."""
    return "/" in name.partition("(")[0]


def accuracy_html(row: Any, name: str, column: str, chosen: bool) -> str:
    """An accuracy with its interval and a bar, to be clicked."""
    words = f"{row.accuracy:.0%}<br><small>{100 * row.low:.0f}–{row.high:.0%}</small>"
    about = f"{name}, {column}: {row.accuracy:.1%} of {int(row.images)} images right"
    style = "min-width:4.4em;"
    return cell_html(f"{name}|{column}", words, row.accuracy, about, style, chosen=chosen)


def trust(told: Defences, name: str) -> str:
    """Whether something speaks against the figures of a defence."""
    warnings = told.warnings(name)
    if name not in told.health and not warnings:
        return "…"
    if not warnings:
        return '<span class="wb-ok">● no alarm</span>'
    alarms = "alarm" if len(warnings) == 1 else "alarms"
    return f'<span class="wb-warn">■ {len(warnings)} {alarms}</span>'


def warned(told: Defences) -> str:
    """What speaks against the figures, defence by defence."""
    return "".join(
        f'<p><span class="wb-warn">■</span> <b>{escape(name)}</b>: {escape("; ".join(warnings))}. '
        "The attack on it need not be the strongest there is.</p>"
        for name in told.order
        if (warnings := told.warnings(name))
    )
