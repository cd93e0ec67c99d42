"""An image under a budget that one drags: `robustness.Breaking` as a picture that moves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.figures.curve import HEIGHT, ROOM, WIDTH, line_chart
from workbench.figures.images import Picture, png_data
from workbench.figures.inputs import percent
from workbench.figures.palettes import CLASSES

if TYPE_CHECKING:
    from workbench.robustness import Breaking

SIDE = 168  # pixels on the screen of a picture
BARS = 5  # classes with a bar


def drag_eps(results: Sequence[Breaking]) -> Picture:
    """The attacked image, the bars and the curves of one model or more, at the eps of a slider.

    It starts where the first answer breaks. Panels and reports bring the script that moves it
    (`workbench/drag.js`); without it, it is a still picture.

    Raises:
        ValueError: no result, or results of other radii than the first.
    """
    if not results or any(not torch.equal(r.radii, results[0].radii) for r in results):
        raise ValueError(f"results: expected some of the same radii, got {len(results)}")
    radii = results[0].radii.tolist()
    breaks = [r.breaks for r in results if r.breaks is not None]
    frame = radii.index(min(breaks)) if breaks else len(radii) - 1
    status = [sentence(results, i) for i in range(len(radii))]
    blocks = "".join(_model(r, frame) for r in results)
    slider = (
        '<label style="display:block;margin:8px 0">largest change of a pixel '
        f'<input type="range" min="0" max="{len(radii) - 1}" value="{frame}" '
        f'aria-valuetext="{escape(status[frame], quote=True)}" style="width:{WIDTH + 100}px"> '
        f"{_part('b', 'text', [size(e, results[0]) for e in radii], frame)}</label>"
    )
    words = f'<p role="status" {_frames("text", status)}>{escape(status[frame])}</p>'
    html = f'<div data-drag="eps">{words}{slider}{blocks}</div>'
    return Picture(html, f"{status[frame]} {_course(results)}")


def sentence(results: Sequence[Breaking], frame: int) -> str:
    """What the models say at one eps."""
    said = []
    for r in results:
        k = int(r.predicted[frame])
        sure = percent(float(r.probabilities[frame, k]))
        broken = "" if k == r.label else f", no longer {r.classes[r.label]}"
        said.append(f"{r.model} says {r.classes[k]} ({sure}){broken}")
    return f"At {size(float(results[0].radii[frame]), results[0])}: {'; '.join(said)}."


def size(eps: float, result: Breaking) -> str:
    """A budget as people read it: of colours in 255ths."""
    levels = result.images.shape[1] == 3
    return f"eps {eps:.3g}, {eps * 255:.1f}/255" if levels else f"eps {eps:.3g}"


def _course(results: Sequence[Breaking]) -> str:
    """Where each answer breaks."""
    ends = [
        f"{r.model} keeps its answer up to {size(float(r.radii[-1]), r)}"
        if r.breaks is None
        else f"{r.model} breaks at {size(r.breaks, r)}"
        for r in results
    ]
    return f"{'; '.join(ends)} ({results[0].attack})."


def _model(result: Breaking, frame: int) -> str:
    """The picture, the bars and the curve of one model."""
    n, _, h, w = result.images.shape
    pixels = (result.images.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    strip = pixels.reshape(n * h, w, -1)
    source = png_data(strip[..., 0] if strip.shape[-1] == 1 else strip)
    width = round(SIDE * w / h)
    offsets = [f"0 {-SIDE * i}px" for i in range(n)]
    style = (
        f"width:{width}px;height:{SIDE}px;image-rendering:pixelated;background-image:url({source});"
        f"background-size:{width}px {SIDE * n}px;background-position:{offsets[frame]};"
    )
    alt = f"the image as attacked on {result.model}"
    picture = (
        f'<div role="img" aria-label="{escape(alt, quote=True)}" '
        f'{_frames("backgroundPosition", offsets)} style="{style}"></div>'
    )
    columns = (picture, _bars(result, frame), _curve(result, frame))
    inner = "".join(f"<div>{column}</div>" for column in columns)
    head = f"<b>{escape(result.model)}</b>"
    return f'{head}<div style="display:flex;flex-wrap:wrap;gap:16px">{inner}</div>'


def _bars(result: Breaking, frame: int) -> str:
    """The classes that are ever likely, with bars."""
    most = result.probabilities.amax(0)
    order = most.argsort(descending=True, stable=True)[:BARS].tolist()
    order = [result.label, *(k for k in order if k != result.label)][:BARS]
    rows = []
    for k in order:
        shares = result.probabilities[:, k].tolist()
        colour = CLASSES[0] if k == result.label else CLASSES[3]
        style = f"height:8px;background:{colour};width:{shares[frame]:.1%}"
        widths = _frames("width", [f"{share:.1%}" for share in shares])
        fill = f'<div {widths} style="{style}"></div>'
        track = f'<div style="width:120px;background:rgba(128,128,128,.2)">{fill}</div>'
        said = _part("span", "text", [percent(share) for share in shares], frame)
        cells = (escape(result.classes[k]), track, said)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _curve(result: Breaking, frame: int) -> str:
    """The confidence of the first answer and of its strongest rival, and a line at the eps."""
    radii, p = result.radii.tolist(), result.probabilities.clone()
    own = p[:, result.label].tolist()
    p[:, result.label] = -1
    rival = int(p.amax(0).argmax())
    lines = {result.classes[result.label]: own, result.classes[rival]: p[:, rival].tolist()}
    points = {name: list(zip(radii, values, strict=True)) for name, values in lines.items()}
    ticks = (0.0, radii[-1] / 2, radii[-1])
    chart = line_chart(points, radii[-1], _course([result]), ticks=ticks, mark=result.breaks)
    places = [round(ROOM + WIDTH * e / radii[-1], 1) for e in radii]
    line = (
        f'<line {_frames("x", places)} transform="translate({places[frame]} 0)" y1="0" '
        f'y2="{HEIGHT + 10}" stroke="currentColor" stroke-dasharray="3 2"/>'
    )
    return chart.html.replace("</svg>", f"{line}</svg>")


def _frames(kind: str, values: Sequence[Any]) -> str:
    """The attributes of a part that has a value a frame."""
    listed = escape(json.dumps(list(values), ensure_ascii=False), quote=True)
    return f'data-kind="{kind}" data-frames="{listed}"'


def _part(tag: str, kind: str, values: Sequence[str], frame: int) -> str:
    """An element of words that change."""
    return f"<{tag} {_frames(kind, values)}>{escape(values[frame])}</{tag}>"
