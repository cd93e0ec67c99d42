"""Concepts of any classifier: directions in a layer that crops of its images share.

The recipe of CRAFT (Fel, Picard et al., 2023): activations of random crops, averaged over
their places, are factorised (`dictionaries`); each direction is a concept, and its code at a
place of an image says how much of it is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import checks
from workbench.concepts.dictionaries import METHODS, Dictionary, factorise
from workbench.concepts.layers import (
    BATCH,
    activations,
    channels_first,
    edited_logits,
    grid_of,
)
from workbench.models import Classifier, batch_size, ready
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of one layer, and the crops that they were found on.

    grid: rows and columns of the layer's places, None where it has none; images: those the
    crops come from; boxes: int64 `(n, 3)`, image, top and left of each crop; size: rows and
    columns of a crop in pixels. Methods take the model that the concepts were found in.
    """

    layer: str
    grid: tuple[int, int] | None
    dictionary: Dictionary
    images: Tensor
    boxes: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.dictionary.bank)

    def summary(self) -> dict[str, Any]:
        """The layer, the method, and how much of the activations the concepts leave over."""
        fitted = self.dictionary
        counts = {"n_concepts": len(self), "n_crops": len(self.boxes)}
        fit = {"relative_error": fitted.error, "converged": fitted.converged}
        return {"layer": self.layer, "method": fitted.method, **counts, **fit}

    def frame(self) -> pd.DataFrame:
        """One row a concept: in what share of the crops it fires, mean and largest code."""
        import pandas as pd

        codes = self.dictionary.codes
        columns = {"fires": (codes > 0).float(), "mean": codes}
        table = pd.DataFrame({name: value.mean(0).numpy() for name, value in columns.items()})
        return table.assign(largest=codes.amax(0).numpy()).rename_axis("concept")

    def strongest(self, concept: int, n: int = 8) -> Tensor:
        """The crops with the strongest code, `(n, C, H, W)`, at most one of each image.

        Of equal ones (K-means) first those that are best described.
        """
        code, order = self.dictionary.codes[:, self._known(concept)], self.dictionary.left.argsort()
        order = order[code[order].argsort(descending=True, stable=True)]
        best: dict[int, int] = {}
        for i, owner in zip(order.tolist(), self.boxes[order, 0].tolist(), strict=True):
            best.setdefault(owner, i)
        return _cut(self.images, self.boxes[list(best.values())[:n]], self.size)

    def encode(self, model: Classifier, x: Tensor) -> Tensor:
        """Codes of images at every place: `(N, h, w, r)`, `(N, T, r)` of tokens or `(N, r)`."""
        return self.dictionary.encode(activations(model, x, self.layer))

    def heat(self, model: Classifier, x: Tensor, concept: int) -> Tensor:
        """The code of a concept at every pixel of images, `(N, H, W)`.

        Raises:
            ValueError: a layer without places.
        """
        if self.grid is None:
            raise ValueError(f"layer: {self.layer!r} has no places to draw; take one before it")
        codes = self.encode(model, x)[..., self._known(concept)]
        return F.interpolate(codes.view(-1, 1, *self.grid), x.shape[2:], mode="bilinear")[:, 0]

    def logits(self, model: Classifier, x: Tensor, codes: Tensor) -> Tensor:
        """Logits `(N, K)` of images whose layer gives what `codes` decode to; differentiable.

        codes: `(N, ..., r)` as `encode` gives them. What reaches the end beside the layer, by
        a shortcut, is that of `x`.
        """
        ready(model)
        replacement, body = self.dictionary.decode(codes), model.body
        if type(model) is Classifier and type(body) is nn.Sequential:
            names = [name for name, _ in body.named_children()]
            if self.layer in names and len(names) == len(body):  # what comes before need not run
                after = body[names.index(self.layer) + 1 :]
                return after(channels_first(replacement))
        return edited_logits(model, x, self.layer, lambda _: replacement)

    def steer(self, model: Classifier, x: Tensor, factors: Mapping[int, float]) -> Tensor:
        """Logits of images with concepts damped (0), boosted (2) or kept (1).

        What the concepts do not say of the activations stays as it is: with no factor but 1
        these are the model's logits.

        Raises:
            ValueError: an unknown concept; a factor that is not finite; images or a model that
                break the contract.
        """
        x = checks.images(x, model.input_shape).to(model.device)
        ready(model)
        change = x.new_zeros(len(self))
        for concept, factor in factors.items():
            if not math.isfinite(factor):
                raise ValueError(f"factors: expected finite numbers, got {factor} for {concept}")
            change[self._known(concept)] = factor - 1
        # Only (factor - 1) times each concept's part is added: what they leave over stays.
        bank = self.dictionary.bank.to(x)
        with torch.no_grad():
            return edited_logits(
                model, x, self.layer, lambda a: a + self.dictionary.encode(a) * change @ bank
            )

    def _known(self, concept: int) -> int:
        if concept not in range(len(self)):
            raise ValueError(f"concept: expected 0 to {len(self) - 1}, got {concept!r}")
        return concept


@work
def extract(
    model: Classifier,
    images: Tensor,
    layer: str,
    *,
    n_concepts: int = 10,
    method: str | Callable[[Tensor, int, int], Dictionary] = "nmf",
    n_crops: int = 2000,
    crop: float = 0.5,
    seed: int = 0,
) -> Iterator[Step[Concepts]]:
    """Find the concepts of a layer of `model` on `images` `(N, C, H, W)`.

    layer: a name from `model.layers()`. method: see `factorise`, or a function of activations
    `(n, p)`, the number of concepts and the seed. crop: side of the crops as a share of the
    image's; with 1 the whole images are taken, each once, and `n_crops` does not count.

    Warns:
        UserWarning: the factorisation did not converge.

    Raises:
        TypeError, ValueError: images or a model that break the contract; an unknown layer or
            method; a layer without places where crops are wanted; fewer crops than concepts;
            what `factorise` refuses.
    """
    x = checks.images(images, model.input_shape)
    grid = grid_of(model, layer)
    if not 0 < crop <= 1:
        raise ValueError(f"crop: expected a share of the image in (0, 1], got {crop}")
    if grid is None and crop < 1:
        raise ValueError(
            f"layer: {layer!r} has no places, so crops of {crop:g} make no sense; take a "
            "convolution or tokens, or crop=1 for whole images"
        )
    if isinstance(method, str) and method not in METHODS:
        raise checks.unknown("method", method, METHODS)
    height, width = (max(1, round(crop * side)) for side in x.shape[2:])
    boxes = torch.zeros(len(x), 3, dtype=torch.int64)
    boxes[:, 0] = torch.arange(len(x))
    if crop < 1:
        last = torch.tensor([len(x), x.shape[2] - height + 1, x.shape[3] - width + 1])
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(checks.positive("n_crops", n_crops), 3, generator=generator)
        boxes = (draws * last).long()
    if len(boxes) < n_concepts:
        what = "n_crops" if crop < 1 else "images"
        raise ValueError(f"{what}: {n_concepts} concepts need as many crops, got {len(boxes)}")
    parts = []
    for batch in boxes.split(batch_size(model.input_shape, BATCH)):
        a = activations(model, _cut(x, batch, (height, width)), layer)
        parts.append(a.flatten(1, -2).mean(1) if a.ndim > 2 else a)
        yield Step(sum(map(len, parts)), 2 * len(boxes), "activations of the crops")
    rows = torch.cat(parts)
    if isinstance(method, str):
        dictionary = factorise(rows, n_concepts, method, seed=seed)
    else:
        dictionary = method(rows, n_concepts, seed)
    value = Concepts(layer, grid, dictionary, x, boxes, (height, width))
    yield Step(2 * len(boxes), 2 * len(boxes), "factorised", value)


def _cut(images: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The crops `(n, C, H, W)` of these boxes, resized to the images' size."""
    height, width = size
    places = boxes.tolist()
    parts = [images[i, :, top : top + height, left : left + width] for i, top, left in places]
    whole = images.shape[2:]
    crops = torch.stack(parts) if parts else images[:0, :, :height, :width]
    return crops if size == whole else F.interpolate(crops, whole, mode="bilinear").clamp(0, 1)
