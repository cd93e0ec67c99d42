"""`Problem`: one batch under attack. It asks the model, counts, and keeps the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from workbench.attacks.goals import Goal
from workbench.attacks.norms import Norm, size
from workbench.models import Classifier
from workbench.spaces import held

Loss = Callable[[Goal, torch.Tensor], torch.Tensor]
FEW = 16  # images whose steps are kept whole, to be scrubbed through
VALUES = 2**19  # and how many numbers these images may have: three of 3 x 224 x 224
LONGEST = 256  # steps kept of one attack
NO_GRADIENT = "the model has no gradient; use a black-box attack such as Square"


@dataclass(frozen=True, eq=False)
class Moment:
    """One step: margins `(N,)`, NaN where an image was left alone; for few images also the
    images tried `(N, C, H, W)` and their logits `(N, K)`.
    """

    step: int
    margin: torch.Tensor
    images: torch.Tensor | None
    logits: torch.Tensor | None


class Problem:
    """Images `x` `(N, C, H, W)` and a goal; `eps` `(N,)` where there is a budget.

    Every image that an attack tries goes through `logits` or `gradient`, which count the
    queries, and through `offer`, which keeps for each image the best so far: one that
    meets the goal before one that does not, then the smaller perturbation (`smallest`) or
    the first found, and until one is found the smallest margin. No image is ever replaced
    by anything else than what was tried. Where the model's input has coordinates that may not
    move (`workbench.spaces`), what is tried has them as they were.
    """

    def __init__(
        self,
        model: Classifier,
        x: torch.Tensor,
        goal: Goal,
        eps: torch.Tensor | None,
        generator: torch.Generator,
        *,
        norm: Norm,
        smallest: bool,
    ) -> None:
        n = len(x)
        self.model, self.x, self.goal, self.eps = model, x, goal, eps
        self.generator, self.norm, self.smallest = generator, norm, smallest
        self.best, self.last = x.clone(), x.clone()
        self.found = torch.zeros(n, dtype=torch.bool, device=x.device)
        self.margin = x.new_full((n,), torch.inf)
        self.distance = self.margin.clone()
        self.forwards = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.backwards = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.best_logits = x.new_zeros(n, len(model.classes))
        self.last_logits = self.best_logits.clone()
        self.trace: list[Moment] = []
        self.n_steps, self.stride = 0, 1
        self.lost = torch.zeros_like(self.found)  # images of which the model said no numbers
        self.given_up = torch.zeros_like(self.found)  # images that an attack leaves, saying why:
        self.remarks: list[str] = []

    def __len__(self) -> int:
        return len(self.x)

    def budget(self, index: torch.Tensor) -> torch.Tensor:
        """The budgets `(M,)` of the images `index`."""
        assert self.eps is not None, "an attack with a budget"
        return self.eps[index]

    def held(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """What is tried for the images `index`: only what may move has moved."""
        return held(self.model, images, self.x[index])

    def part(self, index: torch.Tensor, *, smallest: bool) -> Problem:
        """Some of the images as a problem of their own, with nothing found yet."""
        eps = None if self.eps is None else self.eps[index]
        x, goal = self.x[index], self.goal.of(index)
        return Problem(self.model, x, goal, eps, self.generator, norm=self.norm, smallest=smallest)

    def active(self) -> torch.Tensor:
        """The indices of the images not yet fooled, nor given up."""
        return (~self.found & ~self.given_up).nonzero().flatten()

    def logits(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Logits of `images`, tried for the images `index`; no gradient."""
        self.forwards[index] += 1
        with torch.no_grad():
            return self.model(self.held(images, index)).float()

    def gradient(
        self, images: torch.Tensor, index: torch.Tensor, loss: Loss
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of `images`, and the gradient of the summed loss by the images alone."""
        logits, gradients = self.gradients(images, index, [loss])
        return logits, gradients[0]

    def gradients(
        self, images: torch.Tensor, index: torch.Tensor, losses: Sequence[Loss]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits of `images`, and the gradients of several losses, by one forward pass."""
        self.forwards[index] += 1
        self.backwards[index] += len(losses)
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self.model(self.held(images, index)).float()
            goal, last = self.goal.of(index), len(losses) - 1
            gradients = []
            for i, loss in enumerate(losses):
                total, slope = loss(goal, logits).sum(), None
                if total.requires_grad:
                    (slope,) = torch.autograd.grad(
                        total, images, retain_graph=i < last, allow_unused=True
                    )
                if slope is None:  # lost since the attack looked for it
                    raise ValueError(NO_GRADIENT)
                gradients.append(slope)
        return logits.detach(), gradients

    def offer(self, images: torch.Tensor, logits: torch.Tensor, index: torch.Tensor) -> None:
        """Keep those of the `images` tried for `index` that are better than what there is."""
        images, goal = self.held(images, index), self.goal.of(index)
        finite = logits.isfinite().all(1)
        self.lost[index] |= ~finite
        met, margin = goal.met(logits) & finite, goal.margin(logits)
        found = self.found[index]
        nearer = met & ~found
        if self.smallest:
            distance = size(images - self.x[index], self.norm)
            nearer = met & (distance < self.distance[index])
            self.distance[index[nearer]] = distance[nearer]
        better = nearer | (~found & ~met & (margin < self.margin[index]))
        chosen = index[better]
        self.best[chosen] = images[better]
        self.best_logits[chosen] = logits[better]
        self.margin[chosen] = margin[better]
        self.found[index] = found | met
        self.last[index] = images
        self.last_logits[index] = logits
        self.note(margin, index)

    def note(self, margin: torch.Tensor, index: torch.Tensor) -> None:
        """Record one step; long attacks keep every second, fourth, ... of theirs."""
        if self.n_steps % self.stride == 0:
            row = self.x.new_full((len(self),), torch.nan)
            row[index] = margin
            few = len(self) == 1 or (len(self) <= FEW and self.x.numel() <= VALUES)
            images = self.last.clone() if few else None
            logits = self.last_logits.clone() if few else None
            self.trace.append(Moment(self.n_steps, row, images, logits))
            if len(self.trace) == LONGEST:
                self.trace = self.trace[::2]
                self.stride *= 2
        self.n_steps += 1
