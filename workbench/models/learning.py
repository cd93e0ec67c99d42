"""The one training loop, and the five slots in which a treatment changes it.

A run has data (`batch`), an objective (`loss`, `penalty`), a rule (`fill`, `gradients`), an
optimiser (`optimiser`, `rate`) and weights (`build`, `prepare`, `after`, `conclude`). A rule only
fills `.grad`, an optimiser only reads it, so that treatments combine without knowing each other.
Seeded and resumable: the same result to the bit on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

import workbench
from workbench import checks
from workbench.data import ImageDataset
from workbench.models import checkpoints
from workbench.models.classifier import Classifier, finite
from workbench.models.copies import private_copy
from workbench.models.costs import Cost, Ledger, cost, counted, held
from workbench.models.model_card import ModelCard
from workbench.models.plain import augment, fresh, learning_rate
from workbench.models.recipes import Recipe
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

SINGLE = ("build", "loss", "fill", "optimiser", "rate")  # slots that one treatment can fill
STAGE = "workbench.treatments.registry:get"  # who knows the treatments that a recipe names


@dataclass(frozen=True, eq=False)
class Treated:
    """A model on its way or done.

    history: one row a pass over the data, or a step of a change. cost: of the model, once done.
    ledger: what the training has spent. variants: further models that came out of it, by name
    (exits, widths, tasks). While the work goes on, `model` is the one that is worked on.
    """

    model: Classifier
    history: list[dict[str, float]] = field(default_factory=list)
    cost: Cost | None = None
    ledger: Ledger = field(default_factory=Ledger)
    variants: dict[str, Classifier] = field(default_factory=dict)
    path: Path | None = None

    def summary(self) -> dict[str, Any]:
        """The last row of the history, the cost, and the card's accuracies once measured."""
        card = self.model.card
        measured = {"accuracy": card.accuracy, "robust_accuracy": card.robust_accuracy}
        last = self.history[-1] if self.history else {}
        return {
            "model": card.name,
            **last,
            **(self.cost.summary() if self.cost else {}),
            **measured,
        }

    def frame(self) -> pd.DataFrame:
        """The history as a table: of a training epoch, loss, accuracy (on the batches as seen)."""
        import pandas as pd

        return pd.DataFrame(self.history)


class Diverged(ValueError):
    """A loss that is no number any more: the training has broken the model."""


class Hooks:
    """What a treatment may change of a run; every default is the plain loop, to the bit."""

    def build(self, plan: Recipe, training: ImageDataset, name: str) -> Classifier:
        """The model to train; it draws from torch's own generator, which is seeded for it."""
        return fresh(plan, training, name)

    def prepare(self, run: Run) -> None:
        """Before the first step: make what `run.state(self)` is to hold; wrap weights."""

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels of a step, from those that the data and the others gave."""
        return x, y

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is made small, and the logits `(N, K)` it was computed from."""
        return run.model.objective(x, y, run.generator)

    def penalty(self, run: Run, x: Tensor, y: Tensor, logits: Tensor) -> Tensor | None:
        """A number that is added to the loss; None for nothing."""
        return None

    def fill(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fill `.grad` of the weights, and nothing else; the loss and the logits."""
        loss, logits = run.loss(x, y)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach(), logits.detach()

    def gradients(self, run: Run) -> None:
        """`.grad` is filled: change it."""

    def optimiser(self, model: Classifier, plan: Recipe) -> torch.optim.Optimizer:
        """What moves the weights; it only reads `.grad`."""
        return torch.optim.AdamW(model.parameters(), plan.lr, weight_decay=plan.weight_decay)

    def rate(self, run: Run) -> float:
        """The learning rate of the next step, from `run.progress` in [0, 1) or `run.history`."""
        return learning_rate(run.plan, run.progress)

    def after(self, run: Run) -> None:
        """The step is taken, the model in eval mode: averages, clamps, masks."""

    def conclude(self, run: Run) -> Classifier:
        """After the last step: the model that came out of it."""
        return run.model


@dataclass(eq=False)
class Run:
    """A training under way: what the hooks see. A treatment keeps its own in `state(self)`, and
    what `prepare` can make again (a teacher) in `aside[self]`.

    log: numbers of the last step, for the history. generator: of this epoch; every draw of a
    run comes from it, so that a resumed training draws what it would have drawn.
    """

    plan: Recipe
    data: ImageDataset
    treatments: Sequence[Hooks]
    total: int
    device: str
    model: Classifier = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)
    step: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)
    history: list[dict[str, float]] = field(default_factory=list)
    log: dict[str, float] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    variants: dict[str, Classifier] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    aside: dict[Any, Any] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        return self.step / self.total

    def state(self, treatment: Hooks) -> dict[str, Any]:
        """What a treatment keeps: tensors and plain values, saved with a cancelled run."""
        return self.kept.setdefault(str(self.treatments.index(treatment)), {})

    def slot(self, name: str) -> Any:
        """The treatment that fills a slot, or the plain loop."""
        return next((t for t in self.treatments if fills(t, name)), PLAIN)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The objective with everybody's penalties, and the logits."""
        loss, logits = self.slot("loss").loss(self, x, y)
        for treatment in self.treatments:
            extra = treatment.penalty(self, x, y, logits)
            loss = loss if extra is None else loss + extra
        return loss, logits

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """One step on the images `chosen`; the loss and how many were right, on the device."""
        x = augment(self.data.images[chosen], self.plan, self.generator).to(self.device)
        y = self.data.labels[chosen].to(self.device)
        for treatment in self.treatments:
            x, y = treatment.batch(self, x, y)
        rate = self.slot("rate").rate(self)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        watched = held(self.ledger) if self.step == 0 else nullcontext()
        with torch.enable_grad(), watched:
            loss, logits = self.slot("fill").fill(self, x, y)
        for treatment in self.treatments:
            treatment.gradients(self)
        self.optimiser.step()
        self.model.eval()
        for treatment in self.treatments:
            treatment.after(self)
        self.ledger.images += len(chosen)
        return loss, (logits.argmax(1) == y).sum()

    def treated(self, **values: Any) -> Treated:
        """What the run has come to."""
        return Treated(self.model, self.history, ledger=self.ledger, **values)


PLAIN = Hooks()


def fills(treatment: Hooks, slot: str) -> bool:
    """Whether a treatment has a slot for its own."""
    return getattr(type(treatment), slot) is not getattr(Hooks, slot)


@work
def fit(
    plan: Recipe,
    training: ImageDataset,
    *,
    treatments: Sequence[Hooks] = (),
    name: str = "my model",
    start: Classifier | None = None,
    keep: Path | None = None,
    resume: bool = True,
    device: str | None = None,
) -> Iterator[Step[Treated]]:
    """Train on `training` by `plan` and the treatments that it names: one Step a batch.

    treatments: further ones, objects. start: a model whose copy is trained on, in place of a
    fresh one. With `keep`, the state after each epoch is written there and, with `resume`, read
    back if it is of the same plan and images. device: a GPU where there is one, when None;
    only on the CPU is the result the same to the bit.

    Raises:
        ValueError: no images, or images without a label; two treatments for one slot; weights
            that are no numbers any more.
        Diverged: a loss that is none (a ValueError, too), at which step and after which loss.
    """
    learnable(training)
    treatments = [*map(resolve_name(STAGE), plan.treatments), *treatments]
    compatible(treatments)
    run = begin(plan, training, treatments, name, start, device)
    mark = {
        "plan": plan.model_dump_json(),
        "treatments": repr(treatments),
        "data": training.sha256() if keep else "",
        "classes": repr(training.classes),
        "version": workbench.__version__,
    }
    if keep is not None and resume and keep.exists():
        load_state(keep, mark, run)
    with counted(run.model, run.ledger):
        for epoch in range(len(run.history), plan.epochs):
            yield from one_epoch(run, epoch)
            if epoch + 1 == plan.epochs:
                conclude(run)
            if keep is not None:
                save_state(keep, mark, run)
            yield Step(run.step, run.total, f"epoch {epoch + 1} done", run.treated())
    done = run.treated(cost=cost(run.model), variants=run.variants)
    yield Step(run.total, run.total, "done", done)


def begin(
    plan: Recipe,
    training: ImageDataset,
    treatments: Sequence[Hooks],
    name: str,
    start: Classifier | None,
    device: str | None,
) -> Run:
    """A run before its first step."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    total = math.ceil(len(training) / plan.batch_size) * plan.epochs
    run = Run(plan, training, treatments, total, device)
    if start is None:
        model = run.slot("build").build(plan, training, name)
    else:
        model = cast(Classifier, private_copy(start, share=False))
        model.card = unmeasured(start.card, name=name)
    run.model = model.to(device)
    run.model.space = training.space or model.space
    run.generator.manual_seed(plan.seed)
    for treatment in treatments:
        treatment.prepare(run)
    run.optimiser = run.slot("optimiser").optimiser(run.model, plan)
    return run


def one_epoch(run: Run, epoch: int) -> Iterator[Step[Treated]]:
    """Every image once, in an order that the plan's seed decides."""
    plan, n = run.plan, len(run.data)
    # One generator an epoch, so that a resumed training draws what it would have drawn.
    run.generator = torch.Generator().manual_seed(plan.seed * 100_003 + epoch)
    order = torch.randperm(n, generator=run.generator)
    sums = torch.zeros(2, dtype=torch.float32)
    before = run.history[-1]["loss"] if run.history else None
    for chosen in order.split(plan.batch_size):
        loss, right = map(float, run.take(chosen))
        run.step += 1
        if not math.isfinite(loss):
            raise diverged(run, loss, before)
        before = loss
        sums += torch.tensor([loss * len(chosen), right], dtype=torch.float32)
        message = f"epoch {epoch + 1}/{plan.epochs}, loss {loss:.3f}"
        yield Step(run.step, run.total, message, run.treated())
    loss, accuracy = (sums / n).tolist()
    run.history = [
        *run.history,
        {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, **run.log},
    ]


def diverged(run: Run, loss: float, before: float | None) -> Diverged:
    """What to say of a loss that is no number, and of the last one that was."""
    good = "the first" if before is None else f"after {before:.3g} the step before"
    rate = run.optimiser.param_groups[0]["lr"]
    return Diverged(
        f"{run.model.card.name}: the loss is {loss} at step {run.step} of {run.total}, {good}; the "
        f"training has broken the model at a learning rate of {rate:.3g}: a lower one (lr), or a "
        "milder treatment, may keep it"
    )


def conclude(run: Run) -> None:
    """The end of a training: what the model and the treatments do last, and a look at it."""
    run.model.conclude(run.data)
    for treatment in run.treatments:
        run.model = treatment.conclude(run)
    finite(run.model)


def compatible(treatments: Sequence[Hooks]) -> None:
    """Check that no slot is wanted twice.

    Raises:
        ValueError: naming the two treatments and the slot.
    """
    for slot in SINGLE:
        wanted = [type(t).__name__ for t in treatments if fills(t, slot)]
        if len(wanted) > 1:
            raise ValueError(
                f"{wanted[1]}: {wanted[0]} has the slot {slot!r} of the training already, and "
                "there is one of it; take one of the two"
            )


def learnable(training: ImageDataset) -> None:
    """Check that there are images, each with a label; see `fit`."""
    checks.positive("training: number of images", len(training))
    unlabelled = int((training.labels < 0).sum())
    if unlabelled:
        raise ValueError(
            f"training: {unlabelled} of {len(training)} images have no label to learn; leave them "
            "out: training[training.labels >= 0]"
        )


def unmeasured(card: ModelCard, **values: Any) -> ModelCard:
    """A card without what was measured of the model that it was of."""
    fields = ("test_correct", "test_total", "robust_correct", "robust_total", "eps")
    empty = {**dict.fromkeys(fields), "attack": "", "data_sha256": ""}
    return card.model_copy(update={**empty, **values})


def save_state(path: Path, mark: dict[str, str], run: Run) -> None:
    """Write all that a run holds, so that training can go on from here."""
    state = {
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "treatments": run.kept,
        "history": run.history,
        "ledger": vars(run.ledger),
    }
    checkpoints.write_values(path, state, mark)


def load_state(path: Path, mark: dict[str, str], run: Run) -> None:
    """Take up what `save_state` wrote, unless it is of another plan.

    Raises:
        ValueError: the file is damaged.
    """
    metadata, _ = checkpoints.read_header(path)
    if {k: metadata.get(k) for k in mark} != mark:
        return
    state = checkpoints.read_values(path)
    run.model.load_state_dict(state["model"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.kept, run.history = state["treatments"], state["history"]
    vars(run.ledger).update(state["ledger"])
    run.step = len(run.history) * run.total // run.plan.epochs
