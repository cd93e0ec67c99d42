"""What a recipe alone decides: the fresh model, its learning rate, the images of a batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from workbench.data import ImageDataset
from workbench.models import architectures
from workbench.models.classifier import Classifier, classifier_of
from workbench.models.model_card import ModelCard
from workbench.models.recipes import Recipe


def fresh(plan: Recipe, training: ImageDataset, name: str) -> Classifier:
    """A newly initialised model in float32; torch's generator and default stay as they were."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        torch.set_default_dtype(torch.float32)
        try:
            body = architectures.build(
                plan.architecture, training.shape, len(training.classes), **plan.options
            )
        finally:
            torch.set_default_dtype(default)
    card = ModelCard(
        name=name,
        dataset=plan.dataset,
        classes=training.classes,
        named=training.named,
        input_shape=training.shape,
        architecture=plan.architecture,
        options=plan.options,
        training=plan.model_dump(exclude={"options", "dataset", "architecture", "seed"}),
        seed=plan.seed,
        parameters=sum(p.numel() for p in body.parameters()),
        licence="MIT",
    )
    channels = tuple(range(training.images.ndim))
    keep = (0, *channels[2:])
    mean, std = training.images.mean(keep), training.images.std(keep)
    model = classifier_of(body, card, tuple(mean.tolist()), tuple(std.tolist()))
    model.prepare(training)
    return model


def learning_rate(plan: Recipe, progress: float) -> float:
    """One cycle: up in a straight line for a fifth of the training, then down to zero."""
    peak = 0.2
    return plan.lr * (progress / peak if progress < peak else (1 - progress) / (1 - peak))


def augment(x: torch.Tensor, plan: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Shifted (edges filled with zeros) and mirrored images, as the plan says."""
    if plan.flip:
        mirrored = torch.rand(len(x), generator=generator, dtype=torch.float32) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if plan.shift:
        s, (n, _, h, w) = plan.shift, x.shape
        padded = F.pad(x, (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, n), generator=generator)
        rows = (dy[:, None] + torch.arange(h))[:, None, :, None]
        columns = (dx[:, None] + torch.arange(w))[:, None, None, :]
        images = torch.arange(n)[:, None, None, None]
        channels = torch.arange(x.shape[1])[None, :, None, None]
        x = padded[images, channels, rows, columns]
    if plan.elastic:
        x = elastic(x, plan.elastic, generator)
    return x


def elastic(x: torch.Tensor, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """Images `(N, C, H, W)` bent by smooth random displacements (Simard et al. 2003).

    Displacements drawn from [-1, 1], smoothed with a Gaussian of a seventh of the side
    (4 pixels of 28), times `alpha` pixels.
    """
    n, _, h, w = x.shape
    field = 2 * torch.rand(n, 2, h, w, generator=generator, dtype=torch.float32) - 1
    for axis, size in ((2, h), (3, w)):
        at = torch.arange(size, dtype=torch.float32)
        kernel = torch.exp(-((at[:, None] - at) ** 2) / (2 * (size / 7) ** 2))
        kernel /= kernel[size // 2].sum()  # what falls outside is zero
        field = (field.movedim(axis, -1) @ kernel).movedim(-1, axis)
    same = torch.eye(2, 3, dtype=torch.float32).expand(n, 2, 3)
    whole = F.affine_grid(same, [n, 1, h, w], align_corners=False)
    shift = field.permute(0, 2, 3, 1) * alpha * 2 / torch.tensor([w, h])
    return F.grid_sample(x, whole + shift, align_corners=False)
