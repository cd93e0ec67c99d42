"""A learner that is told nothing: a jump of the loss calls for another expert."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.continual.learners import Learner, Memory
from workbench.continual.streams import Task
from workbench.data import ImageDataset
from workbench.models import Classifier, Hooks, Ledger, Recipe, Treated, fit, private_copy
from workbench.steps import Step

WINDOW, WAIT, FLOOR = 0.9, 20, 0.05  # memory of the mean; batches before an alarm; least deviation


class Experts(Learner):
    """Experts that are born, or called back, where the loss jumps (TAME: Zhu et al., 2022).

    Neither names nor ends of tasks are looked at. Alarm: a batch's loss is more than z deviations
    above its moving mean. Then the expert with the lowest loss takes over, if that is below half of
    the loss in charge; if no loss is below half of log K, a new one is born. A selector, trained on
    a uniform sample of what has passed, sends test images to experts. The plan gives
    network, batches and `lr`, which stays as it is, for AdamW; its treatments and augmentations
    are left out. Experts are not pruned, as they are in the paper.
    """

    title: ClassVar[str] = "Experts called by the loss"
    paper: ClassVar[str] = "TAME: Task Agnostic Continual Learning using Multiple Experts"

    z: float = Field(4.0, gt=0, description="deviations above the mean that raise an alarm")
    most: int = Field(8, ge=1, le=64, description="experts at most")
    kept: int = Field(300, ge=1, description="images sampled from the stream for the selector")
    passes: int = Field(20, ge=1, description="of the selector over them")

    def learn(self, task: Task, plan: Recipe, memory: Memory) -> Iterator[Step[Treated]]:
        """Every batch of the task, and then the selector."""
        data, ledger, history = task.train, Ledger(), []
        team: Team = memory.state.setdefault("team", Team(plan))
        done, total = 0, plan.epochs * math.ceil(len(data) / plan.batch_size)
        for _ in range(plan.epochs):
            order = torch.randperm(len(data), generator=team.generator)
            for rows in order.split(plan.batch_size):
                row = team.take(data, rows, self, ledger)
                history.append(row)
                done += 1
                told = f"expert {row['expert']} of {len(team.experts)}, loss {row['loss']:.3f}"
                yield Step(done, total, told)
        made = self.joined(team, data, memory)
        networks = dict(memory.networks)
        yield Step(total, total, "selector", Treated(made, history, None, ledger, networks))

    def joined(self, team: Team, data: ImageDataset, memory: Memory) -> Classifier:
        """The experts as they are, behind a selector where there are several."""
        experts = [private_copy(one, share=False) for one in team.experts]
        names = tuple(f"expert {i + 1}" for i in range(len(experts)))
        memory.networks = dict(zip(names, experts, strict=True))  # type: ignore[arg-type]
        images = (255 * team.images).round().byte()
        memory.exemplars = [(images, team.charge.short())]
        card = team.experts[0].card.model_copy(update={"name": self.code()})
        if len(experts) == 1:
            return Classifier(experts[0], card)
        sample = ImageDataset(images.float() / 255, team.charge, names, named=False)
        plan = team.plan.changed(epochs=self.passes)
        selector = fit(plan, sample, name="selector", device="cpu").model
        memory.networks["selector"] = selector
        return Classifier(Selected(experts, selector), card)


@dataclass(eq=False)
class Team:
    """Experts at work: who is in charge, the moving mean of the loss, and what has passed.

    images, charge, draws: a sample of the stream, who was in charge, and the numbers drawn.
    """

    plan: Recipe
    experts: list[Classifier] = field(default_factory=list)
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    now: int = 0
    mean: float = 0.0
    variance: float = 0.0
    batches: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.plan.seed)
        self.images = self.draws = torch.empty(0, dtype=torch.float32)
        self.charge = torch.empty(0, dtype=torch.int64)

    def take(
        self, data: ImageDataset, rows: Tensor, how: Experts, ledger: Ledger
    ) -> dict[str, float]:
        """Look at a batch, say who is to learn it, and let it learn; a row of the history."""
        if not self.experts:
            self.born(data)
        x, y, n = data.images[rows], data.labels[rows], len(rows)
        loss, spread = self.loss(self.now, x, y), max(math.sqrt(self.variance), FLOOR)
        alarm = self.batches > WAIT and loss.item() > self.mean + how.z * spread
        if alarm:
            self.call(data, [self.loss(i, x, y).item() for i in range(len(self.experts))], how)
            loss, self.batches = self.loss(self.now, x, y), 0
        self.optimisers[self.now].zero_grad()
        loss.backward()
        self.optimisers[self.now].step()
        self.follow(loss.item())
        self.sample(x, how.kept)
        ledger.images, ledger.backwards = ledger.images + n, ledger.backwards + n
        ledger.forwards += n * (2 + len(self.experts) if alarm else 1)
        self.step += 1
        row = {"step": self.step, "loss": loss.item(), "expert": self.now + 1}
        return {**row, "alarm": float(alarm)}

    def loss(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        """The loss of an expert."""
        with torch.enable_grad():
            return F.cross_entropy(self.experts[i](x), y)

    def born(self, data: ImageDataset) -> None:
        """A new expert, in charge at once."""
        self.now = len(self.experts)
        plan = self.plan.changed(seed=self.plan.seed + self.now)
        self.experts.append(Hooks().build(plan, data, f"expert {self.now + 1}"))
        self.optimisers.append(Hooks().optimiser(self.experts[-1], plan))

    def call(self, data: ImageDataset, losses: list[float], how: Experts) -> None:
        """After an alarm: who explains the batch, or a new one if nobody does."""
        best = min(range(len(losses)), key=losses.__getitem__)
        if losses[best] < losses[self.now] / 2:
            self.now = best
        elif losses[best] > math.log(len(data.classes)) / 2 and len(losses) < how.most:
            self.born(data)

    def follow(self, loss: float) -> None:
        """Move the mean and the variance of the loss; the first batch sets them."""
        if self.batches == 0:
            self.mean, self.variance = loss, 0.0
        away = loss - self.mean
        self.mean += (1 - WINDOW) * away
        self.variance = WINDOW * (self.variance + (1 - WINDOW) * away**2)
        self.batches += 1

    def sample(self, x: Tensor, kept: int) -> None:
        """Each image draws a number; those with the largest stay: a uniform sample."""
        charge = torch.full((len(x),), self.now)
        draws = torch.cat([self.draws, torch.rand(len(x), generator=self.generator)])
        top = draws.topk(min(kept, len(draws))).indices
        self.draws, self.charge = draws[top], torch.cat([self.charge, charge])[top]
        self.images = torch.cat([self.images.view(-1, *x.shape[1:]), x])[top]


class Selected(nn.Module):
    """Of each image the answer of the expert that the selector names."""

    def __init__(self, experts: list[nn.Module], selector: Classifier) -> None:
        super().__init__()
        self.experts, self.selector = nn.ModuleList(experts), selector

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, K)` of images in [0, 1]."""
        each = torch.stack([expert(x) for expert in self.experts], 1)
        return each[torch.arange(len(x)), self.selector(x).argmax(1)]
