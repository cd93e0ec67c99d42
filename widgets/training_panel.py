"""`TrainingPanel`: ways of training side by side; a slider over training time sets the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, count
from typing import Any, Literal

import ipywidgets as ipw
import torch
from pydantic import Field

from workbench import models, treatments
from workbench.data import ImageDataset
from workbench.models import Classifier, Diverged, Hooks, Ledger, Prediction, Recipe
from workbench.params import Parameters, pieces
from workbench.steps import Step
from workbench.treatments import LayerStrip, Training, Watched, stages, watch

from .blocks import button, slider
from .frame import guarded
from .opened import Opened
from .trainable import PLAIN, recipe_for, training_of
from .trained import FEW, TrainingView, Way, picture

MOST = 4  # ways at a time
LOOKS = 16  # at the model of each way, evenly on a log scale of steps


class TrainingPanelParameters(Parameters):
    """What `TrainingPanel` trains, and which of the models it looks at."""

    ways: tuple[str, ...] = Field(
        (),
        max_length=MOST,
        title="ways",
        description="recipes by name, with treatments: digits/mlp | GradientNoise(eta=0.1)",
    )
    epochs: int = Field(
        10, ge=0, le=1000, description="passes over the training images; 0: as the recipe has"
    )
    lr: float = Field(
        0.0, ge=0, le=1, title="learning rate", description="of all ways; 0: that of the recipe"
    )
    strip: Literal["gradient", "noise", "update", "nearest mean"] = Field(
        "gradient", title="by layer", description="what the strip shows of each layer"
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the trainings")


class TrainingPanel(Opened[TrainingPanelParameters, TrainingView]):
    """Train by up to four recipes in turns; slide over the models that each went through.

    Args and Raises: as of `Panel`; the parameters are `TrainingPanelParameters`. ways: names of
    recipes with treatments that train; when None the model's own, or a plain one. training:
    images, for a data set that is not one of the table. The slider sets the model of the
    selection, which every view on it follows.
    """

    Params = TrainingPanelParameters
    title = "Training panel"
    follows = ("dataset", "index", "edition")
    only = ("ways", "epochs", "lr", "strip", "seed")
    matter = ("ways", "strip")
    action = ("Train", "Train by all ways in turns")
    waits = True

    def __init__(
        self, *args: Any, ways: Any = None, training: ImageDataset | None = None, **parameters: Any
    ) -> None:
        given = pieces(ways, ",") if isinstance(ways, str) else ways or ()
        self.chosen: tuple[str, int] | None = None  # way and look of the slider; None: the last
        self.answers: dict[tuple[Classifier, int], Prediction] = {}
        super().__init__(*args, ways=tuple(given), **parameters)
        if not given:
            own = self.selection.model
            self.params = self.params.changed(ways=(own if own in models.RECIPES else PLAIN,))
        self.selection.train_on(training)

    def check(self, params: TrainingPanelParameters) -> None:
        """Check that each way is a recipe with treatments that train."""
        for name in params.ways:
            self.plan(name, params)

    def plan(self, name: str, params: TrainingPanelParameters) -> tuple[Recipe, list[Hooks]]:
        """The recipe of a way, for the data selected, and its treatments.

        Raises:
            ValueError: no such recipe, or a treatment of models that are trained already.
        """
        base, chain = stages(name)
        plan = recipe_for(self.selection, base, seed=params.seed)
        later = [stage.code() for stage in chain if not isinstance(stage, Training)]
        if later:
            raise ValueError(
                f"ways: {later[0]} changes a model that is trained, and this panel trains; take "
                "TreatmentPanel for it"
            )
        own: dict[str, Any] = {"epochs": params.epochs} if params.epochs else {}
        own |= {"lr": params.lr} if params.lr else {}
        hooks: list[Hooks] = [stage for stage in chain if isinstance(stage, Training)]
        return plan.changed(**own), hooks

    # The work.

    def peek(self) -> Iterator[Step[TrainingView]]:
        """The image; nothing is trained."""
        yield Step(1, 1, "ready", TrainingView(*self.image()))

    def steps(self) -> Iterator[Step[TrainingView]]:
        """One batch of each way in turn, until all have ended."""
        p = self.params
        if not p.ways:
            raise ValueError("ways: expected one or more recipes to train by, got none")
        training = training_of(self.selection)
        self.answers.clear()
        if not len(self.tested()):
            raise ValueError(
                f"images: none of {self.selection.origin!r} has a label that a model could be "
                "right about; give test images with labels"
            )
        runs = {name: self._run_of(name, training) for name in p.ways}
        view = TrainingView(*self.image(), dict.fromkeys(runs, Way(Ledger())))
        shares = dict.fromkeys(runs, 0.0)
        yield Step(0, 1, "ready", view)
        while runs:
            for name in [*runs]:
                step = next(runs[name], None)
                if step is None:
                    del runs[name]
                    continue
                shares[name] = step.done / step.total
                assert step.value is not None
                view = replace(view, ways={**view.ways, name: step.value})
                done = sum(shares.values()) / len(shares)
                yield Step(int(1000 * done), 1000, f"{name}: {step.message}", view)
        yield Step(1000, 1000, "done", view)

    def _run_of(self, name: str, training: ImageDataset) -> Iterator[Step[Way]]:
        """One way of training, with what is seen of it."""
        plan, hooks = self.plan(name, self.params)
        seen, step = LayerStrip(LOOKS), Step[Watched](0, 1)
        tested = self.tested()
        work = models.fit.steps(plan, training, treatments=[*hooks, seen], name=name, device="cpu")
        means: list[dict[str, Any]] = []
        way = Way(Ledger())
        try:
            right = partial(models.measure, dataset=tested)
            measures = {"accuracy": lambda m: right(m)["test_correct"] / len(tested)}
            for step in watch.steps(work, measures, looks=LOOKS, keep=True):
                told = step.value
                assert told is not None
                assert told.treated is not None
                if len(told.models) > len(way.looks):
                    at, model = [*told.models.items()][-1]
                    self.ask(model)
                    means += nearest_means(model, tested, at)
                    strip = joined(seen.rows, means)
                    way = Way(told.treated.ledger, dict(told.models), (*told.rows,), strip)
                yield Step(step.done, step.total, step.message, way)
        except Diverged as error:
            yield Step(1, 1, "diverged", replace(way, trouble=str(error)))

    def tested(self) -> ImageDataset:
        """The test images that the models are asked about."""
        own = self.selection.as_it_is()
        return own[own.labels >= 0][:FEW]

    def updated(self, result: TrainingView) -> TrainingView:
        """Look at the image selected, with the model that the slider says, or else the last."""
        images, index = self.image()
        result = replace(result, images=images, index=index)
        made = {name: len(way.looks) for name, way in result.ways.items() if way.looks}
        if not made:
            return result
        name, look = self.chosen or (next(iter(made)), LOOKS)
        name = name if name in made else next(iter(made))
        view = replace(result, chosen=(name, min(look, made[name] - 1)))
        return replace(view, prediction=self.answers.get((view.model, index)))

    def ask(self, model: Classifier) -> None:
        """Ask a model about the image selected; `updated` asks none."""
        images, index = self.image()
        self.answers[model, index] = model.predict(images.images[index : index + 1])

    def followed(self, change: Any) -> None:
        """Another image needs no training, and ends none."""
        if change["name"] == "index" and self.result is not None and self.result.chosen is not None:
            self.ask(self.result.model)
            self.redraw()
        else:
            super().followed(change)

    # The picture.

    def draw(self, result: TrainingView) -> str:
        """The image and the answer, the curves, the strip by layer, the ledger."""
        return picture(result, self.params.strip)

    def code(self) -> str:
        """The calls that train in these ways, and keep the models on the way."""
        s = self.selection
        plans = {name: self.plan(name, self.params) for name in self.params.ways}
        lines = ["from workbench import data, models, treatments", ""]
        lines += [f"training = {s.code('training')}", "ways = {}"]
        for name, (plan, hooks) in plans.items():
            calls = ", ".join(f"treatments.{h.code()}" for h in hooks)  # type: ignore[attr-defined]
            extra = f", treatments=[{calls}]" if hooks else ""
            extra += ", device='cpu'"
            lines += [f"steps = models.fit.steps(models.{plan.code()}, training{extra})"]
            call = f"treatments.watch(steps, {{}}, looks={LOOKS}, keep=True)"
            lines += [f"ways[{name!r}] = {call}"]
        return "\n".join(lines)

    # What comes of it.

    def open(self) -> Any:
        """The bench with the model that is looked at; the slider goes on setting it.

        Raises:
            RuntimeError: nothing was trained yet.
        """
        from .bench import Bench

        if self.result is None or self.result.chosen is None:
            raise RuntimeError("nothing was trained yet: press Train, and wait for a first look")
        self.hand_over()
        return self.show(Bench(selection=self.selection))

    def hand_over(self) -> None:
        """Make the model that is looked at that of the selection."""
        view, s = self.result, self.selection
        if view is not None and view.chosen is not None:
            model, stem = view.model, f"{view.chosen[0]}, step {view.step}"
            known = s.models_for(s.dataset)
            names = chain([stem], (f"{stem} ({n})" for n in count(2)))  # trained once more
            name = next(n for n in names if n not in known or s.classifier(n) is model)
            model.card = model.card.model_copy(update={"name": name})
            with self.quietly():
                s.model = s.add(model)
            if self.picker is not None:
                self.picker.sync()

    # The controls.

    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """The recipes that fit the data, and the first of them with each treatment that trains."""
        s = self.selection
        home = s.model if s.model in models.RECIPES else next(iter(self.params.ways), "")
        home = home.partition(" | ")[0]
        same = [n for n in models.RECIPES if n.partition("/")[0] == home.partition("/")[0]]
        names = same if s.origin == home.partition("/")[0] else [*models.RECIPES]
        known = treatments.available().items()
        trains = (
            [
                (f"… {n}: {kind.title}", f"{home} | {kind().code()}")
                for n, kind in known
                if issubclass(kind, Training)
            ]
            if home
            else []
        )
        given = [(name, name) for name in self.params.ways]
        listed = {name: label for label, name in [*((n, n) for n in names), *trains, *given]}
        return {"ways": [(label, name) for name, label in listed.items()]}

    def controls(self) -> ipw.Widget:
        """The form, and the sliders over ways and training time."""
        which = "Which of the ways is looked at"
        self.way = ipw.Dropdown(
            description="look at", options=["nothing yet"], disabled=True, tooltip=which,
            style={"description_width": "initial"}, layout={"width": "auto"},
        )  # fmt: skip
        about = "Looks at the model while it was trained, from the first step to the last"
        self.time = slider(
            ipw.SelectionSlider, "training time", about, options=[("nothing yet", 0)], disabled=True
        )
        self.listen(self.way, lambda _: self._chose())
        self.listen(self.time, lambda _: self._chose())
        return ipw.Box([super().controls(), self.way, self.time]).add_class("wb-first")

    def _chose(self) -> None:
        if self.result is None or self.way.value not in self.result.ways:
            return
        self.chosen = (self.way.value, self.time.value)
        self.ask(self.updated(self.result).model)
        self.redraw()
        if self.bench is not None:
            self.hand_over()

    def changed(self, before: TrainingPanelParameters) -> None:
        """Another quantity of the strip needs no training."""
        same = self.params.changed(strip=before.strip) == before
        self.redraw() if same else super().changed(before)

    def shown(self, result: TrainingView) -> None:
        """The sliders reach as far as there are models."""
        if result.chosen is None:
            return
        name, look = result.chosen
        made = [n for n, way in result.ways.items() if way.looks]
        if [*self.way.options] != made:
            self.way.options = made
        self.way.value, self.way.disabled = name, len(made) < 2
        looks = [(f"step {step:,}", i) for i, step in enumerate(result.ways[name].looks)]
        if [*self.time.options] != looks:
            self.time.options = looks
        self.time.value, self.time.disabled = look, False

    def actions(self) -> list[ipw.Widget]:
        """Open the model that is looked at."""
        about = "The model looked at on the bench, which follows the slider"
        return [button("Open on the bench", about, guarded(self, self.open))]


@torch.no_grad()
def nearest_means(model: Classifier, images: ImageDataset, step: int) -> list[dict[str, Any]]:
    """By layer: the share of the second half of the images whose nearest class mean, of the
    first half, is that of their class."""
    half, labels = len(images) // 2, images.labels
    if half == 0:
        return []
    names = list(model.layers())
    rows: list[dict[str, Any]] = []
    with models.outputs(model, names) as run:
        _, given = run(images.images)
    for name, h in given.items():
        flat = h.flatten(1).float()
        present = labels[:half].unique()
        means = torch.stack([flat[:half][labels[:half] == k].mean(0) for k in present])
        nearest = present[torch.cdist(flat[half:], means).argmin(1)]
        share = float((nearest == labels[half:]).float().mean())
        rows.append({"step": step, "layer": name, "nearest mean": share})
    return rows


def joined(*tables: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Rows of several tables with those of the same step and layer put together."""
    merged: dict[tuple[int, str], dict[str, Any]] = {}
    for row in [row for rows in tables for row in rows]:
        merged.setdefault((row["step"], row["layer"]), {}).update(row)
    return (*merged.values(),)
