"""`AttackResult`: the images an attack found, and everything measured about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from workbench.attacks.norms import NORMS, size
from workbench.attacks.problem import Moment

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack did to N images.

    x, x_adv, last: float32 `(N, C, H, W)`, the images given, the best found, and the last
    tried; logits `(N, K)`: what the model says of `x_adv`; success, bool `(N,)`: whether the
    goal is met, in a finished result recomputed from `x_adv` by the model itself; queries:
    forward and backward passes spent on each image, `(N,)`; trace: the steps on the way, of
    the first batch of images (see `Moment`); remarks: what the attack left undone, and why;
    existing: the same with `x_adv` moved on to the nearest points that exist, and success counted
    there, where the input is no image and not all points exist (`workbench.spaces`).
    """

    attack: str
    x: torch.Tensor
    labels: torch.Tensor
    target: torch.Tensor | None
    x_adv: torch.Tensor
    last: torch.Tensor
    logits: torch.Tensor
    success: torch.Tensor
    queries: dict[str, torch.Tensor]
    trace: tuple[Moment, ...] = ()
    remarks: tuple[str, ...] = ()
    existing: AttackResult | None = None

    @property
    def predicted(self) -> torch.Tensor:
        """The class that the model gives each adversarial image, int64 `(N,)`."""
        return self.logits.argmax(1)

    @property
    def confidence(self) -> torch.Tensor:
        """The probability of that class, `(N,)`."""
        return self.logits.softmax(1).amax(1)

    @cached_property
    def norms(self) -> dict[str, torch.Tensor]:
        """The size of each perturbation by norm, `(N,)`."""
        return {norm: size(self.x_adv - self.x, norm) for norm in NORMS}

    def summary(self) -> dict[str, Any]:
        """Share of success, and medians over the successes (None where there is none)."""
        row: dict[str, Any] = {"attack": self.attack, "images": len(self.x)}
        row["success_rate"] = float(self.success.float().mean()) if len(self.x) else None
        for name, values in self.norms.items():
            fooled = values[self.success]
            row[f"median_{name}"] = float(fooled.median()) if len(fooled) else None
        for name, values in self.queries.items():
            row[name] = int(values.sum())
        if self.existing is not None and len(self.x):
            row["success_existing"] = float(self.existing.success.float().mean())
        return row

    def frame(self) -> pd.DataFrame:
        """One row an image."""
        import pandas as pd

        columns: dict[str, Any] = {"label": self.labels.tolist()}
        if self.target is not None:
            columns["target"] = self.target.tolist()
        columns |= {
            "predicted": self.predicted.tolist(),
            "confidence": self.confidence.tolist(),
            "success": self.success.tolist(),
        }
        for name, values in {**self.norms, **self.queries}.items():
            columns[name] = values.tolist()
        if self.existing is not None:
            columns["success_existing"] = self.existing.success.tolist()
        return pd.DataFrame(columns)
