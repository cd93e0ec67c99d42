"""Prototypes as distributions: a prediction that knows how sure its explanation is.

Vadillo, Santana, Lozano, Kwiatkowska (2024), "Uncertainty-aware explanations through
probabilistic self-explainable neural networks" (Prob-PSENN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import ModelCard
from workbench.prototypes.networks import (
    Autoencoder,
    PrototypeClassifier,
    PrototypeNetwork,
    Shape,
    squared_distances,
    sum_of,
)

LEVELS = 1001  # of the training distances kept a class


class GaussianPrototypes(nn.Module):
    """One Gaussian a class in code space, with independent entries; distances to the modes."""

    def __init__(self, n_classes: int, size: int) -> None:
        super().__init__()
        vectors = torch.empty(n_classes, size)
        if not vectors.is_meta:  # where weights are to be read, and this loads torch's compiler
            vectors.normal_()
        self.vectors = nn.Parameter(vectors)
        self.scale = nn.Parameter(torch.full((n_classes, size), -1.5))

    @property
    def std(self) -> torch.Tensor:
        """Standard deviations `(K, D)`."""
        return F.softplus(self.scale)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Squared distances `(N, K)` to the modes."""
        return squared_distances(z, self.vectors)

    def draw(self, samples: int, generator: torch.Generator) -> torch.Tensor:
        """Prototypes `(samples, K, D)`, differentiable in mode and deviation."""
        noise = torch.randn((samples, *self.vectors.shape), generator=generator)
        return self.vectors + self.std * noise.to(self.vectors)


class ProbPrototypeNetwork(nn.Module):
    """Encoder, one Gaussian prototype a class, a linear head; a decoder beside them.

    code: channels of the code. width: channels of the layers before. samples: draws an
    objective. weights: of cross-entropy, reconstruction (mean of squares) and R2 (minus
    the log-density of a code under its class's prototype) in the objective.
    """

    def __init__(
        self,
        input_shape: Shape,
        n_classes: int,
        *,
        code: int = 10,
        width: int = 32,
        samples: int = 10,
        weights: Sequence[float] = (1, 10, 0.05),
    ) -> None:
        super().__init__()
        if len(weights) != 3 or min(weights) < 0 or samples < 1:
            raise ValueError(
                "weights, samples: expected three numbers from 0 up (cross-entropy, "
                f"reconstruction, R2) and one draw or more, got {tuple(weights)}, {samples}"
            )
        self.weights, self.samples = tuple(weights), samples
        self.auto = Autoencoder(input_shape, width, code, rectified=False)
        self.prototypes = GaussianPrototypes(n_classes, self.auto.size)
        self.head = nn.Linear(n_classes, n_classes, bias=False)
        start = [[-0.5 * (j == k) for j in range(n_classes)] for k in range(n_classes)]
        self.head.weight = nn.Parameter(torch.tensor(start))  # as a list: see PrototypeNetwork
        # Where the training images of each class lie: what is far is told by comparison.
        self.register_buffer("levels", torch.zeros(n_classes, LEVELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the modes of the prototypes."""
        return self.head(self.prototypes(self.auto.encoder(x)))

    def classifier(self, card: ModelCard, *normalisation: object) -> ProbPrototypeClassifier:
        """The kind of `Classifier` that such a network is the body of."""
        body = cast("PrototypeNetwork", self)
        return ProbPrototypeClassifier(body, card, *normalisation)  # type: ignore[arg-type]


class ProbPrototypeClassifier(PrototypeClassifier):
    """A prototype classifier whose prototypes, one a class, are Gaussians.

    Called as a model it answers at their modes, the same each time. `uncertainty` (in
    `workbench.prototypes`) draws prototypes and tells how much the answers differ.
    """

    def sampled(
        self, x: torch.Tensor, *, samples: int = 100, seed: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances `(N, samples, K)` to prototypes drawn, and the probabilities they give."""
        drawn = self._gaussians().draw(samples, torch.Generator().manual_seed(seed))
        distances = drawn_distances(self.encode(x), drawn)
        return distances, self.body.head(distances).softmax(-1)

    def prepare(self, training: ImageDataset) -> None:
        """Nothing to check: one prototype a class."""

    def objective(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of Prob-PSENN over drawn prototypes, and the logits at the modes."""
        z, own, network = self.encode(x), self._gaussians(), self.body
        samples = cast("ProbPrototypeNetwork", network).samples
        logits = network.head(drawn_distances(z, own.draw(samples, generator)))
        density = torch.distributions.Normal(own.vectors[y], own.std[y]).log_prob(z).sum(1)
        terms = [
            F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(samples)),
            F.mse_loss(self.decode(z), x),
            (-density).clamp(-1, 1e4).mean(),
        ]
        return sum_of(terms, network.weights), network.head(own(z))

    def conclude(self, training: ImageDataset) -> None:
        """Keep the quantiles of the distances of each class's images to its mode."""
        with torch.no_grad():
            codes = [self.encode(x.to(self.device)) for x, _ in training.batches(500)]
            distances = self._gaussians()(torch.cat(codes)).cpu()
        grid = torch.linspace(0, 1, LEVELS)
        rows = [distances[training.labels == k, k].quantile(grid) for k in range(len(self.classes))]
        self.levels.copy_(torch.stack(rows))

    @property
    def levels(self) -> torch.Tensor:
        """Quantiles of the training distances of each class, `(K, LEVELS)`."""
        return cast("torch.Tensor", self.body.levels)

    def _gaussians(self) -> GaussianPrototypes:
        return cast("GaussianPrototypes", self.body.prototypes)


def drawn_distances(z: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Squared distances `(N, S, K)` of codes `(N, D)` to prototypes drawn `(S, K, D)`."""
    samples, k, size = drawn.shape
    flat = drawn.reshape(samples * k, size)
    # |z - p|^2 = |z|^2 + |p|^2 - 2 z.p: one product in place of a tensor (N, S, K, D).
    squares = z.pow(2).sum(1)[:, None] + flat.pow(2).sum(1) - 2 * z @ flat.T
    return squares.clamp(min=0).reshape(len(z), samples, k)
