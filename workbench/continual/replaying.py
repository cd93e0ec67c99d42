"""Learners that keep some images: replay, and replay with distillation and aligned weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from workbench.continual.learners import Learner, Memory, as_bytes
from workbench.continual.streams import Task
from workbench.models import Classifier, Hooks, Recipe, Run, private_copy


class Replay(Learner):
    """Kept images of earlier tasks take the place of a share of each batch: equal passes.

    interfered: of three times as many, those whose loss a step on the new images would raise most
    (Aljundi, 2019).
    """

    title: ClassVar[str] = "Replay of kept images"
    paper: ClassVar[str] = "Continual Learning in Neural Networks"

    per_task: int = Field(20, ge=1, description="images kept of a task")
    bytes: int | None = Field(None, ge=1, description="for all images kept, in place of per_task")
    choose: Literal["random", "interfered"] = Field("random", description="which are replayed")
    share: float = Field(0.5, gt=0, lt=1, description="of a batch that is replayed")

    def fitting(self, stream: Sequence[Task]) -> None:
        """There has to be room for one image of each task."""
        super().fitting(stream)
        image = sum(tensor[:1].nbytes for tensor in as_bytes(stream[0].train[:1]))
        if self.bytes is not None and self.bytes < image * len(stream):
            raise ValueError(
                f"{type(self).__name__}: bytes: expected room for an image of each of "
                f"{len(stream)} tasks, {image} bytes each with its label, got {self.bytes}; give "
                f"{image * len(stream)} at least"
            )

    def hooks(self, memory: Memory, task: Task) -> list[Hooks]:
        """Images that are kept come into the batches."""
        return [Rehearsal(self, memory)]

    def after(self, task: Task, plan: Recipe, memory: Memory) -> None:
        """Keep images drawn at random; of a budget each task so far has an equal part."""
        generator = torch.Generator().manual_seed(plan.seed + 1009 * len(memory.seen))
        rows = torch.randperm(len(task.train), generator=generator)
        memory.exemplars.append(as_bytes(task.train[rows]))
        quota = self.per_task
        if self.bytes is not None:
            image = sum(tensor[:1].nbytes for tensor in memory.exemplars[0])
            quota = self.bytes // image // len(memory.exemplars)
        memory.exemplars = [(x[:quota].clone(), y[:quota].clone()) for x, y in memory.exemplars]


class Rehearsal(Hooks):
    """Puts images that are kept into each batch."""

    def __init__(self, learner: Replay, memory: Memory) -> None:
        self.learner, self.memory = learner, memory

    def prepare(self, run: Run) -> None:
        """All images that are kept, as the loop takes them."""
        if self.memory.exemplars:
            images, labels = map(torch.cat, zip(*self.memory.exemplars, strict=True))
            self.images = images.to(run.device).float() / 255
            self.labels = labels.to(run.device).long()

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The last part of the batch makes room; of a batch of one image nothing does."""
        n = int(self.learner.share * len(x))
        if not self.memory.exemplars or not n:
            return x, y
        x, y, many = x[:-n], y[:-n], 3 if self.learner.choose == "interfered" else 1
        rows = torch.randint(len(self.labels), (many * n,), generator=run.generator)
        old, labels = self.images[rows], self.labels[rows]
        if many > 1:
            most = rise(run, (x, y), (old, labels)).topk(n).indices
            old, labels = old[most], labels[most]
        return torch.cat([x, old]), torch.cat([y, labels])


def rise(run: Run, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> Tensor:
    """How much a gradient step on new images would raise the loss of each old one; `(N,)`."""
    weights = dict(run.model.named_parameters())
    with torch.enable_grad():
        loss = F.cross_entropy(run.model(new[0]), new[1])
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    rate = run.slot("rate").rate(run)
    pairs = zip(weights.items(), slopes, strict=True)
    moved = {name: w if g is None else w - rate * g for (name, w), g in pairs}
    with torch.no_grad():
        after = functional_call(run.model, moved, (old[0],))
        ends = [F.cross_entropy(z, old[1], reduction="none") for z in (after, run.model(old[0]))]
    return ends[0] - ends[1]


class DistilAlign(Replay):
    """Replay, the old network as a teacher, and a head whose new rows are scaled (Zhao, 2019).

    The answers grow with the classes seen. The loss is (1 - s) cross-entropy + s divergence from
    the old network's answers about old classes, softened by 2; s is their share of the classes.
    clamp: weights of the head stay >= 0, and it has no bias, so that the length of a row and its
    logits go together. align: in the end new rows are scaled to the mean length of old ones.
    """

    title: ClassVar[str] = "Distillation and weight aligning"
    paper: ClassVar[str] = "Maintaining Discrimination and Fairness in Class Incremental Learning"
    needs_names: ClassVar[bool] = True

    distil: bool = Field(True, description="the old network teaches about old classes")
    clamp: bool = Field(True, description="the head's weights stay at 0 or above, without bias")
    align: bool = Field(True, description="new rows of the head get the mean length of old ones")

    def fitting(self, stream: Sequence[Task]) -> None:
        """Each task has to bring a class that is new."""
        super().fitting(stream)
        seen = torch.zeros_like(stream[0].mask())
        for t, task in enumerate(stream):
            if bool(seen[task.mask()].all()):
                raise ValueError(
                    f"{type(self).__name__}: stream: task {t} ({task.name}) has no new class, and "
                    "new rows are what it aligns; take continual.split, or Replay"
                )
            seen |= task.mask()

    def hooks(self, memory: Memory, task: Task) -> list[Hooks]:
        """Replay, and what is done to the head."""
        return [Growing(self, memory, task)]


class Growing(Rehearsal):
    """Answers from the classes so far; a teacher, a clamp and an end as the learner says."""

    def __init__(self, learner: DistilAlign, memory: Memory, task: Task) -> None:
        super().__init__(learner, memory)
        self.how, self.old = learner, torch.zeros_like(task.mask())
        for each in memory.seen:
            self.old |= each.mask()
        self.seen = self.old | task.mask()

    def prepare(self, run: Run) -> None:
        """Find the head."""
        super().prepare(run)
        self.head, self.teacher = head_of(run.model), self.memory.model
        self.old, self.seen = self.old.to(run.device), self.seen.to(run.device)
        self.after(run)

    def loss(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy over classes seen, and what the old network says of old ones."""
        raw = run.model(x)
        logits = raw.masked_fill(~self.seen, -1e4)
        hard, share = F.cross_entropy(logits, y), float(self.old.sum() / self.seen.sum())
        if not self.how.distil or self.teacher is None:
            return hard, logits
        with torch.no_grad():
            soft = (self.teacher(x)[:, self.old] / 2).softmax(1)
        own = (raw[:, self.old] / 2).log_softmax(1)
        # Softening by 2 makes gradients 4 times smaller (Hinton, 2015).
        return (1 - share) * hard + share * 4 * F.kl_div(own, soft, reduction="batchmean"), logits

    def after(self, run: Run) -> None:
        """Negative weights of the head, and its bias, become 0."""
        if self.how.clamp:
            with torch.no_grad():
                self.head.weight.clamp_(min=0)
                if self.head.bias is not None:
                    self.head.bias.zero_()

    def conclude(self, run: Run) -> Classifier:
        """Note by how much new rows would be scaled, and scale them."""
        new = self.seen & ~self.old
        if not bool(self.old.any()):
            return run.model
        norms = head_norms(run.model)
        run.history[-1]["gamma"] = float(norms[self.old].mean() / norms[new].mean())
        return align_head(run.model, self.old, new) if self.how.align else run.model


def head_of(model: Classifier) -> nn.Linear:
    """The linear layer that gives the logits.

    Raises:
        ValueError: there is none.
    """
    head = model.linear_head()
    if head is None:
        raise ValueError(f"{model.card.name}: expected a linear layer at the end, found none")
    return head


def head_norms(model: Classifier) -> Tensor:
    """The length of each class's row of weights in the last layer, `(K,)`."""
    return head_of(model).weight.detach().norm(dim=1)


def align_head(model: Classifier, old: Tensor, new: Tensor) -> Classifier:
    """A copy in which the rows of new classes have the mean length of those of old ones.

    old, new: classes, as masks `(K,)` or numbers. Biases are scaled alike, so that the new logits
    are multiplied by one number. For any classifier that favours some of its classes.
    """
    norms, twin = head_norms(model), cast(Classifier, private_copy(model, share=False))
    head = head_of(twin)
    for tensor in (head.weight, head.bias):
        if tensor is not None:
            tensor.data[new] *= norms[old].mean() / norms[new].mean()
    return twin
