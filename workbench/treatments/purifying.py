"""Purifiers: what an image passes through before the network sees it.

Each is trained on images alone, without the network and without attacks. None is a defence by
itself: measure it under the attack that knows it (`robustness.compare_defences`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe
from workbench.treatments.base import OfWeights

FEWEST = 20  # images to train on
WIDEST = 20_000  # values of an image that a fully-connected autoencoder takes
HIDDEN = 256  # units of its hidden layers
SENSOR = 0.1  # largest deviation of a camera's noise in training


class Normalise(nn.Module):
    """Images in [0, 1] as the network behind takes them."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        one = torch.ones(1, device=model.device)
        self.register_buffer("mean", 0 * one if model.mean is None else model.mean)
        self.register_buffer("std", one if model.std is None else model.std)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return (x - self.mean) / self.std


class Purifier(OfWeights):
    """What sees images in [0, 1] before the network, trained on images; a new one gives `front`."""

    defends: ClassVar[bool] = True

    epochs: int = Field(10, ge=1, le=1000, description="passes over the training images")

    @property
    def needs_data(self) -> bool:
        """It learns what images look like."""
        return True

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """The data have to be of the network's images, and enough."""
        if reason := super().unfit(subject, data):
            return reason
        if not isinstance(subject, Classifier) or type(subject) is not Classifier:
            return f"a {type(subject).__name__} is asked about its parts; take a plain network"
        if data is not None and data.shape != subject.input_shape:
            return f"the model takes {subject.input_shape} images, the data has {data.shape}"
        if data is not None and len(data) < FEWEST:
            return f"data: expected at least {FEWEST} images to learn from, got {len(data)}"
        return self.misfit(subject.input_shape)

    def misfit(self, shape: tuple[int, int, int]) -> str:
        """Why it takes no images of this shape; empty where it does."""
        return ""

    def front(self, shape: tuple[int, int, int]) -> Any:
        """The filter for images `(C, H, W)`, untrained, with its `loss(x, generator)`."""
        raise NotImplementedError

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """Train the filter by Adam, batches of 64; then put it before the network."""
        assert data is not None
        front, done = self.front(model.input_shape), 0
        total = self.epochs * math.ceil(len(data) / 64)
        optimiser = torch.optim.Adam(front.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(data), generator=generator).split(64):
                with torch.enable_grad():
                    optimiser.zero_grad()
                    front.loss(data.images[rows], generator).backward()
                optimiser.step()
                schedule.step()
                done += 1
                yield done, total
        put_before(model, front.to(model.device))


def put_before(model: Classifier, front: nn.Module) -> None:
    """Let `front` see the images in [0, 1] first; the normalisation moves behind it."""
    parts = {"front": front, "normalise": Normalise(model), "network": model.body}
    model.body = nn.Sequential(OrderedDict(parts)).eval()
    model.mean = model.std = None


class CameraPipeline(nn.Module):
    """A colour image as the mosaic (red, green, green, blue) of a sensor, developed anew.

    Of red and blue three quarters are never seen, of green a half. What stands there is
    interpolated; a small network corrects that, with weight `share`.
    """

    taps: Tensor

    def __init__(self, share: float, width: int = 16) -> None:
        super().__init__()
        self.share = share
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
        self.register_buffer("taps", kernel.repeat(3, 1, 1, 1))
        self.taps[1, 0, ::2, ::2] = 0  # at a corner of green another green is seen
        self.correct = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def demosaic(self, x: Tensor) -> Tensor:
        """Each value the mean of those that the sensor sees next to it; bilinear."""
        seen = torch.zeros_like(x[:1])
        seen[:, 0, 0::2, 0::2] = seen[:, 1, 0::2, 1::2] = 1
        seen[:, 1, 1::2, 0::2] = seen[:, 2, 1::2, 1::2] = 1
        total = F.conv2d(x * seen, self.taps, padding=1, groups=3)
        return total / F.conv2d(seen, self.taps, padding=1, groups=3)  # also at the border

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` in [0, 1]; the same."""
        plain = self.demosaic(x)
        return (plain + self.share * self.correct(plain)).clamp(0, 1)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the corrected image; the sensor adds noise of a random strength."""
        strength = SENSOR * torch.rand(len(x), 1, 1, 1, generator=generator)
        plain = self.demosaic(x + strength * torch.randn(x.shape, generator=generator))
        return F.mse_loss(plain + self.correct(plain), x)


class Camera(Purifier):
    """A camera's mosaic, developed anew, before the network (Zhang et al., 2022).

    The colours are thinned out to a Bayer mosaic and interpolated; a small network, trained on
    noisy mosaics of the training images, corrects them. share=0 is bilinear demosaicing alone.
    Gradients pass throughout: an attack that knows it just goes on.
    """

    title: ClassVar[str] = "Camera: a mosaic, developed anew"
    paper: ClassVar[str] = (
        "All You Need is RAW: Defending Against Adversarial Attacks with Camera Image Pipelines"
    )

    share: float = Field(0.7, ge=0, le=1, description="weight of the learned correction")
    epochs: int = Field(6, ge=1, le=1000, description="passes over the training images")

    def misfit(self, shape: tuple[int, int, int]) -> str:
        """A mosaic is of colours."""
        if shape[0] == 3 and min(shape) >= 2:
            return ""
        return f"a mosaic needs colour images of at least 2x2 pixels, the model takes {shape}"

    def front(self, shape: tuple[int, int, int]) -> CameraPipeline:
        """The pipeline."""
        return CameraPipeline(self.share)


class SignAutoencoder(nn.Module):
    """An image as signs, and an image made of these.

    A code is +1 where |z| < q and -1 elsewhere. Signs have no gradient: the encoder learns through
    a steep smooth step and a decoder of its own, `smooth`, which is not used afterwards.
    """

    def __init__(self, shape: tuple[int, int, int], codes: int, q: float) -> None:
        super().__init__()
        self.q, self.soft, values = q, False, math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(values, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * codes)
        )
        self.smooth, self.decoder = (
            nn.Sequential(
                *(nn.Linear(codes, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, values)),
                *(nn.Sigmoid(), nn.Unflatten(1, shape)),
            )
            for _ in range(2)
        )

    def soften(self) -> None:
        """From now on gradients pass straight through the signs, as through the smooth step."""
        self.soft = True

    def signs(self, z: Tensor) -> Tensor:
        """The code of a point of the latent space."""
        return (z.abs() < self.q).to(z.dtype) * 2 - 1

    def step(self, z: Tensor) -> Tensor:
        """The smooth step, from -1 to 1."""
        return F.softsign(500 * (self.q**2 - z**2))

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, C, H, W)` in [0, 1]; the same."""
        z = self.encoder(x).chunk(2, 1)[0]
        code = self.signs(z)
        if self.soft:  # the value of the one, the slope of the other
            code = code + (self.step(z) - self.step(z).detach())
        return self.decoder(code)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """That of a variational autoencoder, a Lipschitz penalty, and the second decoder's."""
        x = x.clone().requires_grad_()
        mean, log_var = self.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + self.q * 0.5 * (0.5 * log_var).exp() * noise
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean()
        (slope,) = torch.autograd.grad(mean.sum(), x, create_graph=True)
        # Codes that move little with the image: the norm of the slope is drawn to 0.1.
        lipschitz = (0.1 - slope.flatten(1).norm(dim=1)).square().mean()
        smooth, hard = self.smooth(self.step(z)), self.decoder(self.signs(z.detach()))
        return kl + 10 * (lipschitz + F.mse_loss(smooth, x) + F.mse_loss(hard, x))


class QuantisedAutoencoder(Purifier):
    """Images as a code of signs, decoded again, before the network (Kyatham et al., 2019).

    The autoencoder is trained on images alone. Signs hide gradients, which is no defence.
    """

    title: ClassVar[str] = "Autoencoder with a code of signs"
    paper: ClassVar[str] = (
        "Variational Inference with Latent Space Quantization for Adversarial Resilience"
    )

    codes: int = Field(48, ge=1, le=4096, description="signs that an image becomes")
    q: float = Field(0.1, gt=0, le=10, description="where a sign turns, in the latent space")
    epochs: int = Field(20, ge=1, le=1000, description="passes over the training images")

    def misfit(self, shape: tuple[int, int, int]) -> str:
        """Its layers are fully connected: for small images."""
        values = math.prod(shape)
        wide = f"it takes images of at most {WIDEST} values, the model takes {values}"
        return wide if values > WIDEST else ""

    def front(self, shape: tuple[int, int, int]) -> SignAutoencoder:
        """The autoencoder."""
        return SignAutoencoder(shape, self.codes, self.q)
