"""Prototypes: what an image was compared with, what each comparison counted, and how sure."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import torch

from workbench.figures.images import Picture, bar, captioned, choice, table
from workbench.figures.inputs import count
from workbench.figures.palettes import CLASSES
from workbench.figures.points import tag
from workbench.prototypes import Explanation, Uncertainty

if TYPE_CHECKING:
    from workbench.spaces import InputSpace

BAR = 84  # pixels, both ways from zero together
MEANING = {
    "total": "the next two together",
    "aleatoric": "the image is ambiguous: every draw is unsure",
    "epistemic": "the model does not know: the draws disagree",
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
    space: InputSpace | None = None,
) -> Picture:
    """The prototypes from near to far from image `i`, and what each adds to its logit.

    images: the prototypes decoded, `(m, C, H, W)`. chosen: the one with a frame. pick: each
    carries `data-pick="prototype:J"` and can have the focus. space: of what is no image.
    """
    _check_image(i, len(explanation.logits))
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
        words = f"prototype #{j} for {vote}, distance {distance:.3g}, adds {float(adds[j]):+.2f}"
        described.append(words)
        block = (
            f"{tag(images[j], words, height, space)}<div>#{j} for <b>{escape(vote)}</b></div>"
            f"<div>distance {distance:.3g}</div>{signed_bar(float(adds[j]), largest)}"
        )
        style = "padding:3px;width:92px"
        cells.append(choice(block, f"prototype:{j}", words, style, chosen=j == chosen, pick=pick))
    caption = (
        f"{count(len(cells), 'prototype')} from near to far; what each adds to the logit of "
        f"{explanation.classes[label]} (left of zero: takes away), "
        f"{float(explanation.logits[i, label]):.2f} in all"
    )
    style = "display:flex;flex-wrap:wrap;gap:4px;font-size:12px;line-height:1.35"
    body = f'<div style="{style}">{"".join(cells)}</div>'
    return captioned(body, caption, title, f"{caption}: {'; '.join(described)}")


def _check_image(i: int, n: int) -> None:
    if not 0 <= i < n:
        raise ValueError(f"i: expected an image in 0..{n - 1}, got {i}")


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
    _check_image(i, len(uncertainty.label))
    rows, listed = [], []
    for k, (name, meaning) in enumerate(MEANING.items()):
        value = float(getattr(uncertainty, name)[i])
        largest, unit = (math.log(len(uncertainty.classes)), " nats") if k < 3 else (1.0, "")
        share = min(1.0, max(0.0, value / largest))
        figure = f"{value:.2f}{unit} of at most {largest:.3g}"
        listed.append(f"{name} {figure}")
        rows.append([f"<b>{name}</b>", bar(share), figure, meaning])
    caption = f"uncertainty of the answer {uncertainty.classes[uncertainty.label[i]]}"
    return captioned(table(rows), caption, title, f"{caption}: {', '.join(listed)}")
