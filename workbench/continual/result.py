"""`Continual`: the classifiers after each task, and what each knows of every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.continual.streams import Task
from workbench.models import Classifier, Ledger

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Continual:
    """What came of a stream of T tasks, or of the first t of them while the work goes on.

    models: the classifier after each task. accuracy `(t, T)`: row i is of `models[i]`, column u
    of the test images of task u; told: the same where the answer has to be one of the classes of
    task u. memory_bytes: what the learner keeps from task to task beside its one network.
    history: rows of the training. variants: further networks, such as experts.
    """

    stream: Sequence[Task]
    models: list[Classifier]
    accuracy: Tensor
    told: Tensor
    ledger: Ledger
    memory_bytes: int
    history: list[dict[str, float]] = field(default_factory=list)
    variants: dict[str, Classifier] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Measures of `accuracy` (see `measures`), two of `told`, and the bytes kept."""
        told = measures(self.told)
        own = {f"told_{name}": told[name] for name in ("average_accuracy", "forgetting")}
        return {**measures(self.accuracy), **own, "memory_bytes": self.memory_bytes}

    def frame(self) -> pd.DataFrame:
        """One row a model and task: after which, on which, accuracy, told."""
        import pandas as pd

        names = [task.name or f"task {u}" for u, task in enumerate(self.stream)]
        rows = [
            (names[i], name, float(self.accuracy[i, u]), float(self.told[i, u]))
            for i in range(len(self.models))
            for u, name in enumerate(names)
        ]
        return pd.DataFrame(rows, columns=["after", "task", "accuracy", "told"])

    def classifier(self, task: int | None = None, *, after: int = -1) -> Classifier:
        """The classifier after a task; of `task` alone where given: no other class is answered.

        Raises:
            ValueError: no such task.
        """
        found = at("after", after, self.models)
        if task is None:
            return found
        body = Restricted(found, at("task", task, self.stream).mask())
        name = f"{found.card.name}, task {task}"
        return Classifier(body, found.card.model_copy(update={"name": name}))


class Restricted(nn.Module):
    """A classifier whose answers are some of its classes."""

    def __init__(self, model: Classifier, keep: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("keep", keep.to(model.device))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, K)`, those of other classes so low that their probability is 0."""
        return self.model(x).masked_fill(~self.get_buffer("keep"), -1e4)


def at(name: str, index: int, things: Sequence[Any]) -> Any:
    """One of a row of things.

    Raises:
        ValueError: there is none of that number.
    """
    if not -len(things) <= index < len(things):
        raise ValueError(f"{name}: expected 0 to {len(things) - 1}, a task so far, got {index}")
    return things[index]


def measured(model: Classifier, stream: Sequence[Task]) -> Tensor:
    """Accuracy on each task `(2, T)`: with all classes to answer from, and with its own alone."""
    columns = []
    for task in stream:
        logits, y = model.predict(task.test.images).logits, task.test.labels
        own = logits.masked_fill(~task.mask(), -torch.inf)
        columns.append([(each.argmax(1) == y)[y >= 0].float().mean() for each in (logits, own)])
    return torch.tensor(columns).T


def measures(matrix: Tensor) -> dict[str, float]:
    """What is read off an accuracy matrix `(t, T)` (Chaudhry, 2018; Lopez-Paz, Ranzato, 2017).

    average_accuracy: of the last row, over tasks so far. incremental: the same, mean over rows.
    forgetting: from the best earlier row down to the last; backward_transfer: from the row in which
    a task was learned up to the last. forward_transfer: accuracy just before it is learned.
    """
    t = len(matrix)
    last = matrix[-1, : t - 1]
    best = matrix[:-1, : t - 1].tril().amax(0) if t > 1 else last
    nan_free = [
        x.mean() if x.numel() else x.sum() for x in (best - last, last - matrix.diag()[:-1])
    ]
    return {
        "average_accuracy": float(matrix[-1, :t].mean()),
        "incremental": float(torch.stack([matrix[i, : i + 1].mean() for i in range(t)]).mean()),
        "forgetting": float(nan_free[0]),
        "backward_transfer": float(nan_free[1]),
        "forward_transfer": float(matrix.diag(1).mean()) if matrix.shape[1] > 1 else 0.0,
    }
