"""`Detector`: how strange an image is to a model, and what it is worth on images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench import checks
from workbench.attacks import Untargeted
from workbench.models import Classifier, batch_size, ready, unmeasured
from workbench.robustness import wilson

if TYPE_CHECKING:
    import pandas as pd

Strangeness = Callable[[Classifier, torch.Tensor], torch.Tensor]
BATCH = 500  # images a pass, where they are small
FIRST = 100.0  # more than an alarm can count, so that a wrong answer comes first


@dataclass(frozen=True, eq=False, kw_only=True)
class Detector:
    """How strange an image is to one model.

    strangeness: from the model and images `(N, C, H, W)` to scores `(N,)`, larger is stranger;
    `differentiable` where its gradient is of use; an image is `copies` times in its pass.
    layers: those that a monitor looks at. An image raises an alarm above `threshold`, which is
    chosen for `false_alarms` on held-out images; `spread` is the deviation of the scores below.
    """

    model: str
    kind: str
    strangeness: Strangeness
    layers: tuple[str, ...] = ()
    copies: int = 1
    differentiable: bool = True
    threshold: float = 0.0
    false_alarms: float = 0.0
    spread: float = 1.0

    def score(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """How strange each of the images `(N, C, H, W)` is: float32 `(N,)`.

        Raises:
            ValueError: images that break the contract, a model in train mode, or another one.
        """
        ready(model)
        if model.card.name != self.model:
            raise ValueError(
                f"model: the detector was fitted to {self.model!r}, the model is "
                f"{model.card.name!r}; fit one to it"
            )
        return torch.cat([torch.zeros(0), *self.scores(model, checks.images(x, model.input_shape))])

    def scores(self, model: Classifier, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The same batch by batch."""
        size = batch_size(model.input_shape, BATCH, copies=self.copies)
        for part in x.split(size) if len(x) else ():
            with torch.no_grad():
                yield self.strangeness(model, part.to(model.device)).float().cpu()

    def alarm(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """Which images raise an alarm, bool `(N,)`."""
        return self.score(model, x) > self.threshold


Monitor = Detector  # the first ones were monitors


def least_threshold(scores: torch.Tensor, false_alarms: float) -> float:
    """The least of the scores `(N,)` that at most a share `false_alarms` of them exceed."""
    allowed = int(false_alarms * len(scores) + 1e-9)
    return float(scores.msort()[len(scores) - 1 - allowed])


@dataclass(frozen=True, eq=False)
class Alarms:
    """A detector's scores of images that belong `(N,)` and of images that do not `(M,)`."""

    usual: torch.Tensor
    strange: torch.Tensor
    threshold: float

    def summary(self) -> dict[str, Any]:
        """AUROC, and the share of alarms on both, each with its interval of 95%."""
        found: dict[str, Any] = {"auroc": None}
        if len(self.usual) and len(self.strange):
            found = dict(zip(("auroc", "auroc_low", "auroc_high"), self.auroc(), strict=True))
        for name, scores in (("false_alarms", self.usual), ("caught", self.strange)):
            alarm = scores > self.threshold
            found[name] = float(alarm.float().mean())
            found[f"{name}_low"], found[f"{name}_high"] = wilson(int(alarm.sum()), len(alarm))
        return found

    def auroc(self, other: Alarms | None = None) -> tuple[float, float, float]:
        """The AUROC, and the ends of its interval of 95% (DeLong et al., 1988).

        other: another detector's alarms on the same images; then by how much this is better.
        """
        won = places(self.usual, self.strange)
        if other is not None:
            won = [a - b for a, b in zip(won, places(other.usual, other.strange), strict=True)]
        # An image's share of won comparisons is a sample of the AUROC: the variances add up.
        mean = float(won[1].mean())
        reach = 1.96 * math.sqrt(sum(float(w.var(correction=0)) / len(w) for w in won))
        return mean, max(-1.0 if other else 0.0, mean - reach), min(1.0, mean + reach)

    def frame(self) -> pd.DataFrame:
        """One row an image: its score, whether it belongs, and whether it raises an alarm."""
        import pandas as pd

        scores = torch.cat([self.usual, self.strange])
        belongs = [True] * len(self.usual) + [False] * len(self.strange)
        alarm = (scores > self.threshold).tolist()
        return pd.DataFrame({"score": scores.tolist(), "belongs": belongs, "alarm": alarm})


def places(usual: torch.Tensor, strange: torch.Tensor) -> list[torch.Tensor]:
    """Of each image the share of the other kind that it is on the right side of; a tie is half."""
    won = (strange > usual[:, None]).double() + (strange == usual[:, None]).double() / 2
    return [won.mean(1), won.mean(0)]


def alarms(
    watch: Detector, model: Classifier, usual: torch.Tensor, strange: torch.Tensor
) -> Alarms:
    """The detector's scores of images that belong and of others, `(N, C, H, W)` each."""
    return Alarms(watch.score(model, usual), watch.score(model, strange), watch.threshold)


class Guard(nn.Module):
    """Logits `(N, K + 1)`: a model's, and an alarm that is the largest where there is one."""

    def __init__(self, model: Classifier, detector: Detector) -> None:
        super().__init__()
        self.model, self.detector = model, detector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images `(N, C, H, W)`; asinh keeps the sign, and what is far away finite."""
        logits, watch = self.model(x), self.detector
        over = (watch.strangeness(self.model, x) - watch.threshold) / watch.spread
        return torch.cat(
            [logits, logits.amax(1, keepdim=True) + over.asinh().to(logits)[:, None]], 1
        )


def guarded(model: Classifier, detector: Detector) -> Classifier:
    """The model with one class more, "alarm", which it says where the detector raises one.

    An attack on it with the goal `Unnoticed` is one that knows the detector: PGD with the loss
    "margin", or one that only asks (Square) where the detector is not `differentiable`.
    """
    detector.score(model, torch.zeros(0, *model.input_shape))  # whether it is of this model
    classes = checks.class_names([*model.classes, "alarm"])
    card = unmeasured(model.card, name=f"{model.card.name}, guarded", classes=classes)
    return Classifier(Guard(model, detector), card)


@dataclass(frozen=True, eq=False)
class Unnoticed(Untargeted):
    """A wrong class and no alarm, of a `guarded` model (selective PGD, Bryniarski et al., 2022)."""

    def met(self, logits: torch.Tensor) -> torch.Tensor:
        """The most likely class is neither the true one nor the alarm."""
        return self.margin(logits) < 0

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """First the true class less the best other one; once that is behind, the alarm."""
        gap, most = super().margin(logits[:, :-1]), logits[:, :-1].amax(1)
        # Not their sum: it would hold an image back where the model is unsure.
        return torch.where(gap < 0, logits[:, -1] - most, gap + FIRST)
