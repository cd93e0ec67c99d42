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
        state, n, share = run.state(self), len(x), self.sent_share(run.progress)
        weights = dict(run.model.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in weights.items()}
        losses, answers = [], []
        for worker, rows in enumerate(torch.arange(n, device=x.device).tensor_split(self.workers)):
            if not len(rows):
                continue
            run.optimiser.zero_grad(set_to_none=True)
            loss, logits = run.loss(x[rows], y[rows])
            loss.backward()
            losses.append(loss.detach() * len(rows) / n)
            answers.append(logits.detach())
            # Its part of the batch's mean gradient.
            own = {k: p.grad * (len(rows) / n) for k, p in weights.items() if p.grad is not None}
            scale = self.clipping(own)
            for name, gradient in own.items():
                entries = self.send(state, f"{worker} {name}", gradient * scale, share)
                total[name] += entries
                sent = max(1, math.ceil(share * gradient.numel()))
                dense = sent == gradient.numel()
                run.ledger.bytes_sent += sent * (VALUE if dense else VALUE + INDEX)
        for name, p in weights.items():
            p.grad = total[name]
        return torch.stack(losses).sum(), torch.cat(answers)

    def clipping(self, gradients: dict[str, Tensor]) -> Tensor | float:
        """What a worker multiplies its gradient by: to 1 / sqrt(workers) of the norm allowed."""
        if not self.clip:
            return 1.0
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        # Sums of independent gradients grow with the root of their number.
        return (self.clip / math.sqrt(self.workers) / norm.clamp_min(1e-12)).clamp_max(1.0)

    def send(self, state: dict[str, Tensor], key: str, gradient: Tensor, share: float) -> Tensor:
        """The entries that a worker sends, zero elsewhere; it keeps the rest."""
        gathered = gradient
        if self.momentum:
            velocity = state.get(f"velocity {key}")
            gathered = gradient if velocity is None else self.momentum * velocity + gradient
            state[f"velocity {key}"] = gathered
        waiting = state.get(f"waiting {key}")
        waiting = gathered if waiting is None or not self.memory else waiting + gathered
        k = max(1, math.ceil(share * waiting.numel()))
        mask = torch.zeros(waiting.numel(), dtype=torch.bool, device=waiting.device)
        mask[waiting.abs().flatten().topk(k).indices] = True
        mask = mask.view_as(waiting)
        if self.memory:
            state[f"waiting {key}"] = waiting.masked_fill(mask, 0)
        if self.momentum and self.masking:
            state[f"velocity {key}"] = gathered.masked_fill(mask, 0)
        return waiting.masked_fill(~mask, 0)
