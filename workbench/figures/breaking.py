"""An image under a budget that one drags: `robustness.Breaking` as a picture that moves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from workbench.figures.images import Picture
from workbench.figures.inputs import percent
from workbench.figures.points import strip

if TYPE_CHECKING:
    import pandas as pd

    from workbench.robustness import Breaking
    from workbench.spaces import InputSpace

SIDE = 168  # pixels on the screen of a picture
BARS = 5  # classes with a bar
COLOURS = ("var(--wb-a, #0072b2)", "var(--wb-b, #b84d00)")  # a model, and the one beside it
SOFT, LINE = "var(--wb-soft, #57606a)", "var(--wb-line, #d8dde3)"
WIDE, LEFT, TALL = 560, 44, 130  # of the chart and its plot, in the units of the drawing
PLOT = WIDE - LEFT - 12
BUTTONS = {
    "play": ("▶ Play", "Go through the budgets, from here"),
    "page": ("Save as page", "This figure as an HTML file that moves by itself"),
    "picture": ("Save picture", "This figure as it is now, PNG"),
}


def drag_eps(results: Sequence[Breaking], space: InputSpace | None = None) -> Picture:
    """The attacked image, the bars and the curves of one model or more, at the eps of a slider.

    It starts where the first answer breaks. Panels and reports bring the script that moves it
    (`workbench/drag.js`); without it, it is a still picture. space: of points that
    are no images.

    Raises:
        ValueError: no result, or results of other radii than the first.
    """
    if not results or any(not torch.equal(r.radii, results[0].radii) for r in results):
        raise ValueError(f"results: expected some of the same radii, got {len(results)}")
    radii = results[0].radii.tolist()
    breaks = [r.breaks for r in results if r.breaks is not None]
    frame = radii.index(min(breaks)) if breaks else len(radii) - 1
    status = [sentence(results, i) for i in range(len(radii))]
    models = "".join(_model(r, frame, COLOURS[i % 2], space) for i, r in enumerate(results))
    words = (
        f'<p role="status" class="wb-head" {_frames("text", status)}>{escape(status[frame])}</p>'
    )
    return moving(words, models, _chart(results, frame), status, frame, _course(results))


def drag_curve(curve: pd.DataFrame) -> Picture:
    """The share of images still right over eps, with its interval, at the eps of a slider.

    curve: of `Evaluation.curve()`, with two eps or more; those of several models below one
    another have a column "model". Of each model the last attack, which is the worst case of
    several, has the band of its 95% interval; the others are lines beside it. It starts in the
    middle.

    Raises:
        ValueError: fewer than two eps at which no run failed.
    """
    known = curve[curve["failed"] == 0].sort_values("eps", kind="stable")
    radii = sorted(set(known["eps"]))
    at = {eps: i for i, eps in enumerate(radii)}  # evenly apart, as the places of the slider
    if len(radii) < 2:
        raise ValueError(f"curve: expected two eps or more without a failed run, got {len(radii)}")
    known = known.assign(model=known.get("model", ""), at=known["eps"].map(at))
    frame, last, lines, named = len(radii) // 2, len(radii) - 1, [], []
    for i, (model, rows) in enumerate(known.groupby("model", sort=False)):
        colour, dash = COLOURS[i % 2], ' stroke-dasharray="7 4"' * (i % 2)
        *others, worst = (points for _, points in rows.groupby("attack", sort=False))
        ends = [*zip(worst["at"], worst["low"], strict=True)]
        ends += reversed([*zip(worst["at"], worst["high"], strict=True)])
        band = " ".join("{:.1f},{:.1f}".format(*_at(x, y, last)) for x, y in ends)
        lines.append(f'<polygon points="{band}" fill="{colour}" opacity="0.2"/>')
        looks = [f'stroke="{SOFT}"'] * len(others) + [f'stroke="{colour}" stroke-width="2.5"{dash}']
        for points, look in zip([*others, worst], looks, strict=True):
            places = [*zip(points["at"], points["robust_accuracy"], strict=True)]
            lines.append(curve_line(places, last, look, points["attack"].iloc[0]))
        about = escape(str(model or worst["attack"].iloc[0]))
        named.append(f'<tspan fill="{colour}">{"╌" if dash else "━"} {about}</tspan>')
    status = [_shares(known[known["eps"] == eps]) for eps in radii]
    words = (
        f'<p role="status" class="wb-head" {_frames("text", status)}>{escape(status[frame])}</p>'
    )
    title, names = f"images still right {' '.join(named)}", [f"{eps:.3g}" for eps in radii]
    alt = " ".join(status)
    chart = axes("".join(lines), range(len(radii)), frame, alt, title, names)
    return moving(words, "", chart, status, frame, "")


def _shares(rows: pd.DataFrame) -> str:
    """What is left of the images of each model at one eps."""
    said = []
    for model, own in rows.groupby("model", sort=False):
        row = own.iloc[-1]
        ends = f"{percent(row['low'])} to {percent(row['high'])}"
        pairs = zip(own["attack"][:-1], own["robust_accuracy"][:-1], strict=True)
        others = ", ".join(f"{attack} {percent(share)}" for attack, share in pairs)
        beside = f"; under {others}" if others else ""
        under = "in the worst case" if row["attack"] == "worst case" else f"under {row['attack']}"
        left = f"{percent(row['robust_accuracy'])} of {row['images']} images"
        kept = f"{model!s} keeps {left} right" if model else f"{left} are still right"
        said.append(f"{kept} {under} ({ends}){beside}")
    return f"At eps {rows['eps'].iloc[0]:.3g}: {'. '.join(said)}."


def moving(
    words: str, pictures: str, chart: str, status: Sequence[str], frame: int, alt: str
) -> Picture:
    """A figure with a slider below its chart, and buttons; `status` says each frame in words."""
    place = f"margin-left:calc({LEFT / WIDE:.2%} - 8px);width:calc({PLOT / WIDE:.2%} + 16px)"
    slider = (
        f'<input type="range" min="0" max="{len(status) - 1}" value="{frame}" '
        f'aria-label="eps: the largest change of a pixel" '
        f'aria-valuetext="{escape(status[frame], quote=True)}" style="{place}">'
    )
    buttons = "".join(
        f'<button type="button" data-do="{name}" title="{about}">{label}</button>'
        for name, (label, about) in BUTTONS.items()
    )
    html = (
        f'<div data-drag="eps" class="wb wb-drag">{words}<div class="wb-row">{pictures}'
        f'<div style="flex:1 1 420px;max-width:{WIDE}px">{chart}{slider}</div></div>'
        f'<div class="wb-drag-buttons">{buttons}</div></div>'
    )
    return Picture(html, f"{status[frame]} {alt}".strip())


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
    """A budget as people read it: of colours in the 255ths that they are stored in, too."""
    levels = result.images.shape[1] == 3
    return f"eps {eps:.3g}, {eps * 255:.3g}/255" if levels else f"eps {eps:.3g}"


def _course(results: Sequence[Breaking]) -> str:
    """Where each answer breaks."""
    ends = [
        f"{r.model} keeps its answer up to {size(float(r.radii[-1]), r)}"
        if r.breaks is None
        else f"{r.model} breaks at {size(r.breaks, r)}"
        for r in results
    ]
    return f"{'; '.join(ends)} ({results[0].attack})."


def _model(result: Breaking, frame: int, colour: str, space: InputSpace | None) -> str:
    """The picture and the bars of one model."""
    n = len(result.images)
    source, (h, w) = strip(result.images, space)
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
    head = f'<b style="color:{colour}">{escape(result.model)}</b>'
    inner = f"{picture}<div>{_bars(result, frame, colour)}</div>"
    return f'<div>{head}<div style="display:flex;gap:12px;margin-top:4px">{inner}</div></div>'


def _bars(result: Breaking, frame: int, colour: str) -> str:
    """The classes that are ever likely, with bars: the first answer's in the model's colour."""
    most = result.probabilities.amax(0)
    order = most.argsort(descending=True, stable=True)[:BARS].tolist()
    order = [result.label, *(k for k in order if k != result.label)][:BARS]
    rows = []
    for k in order:
        shares = result.probabilities[:, k].tolist()
        style = f"height:10px;background:{colour if k == result.label else SOFT}"
        widths = _frames("width", [f"{share:.1%}" for share in shares])
        fill = f'<div {widths} style="{style};width:{shares[frame]:.1%}"></div>'
        track = f'<div style="width:110px;background:{LINE}">{fill}</div>'
        said = [percent(share) for share in shares]
        words = f'<td style="min-width:3em" {_frames("text", said)}>{said[frame]}</td>'
        name = f'<th scope="row" style="text-align:left">{escape(result.classes[k])}</th>'
        rows.append(f"<tr>{name}<td>{track}</td>{words}</tr>")
    return f'<table style="border-spacing:6px 2px">{"".join(rows)}</table>'


def _chart(results: Sequence[Breaking], frame: int) -> str:
    """The confidence of each first answer and of its rival where it breaks, over eps."""
    radii, last = results[0].radii.tolist(), float(results[0].radii[-1])
    lines, named = [], []
    for i, r in enumerate(results):
        p, dash = r.probabilities.clone(), ' stroke-dasharray="7 4"' * (i % 2)
        own = p[:, r.label].tolist()
        p[:, r.label] = -1
        where = len(radii) - 1 if r.breaks is None else radii.index(r.breaks)
        rival = int(p[where].argmax())
        for k, values in {r.label: own, rival: p[:, rival].tolist()}.items():
            colour = SOFT if k == rival else COLOURS[i % 2]
            look = f'stroke="{colour}" stroke-width="{1.5 if k == rival else 2.5}"{dash}'
            about = r.classes[k] if k == rival else f"{r.model}: {r.classes[k]}"
            sign = "╌" if dash else "━"
            named.append(f'<tspan fill="{colour}">{sign} {escape(about)}</tspan>')
            lines.append(curve_line(list(zip(radii, values, strict=True)), last, look, about))
        if r.breaks is not None:
            lines.append(_flip(r, i))
    alt = f"confidence over eps: {_course(results)}"
    return axes("".join(lines), radii, frame, alt, f"confidence {' '.join(named)}")


def axes(
    inside: str,
    radii: Sequence[float],
    frame: int,
    alt: str,
    title: str,
    names: Sequence[str] = (),
) -> str:
    """The drawing around lines over eps, and the line that moves; title: in SVG.

    names: of every place, where the axis does not count in eps.
    """
    last, bottom = radii[-1], TALL + 8
    text = f'font-size="11" fill="{SOFT}"'
    parts = [f'<text x="{LEFT}" y="-4" {text}>{title}</text>']
    for share in (0, 0.5, 1):
        y = 8 + TALL * (1 - share)
        parts.append(f'<path d="M{LEFT} {y}h{PLOT}" stroke="{LINE}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end" {text}>{share:.0%}</text>'
        )
    step = -(-len(names) // 10)
    ticks = [(i / last, name) for i, name in enumerate(names)][:: step or 1]
    for share, words in ticks or [(q / 4, f"{last * q / 4:.2g}") for q in range(5)]:
        words, anchor = (f"eps {words}", "end") if share == 1 else (words, "middle")
        x = LEFT + PLOT * share
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="{anchor}" {text}>{words}</text>'
        )
    places = [round(LEFT + PLOT * eps / last, 1) for eps in radii]
    move = f'{_frames("x", places)} transform="translate({places[frame]} 0)"'
    ink = 'stroke="var(--wb-ink, currentColor)"'
    plot = (
        f'<rect data-plot="" x="{LEFT}" y="8" width="{PLOT}" height="{TALL}" fill="transparent"/>'
    )
    return (
        f'<svg role="img" aria-label="{escape(alt, quote=True)}" '
        f'viewBox="0 -18 {WIDE} {TALL + 44}" '
        'style="display:block;width:100%;font-family:system-ui,sans-serif;touch-action:pan-y">'
        f'{"".join(parts)}{inside}<path {move} d="M0 8V{bottom}" {ink}/>{plot}</svg>'
    )


def curve_line(points: Sequence[tuple[float, float]], last: float, look: str, about: str) -> str:
    """A line through points (eps, share); `about` is said where the pointer rests on it."""
    places = " ".join("{:.1f},{:.1f}".format(*_at(x, y, last)) for x, y in points)
    return (
        f'<polyline points="{places}" fill="none" {look}><title>{escape(about)}</title></polyline>'
    )


def _at(eps: float, share: float, last: float) -> tuple[float, float]:
    """The place of a point in the drawing."""
    return LEFT + PLOT * eps / last, 8 + TALL * (1 - share)


def _flip(result: Breaking, row: int) -> str:
    """The mark where an answer breaks."""
    eps, last, colour = result.breaks or 0.0, float(result.radii[-1]), COLOURS[row % 2]
    x, y = LEFT + PLOT * eps / last, 22 + 14 * (row % 2)
    side, shift = ("end", -5) if eps > last / 2 else ("start", 5)
    return (
        f'<path d="M{x:.1f} 8v{TALL}" stroke="{colour}" stroke-dasharray="2 3"/>'
        f'<text x="{x + shift:.1f}" y="{y}" text-anchor="{side}" font-size="12" font-weight="600" '
        f'fill="{colour}" stroke="var(--wb-page, #fff)" stroke-width="4" paint-order="stroke">'
        f"breaks at {size(eps, result)}</text>"
    )


def _frames(kind: str, values: Sequence[Any]) -> str:
    """The attributes of a part that has a value a frame."""
    listed = escape(json.dumps(list(values), ensure_ascii=False), quote=True)
    return f'data-kind="{kind}" data-frames="{listed}"'
