"""What a model says over a slice of image space, and how far it says it along rays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from workbench import checks
from workbench.levelsets.slices import Slice
from workbench.models import Classifier, batch_size, ready
from workbench.steps import Step, work

BATCH = 512
COARSEST = 16  # points a side of the first picture, at least


@dataclass(frozen=True, eq=False)
class Plane:
    """Answers on an n x n grid over a slice, row by row from the bottom.

    predicted int64, confidence (of the prediction), followed (the probability of class
    `label`) and inside (whether the image is in [0, 1]): each `(n, n)`. probabilities: of every
    class, `(n, n, K)`.
    """

    slice: Slice
    label: int
    classes: tuple[str, ...]
    predicted: torch.Tensor
    confidence: torch.Tensor
    followed: torch.Tensor
    inside: torch.Tensor
    probabilities: torch.Tensor

    def contours(self, level: float) -> list[torch.Tensor]:
        """Lines `(M, 2)` in plane coordinates where the class followed has confidence `level`."""
        from skimage.measure import find_contours

        left, right, bottom, top = self.slice.window
        last = len(self.followed) - 1
        tensor = partial(torch.tensor, dtype=torch.float32, device="cpu")
        scale = tensor([(right - left) / last, (top - bottom) / last])
        lines = find_contours(self.followed.cpu().numpy(), level)
        return [
            torch.from_numpy(line[:, ::-1].copy()).float() * scale + tensor([left, bottom])
            for line in lines
        ]

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the share of each class, of the level set, and of the box."""
        counts = self.predicted.flatten().bincount(minlength=len(self.classes))
        shares = (counts / counts.sum()).tolist()
        present = {c: s for c, s in zip(self.classes, shares, strict=True) if s > 0}
        return {
            "label": self.classes[self.label],
            "side": len(self.predicted),
            "shares": dict(sorted(present.items(), key=lambda item: -item[1])),
            "mean_confidence": float(self.followed.mean()),
            "inside": float(self.inside.float().mean()),
        }


@work
def plane(
    model: Classifier, at: Slice, n: int = 201, *, label: int | None = None
) -> Iterator[Step[Plane]]:
    """`plane`, coarse to fine: first every 8th point each way (where n - 1 has the divisors)."""
    ready(model)
    checks.positive("n", n, least=2)
    origin = checks.images(at.origin[None], model.input_shape, name="slice").to(model.device)
    if label is None:
        label = int(model.predict(origin).label[0])
    checks.labels(torch.tensor([label]), len(model.classes), name="label")
    strides = [s for s in (16, 8, 4, 2) if (n - 1) % s == 0 and (n - 1) // s >= COARSEST] + [1]
    points = at.grid(n)
    answered = torch.zeros(n, n, dtype=torch.bool)
    predicted, inside = torch.zeros(n * n, dtype=torch.int64), torch.zeros(n * n, dtype=torch.bool)
    confidence = torch.zeros(n * n, dtype=torch.float32)
    followed, shares = confidence.clone(), confidence.new_zeros(n * n, len(model.classes))
    done, size = 0, batch_size(model.input_shape, BATCH)
    for stride in strides:
        asked = torch.zeros_like(answered)
        asked[::stride, ::stride] = True
        for part in (asked & ~answered).flatten().nonzero().flatten().split(size):
            images = at.images(points[part]).to(model.device)
            with torch.no_grad():
                probabilities = model(images).softmax(1)
            if not bool(probabilities.isfinite().all()):
                raise ValueError("model: it says NaN in this slice; check its weights")
            best = probabilities.max(1)
            predicted[part], confidence[part] = best.indices.cpu(), best.values.cpu()
            followed[part], shares[part] = probabilities[:, label].cpu(), probabilities.cpu()
            low, high = images.flatten(1).aminmax(dim=1)
            rounding = checks.ROUNDING
            inside[part] = ((low >= -rounding) & (high <= 1 + rounding)).cpu()
            done += len(part)
            if stride == strides[-1] or size < BATCH:
                yield Step(done, n * n, f"{done} of {n * n} points")
        answered |= asked
        fields = (
            values.view(n, n, *values.shape[1:])[::stride, ::stride].clone()
            for values in (predicted, confidence, followed, inside, shares)
        )
        value = Plane(at, label, model.classes, *fields)
        yield Step(done, n * n, f"every {stride} points", value)


@dataclass(frozen=True, eq=False)
class Extent:
    """How far rays stay in the level set: L2 `reach` `(N, D)`; `whole` where none of it left."""

    reach: torch.Tensor
    whole: torch.Tensor
    confidence: torch.Tensor

    def summary(self) -> dict[str, float]:
        """Plain numbers: the median reach, and the share that never left."""
        return {"reach": float(self.reach.median()), "whole": float(self.whole.float().mean())}


def extent(
    model: Classifier,
    x: torch.Tensor,
    directions: torch.Tensor,
    *,
    delta: float = 0.2,
    limit: float = 10.0,
    n_scan: int = 32,
) -> Extent:
    """How far from images `x` `(N, C, H, W)` along rays `(N, D, C, H, W)` confidence holds.

    The first point where the class is another or its confidence fell by `delta`, on a scan of
    `n_scan` points up to L2 `limit`, and then by bisection to a 4096th of their distance; what
    comes and goes between two points is not seen. Images are clipped to [0, 1]; the reach is
    the distance of the clipped image.

    Raises:
        TypeError, ValueError: shapes or ranges that break their contract; a zero direction.
    """
    ready(model)
    x = checks.images(x, model.input_shape, name="x").to(model.device)
    checks.positive("x: number of images", len(x))
    if directions.ndim != 5 or directions.shape[:1] + directions.shape[2:] != x.shape:
        raise ValueError(
            f"directions: expected shape ({len(x)}, D, ...) for x, got {tuple(directions.shape)}"
        )
    checks.positive("n_scan", n_scan)
    if not (0 < delta <= 1 and limit > 0):
        raise ValueError(f"expected delta in (0, 1] and limit above 0, got {delta} and {limit}")
    length = directions.to(x).flatten(2).norm(dim=2)
    if not bool((length > 0).all()):
        raise ValueError("directions: expected directions, got one that is zero or NaN")
    units = directions.to(x) / length[:, :, None, None, None]
    prediction, size = model.predict(x), batch_size(model.input_shape, BATCH)
    floor = (prediction.confidence - delta)[:, None]

    def at(reach: torch.Tensor) -> torch.Tensor:
        return (x[:, None] + reach[:, :, None, None, None] * units).clamp(0, 1)

    def holds(reach: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = [model(part) for part in at(reach).flatten(0, 1).split(size)]
        probabilities = torch.cat(logits).softmax(1).view(*reach.shape, -1)
        own = prediction.label[:, None, None].expand(*reach.shape, 1)
        confidence = probabilities.gather(2, own)[:, :, 0]
        return (probabilities.argmax(2) == own[:, :, 0]) & (confidence > floor)

    low, high = torch.zeros_like(length), torch.full_like(length, limit)
    ended = low.bool()
    for i in range(1, n_scan + 1):
        reach = torch.full_like(length, limit * i / n_scan)
        ends = ~ended & ~holds(reach)
        high = torch.where(ends, reach, high)
        ended |= ends
        low = torch.where(ended, low, reach)
    for _ in range(12):
        middle = (low + high) / 2
        kept = holds(middle)
        low, high = torch.where(kept & ended, middle, low), torch.where(kept, high, middle)
    return Extent((at(low) - x[:, None]).flatten(2).norm(dim=2), ~ended, prediction.confidence)
