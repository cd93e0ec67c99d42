"""Gradients between workers, of which only the largest entries are sent."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training

INDEX, VALUE = 4, 4  # bytes of each entry that is sent; where all are, no index is


class GradientCompression(Training):
    """Each worker sends the largest entries of what it has gathered (Lin et al., 2018).

    A batch is shared out to workers, simulated one after the other. What is not sent waits with its
    worker (memory) and is added to what comes. With momentum m > 0 a worker gathers u <- m u + g,
    not g (momentum correction), and forgets both of an entry that it sends (factor masking). The
    optimiser should then have none: `Optimiser(name="sgd", momentum=0.0)`. Bytes on the way to
    the server are entered into the ledger as `bytes_sent`; those on the way back are not counted.
    """

    title: ClassVar[str] = "Gradients compressed on their way"
    paper: ClassVar[str] = (
        "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training"
    )

    share: float = Field(0.01, gt=0, le=1, description="entries of each tensor that are sent")
    workers: int = Field(4, ge=1, le=64, description="that a batch is shared out to")
    momentum: float = Field(0.0, ge=0, lt=1, description="of each worker, before it compresses")
    memory: bool = Field(True, description="what is not sent is kept for later")
    masking: bool = Field(True, description="momentum of what is sent is forgotten")
    clip: float = Field(0.0, ge=0, description="largest norm of the whole gradient; 0: any")
    warm_up: float = Field(
        0.0, ge=0, lt=1, description="share of the steps in which more is sent, 25 % at first"
    )

    def unfit(self, subject: Classifier | Recipe, data: object = None) -> str:
        """Every worker needs an image of each batch."""
        if isinstance(subject, Recipe) and subject.batch_size < self.workers:
            return f"workers: {self.workers} for batches of {subject.batch_size} images; take fewer"
        return ""

    def sent_share(self, progress: float) -> float:
        """The share sent at this point of the training: a quarter, a quarter of that, ..."""
        if progress >= self.warm_up:
            return self.share
        return max(self.share, 0.25 ** (1 + int(4 * progress / self.warm_up)))

    def fill(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Every worker's share of the batch, what each sends, and the sum of it as `.grad`."""
        weights = dict(run.model.named_parameters())
        given: dict[str, list[Tensor]] = {name: [] for name in weights}
        losses, answers = [], []
        for rows in torch.arange(len(x), device=x.device).tensor_split(self.workers):
            run.optimiser.zero_grad(set_to_none=True)
            if len(rows):
                loss, logits = run.loss(x[rows], y[rows])
                loss.backward()
                losses.append(loss.detach() * len(rows) / len(x))
                answers.append(logits.detach())
            for name, p in weights.items():  # its part of the batch's mean gradient
                own = torch.zeros_like(p) if p.grad is None else p.grad * (len(rows) / len(x))
                given[name].append(own)
        stacks = {name: torch.stack(parts) for name, parts in given.items()}
        scales, share = self.clipping(stacks), self.sent_share(run.progress)
        for name, p in weights.items():
            scaled = stacks[name] * scales.view(-1, *[1] * p.ndim)
            p.grad = self.send(run.state(self), name, scaled, share).sum(0)
            sent = entries(p.numel(), share)
            each = VALUE if sent == p.numel() else VALUE + INDEX
            run.ledger.bytes_sent += self.workers * sent * each
        return torch.stack(losses).sum(), torch.cat(answers)

    def clipping(self, stacks: dict[str, Tensor]) -> Tensor:
        """What each worker multiplies its gradient by, `(workers,)`: at most 1."""
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in stacks.values()]).norm(dim=0)
        if not self.clip:
            return torch.ones_like(norms)
        # Sums of independent gradients grow with the root of their number.
        return (self.clip / math.sqrt(self.workers) / norms.clamp_min(1e-12)).clamp_max(1.0)

    def send(self, state: dict[str, Tensor], name: str, gradient: Tensor, share: float) -> Tensor:
        """What the workers send of a tensor, `(workers, *shape)`, zero elsewhere; they keep the
        rest in `state`."""
        gathered = gradient
        if self.momentum:
            gathered = gradient + self.momentum * state.get(f"velocity {name}", 0)
        waiting = gathered + (state.get(f"waiting {name}", 0) if self.memory else 0)
        flat = waiting.flatten(1)
        mask = torch.ones_like(flat, dtype=torch.bool)
        if (k := entries(flat.shape[1], share)) < flat.shape[1]:
            mask = torch.zeros_like(mask).scatter_(1, flat.abs().topk(k).indices, True)
        mask = mask.view_as(waiting)
        if self.memory:
            state[f"waiting {name}"] = waiting.masked_fill(mask, 0)
        if self.momentum:
            state[f"velocity {name}"] = gathered.masked_fill(mask, 0) if self.masking else gathered
        return waiting.masked_fill(~mask, 0)


def entries(n: int, share: float) -> int:
    """How many of `n` entries are sent: at least one."""
    return max(1, math.ceil(share * n))
