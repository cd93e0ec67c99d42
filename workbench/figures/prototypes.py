"""Prototypes: what an image was compared with, what each comparison counted, and how sure."""

from __future__ import annotations

import math
from html import escape

import torch

from workbench.figures.images import Picture, captioned, img_tag
from workbench.figures.inputs import count
from workbench.figures.palettes import CLASSES
from workbench.prototypes import Explanation, Uncertainty

BAR = 84  # pixels, both ways from zero together
MEANING = {
    "total": "doubt, all in all",
    "aleatoric": "ambiguous: every draw doubts",
    "epistemic": "unknown: the draws disagree",
    "far": "unusual: far from its prototype",
    "overlap": "contested: another prototype is as near",
}


def prototype_grid(
    explanation: Explanation,
    images: torch.Tensor,
    i: int = 0,
    *,
    chosen: int | None = None,
    pick: bool = False,
    height: int = 64,
    title: str | None = None,
) -> Picture:
    """The prototypes from near to far from image `i`, and what each adds to its logit.

    images: the prototypes decoded, `(m, C, H, W)`. chosen: the one with a frame. pick: each
    carries `data-pick="prototype:J"` and can have the focus.
    """
    if not 0 <= i < len(explanation.logits):
        raise ValueError(f"i: expected an image in 0..{len(explanation.logits) - 1}, got {i}")
    if len(images) != len(explanation.votes):
        raise ValueError(
            f"images: expected {len(explanation.votes)}, one a prototype, got {len(images)}"
        )
    label = int(explanation.logits[i].argmax())
    adds = explanation.contributions[i, :, label]
    largest = float(adds.abs().max()) or 1.0
    cells, described = [], []
    for j in explanation.order[i].tolist():
        vote = explanation.classes[explanation.votes[j]]
        distance = float(explanation.distances[i, j])
        words = f"prototype #{j} for {vote}, distance {distance:.2f}, adds {float(adds[j]):+.2f}"
        described.append(words)
        attributes = (
            f'data-pick="prototype:{j}" tabindex="0" role="button" aria-label="{escape(words)}" '
            f'aria-pressed="{str(j == chosen).lower()}" '
        ) * pick
        edge = f"3px solid {CLASSES[0]}" if j == chosen else "3px solid transparent"
        style = f"border:{edge};padding:3px;width:92px;cursor:{'pointer' if pick else 'auto'}"
        cells.append(
            f'<div {attributes}style="{style}">'
            f"{img_tag(images[j], words, height)}<div>#{j} for <b>{escape(vote)}</b></div>"
            f"<div>distance {distance:.2f}</div>{signed_bar(float(adds[j]), largest)}</div>"
        )
    alt = (
        f"{count(len(cells), 'prototype')} from near to far; what each adds to the logit of "
        f"{explanation.classes[label]} (left of zero: takes away), "
        f"{float(explanation.logits[i, label]):.2f} in all"
    )
    style = "display:flex;flex-wrap:wrap;gap:4px;font-size:12px;line-height:1.35"
    picture = captioned(f'<div style="{style}">{"".join(cells)}</div>', escape(alt), title)
    return Picture(picture.html, f"{alt}: {'; '.join(described)}")


def signed_bar(value: float, largest: float) -> str:
    """A bar to the right of zero for what adds, to the left for what takes away."""
    width = BAR / 2 * abs(value) / largest
    left = BAR / 2 - (width if value < 0 else 0)
    bar = (
        f'<span style="position:absolute;left:{left:.1f}px;width:{width:.1f}px;height:10px;'
        f'background:{CLASSES[0] if value < 0 else CLASSES[3]}"></span>'
    )
    zero = f'<span style="position:absolute;left:{BAR / 2}px;height:10px;border-left:1px solid">'
    track = f"position:relative;width:{BAR}px;height:10px;background:rgba(128,128,128,0.2)"
    sign = "−" if value < 0 else "+"
    return (
        f'<div aria-hidden="true" style="{track}">{bar}{zero}</span></div>'
        f"<div>{sign}{abs(value):.2f}</div>"
    )


def uncertainty_bars(uncertainty: Uncertainty, i: int = 0, *, title: str | None = None) -> Picture:
    """The five uncertainties of image `i` as bars, each with what it means.

    Entropies are drawn against the largest there can be, log K; the others against 1.
    """
    if not 0 <= i < len(uncertainty.label):
        raise ValueError(f"i: expected an image in 0..{len(uncertainty.label) - 1}, got {i}")
    rows, listed = [], []
    cell = 'style="text-align:left;padding:2px 12px 2px 0;font-weight:normal"'
    for k, (name, meaning) in enumerate(MEANING.items()):
        value = float(getattr(uncertainty, name)[i])
        largest, unit = (math.log(len(uncertainty.classes)), " nats") if k < 3 else (1.0, "")
        share = 160 * min(1.0, max(0.0, value / largest))
        figure = f"{value:.2f}{unit} of at most {largest:.3g}"
        listed.append(f"{name} {figure}")
        bar = f'<div style="width:{share:.0f}px;height:12px;background:{CLASSES[0]}"></div>'
        rows.append(
            f'<tr><th scope="row" {cell}><b>{name}</b></th><td {cell}>'
            f'<div style="width:160px;background:rgba(128,128,128,0.2)">{bar}</div></td>'
            f"<td {cell}>{figure}</td><td {cell}>{meaning}</td></tr>"
        )
    label = uncertainty.classes[uncertainty.label[i]]
    alt = f"uncertainty of the answer {label}: {', '.join(listed)}"
    table = f'<table style="border-collapse:collapse;font-size:13px">{"".join(rows)}</table>'
    picture = captioned(table, f"uncertainty of the answer {escape(label)}", title)
    return Picture(picture.html, alt)
