"""A network as many: several resolutions of the image, predictions from several layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import Classifier, heard, measurable
from workbench.treatments.purifying import Normalise, Purifier


def crossmax(logits: Tensor, rank: int = 0) -> Tensor:
    """What M predictors say together, `(N, K)` of `(N, M, K)` (Fort, Lakshminarayanan, 2024).

    The `rank`-th largest over the predictors decides for each class, the middle one where it is 0:
    a predictor alone moves it little.

    Raises:
        ValueError: logits of another shape, or a rank that is not from 0 to M.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits: expected (images, predictors, classes), got {logits.shape}")
    m = logits.shape[1]
    if not 0 <= rank <= m:
        raise ValueError(f"rank: expected 0 to {m}, the number of predictors, got {rank}")
    z = logits - logits.amax(2, keepdim=True)  # no predictor is louder than the others
    z = z - z.amax(1, keepdim=True)  # no class is everybody's favourite
    return z.sort(1, descending=True).values[:, (rank or (m + 1) // 2) - 1]


class Resolutions(nn.Module):
    """Noisy, moved, paled copies of an image, each at half the resolution of the one before.

    The draws are fixed, so that an image always has the same answer; `draw` makes others.
    """

    def __init__(self, shape: tuple[int, int, int], copies: int, noise: float) -> None:
        super().__init__()
        self.noise, self.settings = noise, [[0.0] * 4] * copies
        self.sizes = [[max(1, side >> i) for side in shape[1:]] for i in range(copies)]
        for i, size in enumerate(self.sizes):
            self.register_buffer(f"low{i}", torch.zeros(1, shape[0], *size))
            self.register_buffer(f"high{i}", torch.zeros(1, *shape))

    def draw(self, generator: torch.Generator) -> None:
        """Draw moves of up to a tenth of the side, contrast, colour, and the noise."""
        most = self.sizes[0][0] // 10
        for i in range(len(self.sizes)):
            moves = torch.randint(-most, most + 1, (2,), generator=generator)
            pale = 0.5 + 0.5 * torch.rand(2, generator=generator)
            self.settings[i] = [*moves.tolist(), *pale.tolist()]
            for buffer in (self.get_buffer(f"low{i}"), self.get_buffer(f"high{i}")):
                buffer.copy_(self.noise * torch.rand(buffer.shape, generator=generator))

    def forward(self, x: Tensor, i: int) -> Tensor:
        """The i-th copy of images `(N, C, H, W)` in [0, 1]; the same shape and range."""
        down, right, contrast, colour = self.settings[i]
        mean = x.mean((2, 3), keepdim=True)
        moved = (mean + contrast * (x - mean)).roll((int(down), int(right)), (2, 3))
        pale = colour * moved + (1 - colour) * moved.mean(1, keepdim=True)
        low = F.interpolate(pale, self.sizes[i], mode="bicubic", antialias=True)
        high = F.interpolate(low + self.get_buffer(f"low{i}"), self.sizes[0], mode="bicubic")
        return (high + self.get_buffer(f"high{i}")).clamp(0, 1)


class Ensemble(nn.Module):
    """A network that is asked about every copy; a linear head on each of some layers predicts."""

    def __init__(self, network: nn.Module, front: Resolutions, layers: list[str], by: str) -> None:
        super().__init__()
        self.network, self.front, self.heads = network, front, nn.ModuleList()
        self.layers, self.by = layers, by

    def soften(self) -> None:
        """From now on the mean of the heads, which each of them moves."""
        self.by = "mean"

    def features(self, x: Tensor) -> list[Tensor]:
        """Of each layer what it gives for all copies `(N, D)`; maps are pooled to 4x4."""
        with tapped(self.network, self.layers) as found:
            for i in range(len(self.front.sizes)):
                self.network(self.front(x, i))
        return [torch.cat(parts, 1) for parts in found.values()]

    def members(self, x: Tensor) -> Tensor:
        """What each head says, `(N, M, K)`."""
        pairs = zip(self.heads, self.features(x), strict=True)
        return torch.stack([head(features) for head, features in pairs], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, K)` of images in [0, 1]."""
        logits = self.members(x)
        return crossmax(logits) if self.by == "crossmax" else logits.mean(1)


class SelfEnsemble(Purifier):
    """Several resolutions in, heads on several layers, CrossMax (Fort, Lakshminarayanan, 2024).

    The network stays as it is trained; only the heads are fitted. A middle rank hides gradients:
    the attack on the mean of the heads takes most of what it seems to give.
    """

    title: ClassVar[str] = "Self-ensemble over resolutions and layers"
    paper: ClassVar[str] = (
        "Ensemble everything everywhere: Multi-scale aggregation for adversarial robustness"
    )

    copies: int = Field(4, ge=1, le=8, description="resolutions, each half of the one before")
    heads: int = Field(4, ge=1, le=64, description="layers that predict, evenly spaced")
    by: Literal["crossmax", "mean"] = Field("crossmax", description="how the heads are joined")
    noise: float = Field(0.2, ge=0, le=1, description="largest value added to a pixel of a copy")
    epochs: int = Field(15, ge=1, le=1000, description="passes over the features, for each head")

    def apply(
        self, model: Classifier, data: ImageDataset | None, generator: torch.Generator
    ) -> Iterator[tuple[int, int]]:
        """The features of the training images, batch by batch; then a head a layer."""
        assert data is not None
        data = measurable(data, model)
        data = data[data.labels >= 0]
        runs = model.listing().runs
        names = [name for name in model.layers() if runs[name] == 1]
        count = min(self.heads, len(names))
        layers = ["1." + names[-(-(i + 1) * len(names) // count) - 1] for i in range(count)]
        front = Resolutions(model.input_shape, self.copies, self.noise)
        front.draw(generator)
        network = nn.Sequential(Normalise(model), model.body)
        body = Ensemble(network, front.to(model.device), layers, self.by).eval()
        k = len(model.classes)
        yield from fit_heads(body, body.features, data, k, self.epochs, generator)
        model.body, model.mean, model.std = body.eval(), None, None


@contextmanager
def tapped(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Of each layer what it gives `(N, D)`, call after call; maps are pooled to 4x4."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    modules = {network.get_submodule(name): name for name in layers}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if output.ndim == 4:
            output = F.adaptive_avg_pool2d(
                output, (min(4, output.shape[2]), min(4, output.shape[3]))
            )
        found[modules[module]].append(output.flatten(1).clone())

    with heard(modules, note):
        yield found


def fit_heads(
    body: Any,
    features: Callable[[Tensor], list[Tensor]],
    data: ImageDataset,
    k: int,
    epochs: int,
    generator: torch.Generator,
) -> Iterator[tuple[int, int]]:
    """Give `body.heads` a linear head for each of `body.layers`, fitted to the k classes of images.

    features: from images to what each head sees, `(N, D)`.
    """
    count, device = len(body.layers), next(body.parameters()).device
    total, parts = -(-len(data) // 128) + count, []
    for done, (x, _) in enumerate(data.batches(128), 1):
        with torch.no_grad():
            parts.append(features(x.to(device)))
        yield done, total
    y = data.labels.to(device)
    for done, seen in enumerate(zip(*parts, strict=True), total - count + 1):
        body.heads.append(linear_head(torch.cat(seen), y, k, epochs, generator))
        yield done, total


def linear_head(x: Tensor, y: Tensor, k: int, epochs: int, generator: torch.Generator) -> Any:
    """A linear layer from features `(N, D)` to the logits of k classes; weights decay softly.

    It starts from zero, as the loss has no other valleys.
    """
    mean, std = x.mean(0), x.std(0) + 1e-2
    head, z = nn.utils.skip_init(nn.Linear, x.shape[1], k, device=x.device), (x - mean) / std
    head.load_state_dict({"weight": x.new_zeros(k, x.shape[1]), "bias": x.new_zeros(k)})
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(z), generator=generator).to(x.device).split(128):
            with torch.enable_grad():
                loss = F.cross_entropy(head(z[rows]), y[rows]) + 1e-3 * head.weight.square().sum()
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
    with torch.no_grad():  # the features as they are
        head.bias.sub_(head.weight @ (mean / std))
        head.weight.div_(std)
    return head
