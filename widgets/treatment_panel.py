"""`TreatmentPanel`: make a network other, or train one, watch it, and open it on the bench."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

import ipywidgets as ipw
from pydantic import Field

from workbench import models, treatments
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Treated
from workbench.params import Parameters
from workbench.steps import Step
from workbench.treatments import Change, Training, Treatment

from .blocks import button
from .form import Form
from .frame import guarded
from .job import Job
from .opened import Opened
from .trainable import recipe_for, training_of
from .treated import FEW, Course, Look, TreatmentView, picture

LOOKS = 40  # times the model is looked at on its way, at most
MANY = 2000  # at the end
NONE = "none"


class TreatmentPanelParameters(Parameters):
    """What `TreatmentPanel` makes of the model selected, or of a recipe."""

    treatment: str = Field("Prune", description="what is done; none: train by the recipe alone")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the treatment")
    recipe: str = Field("", description="train a new model by this recipe, for the data selected")
    epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="passes over the training images; 0: as many as the recipe has",
    )
    seed: int = Field(0, ge=0, le=10**6, description="seed of the training, or of chance")


class TreatmentPanel(Opened[TreatmentPanelParameters, TreatmentView]):
    """Pick a treatment, see it work, compare before and after, open both on the bench.

    Args and Raises: as of `Panel`. treatment: a name (see `treatments.available()`), "none", or
    a treatment. training: images, for a data set that is not one of the table. What was
    cancelled while it trained can be gone on with. The parameters are
    `TreatmentPanelParameters`; those of the treatment can be given beside them.
    """

    Params = TreatmentPanelParameters
    title = "Treatment panel"
    only = ("treatment", "recipe", "epochs", "seed")
    matter = ("treatment", "recipe")
    action = ("Start", "Treat the model, or train by the recipe")
    waits = True

    def __init__(
        self,
        *args: Any,
        treatment: str | Treatment = "Prune",
        training: ImageDataset | None = None,
        **parameters: Any,
    ) -> None:
        own = {"dataset", "model", "index", "selection", "checked", "recipe", "epochs", "seed"}
        rest = {k: parameters.pop(k) for k in [*parameters] if k not in own}
        settings = {**rest.pop("settings", {}), **rest}
        name = treatment if isinstance(treatment, str) else type(treatment).__name__
        self.treatment = treatment if isinstance(treatment, Treatment) else None
        if self.treatment is None and name != NONE:
            self.treatment = treatments.get(name, **settings)
            name = name.partition("(")[0]
        settings = self.treatment.changes() if self.treatment is not None else {}
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-")
        super().__init__(*args, treatment=name, settings=settings, **parameters)
        self.selection.train_on(training)

    def check(self, params: TreatmentPanelParameters) -> None:
        """Check that there is such a recipe, and something to do."""
        if params.recipe and params.recipe not in models.RECIPES:
            models.recipes.recipe(params.recipe)  # says which there are
        if params.treatment == NONE and not params.recipe:
            raise ValueError("treatment: none, and no recipe to train by: there is nothing to do")

    # The work.

    def peek(self) -> Iterator[Step[TreatmentView]]:
        """The image and what the parent says of it; nothing is treated."""
        images, index = self.image()
        view = TreatmentView(images, index, self.stage)
        if not self.params.recipe:
            view = replace(view, before=self.look_at(self.selection.classifier(), FEW))
        yield Step(1, 1, "as it is", view)

    def steps(self, course: Course = ()) -> Iterator[Step[TreatmentView]]:
        """The parent, then the model on its way, looked at now and then, and the end.

        course: what was seen of the way before it was cancelled.
        """
        view, step, shown = replace(self.first(), course=course), Step[Treated](0, 1), -1
        if view.before is not None:
            whole = self.look_at(self.selection.classifier(), MANY, costs=True)
            view = replace(view, before=whole)
        yield Step(0, 1, "as it is", view)
        for step in self.work():
            now = LOOKS * step.done // max(1, step.total)
            if step.value is not None and now != shown:
                shown, look = now, self.look_at(step.value.model, FEW)
                course = view.course
                if look.accuracy is not None:
                    course += ((step.done / step.total, look.accuracy),)
                view = replace(view, after=look, course=course, history=step.value.history)
            yield Step(step.done, step.total, step.message, view)
        assert step.value is not None, "a treatment gives a model"
        model = step.value.model
        self.unfinished.unlink(missing_ok=True)
        look = self.look_at(model, MANY, costs=True)
        history = step.value.history
        yield Step(1, 1, "done", replace(view, after=look, history=history, model=model))

    def work(self) -> Iterator[Step[Treated]]:
        """The steps of the treatment, or of the training, that the parameters say.

        Raises:
            ValueError: no training images, or what the treatment raises.
        """
        stage, s = self.treatment, self.selection
        if self.name is not None:
            yield from treatments.make.steps(self.name)
            return
        if self.params.recipe or isinstance(stage, Training):
            hooks = [stage] if isinstance(stage, Training) else []
            step = Step[Treated](0, 1)
            for step in models.fit.steps(
                self.plan, training_of(s), treatments=hooks, keep=self.unfinished, device="cpu"
            ):
                yield step
            subject = cast("Treated", step.value).model
        else:
            subject = s.classifier()
        if isinstance(stage, Change):
            training = s.training() if stage.needs_data else None
            yield from stage.steps(subject, training, seed=self.params.seed)

    @property
    def stage(self) -> str:
        """The call that makes the treatment; empty where there is none."""
        return "" if self.treatment is None else self.treatment.code()

    @property
    def name(self) -> str | None:
        """The name by which anybody can make the same; None of what is one's own."""
        s, p = self.selection, self.params
        plain = not (p.recipe or p.epochs or p.seed or s.is_own(s.model) or s.is_own(s.origin))
        known = type(self.treatment) in treatments.available().values()
        if isinstance(self.treatment, Training):  # in a run of the model's own data
            known &= s.origin == getattr(models.RECIPES.get(s.model), "dataset", "")
        return f"{s.model} | {self.stage}" if plain and known else None

    @property
    def plan(self) -> Recipe:
        """The recipe to train by, for the data selected.

        Raises:
            ValueError: none is named, and the model selected has none.
        """
        p, s = self.params, self.selection
        name = p.recipe or s.model
        if name not in models.RECIPES:
            raise ValueError(
                f"recipe: {self.stage} trains, and {name!r} has no recipe to train by; choose one"
            )
        plan = recipe_for(s, name, seed=p.seed)
        return plan.changed(epochs=p.epochs) if p.epochs else plan

    @property
    def unfinished(self) -> Path:
        """Where a training that was cancelled waits."""
        if self.name is not None:
            return treatments.path_of(self.name).with_suffix(".unfinished")
        return Path(self._folder.name) / "unfinished"

    @property
    def resumable(self) -> bool:
        """Whether there is a training to go on with."""
        return self.unfinished.exists()

    def look_at(self, model: Classifier, most: int, *, costs: bool = False) -> Look:
        """What a model says of the image selected, and how often it is right."""
        index = self.image()[1]
        one = self.selection.as_it_is()[index : index + 1]
        known = models.matched(self.selection.as_it_is(), model)
        known = known[known.labels >= 0][:most]
        counts = models.measure(model, known) if len(known) else {"test_correct": 0}
        share = counts["test_correct"] / len(known) if len(known) else None
        cost = models.cost(model) if costs else None
        return Look(model.card.name, model.predict(one.images), share, len(known), cost)

    # The picture.

    def draw(self, result: TreatmentView) -> str:
        """The image, both answers, the course of the work, and what it costs and gains."""
        return picture(result)

    def code(self) -> str:
        """The calls that give the model shown."""
        s, p = self.selection, self.params
        if self.name is not None:
            return f"from workbench import models\n\nmodel = models.load({self.name!r})"
        lines = ["from workbench import data, models, treatments", ""]
        call = self.stage and f"treatments.{self.stage}"
        if p.recipe or isinstance(self.treatment, Training):
            lines.append(f"plan = models.{self.plan.code()}")
            hooks = f", treatments=[{call}]" if isinstance(self.treatment, Training) else ""
            own = s.code("training") if s.origin in s.trainings and s.is_own(s.origin) else None
            training = own or f"data.load({s.origin!r}, 'train')"
            lines.append(f"model = models.fit(plan, {training}{hooks}, device='cpu').model")
        else:
            lines.append(f"model = {s.code('model')}")
        if isinstance(self.treatment, Change):
            training = f", {s.code('training')}" if self.treatment.needs_data else ""
            lines.append(f"model = {call}(model{training}, seed={p.seed}).model")
        return "\n".join(lines)

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to show the same again; plain values."""
        return {**super().state(), "treatment": self.params.treatment}

    # What comes of it.

    def join(self) -> str:
        """The name under which what was made joins the selection, for every panel to use."""
        view = self.result
        if view is None or view.model is None:
            raise RuntimeError("nothing was made yet: press Start, and wait for its end")
        model, s, recipe = view.model, self.selection, self.params.recipe
        if self.name is not None:
            return s.add(model, own=False)  # whoever asks for it by its name has the same
        stem = f"mine/{recipe.replace('/', '-')}" if recipe else model.card.name
        numbered = (f"{stem}-{n}" for n in count(1))
        free = (
            n for n in chain([stem] * (not recipe), numbered) if n not in s.models_for(s.dataset)
        )
        model.card = model.card.model_copy(update={"name": next(free)})
        return s.add(model)

    def open(self) -> Any:
        """The bench with what was made and its parent side by side; also shown below."""
        from .bench import Bench

        name, s = self.join(), self.selection
        parent = s.model if not self.params.recipe else ""
        compare = {"model": {"compare": parent}} if parent and parent != name else {}
        with self.quietly():
            s.model = name
        if self.picker is not None:
            self.picker.sync()
        return self.show(Bench(selection=s, panels=compare))

    # The controls.

    def choices(self) -> dict[str, list[Any]]:
        """The treatments, and the recipes."""
        known = treatments.available().items()
        return {
            "treatment": [*((f"{n}: {kind.title}", n) for n, kind in known), NONE],
            "recipe": [("none: treat the model above", ""), *models.RECIPES],
        }

    def controls(self) -> ipw.Widget:
        """The treatment and its form; start, resume, open on the bench."""
        self.main, self.others = ipw.Box(), ipw.Box()
        self._show_settings()
        return ipw.Box([super().controls(), self.main]).add_class("wb-first")

    def folded(self) -> list[ipw.Widget]:
        """What else the treatment and the panel can be told."""
        return [self.others, *super().folded()]

    def actions(self) -> list[ipw.Widget]:
        """Go on with a training; open what was made."""
        about = "Go on with the training that was cancelled"
        self.buttons = [
            button("Resume", about, guarded(self, self.resume)),
            button("Open on the bench", "Both models, side by side", guarded(self, self.open)),
        ]
        self._enable()
        return [*self.buttons]

    def start(self, work: Iterator[Step[TreatmentView]] | None = None) -> None:
        """Treat from the start; what was cancelled is forgotten, unless `work` goes on with it."""
        if work is None:
            self.unfinished.unlink(missing_ok=True)
        super().start(work)
        self._enable()

    def resume(self) -> None:
        """Go on with the training that was cancelled, in a thread."""
        self.start(self.steps(self.result.course if self.result is not None else ()))

    def shown(self, result: TreatmentView) -> None:
        """Offer what can be done with what there is."""
        self._enable()

    def _end(self, token: object, job: Job) -> None:
        super()._end(token, job)
        self._enable()

    def _enable(self) -> None:
        if hasattr(self, "buttons"):
            running = self.job is not None and self.job.state == "running"
            self.buttons[0].disabled = running or not self.resumable
            self.buttons[1].disabled = self.result is None or self.result.model is None

    def _show_settings(self) -> None:
        self.main.children = self.others.children = []
        if self.treatment is not None and self.params.treatment != NONE:
            names = [*type(self.treatment).model_fields]
            self.treatment_form = form = Form(self.treatment, matter=names[:1])
            form.observe(guarded(self, self._settings_changed))
            self.main.children, self.others.children = [form.first], [form.rest]

    def _settings_changed(self, values: Parameters) -> None:
        self.treatment = cast("Treatment", values)
        self.params = self.params.model_copy(update={"settings": values.changes()})
        self._note()
        self.begin()

    def taken(self, values: TreatmentPanelParameters) -> TreatmentPanelParameters:
        """Another treatment has settings of its own."""
        same = values.treatment == self.params.treatment
        return values if same else values.changed(settings={})

    def changed(self, before: TreatmentPanelParameters) -> None:
        """Another treatment brings its form."""
        name, settings = self.params.treatment, self.params.settings
        if (name, settings) != (before.treatment, before.settings):
            self.treatment = None if name == NONE else treatments.get(name, **settings)
            self._show_settings()
        self.begin()
