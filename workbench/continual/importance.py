"""Learners that hold on to weights which mattered to earlier tasks."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parameters_to_vector

from workbench.continual.learners import Learner, Memory
from workbench.continual.streams import Task
from workbench.models import Classifier, Hooks, Recipe, Run

CHUNK = 32  # images whose gradients are held at once


class Importance(Learner):
    """A penalty `strength * sum of importance * (weight - weight after the last task)^2`.

    mas: memory aware synapses (Aljundi, 2019); ewc: the diagonal of Fisher's information
    (Kirkpatrick, 2017); both added up over tasks, held to the weights after the last; l2: 1.
    """

    title: ClassVar[str] = "Important weights stay"
    paper: ClassVar[str] = "Continual Learning in Neural Networks"
    needs_names: ClassVar[bool] = True

    kind: Literal["mas", "ewc", "l2"] = Field("mas", description="what makes a weight important")
    strength: float = Field(1.0, ge=0, description="of the penalty")
    n: int = Field(200, ge=1, description="images of a task on which importance is measured")

    def hooks(self, memory: Memory, task: Task) -> list[Hooks]:
        """The penalty, from the second task on."""
        return [Anchor(self, memory)] if memory.weights else []

    def after(self, task: Task, plan: Recipe, memory: Memory) -> None:
        """Where the weights are, and what each of them is worth."""
        model = memory.model
        assert model is not None
        memory.weights["place"] = parameters_to_vector(model.parameters()).detach()
        if self.kind != "l2":
            generator = torch.Generator().manual_seed(plan.seed + 1009 * len(memory.seen))
            rows = torch.randperm(len(task.train), generator=generator)[: self.n]
            found = importance(model, task.train.images[rows], self.kind)
            worth = parameters_to_vector(found.values())
            memory.weights["worth"] = worth + memory.weights.get("worth", 0)


class Anchor(Hooks):
    """Draws weights to where they were."""

    def __init__(self, learner: Importance, memory: Memory) -> None:
        self.learner, self.memory = learner, memory

    def penalty(self, run: Run, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """The learner's penalty."""
        kept = self.memory.weights
        away = (parameters_to_vector(run.model.parameters()) - kept["place"]).square()
        return self.learner.strength * (away * kept.get("worth", 1)).sum()


def importance(
    model: Classifier, images: Tensor, kind: Literal["mas", "ewc"] = "mas"
) -> dict[str, Tensor]:
    """What each weight is worth to what a classifier says of images `(N, C, H, W)`.

    mas: the mean size of the gradient of the squared length of the logits; no label is needed.
    ewc: the mean square of the gradient of log p(class), over the classes that the model expects.
    By name, in the shapes of the weights.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def outcome(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(model, (weights, buffers), (x[None],))[0]
        if kind == "mas":
            return logits.square().sum()[None], torch.ones_like(logits[:1])
        return logits.log_softmax(0), logits.softmax(0)

    # Image by image: the absolute value of a mean gradient is not the mean absolute value.
    slopes = vmap(jacrev(outcome, has_aux=True), (None, 0))
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for part in images.to(model.device).split(CHUNK):
        found, p = slopes(weights, part)
        for name, slope in found.items():
            size = slope.abs() if kind == "mas" else slope.square()
            total[name] += torch.einsum("nk,nk...->...", p, size) / len(images)
    return total
