"""`audit`: what an attack claims, checked on the images it returned."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workbench import checks
from workbench.attacks import AttackResult, Goal, goal_for
from workbench.models import Classifier, batch_size, ready

if TYPE_CHECKING:
    import pandas as pd

SLACK = 1e-4  # of the budget: what float32 loses in x_adv - x
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Audit:
    """One bool `(N,)` a question.

    claimed: the attack says it succeeded; success: the model, asked anew, agrees; finite:
    no NaN; in_box: values in [0, 1]; in_budget: within eps, where one was given; picture:
    not one constant colour in place of an image; rounded: success survives 8-bit values.
    """

    claimed: torch.Tensor
    success: torch.Tensor
    finite: torch.Tensor
    in_box: torch.Tensor
    in_budget: torch.Tensor
    picture: torch.Tensor
    rounded: torch.Tensor

    @property
    def lawful(self) -> torch.Tensor:
        """Images that break no rule, adversarial or not, `(N,)`."""
        return self.finite & self.in_box & self.in_budget & self.picture

    @property
    def sound(self) -> torch.Tensor:
        """True adversarial images: successes that break no rule, `(N,)`."""
        return self.success & self.lawful

    @property
    def flawed(self) -> torch.Tensor:
        """Images that break a rule, and claims that do not hold, `(N,)`."""
        return ~self.lawful | (self.claimed & ~self.success)

    def summary(self) -> dict[str, Any]:
        """How many images, by question."""
        counts = {name: int(values.sum()) for name, values in self.columns().items()}
        return {"images": len(self.claimed), **counts}

    def frame(self) -> pd.DataFrame:
        """One row an image."""
        import pandas as pd

        return pd.DataFrame({name: v.tolist() for name, v in self.columns().items()})

    def columns(self) -> dict[str, torch.Tensor]:
        """The answers by name, with what follows from them."""
        return {**vars(self), "sound": self.sound, "flawed": self.flawed}


def audit(
    result: AttackResult,
    model: Classifier,
    *,
    norm: str | None = None,
    eps: float | torch.Tensor | None = None,
) -> Audit:
    """Check an attack's result against `model` and the rules of the game.

    norm, eps: the budget to audit, one number or one an image `(N,)`; none when left out.

    Raises:
        ValueError: a model in train mode, images of another shape than the originals, labels
            that are no classes of the model, or only one of norm and eps.
    """
    work = verification(result, model, norm=norm, eps=eps)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def verification(
    result: AttackResult,
    model: Classifier,
    *,
    norm: str | None = None,
    eps: float | torch.Tensor | None = None,
) -> Generator[None, None, Audit]:
    """`audit`, which can be left between two batches."""
    ready(model)
    checks.labels(result.labels, len(model.classes), len(result.x), name="result.labels")
    x, x_adv = result.x, result.x_adv
    if x_adv.shape != x.shape:
        raise ValueError(
            f"result: x_adv has shape {tuple(x_adv.shape)}, the images {tuple(x.shape)}"
        )
    if (norm is None) != (eps is None):
        raise ValueError(f"norm, eps: expected both or neither, got norm={norm!r}, eps={eps!r}")
    low, high = x_adv.flatten(1).aminmax(dim=1)
    was_picture = x.flatten(1).amax(1) > x.flatten(1).amin(1)
    in_budget = torch.ones_like(result.success)
    if norm is not None and eps is not None:
        in_budget = within(result.norms[norm], eps)
    goal = goal_for(result.labels, result.target, len(model.classes))
    return Audit(
        claimed=result.success,
        success=(yield from reached(model, x_adv, goal)),
        finite=x_adv.isfinite().flatten(1).all(1),
        in_box=(low >= -ROUNDING) & (high <= 1 + ROUNDING),
        in_budget=in_budget,
        picture=(high > low) | ~was_picture,
        rounded=(yield from reached(model, (x_adv * 255).round() / 255, goal)),
    )


def within(distance: torch.Tensor, eps: float | torch.Tensor) -> torch.Tensor:
    """Which distances `(N,)` are within eps, up to rounding; NaN is not."""
    return distance <= eps * (1 + SLACK) + ROUNDING


def reached(
    model: Classifier, images: torch.Tensor, goal: Goal
) -> Generator[None, None, torch.Tensor]:
    """Which images reach the goal by the raw model, `(N,)`; NaN logits reach nothing."""
    parts: list[torch.Tensor] = []
    for part in images.split(batch_size(model.input_shape)):
        if parts:
            yield
        with torch.no_grad():
            parts.append(model(part.to(model.device)).float())
    logits = torch.cat(parts).to(images.device)
    return goal.met(logits) & logits.isfinite().all(1)
