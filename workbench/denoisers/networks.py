"""A denoiser without biases, told nothing of the noise, and its training (Mohan et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Diverged
from workbench.steps import Step, work


class Denoiser(nn.Module):
    """A small U-net of 3x3 convolutions and ReLUs: noisy images in, images without the noise out.

    shape: of one image, `(C, H, W)`. width: channels at full size, twice as many at half the
    size, and so on through `levels` sizes. Nothing has a bias, so the output is homogeneous:
    `f(a y) = a f(y)` for a > 0, and f(y) = J(y) y with the Jacobian J.
    """

    def __init__(self, shape: tuple[int, int, int], *, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        checks.positive("width", width)
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        sizes = [width * 2**i for i in range(checks.positive("levels", levels))]

        def block(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.ReLU())

        self.down = nn.ModuleList([block(a, b) for a, b in pairwise([shape[0], *sizes])])
        self.up = nn.ModuleList([block(a + b, a) for a, b in pairwise(sizes)])
        self.last = nn.Conv2d(width, shape[0], 3, padding=1, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        """What lies under noisy images `(N, C, H, W)`, of any range.

        Raises:
            ValueError: images of another size than `shape`.
        """
        if tuple(y.shape[1:]) != self.shape:
            raise ValueError(
                f"y: expected noisy images (N, {', '.join(map(str, self.shape))}), got "
                f"{tuple(y.shape)}; a denoiser takes images as those that it learned from"
            )
        h, kept = y, []
        for level, down in enumerate(self.down):
            h = down(F.avg_pool2d(h, 2, ceil_mode=True) if level else h)
            kept.append(h)
        for up, across in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            h = up(torch.cat([across, F.interpolate(h, across.shape[-2:])], 1))
        return self.last(h)


@work
def fit(
    data: ImageDataset,
    *,
    n_steps: int = 600,
    width: int = 16,
    levels: int = 3,
    batch_size: int = 64,
    lr: float = 4e-3,
    noise: tuple[float, float] = (0.01, 1.0),
    seed: int = 0,
) -> Iterator[Step[Denoiser]]:
    """Train a `Denoiser` on the images of `data`, by squared error: one Step a batch, by Adam.

    noise: the least and the largest standard deviation; the root of what is drawn is uniform.
    The rate falls along a cosine. Draws are from `seed`, the same to the bit on the CPU. Ended
    early, the last Step holds the network as far as it came.

    Raises:
        ValueError: no images, no steps, or noise that is no range above 0.
        Diverged: the loss is no number any more.
    """
    checks.positive("data: number of images", len(data))
    total = checks.positive("n_steps", n_steps)
    checks.positive("batch_size", batch_size)
    low, high = noise
    if not 0 < low <= high < math.inf:
        raise ValueError(f"noise: expected (least, largest) with 0 < least <= largest, got {noise}")
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # torch's own start, drawn anew below
        network = Denoiser(data.shape, width=width, levels=levels)
    for p in network.parameters():  # He's start, drawn from the seed
        nn.init.kaiming_normal_(p, generator=draw)
    nn.init.normal_(network.last.weight, std=0.01, generator=draw)  # a first guess near 0
    optimiser = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    for step in range(total):
        rows = torch.randint(len(data), (batch_size,), generator=draw)
        root = torch.rand(batch_size, 1, 1, 1, generator=draw)
        sigma = (low**0.5 + (high**0.5 - low**0.5) * root) ** 2
        x = data.images[rows]
        y = x + sigma * torch.randn(x.shape, generator=draw)
        with torch.enable_grad():
            loss = F.mse_loss(network(y), x)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        schedule.step()
        error = float(loss.detach())
        if not math.isfinite(error):
            raise Diverged(f"denoiser: the loss is {error} at step {step + 1}; lower lr={lr}")
        yield Step(step + 1, total, f"squared error {error:.4f}", network.eval())
