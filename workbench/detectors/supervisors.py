"""Supervisors of any classifier, by its softmax, its features, or the image alone; and `fit`.

Compared with each other in Weiss, Gómez and Tonella (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.detectors.base import BATCH, Detector, least_threshold
from workbench.detectors.monitors import KINDS, Kind, watching
from workbench.detectors.neighbours import beyond
from workbench.models import Classifier, batch_size, heard, measurable, ready
from workbench.steps import Step, work

Making = Iterator[Step[dict[str, Any]]]  # at its end the fields of a `Detector`


def softmax(model: Classifier, training: ImageDataset, *, seed: int, kind: str) -> Making:
    """How unsure the model is: 1 - max p, the entropy of p in nats, or Gini's 1 - sum p^2."""

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        p = model(x).double().softmax(1)  # sure answers differ only far behind the point
        if kind == "entropy":
            return entropy(p)
        return 1 - (p.amax(1) if kind == "max softmax" else p.square().sum(1))

    yield Step(0, 0, kind, {"strangeness": strangeness})


def entropy(p: torch.Tensor) -> torch.Tensor:
    """The entropy of probabilities `(..., K)` in float64, in nats."""
    return -(p * p.clamp(min=1e-300).log()).sum(-1)


def mutual_information(
    model: Classifier, training: ImageDataset, *, seed: int, copies: int = 8, noise: float = 0.1
) -> Making:
    """How much the answers to noisy copies of an image disagree, in nats (Houlsby et al., 2011).

    The noise, Gaussian, is the same for every image. It stands in for dropout, which not every
    network has: entropy of the mean answer less mean entropy of the answers.
    """
    checks.positive("copies", copies, least=2)
    draw = torch.Generator().manual_seed(seed)
    field = noise * torch.randn(copies, 1, *model.input_shape, generator=draw, dtype=torch.float32)

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        noisy = (x + field.to(x)).clamp(0, 1)
        p = model(noisy.flatten(0, 1)).double().softmax(1).unflatten(0, noisy.shape[:2])
        return entropy(p.mean(0)) - entropy(p).mean(0)

    yield Step(0, 0, "noise", {"strangeness": strangeness, "copies": copies})


def last_hidden(model: Classifier, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and what the linear layer that gives them takes; without one the logits twice."""
    head, given = model.linear_head(), list[torch.Tensor]()
    with heard([head] if head else [], before=lambda _, inputs: given.append(inputs[0])):
        logits = model(x)
    return logits, given[-1] if given else logits


def mahalanobis(
    model: Classifier, training: ImageDataset, *, seed: int, shrinkage: float = 0.01
) -> Making:
    """Squared distance of the last hidden layer to the mean of the class that the model says.

    In the covariance that all classes share (Lee et al., 2018), to which `shrinkage` of its
    mean variance is added. A class that was not seen is as far as can be.
    """
    training, hidden = measurable(training, model), list[torch.Tensor]()
    for x, _ in training.batches(batch_size(model.input_shape, BATCH)):
        with torch.no_grad():
            hidden.append(last_hidden(model, x.to(model.device))[1].cpu().double())
        yield Step(sum(map(len, hidden)), len(training), "training images")
    h, label = torch.cat(hidden)[training.labels >= 0], training.labels[training.labels >= 0]
    means = torch.stack([h[label == k].mean(0) for k in range(len(model.classes))])
    covariance = (h - means[label]).T @ (h - means[label]) / len(h)
    extra = shrinkage * covariance.diagonal().mean() + 1e-12
    precision = torch.linalg.inv(covariance + extra * torch.eye(len(covariance)).double())

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        logits, h = last_hidden(model, x)
        gap = h - means.to(h)[logits.argmax(1)]
        return ((gap @ precision.to(h)) * gap).sum(1).nan_to_num(torch.finfo(torch.float32).max)

    yield Step(len(training), len(training), "means", {"strangeness": strangeness})


def autoencoder(
    model: Classifier,
    training: ImageDataset,
    *,
    seed: int,
    rebuild: Callable[[torch.Tensor], torch.Tensor] | None = None,
    components: int = 16,
) -> Making:
    """Mean squared error of an image that an autoencoder builds again; the model is not asked.

    rebuild: yours; when None the best linear one, the first principal components of the
    training images (Baldi and Hornik, 1989).

    Raises:
        ValueError: what `rebuild` gives is no image of the same shape.
    """
    flat = training.images.flatten(1)
    middle = flat.mean(0)
    axes = torch.linalg.eigh((flat - middle).T @ (flat - middle)).eigenvectors
    kept = axes[:, -checks.positive("components", components) :]

    def projected(x: torch.Tensor) -> torch.Tensor:
        gap = x.flatten(1) - middle.to(x)
        return (gap @ kept.to(x) @ kept.T.to(x) + middle.to(x)).view_as(x)

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        return ((rebuild or projected)(x) - x).square().flatten(1).mean(1)

    with torch.no_grad():
        given = (rebuild or projected)(training.images[:2].to(model.device)).shape[1:]
    if given != training.images.shape[1:]:
        raise ValueError(
            f"rebuild: expected images of shape {training.shape} back, got {tuple(given)}; end "
            "the autoencoder with a layer that gives that shape"
        )
    yield Step(0, 0, "autoencoder", {"strangeness": strangeness})


BUILDERS: dict[str, Callable[..., Making]] = {
    **{kind: partial(softmax, kind=kind) for kind in ("max softmax", "entropy", "gini")},
    "mutual information": mutual_information,
    "mahalanobis": mahalanobis,
    "autoencoder": autoencoder,
    **{kind: partial(watching, kind=kind) for kind in KINDS},
    "beyond": beyond,
}
NAMES = tuple(BUILDERS)


@work
def fit(
    name: str,
    model: Classifier,
    training: ImageDataset,
    held_out: ImageDataset,
    *,
    false_alarms: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> Iterator[Step[Detector]]:
    """The detector `name`, one of `NAMES`, of `model`.

    It learns from the training images. Its threshold is the least at which at most
    `false_alarms` of the held-out images raise an alarm. options: of the builder in this
    module, in `monitors` and in `neighbours`, such as an `encoder` of your own.

    Raises:
        ValueError: an unknown name, no held-out images, or too few for the rate, images that
            do not fit the model, an option out of range.
    """
    checks.known("detector", name, NAMES)
    ready(model)
    measurable(training, model, labels=False)
    judged(model, held_out, false_alarms)
    n = len(held_out)
    for step in BUILDERS[name](model, training, seed=seed, **options):
        yield Step(step.done, step.total + n, step.message)
    assert step.value is not None
    made, parts = Detector(model=model.card.name, kind=name, **step.value), list[torch.Tensor]()
    for part in made.scores(model, held_out.images):
        parts.append(part)
        yield Step(step.total + sum(map(len, parts)), step.total + n, "held-out images")
    score = torch.cat(parts)
    threshold = least_threshold(score, false_alarms)
    spread = max(float(score[score <= threshold].double().std(correction=0)), 1e-6)
    made = replace(made, threshold=threshold, false_alarms=false_alarms, spread=spread)
    yield Step(step.total + n, step.total + n, "done", made)


def judged(model: Classifier, held_out: ImageDataset, false_alarms: float) -> None:
    """Check that a threshold for this rate can be chosen on these images; see `fit`."""
    n = len(held_out)
    if not 0 <= false_alarms < 1:
        raise ValueError(f"false_alarms: expected a rate in [0, 1), got {false_alarms}")
    if not n:
        raise ValueError("held_out: expected images to choose the threshold on, got none")
    if false_alarms and int(false_alarms * n + 1e-9) == 0:
        raise ValueError(
            f"false_alarms: a rate of {false_alarms:g} cannot be told from 0 on {n} held-out "
            f"images; give at least {math.ceil(1 / false_alarms - 1e-9)}, ask for {1 / n:.3g} or "
            "more, or for 0: no alarm below the strangest of them"
        )
    measurable(held_out, model, labels=False)


@work
def monitor(
    model: Classifier,
    training: ImageDataset,
    held_out: ImageDataset,
    *,
    kind: Kind = "pattern",
    **options: Any,
) -> Iterator[Step[Detector]]:
    """`fit` of a monitor, which knows what the training images of each class fire.

    options: as of `fit` and of `monitors.watching`.
    """
    checks.known("kind of monitor", kind, KINDS)
    yield from fit.steps(kind, model, training, held_out, **options)
