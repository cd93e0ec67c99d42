"""Training on attacked images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from workbench.models import Run, pgd
from workbench.treatments.base import Training


class AdversarialTraining(Training):
    """Each batch is attacked with PGD before it is learned (Madry et al., 2018).

    With one step from a random start it is the fast training of Wong et al. (2020). With `stale`,
    the attack asks the weights of so many steps ago, so that it could be computed beside the step
    before (concurrent adversarial learning: Liu et al., 2022); the first steps ask the oldest.
    """

    title: ClassVar[str] = "Adversarial training"
    defends: ClassVar[bool] = True

    eps: float = Field(0.1, ge=0, le=1, description="L-infinity radius of the attacks")
    n_steps: int = Field(7, ge=1, le=100, description="steps of an attack; 1 is fast training")
    warmup: float = Field(0.25, ge=0, le=1, description="share of training in which eps grows")
    stale: int = Field(0, ge=0, le=100, description="age of the weights attacked, in steps")

    def batch(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images inside the ball on which the loss is high, found in eval mode."""
        eps = self.eps * min(1.0, run.progress / self.warmup if self.warmup else 1.0)
        # A single step goes a quarter beyond the radius, several go 2.5 times as far in all.
        alpha = 1.25 * eps if self.n_steps == 1 else 2.5 * eps / self.n_steps
        target, options = self.target(run), {"eps": eps, "alpha": alpha, "steps": self.n_steps}
        return pgd(target, x, y, generator=run.generator, **options), y

    def target(self, run: Run) -> Callable[[Tensor], Tensor]:
        """The model as it was `stale` steps ago, by weights that the run keeps."""
        if not self.stale:
            return run.model
        now = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        past = [*run.state(self).get("past", []), now][-1 - self.stale :]
        run.state(self)["past"] = past
        return partial(functional_call, run.model, past[0])
