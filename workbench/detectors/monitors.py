"""Monitors: at run time, does an image fire what its class fired in training?

pattern: neurons that break the class's mined pattern (Geng et al. 2023). hamming: distance
to the nearest on-off state of the class's training images (Cheng, Nührenberg, Yasuoka
2019). box: distance to boxes round clusters of activations (Henzinger, Lukina, Schilling
2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.detectors.base import BATCH
from workbench.models import Classifier, batch_size, measurable
from workbench.patterns import mine, pattern_layers, rectifiers, watched
from workbench.steps import Step

Kind = Literal["pattern", "hamming", "box"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KEPT = 2000  # states of a class that are remembered
Distance = Callable[[torch.Tensor], torch.Tensor]


def watching(
    model: Classifier,
    training: ImageDataset,
    *,
    kind: Kind,
    seed: int,
    layers: tuple[str, ...] | None = None,
    delta: float = 0.99,
    clusters: int = 3,
) -> Iterator[Step[dict[str, Any]]]:
    """How strange an image is among those of the class that the model says.

    0 is what was seen in training, and nothing is as far as a class that was not seen at all.
    layers: all ReLU layers for 'pattern', the last for the others, when None. delta: of the
    pattern mined. clusters: boxes a class.
    """
    checks.known("kind of monitor", kind, KINDS)
    checks.positive("clusters", clusters)
    if layers is None and kind != "pattern":
        layers = rectifiers(model)[-1:]
    names, n = pattern_layers(model, layers), len(training)
    if kind == "pattern":
        work = pattern_distances(model, training, names, delta)
    else:
        work = activation_distances(model, training, names, kind, clusters, seed)
    for step in work:
        yield Step(step.done, n, step.message)
    assert step.value is not None
    distances = step.value

    def strangeness(model: Classifier, x: torch.Tensor) -> torch.Tensor:
        with watched(model, names) as ask:
            logits, outputs = ask(x)
        values, label = torch.cat(list(outputs.values()), 1).cpu(), logits.argmax(1).cpu()
        scores = torch.zeros(len(x))
        for k in label.unique().tolist():
            rows = (label == k).nonzero().flatten()
            scores[rows] = distances[k](values[rows]).float()
        return scores.to(x.device)

    fields = {"strangeness": strangeness, "differentiable": kind == "box", "layers": names}
    yield Step(n, n, step.message, fields)


def pattern_distances(
    model: Classifier, training: ImageDataset, names: tuple[str, ...], delta: float
) -> Iterator[Step[list[Distance]]]:
    """How many neurons of its class's pattern an image breaks."""
    for step in mine.steps(model, training, delta, layers=names):
        yield Step(step.done, step.total, step.message)
    assert step.value is not None
    patterns = step.value
    phases = torch.cat(list(patterns.phases.values()), 1)
    far = unseen(patterns.neurons + 1)
    value = [broken(phase) if n else far for phase, n in zip(phases, patterns.total, strict=True)]
    yield Step(step.done, step.total, "mined", value)


def activation_distances(
    model: Classifier,
    training: ImageDataset,
    names: tuple[str, ...],
    kind: Kind,
    clusters: int,
    seed: int,
) -> Iterator[Step[list[Distance]]]:
    """How far an image is from what the training images that the model gets right fire."""
    for step in activations(model, measurable(training, model), names):
        yield Step(step.done, step.total, step.message)
    assert step.value is not None
    make, far = states if kind == "hamming" else boxes, unseen(torch.finfo(torch.float32).max)
    value = [make(values, clusters, seed) if len(values) else far for values in step.value]
    yield Step(step.done, step.total, "training images", value)


def activations(
    model: Classifier, training: ImageDataset, names: tuple[str, ...]
) -> Iterator[Step[list[torch.Tensor]]]:
    """Activations `(M, n)` of the training images of each class that the model gets right.

    Raises:
        ValueError: there is none of any class.
    """
    values, labels = [], []
    with watched(model, names) as ask:
        for x, y in training.batches(batch_size(model.input_shape, BATCH)):
            with torch.no_grad():
                logits, outputs = ask(x)
            right = logits.argmax(1).cpu() == y
            values.append(torch.cat(list(outputs.values()), 1).cpu()[right])
            labels.append(y[right])
            yield Step(sum(map(len, values)), len(training), "training images")
    value, label = torch.cat(values), torch.cat(labels)
    if not len(label):
        raise ValueError(f"training: {model.card.name} gets no image of {training.name} right")
    by_class = [value[label == k] for k in range(len(model.classes))]
    yield Step(len(training), len(training), "training images", by_class)


def unseen(far: float) -> Distance:
    """How far an image is from a class of which nothing was seen."""
    return lambda value: torch.full((len(value),), far)


def broken(phase: torch.Tensor) -> Distance:
    """How many neurons break the phase `(n,)`."""
    on, off = (phase > 0).float(), (phase < 0).float()

    def distance(value: torch.Tensor) -> torch.Tensor:
        fires = (value > 0).float()
        return (1 - fires) @ on + fires @ off

    return distance


def states(values: torch.Tensor, clusters: int, seed: int) -> Distance:
    """In how many neurons an image differs from the nearest of the states seen."""
    patterns = (values > 0).unique(dim=0)
    draw = torch.Generator().manual_seed(seed)
    patterns = patterns[torch.randperm(len(patterns), generator=draw)[:KEPT]].float() * 2 - 1

    def distance(value: torch.Tensor) -> torch.Tensor:
        # With signs +1 and -1, a product is n - 2 d: d neurons differ.
        agreement = ((value > 0).float() * 2 - 1) @ patterns.T
        return (patterns.shape[1] - agreement.amax(1)) / 2

    return distance


def boxes(values: torch.Tensor, clusters: int, seed: int) -> Distance:
    """How far outside the nearest box an image's activations are, summed over neurons.

    Each neuron counts in units of its standard deviation in the class.
    """
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(values))
    cluster = KMeans(clusters, n_init=3, random_state=seed).fit_predict(values.double().numpy())
    member_of = torch.from_numpy(cluster)
    groups = [values[member_of == c] for c in range(clusters) if bool((member_of == c).any())]
    low = torch.stack([v.amin(0) for v in groups])
    high = torch.stack([v.amax(0) for v in groups])
    unit = values.std(0, correction=0).clamp(min=1e-3)

    def distance(value: torch.Tensor) -> torch.Tensor:
        outside = [
            ((lo - value).clamp(min=0) + (value - hi).clamp(min=0)) / unit
            for lo, hi in zip(low, high, strict=True)
        ]
        return torch.stack([part.sum(1) for part in outside]).amin(0)

    return distance
