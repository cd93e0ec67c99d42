"""What `TrainingPanel` shows: ways of training side by side, and the models they went through."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch

from workbench.data import ImageDataset
from workbench.figures import colourise, confidence_table, img_tag
from workbench.figures.curve import line_chart
from workbench.models import Classifier, Ledger, Prediction

from .blocks import column, figure, live, row, section, table
from .labels import called

FEW = 300  # test images that a model is asked about on its way
CELL = 22  # pixels of the strip's cells on the screen
STRIPS = {  # by quantity of the strip: in words, whether on a log scale
    "gradient": ("norm of the gradient", True),
    "noise": ("change of the gradient since the step before, over it", True),
    "update": ("step, over the size of the weights", True),
    "nearest mean": ("images nearest to the mean of their class, after the layer", False),
}


@dataclass(frozen=True, eq=False)
class Way:
    """One way of training, as far as it has come.

    looks: by step the model as it was. rows: the measures at each look. strip: rows of step,
    layer and the quantities of `STRIPS`. trouble: why it ended early; else empty.
    """

    ledger: Ledger
    looks: dict[int, Classifier] = field(default_factory=dict)
    rows: tuple[dict[str, float], ...] = ()
    strip: tuple[dict[str, Any], ...] = ()
    trouble: str = ""


@dataclass(frozen=True, eq=False)
class TrainingView:
    """What the panel shows: an image, the ways by name, and which model is looked at.

    chosen: the way and the number of the look. prediction: that model's, of the image.
    """

    images: ImageDataset
    index: int
    ways: dict[str, Way] = field(default_factory=dict)
    chosen: tuple[str, int] | None = None
    prediction: Prediction | None = None

    @property
    def way(self) -> Way:
        """The way that is looked at."""
        assert self.chosen is not None
        return self.ways[self.chosen[0]]

    @property
    def step(self) -> int:
        """The step of the model that is looked at."""
        assert self.chosen is not None
        return [*self.way.looks][self.chosen[1]]

    @property
    def model(self) -> Classifier:
        """The model that is looked at."""
        return self.way.looks[self.step]

    def summary(self) -> dict[str, Any]:
        """By way: the last look, and what was spent, without the time."""
        told: dict[str, Any] = {"index": self.index}
        for name, way in self.ways.items():
            spent = {k: v for k, v in way.ledger.summary().items() if k != "seconds"}
            last = dict(way.rows[-1]) if way.rows else {}
            told[name] = {**last, **spent, **({"trouble": way.trouble} if way.trouble else {})}
        return told


def picture(view: TrainingView, quantity: str) -> str:
    """The image and the answer, the curves, the strip of the way looked at, the ledger: HTML."""
    index = view.index
    words = f"index {index}, labelled {called(view.images, index)}"
    blocks = [figure(view.images.images[index], words)]
    if view.chosen is None:
        return section(row(*blocks), live("Press <b>Train</b>: the ways are trained in turns."))
    way, told = view.chosen[0], ""
    if (answer := view.prediction) is not None:
        shares, label = answer.probabilities[0].cpu(), int(answer.label[0])
        told = confidence_table(shares, answer.classes, predicted=label, top=4).html
    head = f"<b>{escape(way)}</b><br><small>after {view.step:,} steps</small>"
    blocks += [column(head, told), curves(view)]
    parts = [row(*blocks), strip(view.way, way, quantity, view.step), ledgers(view)]
    return section(*parts)


def curves(view: TrainingView) -> str:
    """Accuracy on test images over backward passes, a line a way; a mark at the model shown."""
    lines = {
        name: [(r["backwards"] / 1000, r["accuracy"]) for r in way.rows]
        for name, way in view.ways.items()
        if way.rows
    }
    most = max(x for points in lines.values() for x, _ in points)
    ends = "; ".join(f"{n} {points[-1][1]:.1%}" for n, points in lines.items())
    alt = f"accuracy on {FEW} test images after {most:.3g} thousand backward passes: {ends}"
    axes = ("thousand backward passes of an image", "right on test images")
    mark = next(r["backwards"] for r in view.way.rows if r["step"] == view.step)
    ticks = (0, most / 2, most)
    return line_chart(lines, most, alt, ticks=ticks, axes=axes, mark=mark / 1000).html


def strip(way: Way, name: str, quantity: str, at: int) -> str:
    """A quantity by layer (down) and step (across), a picture with its words."""
    words, logarithmic = STRIPS[quantity]
    rows = [r for r in way.strip if quantity in r]
    steps, layers = [*way.looks], list(dict.fromkeys(r["layer"] for r in rows))
    if not layers:
        return ""
    known = {(r["layer"], r["step"]): r[quantity] for r in rows}
    values = torch.tensor([[known.get((m, s), float("nan")) for s in steps] for m in layers])
    shown = values.clamp_min(1e-8).log10() if logarithmic else values
    finite = shown[shown.isfinite()]
    if not len(finite):
        return ""
    limits = (float(finite.min()), float(finite.max()))
    pixels = colourise(shown.nan_to_num(limits[0]), "sequential", limits)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    low, high = (10**x if logarithmic else x for x in limits)
    ends = values[:, [0, -1]].tolist()
    each = "; ".join(f"{m} {a:.2g} to {b:.2g}" for m, (a, b) in zip(layers, ends, strict=True))
    alt = f"{name}: {words}, from the first look to the last: {each}"
    tag = img_tag(image, alt, height=CELL * len(layers))
    names = "".join(f'<div style="height:{CELL}px">{escape(m)}</div>' for m in layers)
    scale = f"dark {low:.2g}, light {high:.2g}" if limits[0] < limits[1] else f"{low:.2g}"
    caption = f"{escape(words)}, by layer and look, steps {steps[0]:,} to {steps[-1]:,}; {scale}"
    mark = f'<div style="padding-left:{CELL * (steps.index(at) + 0.25):g}px">▲</div>'
    side = f'<div style="text-align:right;line-height:{CELL}px">{names}</div>'
    return (
        f'<div class="wb-row" title="{escape(alt)}">{side}<div>{tag}{mark}</div></div>'
        f"<p><small>{caption}; ▲ the model above</small></p>"
    )


def ledgers(view: TrainingView) -> str:
    """What each way has spent, and where one ended early."""
    ways = view.ways.values()
    lines = [
        ("right on test images", [f"{w.rows[-1]['accuracy']:.1%}" if w.rows else "" for w in ways]),
        ("images", [f"{w.ledger.images:,}" for w in ways]),
        ("forward passes", [f"{w.ledger.forwards:,}" for w in ways]),
        ("backward passes", [f"{w.ledger.backwards:,}" for w in ways]),
        ("numbers held for them", [f"{w.ledger.peak_activations:,}" for w in ways]),
        ("bytes sent", [f"{w.ledger.bytes_sent:,}" for w in ways]),
    ]
    rows = [(name, *cells) for name, cells in lines if any(c not in ("", "0") for c in cells)]
    ended = "".join(
        f'<p><span class="wb-warn">■</span> <b>{escape(name)}</b>: {escape(w.trouble)}</p>'
        for name, w in view.ways.items()
        if w.trouble
    )
    return ended + table("What it has spent", rows, ["", *map(escape, view.ways)])
