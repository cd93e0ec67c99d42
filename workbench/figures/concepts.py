"""Concepts: the crops that fire them, how much they matter, the strategies behind a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
import torch

from workbench import checks
from workbench.concepts import Concepts, Importance, Strategies
from workbench.figures.images import SOFT, Picture, captioned, choice, img_tag, table
from workbench.figures.inputs import count, percent
from workbench.figures.palettes import class_colour
from workbench.figures.prototypes import signed_bar
from workbench.figures.template import styled

SYMBOLS = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star", "hexagon")


def concept_grid(
    concepts: Concepts,
    which: Sequence[int] | None = None,
    n: int = 8,
    *,
    height: int = 48,
    title: str | None = None,
) -> Picture:
    """The `n` crops with the strongest code of each concept, one row a concept.

    which: concepts in the order of the rows; None for all.
    """
    indices = range(len(concepts)) if which is None else which
    rows = []
    for k in indices:
        tags = _crops(concepts, k, checks.positive("n", n), height)
        label = f'<span style="width:80px">concept {escape(str(k))}</span>'
        style = "display:flex;gap:6px;align-items:center;margin-bottom:6px"
        rows.append(f'<div style="{style}">{label}{tags}</div>')
    alt = f"crops of {concepts.layer} that fire each of {count(len(rows), 'concept')} most"
    return captioned("".join(rows), alt, title)


def _crops(concepts: Concepts, k: int, n: int, height: int) -> str:
    """The crops with the strongest code of a concept."""
    crops = enumerate(concepts.strongest(k, n), 1)
    return "".join(img_tag(crop, f"crop {i} of concept {k}", height) for i, crop in crops)


def cluster_graph(strategies: Strategies, *, title: str | None = None) -> go.Figure:
    """The images of a class in the plane, each cluster named by its dominant concept."""
    figure, described = go.Figure(), []
    for i, concept in enumerate(strategies.dominant.tolist()):
        x, y = strategies.points[strategies.cluster == i].T.tolist()
        name = f"cluster {i}: concept {concept}"
        marker = {"color": class_colour(i), "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9}
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker=marker,
            # What was clicked is known by its place in the class.
            customdata=(strategies.cluster == i).nonzero().flatten().tolist(),
            hovertemplate="image %{customdata}<extra>" + name + "</extra>",
        )
        described.append(f"{name}, {count(len(x), 'image')}")
    hidden = {"showticklabels": False, "ticks": ""}
    clusters = f"{count(len(described), 'cluster')}: {'; '.join(described)}"
    alt = f"images by what matters for them, in {clusters}"
    return styled(figure, alt, title, xaxis=hidden, yaxis=hidden, height=420, margin_t=80)


def concept_rows(
    concepts: Concepts,
    importances: Importance,
    strength: Sequence[float],
    *,
    chosen: int | None = None,
    factors: Mapping[int, float] | None = None,
    pick: bool = False,
    n: int = 8,
    height: int = 40,
) -> Picture:
    """The concepts, the most important first: crops, importance, and strength on one image.

    strength: of each concept on the image, as shares of the strongest crop. factors: those
    damped or boosted. pick: each row carries `data-pick="concept:K"` and can have the focus.
    """
    mean = importances.scores.mean(0)
    largest = float(mean.abs().max()) or 1.0
    rows, described = [], []
    for k in mean.argsort(descending=True).tolist():
        factor = (factors or {}).get(k, 1.0)
        share = f"{strength[k]:.0%}"
        words = f"concept {k}, importance {float(mean[k]):+.2f}, on this image {share} of "
        words += "its strongest crop" + f", times {factor:g}" * (factor != 1)
        described.append(words)
        block = (
            f'<b style="width:56px">{k}</b>'
            f'<div style="width:92px">{signed_bar(float(mean[k]), largest)}</div><div style="width:'
            f'92px">{share}{f", × {factor:g}" * (factor != 1)}</div>'
        ) + _crops(concepts, k, n, height)
        style = "display:flex;gap:6px;align-items:center;padding:2px 4px"
        rows.append(choice(block, f"concept:{k}", words, style, chosen=k == chosen, pick=pick))
    heads = zip(("concept", "importance", "in this image", "crops"), (56, 92, 92, 90), strict=True)
    head = "".join(f'<span style="width:{wide}px">{name}</span>' for name, wide in heads)
    head = f'<div aria-hidden="true" style="display:flex;gap:6px;padding:0 7px;{SOFT}">{head}</div>'
    body = f'<div style="font-size:12px">{head}{"".join(rows)}</div>'
    caption = (
        f"{count(len(rows), 'concept')} of {concepts.layer}, the most important first; in this "
        "image: as a share of the strongest crop"
    )
    return captioned(body, caption, alt=f"{caption}: {'; '.join(described)}")


def logit_table(
    logits: torch.Tensor,
    steered: torch.Tensor | None,
    classes: Sequence[str],
    *,
    what: str = "steered",
    n: int = 6,
) -> Picture:
    """The `n` highest logits `(K,)`, and beside them those of the model `steered`."""
    after = logits if steered is None else steered
    best = torch.maximum(logits, after).argsort(descending=True)[:n].tolist()
    change = after - logits
    largest = float(change.abs().max().clamp(min=1e-12))
    head = ("class", "logit") + ((what, "change") if steered is not None else ())
    rows, listed = [], []
    for k in best:
        cells = [f"{float(logits[k]):.3g}"]
        if steered is not None:
            cells += [f"{float(after[k]):.3g}", signed_bar(float(change[k]), largest)]
        name = f"<b>{escape(classes[k])}</b>" if k == int(after.argmax()) else escape(classes[k])
        rows.append([name, *cells])
        listed.append(f"{classes[k]} {float(logits[k]):.3g} to {float(after[k]):.3g}")
    label = classes[int(after.argmax())]
    caption = f"the model says {label} ({percent(float(after.softmax(0).max()))})"
    alt = f"{caption}; logits: {', '.join(listed)}"
    return captioned(table(rows, [escape(name) for name in head]), caption, alt=alt)
