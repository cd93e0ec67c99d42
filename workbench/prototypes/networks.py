"""Prototype networks: a prediction made of distances to prototypes that can be looked at.

Li, Liu, Chen, Rudin (2018), "Deep learning for case-based reasoning through prototypes".
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, ModelCard

Shape = tuple[int, int, int]


class Autoencoder(nn.Module):
    """Strided 3x3 convolutions down to a code, transposed ones back to an image in [0, 1].

    As many layers as it takes to bring the shorter side to two pixels (28 to 2 in four). Points
    that are no pictures have no neighbouring pixels: `dense` is two linear layers each way.
    `size` is the number of entries of a code, `shape` their arrangement `(channels, H, W)`.
    """

    shape: tuple[int, ...]

    def __init__(
        self, input_shape: Shape, width: int, code: int, *, rectified: bool, dense: bool = False
    ) -> None:
        super().__init__()
        if dense:
            self.shape, self.size = (code,), code
            self.encoder, self.decoder = dense_pair(input_shape, width, code, rectified=rectified)
            return
        channels, *side = input_shape
        sides = [tuple(side)]
        while min(sides[-1]) > 2:
            sides.append(tuple(-(-n // 2) for n in sides[-1]))
        widths = [channels, *[width] * (len(sides) - 2), code]
        if len(sides) < 2 or min(width, code) < 1:
            raise ValueError(
                f"input_shape, width, code: expected images of 3x3 pixels or more and positive "
                f"sizes, got {input_shape}, {width}, {code}; what is no picture takes dense=True"
            )
        self.shape = (code, *sides[-1])
        self.size = code * sides[-1][0] * sides[-1][1]
        encoder: OrderedDict[str, nn.Module] = OrderedDict()
        decoder: OrderedDict[str, nn.Module] = OrderedDict()
        last = len(sides) - 1
        for i in range(1, last + 1):
            encoder[f"conv{i}"] = nn.Conv2d(widths[i - 1], widths[i], 3, stride=2, padding=1)
            if i < last or rectified:
                encoder[f"relu{i}"] = nn.ReLU()
        for i in range(last, 0, -1):
            back = (sides[i - 1][0] - 2 * sides[i][0] + 1, sides[i - 1][1] - 2 * sides[i][1] + 1)
            decoder[f"conv{i}"] = nn.ConvTranspose2d(widths[i], widths[i - 1], 3, 2, 1, back)
            decoder[f"relu{i}"] = nn.ReLU() if i > 1 else nn.Sigmoid()
        encoder["flatten"] = nn.Flatten()
        self.encoder, self.decoder = nn.Sequential(encoder), nn.Sequential(decoder)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images `(N, C, H, W)` in [0, 1] of codes `(N, size)`."""
        return self.decoder(z.reshape(-1, *self.shape))


def dense_pair(
    shape: Shape, width: int, code: int, *, rectified: bool
) -> tuple[nn.Sequential, nn.Sequential]:
    """Two linear layers to a code, and two back to [0, 1]."""
    size = math.prod(shape)
    last = [nn.ReLU()] if rectified else []
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, code), *last
    )
    decoder = nn.Sequential(
        *(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, size), nn.Sigmoid()),
        nn.Unflatten(1, shape),
    )
    return encoder, decoder


class PrototypeLayer(nn.Module):
    """Squared Euclidean distances `(N, m)` of codes `(N, D)` to m prototypes."""

    def __init__(self, prototypes: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.rand(prototypes, size))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """`(N, D)` to `(N, m)`."""
        return squared_distances(z, self.vectors)


class PrototypeNetwork(nn.Module):
    """Encoder, prototype layer and a linear head on the distances; a decoder beside them.

    prototypes: how many; at least one a class. code: channels of the code. width:
    channels of the layers before. weights: of cross-entropy, reconstruction (sum of
    squares over pixels), R1 (each prototype near some code) and R2 (each code near some
    prototype) in the objective. dense: linear layers, for what is no picture.

    Raises:
        ValueError: fewer prototypes than classes, sizes that do not fit.
    """

    def __init__(
        self,
        input_shape: Shape,
        n_classes: int,
        *,
        prototypes: int = 15,
        code: int = 10,
        width: int = 32,
        weights: Sequence[float] = (20, 1, 1, 1),
        dense: bool = False,
    ) -> None:
        super().__init__()
        if prototypes < n_classes:
            raise ValueError(
                f"prototypes: expected at least one a class ({n_classes}), got {prototypes}"
            )
        if len(weights) != 4 or min(weights) < 0:
            raise ValueError(
                "weights: expected four numbers from 0 up (cross-entropy, reconstruction, "
                f"R1, R2), got {tuple(weights)}"
            )
        self.weights = tuple(weights)
        self.auto = Autoencoder(input_shape, width, code, rectified=True, dense=dense)
        self.prototypes = PrototypeLayer(prototypes, self.auto.size)
        self.head = nn.Linear(prototypes, n_classes, bias=False)
        # Each prototype speaks for one class from the start. From the paper's random start
        # one or two of ten classes end with no prototype of their own.
        # Lists, since sums of tensors on meta, where weights are to be read, load torch's compiler.
        start = [[0.5 - (j % n_classes == k) for j in range(prototypes)] for k in range(n_classes)]
        self.head.weight = nn.Parameter(torch.tensor(start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images as the encoder takes them."""
        return self.head(self.prototypes(self.auto.encoder(x)))

    def classifier(self, card: ModelCard, *normalisation: object) -> PrototypeClassifier:
        """The kind of `Classifier` that such a network is the body of."""
        return PrototypeClassifier(self, card, *normalisation)  # type: ignore[arg-type]


class PrototypeClassifier(Classifier):
    """A `Classifier` that compares an image with m prototypes, each of which is an image.

    The logits are `distances @ weights`, so the share of each prototype in each logit is
    known exactly. D is the number of entries of a code.
    """

    body: PrototypeNetwork

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes `(N, D)` of images `(N, C, H, W)` in [0, 1]."""
        return self.body.auto.encoder(self.normalised(x))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] of codes `(N, D)`.

        Raises:
            ValueError: codes of another size.
        """
        size = self.body.auto.size
        if z.ndim != 2 or z.shape[1] != size:
            raise ValueError(f"z: expected codes of shape (N, {size}), got {tuple(z.shape)}")
        return self.body.auto.decode(z)

    @property
    def prototypes(self) -> torch.Tensor:
        """The prototypes as codes, `(m, D)`."""
        return self.body.prototypes.vectors

    @property
    def head_weights(self) -> torch.Tensor:
        """What one unit of distance to each prototype adds to each logit, `(m, K)`."""
        return self.body.head.weight.T

    @property
    def votes(self) -> torch.Tensor:
        """The class that nearness to each prototype speaks for, int64 `(m,)`."""
        return self.head_weights.argmin(1)

    def prototype_images(self) -> torch.Tensor:
        """The prototypes decoded, `(m, C, H, W)` in [0, 1]."""
        with torch.no_grad():
            return self.decode(self.prototypes)

    def prepare(self, training: ImageDataset) -> None:
        """Check that there are as many images as prototypes."""
        if len(self.prototypes) > len(training):
            raise ValueError(
                f"prototypes: expected at most one a training image ({len(training)}), "
                f"got {len(self.prototypes)}"
            )

    def objective(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The four-term loss of Li et al. (2018) and the logits."""
        z = self.encode(x)
        distances = self.body.prototypes(z)
        logits = self.body.head(distances)
        terms = [
            F.cross_entropy(logits, y),
            (self.decode(z) - x).pow(2).sum((1, 2, 3)).mean(),
            distances.min(0).values.mean(),
            distances.min(1).values.mean(),
        ]
        return sum_of(terms, self.body.weights), logits


def squared_distances(z: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances `(N, m)` of `(N, D)` to `(m, D)`."""
    return (z[:, None] - points).pow(2).sum(2)


def sum_of(terms: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum of scalars."""
    return torch.stack(list(terms)) @ terms[0].new_tensor(weights)
