"""Monitors: at run time, does an image fire what its class fired in training?

pattern: neurons that break the class's mined pattern (Geng et al. 2023). hamming: distance
to the nearest on-off state of the class's training images (Cheng, Nührenberg, Yasuoka
2019). box: distance to boxes round clusters of activations (Henzinger, Lukina, Schilling
2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, measurable, ready
from workbench.patterns import check_model, mine, pattern_layers, rectifiers, watched
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["pattern", "hamming", "box"]
KEPT = 2000  # states of a class that are remembered
BATCH = 500  # images a pass, where they are small
Distance = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Monitor:
    """How strange an image is among those of the class that the model says.

    distances: one function a class, from activations `(N, n)` of `layers`, side by side, to
    float32 `(N,)`; 0 is what was seen in training, and nothing is as far as a class that was
    not seen at all. An image raises an alarm above `threshold`, which is chosen for
    `false_alarms` on held-out images.
    """

    model: str
    kind: str
    layers: tuple[str, ...]
    distances: tuple[Distance, ...]
    threshold: float = 0.0
    false_alarms: float = 0.0

    def score(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """How strange each of the images `(N, C, H, W)` is: float32 `(N,)`.

        Raises:
            ValueError: images that break the contract, or another model.
        """
        check_model(self.model, model)
        x = checks.images(x, model.input_shape)
        parts = [torch.zeros(0), *self.scores(model, x)]
        return torch.cat(parts)

    def scores(self, model: Classifier, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The same batch by batch."""
        with watched(model, self.layers) as ask:
            for part in x.split(batch_size(model.input_shape, BATCH)):
                with torch.no_grad():
                    logits, outputs = ask(part)
                values, label = torch.cat(list(outputs.values()), 1).cpu(), logits.argmax(1).cpu()
                scores = torch.zeros(len(part))
                for k in label.unique().tolist():
                    rows = (label == k).nonzero().flatten()
                    scores[rows] = self.distances[k](values[rows]).float()
                yield scores

    def alarm(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """Which images raise an alarm, bool `(N,)`."""
        return self.score(model, x) > self.threshold


@dataclass(frozen=True, eq=False)
class Alarms:
    """A monitor's scores of images that belong and of images that do not."""

    usual: torch.Tensor
    strange: torch.Tensor
    threshold: float

    def summary(self) -> dict[str, Any]:
        """AUROC, and the share of alarms on both."""
        from sklearn.metrics import roc_auc_score

        truth = [0] * len(self.usual) + [1] * len(self.strange)
        both = len(self.usual) > 0 and len(self.strange) > 0
        scores = torch.cat([self.usual, self.strange]).numpy()
        return {
            "auroc": float(roc_auc_score(truth, scores)) if both else None,
            "false_alarms": float((self.usual > self.threshold).float().mean()),
            "caught": float((self.strange > self.threshold).float().mean()),
        }

    def frame(self) -> pd.DataFrame:
        """One row an image: its score, whether it belongs, and whether it raises an alarm."""
        import pandas as pd

        scores = torch.cat([self.usual, self.strange])
        belongs = [True] * len(self.usual) + [False] * len(self.strange)
        alarm = (scores > self.threshold).tolist()
        return pd.DataFrame({"score": scores.tolist(), "belongs": belongs, "alarm": alarm})


@work
def monitor(
    model: Classifier,
    training: ImageDataset,
    held_out: ImageDataset,
    *,
    kind: Kind = "pattern",
    layers: tuple[str, ...] | None = None,
    false_alarms: float = 0.05,
    delta: float = 0.99,
    clusters: int = 3,
    seed: int = 0,
) -> Iterator[Step[Monitor]]:
    """A monitor that knows what the training images of each class fire.

    Its threshold is the least at which at most `false_alarms` of the held-out images raise
    one. layers: all ReLU layers for 'pattern', the last for the others, when None. delta: of
    the pattern mined. clusters: boxes a class.

    Raises:
        ValueError: an unknown kind, training images without a label, or of which the model
            gets none right, no held-out images, a rate outside [0, 1).
    """
    ready(model)
    if kind not in ("pattern", "hamming", "box"):
        raise checks.unknown("kind of monitor", kind, ("pattern", "hamming", "box"))
    if not 0 <= false_alarms < 1:
        raise ValueError(f"false_alarms: expected a rate in [0, 1), got {false_alarms}")
    if not len(held_out):
        raise ValueError("held_out: expected images to choose the threshold on, got none")
    checks.positive("clusters", clusters)
    measurable(held_out, model, labels=False)
    if layers is None and kind != "pattern":
        layers = rectifiers(model)[-1:]
    names, total = pattern_layers(model, layers), len(training) + len(held_out)
    if kind == "pattern":
        work = pattern_distances(model, training, names, delta)
    else:
        work = activation_distances(model, training, names, kind, clusters, seed)
    for step in work:
        yield Step(step.done, total, step.message)
    assert step.value is not None
    fields = model.card.name, kind, names, tuple(step.value)
    scores: list[torch.Tensor] = []
    for part in Monitor(*fields).scores(model, held_out.images):
        scores.append(part)
        yield Step(len(training) + sum(map(len, scores)), total, "held-out images")
    threshold = least_threshold(torch.cat(scores), false_alarms)
    yield Step(total, total, "done", Monitor(*fields, threshold, false_alarms))


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


def least_threshold(scores: torch.Tensor, false_alarms: float) -> float:
    """The least of the scores `(N,)` that at most a share `false_alarms` of them exceed."""
    allowed = int(false_alarms * len(scores) + 1e-9)
    return float(scores.msort()[len(scores) - 1 - allowed])


def alarms(watch: Monitor, model: Classifier, usual: torch.Tensor, strange: torch.Tensor) -> Alarms:
    """The monitor's scores of images that belong and of others, `(N, C, H, W)` each."""
    return Alarms(watch.score(model, usual), watch.score(model, strange), watch.threshold)


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
