"""From an image towards another along a level set.

Balasubramanian, Rezaei, Feizi: Exploring the geometry of blind spots in vision models (2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from workbench import checks, steps
from workbench.models import Classifier, Prediction, batch_size, ready
from workbench.params import Parameters
from workbench.spaces import held
from workbench.steps import Step

if TYPE_CHECKING:
    import pandas as pd

FEW = 16  # pairs whose images are kept along the way
VALUES = 2**20  # and how many numbers these images may have, unless it is one
FRAMES = 100  # moments kept of a traversal, about
ARRIVED = 1e-3  # RMSE to the target at which a pair is there
JITTER = 2 / 255  # of the start, so that it does not sit on a point without a gradient
PATIENCE = 50  # steps in which a pair must get 1% nearer, or it stops


@dataclass(frozen=True, eq=False)
class Traversal:
    """Where N pairs got to. `moments` `(T,)` are the steps at which the rest was noted.

    images `(N, C, H, W)`; confidence, distance `(T, N)`: of the source's class, and RMSE to
    the target; path `(T, N, C, H, W)` where there are few pairs; n_steps `(N,)` taken; picture:
    whether the points are images.
    """

    source: torch.Tensor
    target: torch.Tensor
    labels: torch.Tensor
    delta: float
    images: torch.Tensor
    moments: tuple[int, ...]
    confidence: torch.Tensor
    distance: torch.Tensor
    path: torch.Tensor | None
    n_steps: torch.Tensor
    picture: bool = True

    def frame(self) -> pd.DataFrame:
        """One row a pair: confidences, RMSE, Linf and SSIM to the target, steps taken.

        SSIM compares pictures: it is NaN of what is none, and whatever is under 3 pixels.
        """
        import pandas as pd
        from skimage.metrics import structural_similarity

        side = min(7, (min(self.source.shape[2:]) - 1) // 2 * 2 + 1)  # the window is odd and fits
        pairs = zip(self.images.cpu().numpy(), self.target.cpu().numpy(), strict=True)
        ssim = [
            structural_similarity(a, b, win_size=side, channel_axis=0, data_range=1)
            if side > 1 and self.picture
            else nan
            for a, b in pairs
        ]
        start = rmse(self.source, self.target)
        columns = {
            "label": self.labels,
            "source_confidence": self.confidence[0],
            "confidence": self.confidence[-1],
            "start_rmse": start,
            "rmse": self.distance[-1],
            "rmse_ratio": self.distance[-1] / start,
            "linf": (self.images - self.target).flatten(1).abs().amax(1),
            "n_steps": self.n_steps,
        }
        return pd.DataFrame({**{k: v.tolist() for k, v in columns.items()}, "ssim": ssim})

    def summary(self) -> dict[str, Any]:
        """Plain numbers: medians over the pairs; None for the SSIM of what is no picture."""
        middle = self.frame().median()
        names = ("source_confidence", "confidence", "start_rmse", "rmse", "rmse_ratio", "ssim")
        values = {n: None if isnan(middle[n]) else float(middle[n]) for n in names}
        return {"pairs": len(self.images), **values}


class LevelSetTraversal(Parameters):
    """Carry images towards others while the model keeps its answer and its confidence.

    Each step goes along the part of the way to the target that is orthogonal to the gradient,
    with a small push against the gradient that restores confidence. A step after which the
    source's class is not predicted, or its confidence has fallen by `delta` or more, is not
    taken; pushes go on adding up. What is returned is the nearest image on the way. The
    direction is that of the log-odds, which is the direction of the cross-entropy and does not
    vanish where softmax saturates.
    """

    n_steps: int = Field(400, ge=1, le=100_000, description="steps")
    eta: float = Field(0.01, gt=0, le=1, description="share of the way left that a step takes")
    push: float = Field(1e-3, ge=0, le=1, description="largest push of a pixel toward confidence")
    delta: float = Field(0.05, gt=0, le=1, description="confidence that may be lost")

    def steps(
        self,
        model: Classifier,
        source: torch.Tensor,
        target: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Step[Traversal]]:
        """Traverse all pairs at once, from source to target `(N, C, H, W)`.

        labels: what the sources must be classified as; what the model says when None.

        Raises:
            ValueError: images that break their contract or a target equal to its source; a
                source classified as something else; a model without gradient, or NaN.
        """
        ready(model)
        source, target = checked(model, source, target)
        prediction = model.predict(source)
        labels = prediction.label if labels is None else kept(prediction, labels)
        current = jittered(model, source, seed)
        floor, start = confidence(prediction.logits, labels), rmse(source, target)
        gradient = ascent(model, source, labels)[1]
        walk = Walk.start(source, target, labels, gradient, floor, start)
        nearest, level, distance = source.clone(), floor.clone(), start.clone()
        taken = torch.zeros_like(labels)
        filmed = len(source) == 1 or (len(source) <= FEW and source.numel() <= VALUES)
        moments, notes = [0], [(floor, start, source if filmed else None)]

        def keep(pairs: Walk) -> None:
            nearest[pairs.index], level[pairs.index] = pairs.nearest, pairs.held
            distance[pairs.index] = pairs.least

        def result() -> Traversal:
            keep(walk)
            moments.append(step)
            notes.append((level.clone(), distance.clone(), nearest.clone() if filmed else None))
            confidences, distances, images = zip(*notes, strict=True)
            course = (tuple(moments), torch.stack(confidences), torch.stack(distances))
            ends = (source, target, labels, self.delta, nearest.clone())
            rest = torch.stack(images) if filmed else None, taken.clone(), model.space is None
            return Traversal(*ends, *course, *rest)

        every, value = max(1, self.n_steps // FRAMES), None
        for step in range(self.n_steps + 1):
            walk.look(model, current, self.delta)
            taken[walk.index] = step
            going = (walk.least > ARRIVED) & (walk.waited < PATIENCE)
            over = step == self.n_steps or not bool(going.any())
            if over or (step and step % every == 0):
                value = result()
            yield Step(step, self.n_steps, f"step {step}/{self.n_steps}", value)
            if over:
                return
            if not bool(going.all()):
                keep(walk.only(~going))
                walk = walk.only(going)
            current = walk.step(self.eta, self.push)

    def __call__(
        self,
        model: Classifier,
        source: torch.Tensor,
        target: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Traversal:
        """Run `steps` to the end."""
        return steps.run(self.steps(model, source, target, labels, seed=seed))


@dataclass
class Walk:
    """The M pairs under way, a row each: where they are, and the nearest that each has been.

    place, gradient, pushed, nearest, target: `(M, C, H, W)`; the rest `(M,)`. gradient: of the
    log-odds at `place`; strength: 1 - confidence there; mark, waited: the distance last much
    improved, and the steps since.
    """

    index: torch.Tensor
    target: torch.Tensor
    labels: torch.Tensor
    floor: torch.Tensor
    place: torch.Tensor
    gradient: torch.Tensor
    strength: torch.Tensor
    pushed: torch.Tensor
    nearest: torch.Tensor
    held: torch.Tensor
    least: torch.Tensor
    mark: torch.Tensor
    waited: torch.Tensor

    @staticmethod
    def start(
        source: torch.Tensor,
        target: torch.Tensor,
        labels: torch.Tensor,
        gradient: torch.Tensor,
        floor: torch.Tensor,
        distance: torch.Tensor,
    ) -> Walk:
        """At the sources, with confidence `floor`, `distance` from their targets."""
        none, index = torch.zeros_like(source), torch.arange(len(source), device=source.device)
        return Walk(
            *(index, target, labels, floor, source, gradient, 1 - floor, none, source),
            *(floor, distance, distance, torch.zeros_like(labels)),
        )

    def only(self, which: torch.Tensor) -> Walk:
        """Some of the pairs."""
        return Walk(*(getattr(self, field.name)[which] for field in fields(self)))

    def look(self, model: Classifier, current: torch.Tensor, delta: float) -> None:
        """Ask the model about images tried, and go there where the level is kept."""
        logits, gradient = ascent(model, current, self.labels)
        level, distance = confidence(logits, self.labels), rmse(current, self.target)
        kept = (level > self.floor - delta) & (logits.argmax(1) == self.labels)
        self.place = current.where(per_image(kept), self.place)
        self.gradient = gradient.where(per_image(kept), self.gradient)
        self.strength = (1 - level).where(kept, self.strength)
        nearer = kept & (distance < self.least)
        self.nearest = current.where(per_image(nearer), self.nearest)
        self.held, self.least = level.where(nearer, self.held), distance.where(nearer, self.least)
        progress = self.least < 0.99 * self.mark
        self.mark = self.least.where(progress, self.mark)
        self.waited = (self.waited + 1).masked_fill(progress, 0)

    def step(self, eta: float, push: float) -> torch.Tensor:
        """The next images to try: along the level set, and a push up."""
        g, direction = self.gradient, self.target - self.place
        flat = g.flatten(1)
        along = torch.linalg.vecdot(flat, direction.flatten(1)) / torch.linalg.vecdot(flat, flat)
        along = along.nan_to_num()  # where there is no gradient
        # The cross-entropy's gradient is the log-odds' times -(1 - confidence).
        force = per_image(push / 2 * self.strength)
        self.pushed = torch.addcmul(self.pushed, force, g).clamp_(-push, push)
        # The way less its part along the gradient: to first order the confidence stays.
        across = torch.addcmul(direction, per_image(along), g, value=-1)
        return across.mul_(eta).add_(self.place).add_(self.pushed).clamp_(0, 1)


def checked(
    model: Classifier, source: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets on the model's device.

    Raises:
        TypeError, ValueError: see `LevelSetTraversal.steps`.
    """
    source = checks.images(source, model.input_shape, name="source").to(model.device)
    target = checks.images(target, model.input_shape, name="target").to(model.device)
    if len(source) != len(target) or len(source) == 0:
        raise ValueError(
            f"target: expected one for each source, got {len(target)} for {len(source)} sources"
        )
    target = held(model, target, source)
    same = (source == target).flatten(1).all(1)
    if bool(same.any()):
        raise ValueError(f"target: image {int(same.nonzero()[0])} is its source; choose another")
    return source, target


def kept(prediction: Prediction, labels: torch.Tensor) -> torch.Tensor:
    """The labels `(N,)`, which are what the model says.

    Raises:
        TypeError, ValueError: see `LevelSetTraversal.steps`.
    """
    classes, label = prediction.classes, prediction.label
    checks.labels(labels, len(classes), len(label))
    labels = labels.to(label.device)
    if bool((label != labels).any()):
        i = int((label != labels).nonzero()[0])
        raise ValueError(
            f"source: image {i} is classified as {classes[int(label[i])]}, "
            f"not as {classes[int(labels[i])]}; choose one that the model gets right"
        )
    return labels


def ascent(
    model: Classifier, x: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of `x`, and the gradients of the log-odds of `labels`: `(N, C, H, W)`.

    Raises:
        ValueError: the model has no gradient, or answers NaN or infinity.
    """
    parts, size = [], batch_size(model.input_shape)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        for part, label in zip(x.split(size), labels.split(size), strict=True):
            leaf = part.detach().clone().requires_grad_()
            logits = model(leaf)
            own = torch.nn.functional.one_hot(label, logits.shape[1]).bool()
            # log p - log(1 - p), by logits alone: it keeps its gradient where softmax saturates.
            odds = logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(1)
            slope = None  # as it stays where the image decides nothing that autograd follows
            if odds.requires_grad:
                (slope,) = torch.autograd.grad(odds.sum(), leaf, allow_unused=True)
            if slope is None:
                raise ValueError(
                    "model: it has no gradient, and level sets are followed by gradients"
                )
            parts.append((logits.detach(), slope))
        logits, gradient = map(torch.cat, zip(*parts, strict=True))
    gradient = held(model, gradient, torch.zeros_like(gradient))
    if not bool(logits.isfinite().all()):
        raise ValueError("model: it says NaN or infinity near the source; check its weights")
    return logits, gradient


def jittered(model: Classifier, source: torch.Tensor, seed: int) -> torch.Tensor:
    """The sources, each a little off a point that may have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(source.shape, generator=generator, dtype=torch.float32)
    moved = (source + ((noise * 2 - 1) * JITTER).to(source.device)).clamp(0, 1)
    return held(model, moved, source)


def per_image(values: torch.Tensor) -> torch.Tensor:
    """`(N,)` made to go with `(N, C, H, W)`."""
    return values[:, None, None, None]


def confidence(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The probability of each label: `(N,)`."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def rmse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Root mean squared difference of each pair of images: `(N,)`."""
    return (a - b).flatten(1).norm(dim=1) / a[0].numel() ** 0.5
