"""Learners: how a network goes through a stream of tasks. The ceiling and the floor are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench import steps
from workbench.continual.result import Continual, measured
from workbench.continual.streams import Task
from workbench.data import ImageDataset
from workbench.models import Classifier, Hooks, Ledger, Recipe, Treated, fit
from workbench.params import Parameters
from workbench.steps import Step

UNITS = 1000  # of progress, a task


@dataclass(eq=False)
class Memory:
    """What a learner has on its way from task to task.

    exemplars: images as bytes `(N, C, H, W)` and labels `(N,)`, a pair a task. weights: numbers
    beside the network, such as importances. networks: all that it trains where they are several.
    """

    seen: list[Task] = field(default_factory=list)
    model: Classifier | None = None
    exemplars: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    networks: dict[str, Classifier] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    history: list[dict[str, float]] = field(default_factory=list)

    def bytes(self) -> int:
        """How much is kept beside one network, counted tensor by tensor."""
        kept = [tensor for pair in self.exemplars for tensor in pair]
        kept += [*self.weights.values()]
        kept += [p for model in [*self.networks.values()][1:] for p in model.parameters()]
        return sum(tensor.nbytes for tensor in kept)

    def take(self, treated: Treated) -> None:
        """Enter what a training made and spent."""
        self.model = treated.model
        for name, value in treated.ledger.summary().items():
            before = getattr(self.ledger, name)
            both = max(before, value) if name == "peak_activations" else before + value
            setattr(self.ledger, name, both)
        self.history += [{"task": len(self.seen), **row} for row in treated.history]


class Learner(Parameters):
    """How tasks are learned one after another; a new one gives `hooks`, `after`, or `learn`.

    needs_names: whether it has to be told when a task ends and another begins.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_names: ClassVar[bool] = False

    def hooks(self, memory: Memory, task: Task) -> list[Hooks]:
        """What it changes of the training of a task."""
        return []

    def after(self, task: Task, plan: Recipe, memory: Memory) -> None:
        """The task is learned: what to keep of it."""

    def learn(self, task: Task, plan: Recipe, memory: Memory) -> Iterator[Step[Treated]]:
        """Train on a task, from the network that there is; each task has an order of its own."""
        own = plan.changed(seed=plan.seed + 1009 * len(memory.seen))
        hooks, name = self.hooks(memory, task), self.code()
        yield from fit.steps(own, task.train, treatments=hooks, start=memory.model, name=name)

    def fitting(self, stream: Sequence[Task]) -> None:
        """Check that the stream can be learned so.

        Raises:
            ValueError: no task; tasks of several kinds; no names, where they are needed.
        """
        if not stream:
            raise ValueError("stream: expected at least one task, got none")
        kinds = [(task.train.shape, task.train.classes) for task in stream]
        for task, kind in zip(stream, kinds, strict=True):
            if kind != kinds[0]:
                raise ValueError(f"stream: task {task.name!r} has {kind}, the first {kinds[0]}")
        unnamed = [t for t, task in enumerate(stream) if not task.name]
        if self.needs_names and unnamed:
            raise ValueError(
                f"{type(self).__name__}: stream: task {unnamed[0]} has no name, and this learner "
                "has to be told when a task ends; name it, or take Experts, Replay or FineTune"
            )

    def steps(self, stream: Sequence[Task], plan: Recipe) -> Iterator[Step[Continual]]:
        """Learn the tasks by the plan, each for all of its epochs; a value after each task.

        Raises:
            ValueError: see `fitting`; a training that fails.
        """
        self.fitting(stream)
        memory, value = Memory(), None
        models: list[Classifier] = []
        rows: list[Tensor] = []
        for t, task in enumerate(stream):
            treated = None
            for step in self.learn(task, plan, memory):
                done = UNITS * t + UNITS * step.done // step.total
                treated, told = step.value, f"task {t + 1} of {len(stream)}, {step.message}"
                yield Step(done, UNITS * len(stream), told, value)
            assert treated is not None, "a training ends with a value"
            memory.take(treated)
            memory.seen.append(task)
            self.after(task, plan, memory)
            models = [*models, treated.model]
            rows.append(measured(treated.model, stream))
            accuracy, told_task = torch.stack(rows, 1)
            spent, kept = replace(memory.ledger), memory.bytes()
            value = Continual(
                *(stream, models, accuracy, told_task, spent, kept),
                history=list(memory.history),
                variants=treated.variants,
            )
            yield Step(UNITS * (t + 1), UNITS * len(stream), f"task {t + 1} learned", value)

    def __call__(self, stream: Sequence[Task], plan: Recipe) -> Continual:
        """Run `steps` to the end."""
        return steps.run(self.steps(stream, plan))


class FineTune(Learner):
    """Each task goes on from the last, and nothing is kept: the floor."""

    title: ClassVar[str] = "Fine-tuning"


class Joint(Learner):
    """A new network on all tasks so far, all images kept: the ceiling.

    The last row is that of an ordinary training on the whole, to the bit. The ledger counts all
    trainings.
    """

    title: ClassVar[str] = "All tasks at once"

    def learn(self, task: Task, plan: Recipe, memory: Memory) -> Iterator[Step[Treated]]:
        """Train anew on what has come so far."""
        seen = [each.train for each in (*memory.seen, task)]
        yield from fit.steps(plan, together(seen), name=self.code())

    def after(self, task: Task, plan: Recipe, memory: Memory) -> None:
        """All images stay."""
        memory.exemplars.append(as_bytes(task.train))


def together(parts: Sequence[ImageDataset]) -> ImageDataset:
    """Data sets of the same classes as one."""
    images, labels = (torch.cat([getattr(p, key) for p in parts]) for key in ("images", "labels"))
    return replace(parts[0], images=images, labels=labels, factors=None)


def as_bytes(dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Images in 8 bits `(N, C, H, W)` and labels in 16 `(N,)`, to be kept."""
    return (255 * dataset.images).round().byte(), dataset.labels.short()
