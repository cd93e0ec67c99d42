"""BEYOND: does the answer to an image agree with its neighbours' (He et al., 2024)?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks
from workbench.data import ImageDataset
from workbench.detectors.base import BATCH
from workbench.models import Classifier, Hooks, Recipe, Run, batch_size, fit, measurable, ready
from workbench.steps import Step, work

FEATURES = 64  # of an encoder that is trained here
TEMPERATURE = 0.2


def beyond(
    model: Classifier,
    training: ImageDataset,
    *,
    seed: int,
    encoder: nn.Module | None = None,
    neighbours: int = 20,
    k: int = 8,
    alpha: float = 0.8,
    epochs: int = 60,
) -> Iterator[Step[dict[str, Any]]]:
    """How little the neighbours of an image agree with it, and with what the model says of it.

    A neighbour is the image under one of `neighbours` changes, the same for every image (see
    `changed`). encoder: from images to representations `(N, D)`; when None one is trained for
    `epochs` (see `contrastive`). Both agreements are cosines: of representations, and of the
    model's class with what a linear head says of the neighbour's representation. The k-th
    best of the labels counts `alpha`, that of the representations the rest; low is strange.

    Raises:
        ValueError: k outside 1..neighbours, alpha outside [0, 1], or an encoder that does not
            give one row of numbers an image.
    """
    if not 1 <= k <= checks.positive("neighbours", neighbours):
        raise ValueError(f"k: expected 1 to neighbours={neighbours}, got {k}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected the weight of the labels in [0, 1], got {alpha}")
    training, total = measurable(training, model), 0
    training = training[training.labels >= 0]
    if encoder is None:
        for step in contrastive.steps(training, epochs=epochs, seed=seed):
            yield Step(step.done, step.total, f"encoder: {step.message}")
        assert step.value is not None
        encoder, total = step.value.to(model.device), step.total
    network, head = encoder, least_squares(encoder, training, len(model.classes), model.device)
    views = draw_views(neighbours, torch.Generator().manual_seed(seed))

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        label, n = model(x).argmax(1), len(x)
        near = changed(x.repeat(neighbours, 1, 1, 1), views.repeat_interleave(n, 0).to(x))
        own, other = F.normalize(network(x)), F.normalize(network(near))
        likeness = (other.unflatten(0, (neighbours, n)) * own).sum(2)  # (neighbours, N)
        said = F.normalize(other @ head.to(x)).unflatten(0, (neighbours, n))
        agreement = said.gather(2, label.expand(neighbours, n)[..., None])[..., 0]
        labels, likes = (v.topk(k, 0).values[-1] for v in (agreement, likeness))
        return -(alpha * labels + (1 - alpha) * likes)

    yield Step(total, total, "head", {"strangeness": strangeness, "copies": neighbours})


@work
def contrastive(
    training: ImageDataset, *, epochs: int = 60, seed: int = 0
) -> Iterator[Step[Classifier]]:
    """A small encoder `(N, 64)` of the images, trained without their labels; its classes are
    but numbers.
    """
    plan = Recipe(dataset=training.name, architecture="cnn", epochs=epochs, batch_size=256)
    names, none = tuple(map(str, range(FEATURES))), torch.zeros_like(training.labels)
    blank = ImageDataset(training.images, none, names)
    recipe = plan.changed(lr=3e-3, seed=seed)
    for step in fit.steps(recipe, blank, treatments=[Contrast()], name="encoder"):
        yield Step(step.done, step.total, step.message)
    assert step.value is not None
    yield Step(step.total, step.total, "done", step.value.model.requires_grad_(False))


class Contrast(Hooks):
    """Two changes of one image are alike, those of two images are not (Chen et al., 2020)."""

    def loss(self, run: Run, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each image has to find its other change among all of the batch; no label is read."""
        seen = [changed(x, draw_views(len(x), run.generator).to(x)) for _ in range(2)]
        given = run.model(torch.cat(seen))
        code, itself = F.normalize(given), torch.eye(len(given), device=x.device).bool()
        likeness = (code @ code.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(given), device=x.device).roll(len(x))
        return F.cross_entropy(likeness, partner), given[: len(x)]


def least_squares(
    encoder: nn.Module, training: ImageDataset, n_classes: int, device: torch.device
) -> torch.Tensor:
    """The linear map `(D, C)` from unit representations to classes, by ridge regression."""
    ready(encoder)
    rows = []
    for x, _ in training.batches(batch_size(training.shape, BATCH)):
        with torch.no_grad():
            given = encoder(x.to(device))
        shape = tuple(getattr(given, "shape", (type(given).__name__,)))
        if len(shape) != 2 or shape[0] != len(x) or not bool(given.isfinite().all()):
            raise ValueError(
                f"encoder: expected a row of finite numbers an image, ({len(x)}, D), got {shape}"
                "; flatten or average what it gives: nn.Sequential(encoder, nn.Flatten())"
            )
        rows.append(F.normalize(given).cpu())
    h, wanted = torch.cat(rows).double(), F.one_hot(training.labels, n_classes).double()
    ridge = 1e-4 * len(h) * torch.eye(h.shape[1]).double()  # so that there is one solution
    return torch.linalg.solve(h.T @ h + ridge, h.T @ wanted).float()


def draw_views(n: int, generator: torch.Generator) -> torch.Tensor:
    """`n` random changes `(n, 6)`: scale, two shifts, angle, contrast, brightness."""
    u = torch.rand(n, 6, generator=generator, dtype=torch.float32) * 2 - 1
    reach = torch.tensor([0.15, 0.15, 0.15, 0.25, 0.3, 0.1])
    return torch.tensor([0.85, 0, 0, 0, 1, 0]) + u * reach


def changed(x: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Images `(N, C, H, W)`, each cropped, turned and relit by its row of `views` `(N, 6)`.

    Scale and shifts are shares of the picture, the angle is in radians.
    """
    scale, right, down, angle, contrast, light = views.unbind(1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack(row, 1) for row in ((cos, -sin, right), (sin, cos, down))]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    mean = moved.mean((1, 2, 3), keepdim=True)
    relit = mean + contrast[:, None, None, None] * (moved - mean) + light[:, None, None, None]
    return relit.clamp(0, 1)
