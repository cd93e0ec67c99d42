"""Prototypes: what an image was compared with, what each comparison counted, and how sure."""

from __future__ import annotations

import math
from html import escape

import torch

from workbench.figures.images import Picture, _captioned, img_tag
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
    found: Explanation,
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
    if not 0 <= i < len(found.logits):
        raise ValueError(f"i: expected an image in 0..{len(found.logits) - 1}, got {i}")
    if len(images) != len(found.votes):
        raise ValueError(f"images: expected {len(found.votes)}, one a prototype, got {len(images)}")
    label = int(found.logits[i].argmax())
    adds = found.contributions[i, :, label]
    most = float(adds.abs().max()) or 1.0
    cells, said = [], []
    for j in found.order[i].tolist():
        vote, distance = found.classes[found.votes[j]], float(found.distances[i, j])
        words = f"prototype #{j} for {vote}, distance {distance:.2f}, adds {float(adds[j]):+.2f}"
        said.append(words)
        about = (
            f'data-pick="prototype:{j}" tabindex="0" role="button" aria-label="{escape(words)}" '
            f'aria-pressed="{str(j == chosen).lower()}" '
        ) * pick
        edge = f"3px solid {CLASSES[0]}" if j == chosen else "3px solid transparent"
        style = f"border:{edge};padding:3px;width:92px;cursor:{'pointer' if pick else 'auto'}"
        cells.append(
            f'<div {about}style="{style}">'
            f"{img_tag(images[j], words, height)}<div>#{j} for <b>{escape(vote)}</b></div>"
            f"<div>distance {distance:.2f}</div>{signed_bar(float(adds[j]), most)}</div>"
        )
    alt = (
        f"{count(len(cells), 'prototype')} from near to far; what each adds to the logit of "
        f"{found.classes[label]} (left of zero: takes away), "
        f"{float(found.logits[i, label]):.2f} in all"
    )
    style = "display:flex;flex-wrap:wrap;gap:4px;font-size:12px;line-height:1.35"
    shown = _captioned(f'<div style="{style}">{"".join(cells)}</div>', escape(alt), title)
    return Picture(shown.html, f"{alt}: {'; '.join(said)}")


def signed_bar(value: float, most: float) -> str:
    """A bar to the right of zero for what adds, to the left for what takes away."""
    width = BAR / 2 * abs(value) / most
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


def uncertainty_bars(found: Uncertainty, i: int = 0, *, title: str | None = None) -> Picture:
    """The five uncertainties of image `i` as bars, each with what it means.

    Entropies are drawn against the largest there can be, log K; the others against 1.
    """
    if not 0 <= i < len(found.label):
        raise ValueError(f"i: expected an image in 0..{len(found.label) - 1}, got {i}")
    rows, said = [], []
    cell = 'style="text-align:left;padding:2px 12px 2px 0;font-weight:normal"'
    for k, (name, meaning) in enumerate(MEANING.items()):
        value = float(getattr(found, name)[i])
        most, unit = (math.log(len(found.classes)), " nats") if k < 3 else (1.0, "")
        share = 160 * min(1.0, max(0.0, value / most))
        told = f"{value:.2f}{unit} of at most {most:.3g}"
        said.append(f"{name} {told}")
        bar = f'<div style="width:{share:.0f}px;height:12px;background:{CLASSES[0]}"></div>'
        rows.append(
            f'<tr><th scope="row" {cell}><b>{name}</b></th><td {cell}>'
            f'<div style="width:160px;background:rgba(128,128,128,0.2)">{bar}</div></td>'
            f"<td {cell}>{told}</td><td {cell}>{meaning}</td></tr>"
        )
    label = found.classes[found.label[i]]
    alt = f"uncertainty of the answer {label}: {', '.join(said)}"
    table = f'<table style="border-collapse:collapse;font-size:13px">{"".join(rows)}</table>'
    shown = _captioned(table, f"uncertainty of the answer {escape(label)}", title)
    return Picture(shown.html, alt)
