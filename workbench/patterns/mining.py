"""Neural activation patterns: what (almost) all images of a class have on, and off.

Geng, Le, Xu, Wang, Gurfinkel, Si (2023), "Towards reliable neural specifications";
Geng et al. (2024), "Learning minimal neural specifications".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, batch_size, matched, measurable, ready
from workbench.patterns.recording import BATCH, one_hot, pattern_layers, watched
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Pattern:
    """The pattern of one class: +1 where a neuron must be on, -1 off, 0 free.

    phases: int8 `(n,)` by ReLU layer. On is strictly above zero; layers too large for that
    have n channels in place of neurons (see `grouping`).
    """

    model: str
    label: int
    phases: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return sum(int((phase != 0).sum()) for phase in self.phases.values())


@dataclass(frozen=True, eq=False)
class Patterns:
    """The patterns of K classes of one model, and how they were counted.

    phases: int8 `(K, n)` by layer: +1 on, -1 off, 0 free. counts: images of each class
    with the neuron on, int64 `(K, n)` by layer; total: images of each class, `(K,)`; a class
    without images has no pattern, and nothing follows it. delta: the share of a class's
    images that must agree.
    """

    model: str
    classes: tuple[str, ...]
    phases: dict[str, torch.Tensor]
    counts: dict[str, torch.Tensor]
    total: torch.Tensor
    delta: float

    def at(self, delta: float) -> Patterns:
        """The same counts at another `delta`: nothing is computed anew."""
        return Patterns(
            *(self.model, self.classes, phases_of(self.counts, self.total, delta)),
            *(self.counts, self.total, delta),
        )

    def of(self, label: int) -> Pattern:
        """The pattern of one class.

        Raises:
            ValueError: no such class, or one without images.
        """
        if not 0 <= label < len(self.classes):
            raise ValueError(f"label: expected 0..{len(self.classes) - 1}, got {label}")
        if not self.total[label]:
            raise ValueError(
                f"label: no image of class {self.classes[label]!r} was mined, so it has no pattern"
            )
        return Pattern(
            self.model, label, {name: phase[label] for name, phase in self.phases.items()}
        )

    @property
    def sizes(self) -> torch.Tensor:
        """How many neurons each class's pattern fixes, int64 `(K,)`."""
        return torch.stack([(phase != 0).sum(1) for phase in self.phases.values()]).sum(0)

    def violations(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """How many neurons break each class's pattern, int64 `(N, K)`, for images `(N, C, H, W)`.

        One more than there are, where a class has no pattern.

        Raises:
            ValueError: images that break the contract, or another model.
        """
        check_model(self.model, model)
        x = checks.images(x, model.input_shape)
        size = batch_size(model.input_shape, BATCH)
        with watched(model, tuple(self.phases)) as ask, torch.no_grad():
            parts = [self.broken(ask(part)[1]) for part in x.split(size)]
        return torch.cat(parts)

    def broken(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same from what fires, `(N, n)` by layer: above zero where a neuron is on."""
        parts = [against(values[name], phase) for name, phase in self.phases.items()]
        violations = torch.stack(parts).sum(0)
        violations[:, self.total == 0] = self.neurons + 1
        return violations

    def follows(self, model: Classifier, x: torch.Tensor) -> torch.Tensor:
        """Which images follow which class's pattern, bool `(N, K)`."""
        return self.violations(model, x) == 0

    @property
    def neurons(self) -> int:
        """How many neurons (or channels, see `grouping`) the layers have together."""
        return sum(phase.shape[1] for phase in self.phases.values())

    def disjoint(self) -> torch.Tensor:
        """Which two classes' patterns no image can follow at once, bool `(K, K)`.

        Where some neuron is on in one and off in the other. Two patterns that are not
        disjoint in this sense may still be so: that takes a proof.
        """
        mined = self.total > 0  # of a thousand classes there may be images of ten
        rows = [phase[mined].float() for phase in self.phases.values()]
        opposed = [row @ -row.T for row in rows]
        shared = [row.abs() @ row.abs().T for row in rows]
        # Over the neurons fixed in both, 1 - ab is 2 where the signs differ and 0 where they agree.
        clashes = torch.stack(opposed).sum(0) + torch.stack(shared).sum(0)
        disjoint = torch.zeros(len(mined), len(mined), dtype=torch.bool)
        disjoint[mined[:, None] & mined] = clashes.ravel() > 0.5
        return disjoint

    @property
    def mean_size(self) -> float:
        """How many neurons a pattern fixes, in the mean over the classes that have one."""
        return float(self.sizes[self.total > 0].float().mean())

    def summary(self) -> dict[str, Any]:
        """Images, neurons, delta, the mean size of a pattern, and disjoint pairs."""
        return {
            "images": int(self.total.sum()),
            "neurons": self.neurons,
            "delta": self.delta,
            "mean_size": self.mean_size,
            "disjoint_pairs": int(self.disjoint().triu(1).sum()),
        }

    def frame(self) -> pd.DataFrame:
        """One row a class mined and layer: how many neurons are fixed on, fixed off, free."""
        import pandas as pd

        rows = [
            {
                "class": self.classes[k],
                "layer": name,
                "on": int((phase[k] > 0).sum()),
                "off": int((phase[k] < 0).sum()),
                "free": int((phase[k] == 0).sum()),
            }
            for k in self.total.nonzero().flatten().tolist()
            for name, phase in self.phases.items()
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class PatternQuality:
    """How well patterns tell classes on unseen images; float32 `(K,)` each.

    recall: share of a class's images that follow its pattern. precision: share of the
    images that follow it which are of the class. follows: of images of class i that follow
    pattern j, `(K, K)`. ambiguous: share of all images that follow two patterns or more.
    """

    recall: torch.Tensor
    precision: torch.Tensor
    follows: torch.Tensor
    ambiguous: float
    classes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Mean recall and precision over the classes where they are defined; None if nowhere."""
        return {
            "recall": None if self.recall.isnan().all() else float(self.recall.nanmean()),
            "precision": None if self.precision.isnan().all() else float(self.precision.nanmean()),
            "ambiguous": self.ambiguous,
        }

    def frame(self) -> pd.DataFrame:
        """One row a class."""
        import pandas as pd

        columns = {"recall": self.recall.tolist(), "precision": self.precision.tolist()}
        return pd.DataFrame({"class": self.classes, **columns})


@work
def mine(
    model: Classifier,
    dataset: ImageDataset,
    delta: float = 0.99,
    *,
    layers: Sequence[str] | None = None,
) -> Iterator[Step[Patterns]]:
    """Count what fires on the images of each class; fix what `delta` of them agree on.

    A neuron is fixed on if at least `delta` of the class's images have it on, off if at least
    `delta` have not; counted in whole numbers. delta 1 fixes what never changes, smaller
    values fix more. layers: all ReLU layers when None. Classes without images get no pattern.

    Raises:
        ValueError: delta outside (0.5, 1], an unknown layer, a model in train mode, data that
            do not fit it or have no label.
    """
    check_delta(delta)
    ready(model)
    names = pattern_layers(model, layers)
    dataset = measurable(dataset, model)
    n_classes = len(model.classes)
    total = torch.bincount(dataset.labels[dataset.labels >= 0], minlength=n_classes)
    present = total.nonzero().flatten()
    counts: dict[str, torch.Tensor] = {}
    done = 0
    with watched(model, names, fires) as ask:
        for x, y in dataset.batches(batch_size(model.input_shape, BATCH)):
            own = (y == present[:, None]).float().to(model.device)
            with torch.no_grad():
                for name, on in ask(x)[1].items():
                    part = (own @ on).long().cpu()  # whole numbers below 2^24: exact
                    counts[name] = counts[name] + part if name in counts else part
            done += len(x)
            yield Step(done, len(dataset), f"{done:,} images")
    for name, part in counts.items():
        counts[name] = part.new_zeros(n_classes, part.shape[1]).index_copy_(0, present, part)
    phases = phases_of(counts, total, delta)
    patterns = Patterns(model.card.name, model.classes, phases, counts, total, delta)
    yield Step(done, len(dataset), "done", patterns)


def quality(patterns: Patterns, model: Classifier, dataset: ImageDataset) -> PatternQuality:
    """Recall and precision of patterns on images they were not mined from.

    Raises:
        ValueError: data that do not fit the model or have no label.
    """
    dataset = measurable(dataset, model)
    return quality_of(patterns.follows(model, dataset.images), dataset.labels, patterns.classes)


def quality_of(
    follows: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]
) -> PatternQuality:
    """Recall and precision from which images follow which pattern, bool `(N, K)`."""
    own = one_hot(labels, len(classes))
    counts = own.T @ follows.float()
    recall = counts.diagonal() / own.sum(0)  # NaN for a class without images
    precision = counts.diagonal() / counts.sum(0)
    ambiguous = float((follows.sum(1) > 1).float().mean()) if len(follows) else 0.0
    return PatternQuality(recall, precision, counts.long(), ambiguous, classes)


def minimal(
    patterns: Patterns, model: Classifier, dataset: ImageDataset, negatives: torch.Tensor
) -> Patterns:
    """Patterns reduced to neurons that refuse what they refused before (after Geng et al. 2024).

    For each class: the images of the other classes in `dataset` and the `negatives`
    `(N, C, H, W)` (such as adversarial images) that break its pattern must still break it;
    neurons are taken greedily by how many of those left they refuse. An image refused so is
    evidence; a proof is the verifier's.
    """
    check_model(patterns.model, model)
    dataset = matched(dataset, model)
    dataset = dataset[dataset.labels >= 0]
    images = torch.cat([dataset.images, checks.images(negatives, model.input_shape)])
    labels = torch.cat([dataset.labels, torch.full((len(negatives),), -1)])
    with watched(model, tuple(patterns.phases)) as ask, torch.no_grad():
        signs = torch.cat(
            [
                torch.cat([v > 0 for v in ask(part)[1].values()], 1).cpu()
                for part in images.split(batch_size(model.input_shape, BATCH))
            ]
        )
    whole = torch.cat(list(patterns.phases.values()), 1)
    kept = torch.zeros_like(whole)
    for k, phase in enumerate(whole):
        refuses = ((phase > 0) & ~signs | (phase < 0) & signs)[labels != k]
        refuses = refuses[refuses.any(1)].float()
        while len(refuses):
            best = int(refuses.sum(0).argmax())
            kept[k, best] = phase[best]
            refuses = refuses[refuses[:, best] == 0]
    parts = kept.split([phase.shape[1] for phase in patterns.phases.values()], 1)
    phases = dict(zip(patterns.phases, parts, strict=True))
    return Patterns(
        *(patterns.model, patterns.classes, phases, patterns.counts, patterns.total),
        patterns.delta,
    )


def fires(value: torch.Tensor) -> torch.Tensor:
    """1 where an activation is above zero, else 0, as floats."""
    out = torch.empty(value.shape, device=value.device)
    return torch.gt(value, 0, out=out)  # ten times as fast as .float()


def against(value: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """How many of the activations `(N, n)` break each phase `(K, n)`: int64 `(N, K)`."""
    on = fires(value)
    phase = phase.to(on.device)
    # Off where on was fixed, and on where off was: two products of 0 and 1 count them.
    broken = (1 - on) @ (phase > 0).float().T + on @ (phase < 0).float().T
    return broken.round().long().cpu()


def phases_of(
    counts: dict[str, torch.Tensor], total: torch.Tensor, delta: float
) -> dict[str, torch.Tensor]:
    """On, off or free from counts of images, compared in whole numbers."""
    check_delta(delta)
    share = Fraction(str(delta))
    needed = total[:, None] * share.numerator
    phases = {}
    for name, on in counts.items():
        off = (total[:, None] - on) * share.denominator >= needed
        phases[name] = (on * share.denominator >= needed).to(torch.int8) - off.to(torch.int8)
    return phases


def check_delta(delta: float) -> None:
    """Check a share in (0.5, 1].

    Raises:
        ValueError: below, a neuron could be fixed on and off at once.
    """
    if not (isinstance(delta, int | float) and 0.5 < delta <= 1):
        raise ValueError(
            f"delta: expected a share of the images above 0.5 and up to 1, got {delta}; at 0.5 "
            "a neuron could be fixed on and off at once"
        )


def check_model(name: str, model: Classifier) -> None:
    """Check that a pattern is of this model.

    Raises:
        ValueError: it is of another, or the model is in train mode.
    """
    ready(model)
    if model.card.name != name:
        raise ValueError(
            f"model: the pattern was mined from {name!r}, the model is {model.card.name!r}"
        )
