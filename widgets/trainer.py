"""`Trainer`: prototype classifiers trained in a panel, step by step, and kept."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench import models
from workbench.data import ImageDataset
from workbench.models import RECIPES, Classifier, Recipe
from workbench.steps import Step

from .selection import Selection

PICTURES = 200  # copies of the model, at most, in one training
GIVE = "give them to the panel as training=ImageDataset"


class Trainer:
    """Trains on the data set selected; what was cancelled can be gone on with.

    training: images for the data set selected now, where it is not one of the table.
    """

    def __init__(self, selection: Selection, training: ImageDataset | None = None) -> None:
        self.selection = selection
        if training is not None:
            selection.trainings[selection.origin] = training
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-")
        self._keep = Path(self._folder.name) / "unfinished"
        self._plan: Recipe | None = None  # under way, or cancelled
        self._whole: Recipe | None = None  # done, and the model not yet named
        self._plans: dict[str, Recipe] = {}

    @property
    def resumable(self) -> bool:
        """Whether there is a training of this data set to go on with."""
        plan = self._plan
        return plan is not None and plan.dataset == self.selection.origin and self._keep.exists()

    def steps(self, resume: bool, prototypes: int, **recipe: Any) -> Iterator[Step[Classifier]]:
        """A model in training, in copies that hold still.

        recipe: further fields of the `Recipe`; those of the training gone on with when `resume`.

        Raises:
            ValueError: no training images, or too few; fewer prototypes than classes.
        """
        training, name = self.selection.own_training(), self.selection.origin
        if training is None:
            raise ValueError(f"training: there are no training images of {name!r}; {GIVE}")
        if not (resume and self.resumable):
            base = RECIPES.get(f"{name}/prototypes", RECIPES["digits/prototypes"])
            self._plan = base.changed(dataset=name, options={"prototypes": prototypes}, **recipe)
            self._keep.unlink(missing_ok=True)
        plan, model = self._plan, None
        assert plan is not None
        for step in models.fit.steps(plan, training, keep=self._keep, device="cpu"):
            now = step.done % max(1, step.total // PICTURES) == 0 or step.done == step.total
            if step.value is not None and (model is None or now):
                model = copy.deepcopy(step.value.model)
            yield Step(step.done, step.total, step.message, model)
        self._keep.unlink(missing_ok=True)
        self._plan, self._whole = None, plan

    def join(self, model: Classifier) -> str:
        """The name under which a model trained here joins the selection.

        Its accuracy is measured, where some of the images have a label that it knows.
        """
        n, taken = 1, self.selection.models_for(self.selection.dataset)
        while (name := f"my-prototypes-{n}") in taken:
            n += 1
        images, facts = models.matched(self.selection.as_it_is(), model), {"name": name}
        if bool((images.labels >= 0).any()):
            facts |= models.measure(model, images)
        model.card = model.card.model_copy(update=facts)
        if self._whole is not None:
            self._plans[name], self._whole = self._whole, None
        return self.selection.add(model)

    def code(self, name: str) -> str:
        """The call that trains the model called `name` again; of another model, loads it."""
        if name not in self._plans:
            return self.selection.code("model", name)
        plan = self._plans[name]
        data_code = f"data.load({plan.dataset!r}, 'train')"
        return f"models.fit(models.{plan.code()}, {data_code}, device='cpu').model"
