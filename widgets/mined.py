"""`Mined`: the patterns of a model, and what was asked of them so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workbench import detectors, patterns
from workbench.data import ImageDataset
from workbench.detectors.base import Detector
from workbench.models import Classifier
from workbench.params import Parameters
from workbench.patterns.mining import PatternQuality, Patterns, quality_of
from workbench.patterns.recording import BATCH, Recording
from workbench.steps import Step

Key = tuple[Classifier, ImageDataset | None, ImageDataset, int]  # training, test, how many
Top = tuple[torch.Tensor, torch.Tensor]


class Mined:
    """Patterns mined for `key` from `training`, and what was asked of them on `test` so far.

    What takes long is a generator, a step a pass, that keeps what it made at its end.
    """

    def __init__(
        self, key: Key, mined: Patterns, seen: Recording, training: ImageDataset, test: ImageDataset
    ) -> None:
        self.key, self.patterns, self.seen, self.training, self.test = (
            key,
            mined,
            seen,
            training,
            test,
        )
        self._judged: tuple[Patterns, PatternQuality, torch.Tensor] | None = None
        self._tops: dict[str, Top] = {}
        self._watch: tuple[dict[str, Any], Detector] | None = None

    @classmethod
    def steps(
        cls, key: Key, delta: float, training: ImageDataset, test: ImageDataset
    ) -> Iterator[Step[Mined]]:
        """Mine the training images and record the test images."""
        model, total = key[0], len(training) + len(test)
        for mining in patterns.mine.steps(model, training, delta):
            yield Step(mining.done, total, mining.message)
        for recording in patterns.record.steps(model, test):
            yield Step(len(training) + recording.done, total, f"judged on {recording.message}")
        assert mining.value is not None
        assert recording.value is not None
        yield Step(total, total, "mined", cls(key, mining.value, recording.value, training, test))

    def judged(self, delta: float) -> tuple[Patterns, PatternQuality, torch.Tensor]:
        """The patterns at `delta`, how good they are, the scores of the test images `(N,)`."""
        judged = self._judged
        if judged is None or judged[0].delta != delta:
            mined, layers = self.patterns.at(delta), self.seen.layers
            parts = [torch.zeros(0, len(mined.classes), dtype=torch.int64)]
            for start in range(0, len(self.test), BATCH):
                rows = slice(start, start + BATCH)
                signs = {name: record.signs(rows) for name, record in layers.items()}
                parts.append(mined.broken(signs))
            broken = torch.cat(parts)
            quality = quality_of(broken == 0, self.seen.labels, mined.classes)
            scores = broken.gather(1, self.seen.predicted[:, None])[:, 0].float()
            judged = self._judged = mined, quality, scores
        return judged

    def watch(self, p: Parameters) -> Detector | None:
        """The monitor asked for, where it was made."""
        return self._watch[1] if self._watch is not None and self._watch[0] == about(p) else None

    def watching(self, p: Parameters) -> Iterator[Step[Any]]:
        """Make the monitor asked for."""
        if self.watch(p) is None:
            model, asked = self.key[0], about(p)
            for step in detectors.monitor.steps(model, self.training, self.test, **asked):
                yield Step(step.done, step.total, step.message)
            assert step.value is not None
            self._watch = asked, step.value

    def top(self, layer: str) -> Top:
        """The test images that fire each neuron of a layer most, and how much."""
        return self._tops[layer]

    def strongest(self, layer: str) -> Iterator[Step[Any]]:
        """Find them."""
        if layer not in self._tops:
            for step in patterns.top_images.steps(self.key[0], self.test, layer):
                yield Step(step.done, step.total, f"{layer}: {step.message}")
            assert step.value is not None
            self._tops[layer] = step.value


def about(p: Parameters) -> dict[str, Any]:
    """What decides a monitor."""
    return {name: getattr(p, name) for name in ("kind", "false_alarms")}
