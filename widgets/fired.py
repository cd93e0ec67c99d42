"""What `PatternPanel` shows: what an image fires, beside the patterns; the neuron looked at."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from workbench import figures
from workbench.patterns.mining import PatternQuality, Patterns

from .blocks import row
from .labels import called
from .views import View

LAYERS, CELLS = 8, 16_384  # drawn at once; the others are counted, and drawn when picked


@dataclass(frozen=True, eq=False)
class PatternView(View):
    """What the panel shows: an image, what it fires, and how that fits the patterns.

    values: activations `(n,)` by layer; on: which are on; units: what a neuron is called
    there (see `patterns.grouping`). broken: neurons of each class's pattern, `(K,)`. score,
    threshold: of the monitor. remark: why there are none. top: images that fire the neuron
    looked at, and how much. held: its value where it is switched, and the logits then. offer:
    models that fit, where this one has nothing to show.
    """

    logits: torch.Tensor
    label: int
    values: dict[str, torch.Tensor]
    on: dict[str, torch.Tensor]
    units: dict[str, str]
    patterns: Patterns | None = None
    quality: PatternQuality | None = None
    broken: torch.Tensor | None = None
    score: float = 0.0
    threshold: float = 0.0
    remark: str = ""
    top: tuple[torch.Tensor, torch.Tensor] | None = None
    held: tuple[float, torch.Tensor] | None = None
    offer: str = ""

    def summary(self) -> dict[str, Any]:
        """The patterns and how good they are, what the image breaks, the monitor."""
        summary = {"index": self.index, "predicted": self.model.classes[self.label]}
        for part in (self.patterns, self.quality):
            summary |= part.summary() if part is not None else {}
        return summary | {"score": self.score, "threshold": self.threshold}


def looked_at(view: PatternView, pattern: Patterns, layer: str, k: int) -> str:
    """The neuron chosen: the images that fire it most, and the logits with it switched."""
    assert view.top is not None
    phase = int(pattern.phases[layer][view.label, k])
    images, asked = view.images, ("not in the pattern of", "on in the pattern of")[abs(phase)]
    asked = asked.replace("on in", "off in") if phase < 0 else asked
    what = view.units[layer]
    name = view.model.classes[view.label]
    words = f"{layer}, {what} {k}: {view.values[layer][k]:.3g} on this image; {asked} {name}"
    tags = ""
    for i, fires in zip(*(part[0].tolist() for part in view.top), strict=True):
        alt = f"index {i}, {called(images, i)}: {fires:.3g}"
        tag = figures.points.tag(images.images[i], alt, 48, images.space)
        tags += f"{tag} " if fires > 0 else ""
    to, logits = view.held or (0.0, None)
    switched = f"{what} at {to:.3g}"
    table = figures.logit_table(view.logits, logits, view.model.classes, what=switched, n=4)
    top = f"<p><b>{escape(words)}</b></p><p>Most active on<br>{tags or 'no test image'}</p>"
    return row(f"<div>{top}</div>", table.html)


def drawn(view: PatternView, layer: str) -> set[str]:
    """The layers that are drawn: the one looked at, and the last as long as there is room."""
    shown, cells = {layer}, len(view.on[layer]) if layer in view.on else 0
    for name in reversed(view.on):
        if name not in shown:
            cells += len(view.on[name])
            if len(shown) == LAYERS or cells > CELLS:
                break
            shown.add(name)
    return shown


def folded(layer: str, on: torch.Tensor, phase: torch.Tensor, unit: str) -> str:
    """A layer in a line, to be picked: how much is on, and how much against the pattern."""
    against = int(((phase > 0) & ~on | (phase < 0) & on).sum())
    words = f"{layer}: {int(on.sum()):,} of {len(on):,} {unit}s on"
    words += f", {against:,} against the pattern" if bool((phase != 0).any()) else ""
    pick = f'data-pick="show:{escape(layer)}" style="display:block"'
    return f"<button {pick}>{escape(words)}</button>"
