"""Names that say how a model was made: `"digits/cnn | Prune(share=0.5) | Quantise(bits=4)"`.

Stages that train come first and make one run of the recipe of the base; stages that change follow
one another. What was made is kept in the data folder, with what it was made of.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import workbench
from workbench import data, models
from workbench.data import ImageDataset
from workbench.models import (
    Classifier,
    Hooks,
    ModelCard,
    Recipe,
    Treated,
    find,
    read_card,
    read_header,
    restore,
    save,
)
from workbench.params import pieces
from workbench.steps import Step, run, work
from workbench.treatments.base import Change, Training, Treatment
from workbench.treatments.registry import get

SEPARATOR = " | "
CHANGED = {
    "version": "the version of the workbench",
    "code": "the code of its stages",
    "parent": "what it was made from",
    "data": "the training data",
}


def split(name: str) -> list[str]:
    """The base of a name and its stages; a bar inside brackets belongs to a stage."""
    return pieces(name, "|")


def stages(name: str) -> tuple[str, list[Treatment]]:
    """The base of a name, and its treatments.

    Raises:
        ValueError: no base, an unknown treatment, a bad value, or a stage that does not fit what
            stands before it; names the stage.
    """
    base, *codes = split(name)
    if not base:
        raise ValueError(f"model {name!r}: it starts with a stage; a model has to stand first")
    chain: list[Treatment] = []
    for number, code in enumerate(codes, 1):
        try:
            stage = get(code)
            if isinstance(stage, Training) and chain and isinstance(chain[-1], Change):
                raise ValueError(
                    f"it trains from the start, and {chain[-1].code()} before it changes a model "
                    "that is trained; put it first"
                )
        except (ValueError, TypeError) as error:
            raise ValueError(f"model {name!r}, stage {number}, {code}: {error}") from None
        chain.append(stage)
    try:
        models.compatible([stage for stage in chain if isinstance(stage, Training)])
    except ValueError as error:
        raise ValueError(f"model {name!r}, stage {error}") from None
    return base, chain


def canonical(name: str) -> str:
    """The one spelling of a name: values in order, without those that are the default.

    Raises:
        ValueError: as `stages`.
    """
    base, chain = stages(name)
    return SEPARATOR.join([base, *(stage.code() for stage in chain)])


def path_of(name: str) -> Path:
    """Where the model of a name is kept: the same file for all spellings."""
    name = canonical(name)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
    key = hashlib.sha256(name.encode()).hexdigest()[:12]
    return data.folder() / "treated" / f"{slug}-{key}.safetensors"


def load(name: str) -> Classifier:
    """The model of such a name: as it is kept, or made now; see `make`."""
    return run(make.steps(name)).model


def card(name: str) -> ModelCard:
    """The card of such a name; before the model is made, that of its base without figures.

    Raises:
        ValueError: as `stages`; an unknown base.
    """
    path, spelled = path_of(name), SEPARATOR.join(split(name))
    if path.exists():
        return read_card(path).model_copy(update={"name": spelled})
    return models.unmeasured(models.card(split(name)[0]), name=spelled)


@work
def make(name: str) -> Iterator[Step[Treated]]:
    """Make the model of a name, and keep it; what is kept already is restored.

    Made anew, with a warning, where something that decided it has changed since.

    Raises:
        ValueError: a stage that cannot be; names it.
        FileNotFoundError: the training data that a stage needs is not there.
    """
    base, chain = stages(name)
    name = SEPARATOR.join(split(name))
    path, marks = path_of(name), marks_of(base, chain)
    if path.exists() and (model := kept(path, name, marks)) is not None:
        yield Step(1, 1, "restored", Treated(model, cost=models.cost(model), path=path))
        return
    step = yield from (_train if isinstance(chain[-1], Training) else _change)(name, base, chain)
    assert step.value is not None
    model = step.value.model
    yield Step(step.total, step.total, "measuring accuracy", step.value)
    model.card = model.card.model_copy(update={"name": name, **measured(model)})
    try:
        save(model, path, **marks)
        done = replace(step.value, path=path)
    except (ValueError, OSError) as error:
        warnings.warn(f"{name}: made, and not kept: {error}", stacklevel=2)
        done = step.value
    yield Step(step.total, step.total, "done", done)


def measured(model: Classifier) -> dict[str, int]:
    """The accuracy of a model on the test images of its data set, if these are at hand."""
    name = model.card.dataset
    if name not in data.available() or not data.present(name):
        return {}
    return models.measure(model, data.load(name))


def kept(path: Path, name: str, marks: dict[str, str]) -> Classifier | None:
    """The model in a file, unless it is damaged, or what decided it has changed."""
    try:
        header, _ = read_header(path)
        # Training data that is not at hand cannot have changed what is kept.
        compared = {key: words for key, words in CHANGED.items() if marks[key]}
        changed = [words for key, words in compared.items() if header.get(key) != marks[key]]
        if not changed:
            model = restore(path)
            model.card = model.card.model_copy(update={"name": name})
            return model
        why = f"since changed: {', '.join(changed)}"
    except ValueError as error:
        why = f"since what was kept is damaged: {error}"
    warnings.warn(f"{name}: made anew, {why}", stacklevel=2)
    return None


def _train(
    name: str, base: str, chain: list[Treatment]
) -> Generator[Step[Treated], None, Step[Treated]]:
    """One run of the recipe of the base, with all stages."""
    plan = recipe_of(base, chain)
    training = training_data(plan.dataset, name, chain)
    for stage in chain:
        if reason := stage.unfit(plan, training):
            raise ValueError(f"model {name!r}, stage {stage.code()}: {reason}")
    step = Step[Treated](0, 1)
    unfinished = path_of(name).with_suffix(".unfinished")
    for step in models.fit.steps(plan, training, name=name, keep=unfinished, device="cpu"):
        yield step
    unfinished.unlink(missing_ok=True)
    return step


def _change(
    name: str, base: str, chain: list[Treatment]
) -> Generator[Step[Treated], None, Step[Treated]]:
    """The last stage, on the model that the others make."""
    *before, stage = chain
    step = Step[Treated](0, 1)
    if before:
        for step in make.steps(SEPARATOR.join([base, *(s.code() for s in before)])):
            yield step
        assert step.value is not None
        parent = step.value.model
    else:
        parent = models.load(base)
    needs = isinstance(stage, Change) and stage.needs_data
    training = training_data(parent.card.dataset, name, [stage]) if needs else None
    if training is not None:
        training = models.matched(training, parent)
    try:
        for step in stage.steps(parent, training):
            yield step
    except ValueError as error:
        raise ValueError(f"model {name!r}, stage {len(chain)}: {error}") from None
    return step


def recipe_of(base: str, chain: list[Treatment]) -> Recipe:
    """The recipe of a base with stages that train.

    Raises:
        ValueError: the base has none.
    """
    if base not in models.RECIPES:
        raise ValueError(
            f"model {SEPARATOR.join([base, chain[0].code()])!r}, stage 1: {chain[0].code()} "
            f"trains, and {base!r} has no recipe to train by; known: {', '.join(models.RECIPES)}"
        )
    plan = models.RECIPES[base]
    return plan.changed(treatments=(*plan.treatments, *(stage.code() for stage in chain)))


def training_data(dataset: str, name: str, chain: list[Treatment]) -> ImageDataset:
    """The training images that a stage needs.

    Raises:
        ValueError: the base names no data set that could be loaded.
        FileNotFoundError: it is not there.
    """
    stage = f"model {name!r}, stage {chain[-1].code()}"
    if dataset not in data.available():
        raise ValueError(
            f"{stage}: it needs training images, and of {dataset!r}, on which the model was "
            "trained, none can be loaded by name; call the treatment on the model and your images"
        )
    try:
        return data.load(dataset, "train")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{stage}: it needs training images: {error}") from None


def marks_of(base: str, chain: list[Treatment]) -> dict[str, str]:
    """What decides the model that a chain of stages makes, hashed, part by part."""
    trains = any(isinstance(stage, Training) for stage in chain)
    files = {inspect.getsourcefile(kind) for s in chain for kind in (type(s), *s.uses())}
    files |= {inspect.getsourcefile(Hooks)} if trains else set()
    parents = [other for stage in chain for other in stage.depends()]
    parents += [] if trains else [base]
    uses = trains or any(isinstance(stage, Change) and stage.needs_data for stage in chain)
    dataset = models.RECIPES[base].dataset if trains and base in models.RECIPES else ""
    dataset = dataset or (models.card(base).dataset if uses and ":" not in base else "")
    at_hand = uses and dataset in data.available() and data.present(dataset, "train")
    plan = recipe_of(base, []).code() if trains and base in models.RECIPES else ""
    return {
        "version": workbench.__version__,
        "code": hashed(*(Path(f).read_bytes() for f in sorted(filter(None, files)))),
        "parent": hashed(plan.encode(), *(weights_of(parent) for parent in parents)),
        "data": data.load(dataset, "train").sha256() if at_hand else "",
    }


def weights_of(name: str) -> bytes:
    """What a model is, hashed: its file, its stages, or its weights."""
    if len(split(name)) > 1:
        base, chain = stages(name)
        return repr((canonical(name), marks_of(base, chain))).encode()
    if ":" not in name:
        return find(name).read_bytes()
    tensors = models.load(name).state_dict().values()
    return hashed(*(t.cpu().numpy().tobytes() for t in tensors)).encode()


def hashed(*parts: bytes) -> str:
    """sha256 of parts, one after the other."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
