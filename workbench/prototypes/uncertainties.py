"""How sure a probabilistic prototype classifier is, of its answer and of its explanation.

Vadillo, Santana, Lozano, Kwiatkowska (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from workbench import checks
from workbench.models import Classifier, ready
from workbench.prototypes.probabilistic import LEVELS, ProbPrototypeClassifier

if TYPE_CHECKING:
    import pandas as pd

BINS = 64  # of the densities whose overlap is taken


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What S draws of the prototypes say of N images; all measures are float32 `(N,)`.

    probabilities: `(N, S, K)`. label: of the mean probability, int64 `(N,)`.
    total, aleatoric, epistemic: entropy of the mean, mean of the entropies, and their
    difference, in nats. far: the share of the training images of the predicted class that
    are nearer to its prototype (explanatory epistemic), in [0, 1]. overlap: how far the
    distances to the predicted class's prototype and to the next overlap (explanatory
    aleatoric), in [0, 1]. distances: to the modes, `(N, K)`.
    """

    probabilities: torch.Tensor
    label: torch.Tensor
    total: torch.Tensor
    aleatoric: torch.Tensor
    epistemic: torch.Tensor
    far: torch.Tensor
    overlap: torch.Tensor
    distances: torch.Tensor
    classes: tuple[str, ...]

    MEASURES = ("total", "aleatoric", "epistemic", "far", "overlap")

    def summary(self) -> dict[str, Any]:
        """The mean of each measure."""
        if not len(self.label):
            return {"images": 0}
        return {"images": len(self.label)} | {
            name: float(getattr(self, name).mean()) for name in self.MEASURES
        }

    def frame(self) -> pd.DataFrame:
        """One row an image: predicted class and the five measures."""
        import pandas as pd

        names = [self.classes[k] for k in self.label.tolist()]
        measures = {name: getattr(self, name).tolist() for name in self.MEASURES}
        return pd.DataFrame({"predicted": names, **measures})


def uncertainty(
    model: Classifier, x: torch.Tensor, *, samples: int = 100, seed: int = 0, batch_size: int = 256
) -> Uncertainty:
    """Draw prototypes `samples` times and compare what they say of `x` `(N, C, H, W)`.

    Raises:
        TypeError: not a probabilistic prototype classifier.
        ValueError: unfit images, no samples, a model in train mode.
    """
    if not isinstance(model, ProbPrototypeClassifier):
        name = getattr(getattr(model, "card", None), "name", type(model).__name__)
        raise TypeError(
            f"model: expected one with distributions for prototypes, such as "
            f"'mnist/prob-prototypes', got {name}"
        )
    ready(model)
    x = checks.images(x, model.input_shape)
    checks.positive("samples", samples)
    parts = []
    with torch.no_grad():
        for part in x.to(model.device).split(batch_size):
            drawn, p = model.sampled(part, samples=samples, seed=seed)
            label = p.mean(1).argmax(1)
            at_modes = model.body.prototypes(model.encode(part))
            # Entropy of the mean = mean entropy + mutual information, which is the epistemic part.
            total, aleatoric = entropy(p.mean(1)), entropy(p).mean(1)
            own = at_modes.gather(1, label[:, None]).contiguous()
            far = torch.searchsorted(model.levels[label], own).squeeze(1) / LEVELS
            part_of = Uncertainty(
                *(p, label, total, aleatoric, total - aleatoric, far),
                *(overlaps(drawn, label), at_modes, model.classes),
            )
            parts.append(part_of)
    return joined(parts)


def joined(parts: Sequence[Uncertainty]) -> Uncertainty:
    """The uncertainties of several batches as one."""
    tensors = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in fields(Uncertainty)
        if field.name != "classes"
    }
    return Uncertainty(**tensors, classes=parts[0].classes)


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Entropy of the last axis, in nats."""
    return torch.special.entr(p).sum(-1)


def overlaps(distances: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The largest overlap of the label's distance density with another class's, `(N,)`.

    distances: `(N, S, K)`. The densities are histograms on one grid an image, smoothed
    with the Gaussian kernel of Scott's rule; the overlap is the sum of their minimum.
    """
    n, samples, k = distances.shape
    if not n:
        return distances.new_zeros(0)
    low, high = distances.amin((1, 2), keepdim=True), distances.amax((1, 2), keepdim=True)
    width = (high - low).clamp(min=1e-12)
    grid = torch.linspace(0, 1, BINS).to(distances)
    position = (distances - low) / width
    bandwidth = position.std(1, correction=0) * samples ** (-0.2)
    bandwidth = bandwidth.clamp(min=1 / BINS)[..., None]
    density = distances.new_zeros(n, k, BINS)
    for s in range(samples):  # one draw at a time, to keep memory small
        density += torch.exp(-0.5 * ((grid - position[:, s, :, None]) / bandwidth) ** 2)
    density /= density.sum(2, keepdim=True)
    own = density[torch.arange(n), label]
    overlap = torch.minimum(density, own[:, None]).sum(2)
    return overlap.scatter(1, label[:, None], 0).amax(1)
