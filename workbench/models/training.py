"""Training the models that have a recipe, into the files where `load` finds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

from workbench import data
from workbench.models import checkpoints
from workbench.models.learning import Treated, fit
from workbench.models.measuring import measure
from workbench.models.recipes import recipe
from workbench.models.zoo import STAGES
from workbench.steps import Step, work


def treated(name: str, output: Path | str | None) -> Iterator[Step[Treated]]:
    """Make the model of a name with stages, where it is not kept yet; `output`: a copy."""
    step = Step[Treated](0, 1)
    for step in resolve_name(f"{STAGES}:make").steps(name):
        yield step
    if output is not None and step.value is not None:
        checkpoints.save(step.value.model, output)
        yield replace(step, value=replace(step.value, path=Path(output)))


@work
def train(
    name: str, output: Path | str | None = None, *, epochs: int | None = None, resume: bool = True
) -> Iterator[Step[Treated]]:
    """Train the model called `name` by its recipe and write it to `output`.

    `output` defaults to the data folder, where `models.load(name)` finds it. After each
    epoch the state is saved beside it, so that an interrupted training goes on from
    there to the same weights; `resume=False` starts over. A name with stages is made as
    `models.load` makes it, and kept; `epochs` is of recipes alone.

    Raises:
        ValueError: no such recipe.
        FileNotFoundError: the data set is not there and cannot be downloaded.
    """
    if "|" in name:
        yield from treated(name, output)
        return
    plan = recipe(name)
    if epochs is not None:
        plan = plan.changed(epochs=epochs)
    path = Path(output) if output is not None else data.folder() / "models" / f"{name}.safetensors"
    training, test = data.load(plan.dataset, "train"), data.load(plan.dataset, "test")
    kept = path.with_suffix(".unfinished")
    step = Step[Treated](0, 1)
    for step in fit.steps(plan, training, name=name, keep=kept, resume=resume):
        yield step
    assert step.value is not None, "a recipe has at least one epoch"
    yield Step(step.done, step.total, "measuring accuracy", step.value)
    model = step.value.model
    measured = measure(model, test, eps=plan.test_eps)
    model.card = model.card.model_copy(update={**measured, "data_sha256": test.sha256()})
    checkpoints.save(model, path)
    kept.unlink(missing_ok=True)
    yield Step(step.total, step.total, "done", replace(step.value, path=path))
