"""Points that are no images, drawn as what they are: a row with its units, an ego net, a sentence.

`point_grid` is for them what `image_grid` is for images; `tag` and `address` take either.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench import checks
from workbench.figures.images import OUTLINE, SOFT, Picture, captioned, img_tag, png, png_data
from workbench.figures.inputs import count

if TYPE_CHECKING:
    from workbench.levelsets import Slice
    from workbench.spaces import InputSpace, Nodes, Rows, Sentences

WIDE = 300  # units of a drawing, which are pixels where it is as wide
LOW = 110  # and its height at least, so that it is not much wider than high
LINE = 15  # of text
MOST = 12  # columns drawn of a row
INK, PALE, MOVED, TRACK = "#24292f", "#57606a", "#b84d00", "#d8dee4"


def tag(
    x: torch.Tensor,
    alt: str,
    height: int,
    space: InputSpace | None = None,
    origin: torch.Tensor | None = None,
) -> str:
    """An `<img>` of an image, or of a point of a space, `(C, H, W)`; see `drawing`."""
    if space is None:
        return img_tag(x, alt, height)
    size = f"height:{checks.positive('height', height)}px;max-width:none"
    words, source = escape(f"{alt}: {space.words(x, origin)}"), address(x, space, origin)
    return f'<img alt="{words}" src="{source}" style="{size};{OUTLINE}">'


def point_grid(
    space: InputSpace,
    points: torch.Tensor,
    words: Sequence[str] = (),
    *,
    origin: torch.Tensor | None = None,
    columns: int = 3,
    height: int = 190,
    title: str | None = None,
) -> Picture:
    """Points `(N, C, H, W)` as what they are, each above its words.

    origin: what they were moved from, `(N, C, H, W)`: what differs is marked. height: of one
    drawing, in CSS pixels.
    """
    before = [None] * len(points) if origin is None else [*origin]
    captions = [*words] or [f"{space.kind} {i}" for i in range(len(points))]
    cells = "".join(
        f'<figure style="margin:0">{tag(x, said, height, space, was)}<figcaption '
        f'style="{SOFT};margin-top:4px">{escape(said)}</figcaption></figure>'
        for x, said, was in zip(points, captions, before, strict=True)
    )
    style = f"display:flex;flex-wrap:wrap;gap:10px;max-width:{columns * 2 * height}px"
    alt = "; ".join(space.words(x, was) for x, was in zip(points, before, strict=True))
    body = f'<div style="{style}">{cells}</div>'
    return captioned(body, count(len(points), space.kind), title, alt)


def address(
    x: torch.Tensor, space: InputSpace | None = None, origin: torch.Tensor | None = None
) -> str:
    """An image, or a point of a space, `(C, H, W)`, as an address inside the page."""
    if space is None:
        return inside("png", png(x.cpu()))
    return inside("svg+xml", drawing(space, x, origin).encode())


def inside(kind: str, data: bytes) -> str:
    """A picture as an address inside the page."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def strip(images: torch.Tensor, space: InputSpace | None = None) -> tuple[str, list[int]]:
    """Images, or points, `(N, C, H, W)` one below the other; an address, and the shape of one.

    What differs from the first of the points is marked.
    """
    n, c, h, w = images.shape
    if space is None:
        levels = (images.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
        levels = levels.reshape(n * h, w, c)
        return png_data(levels[..., 0] if c == 1 else levels), [h, w]
    drawn = [parts(space, x, images[0]) for x in images]
    tall = max(height for _, height in drawn)
    shifted = (f'<g transform="translate(0 {i * tall})">{g}</g>' for i, (g, _) in enumerate(drawn))
    return inside("svg+xml", page("".join(shifted), n * tall).encode()), [tall, WIDE]


def point_words(space: InputSpace | None, at: Slice, points: torch.Tensor) -> list[str]:
    """What points `(M, 2)` of a plane are, beside its origin, in a sentence each; [] of images."""
    if space is None:
        return []
    images = at.images(points).clamp(0, 1)
    return [space.words(image, at.origin) for image in images]


def in_units(space: InputSpace | None, at: Slice, about: str) -> str:
    """The words below a plane of points, with what a step along each axis changes most."""
    if space is None:
        return about
    about = about.replace("no images", f"no {space.kind}s")
    if space.kind == "sentence":  # the numbers of an embedding have no names
        return about
    said = []
    for name, axis in (("right", at.u), ("up", at.v)):
        by = (axis.double().cpu() * space.unit.double()).flatten()
        most = axis.flatten().abs().topk(min(2, axis.numel())).indices.tolist()
        said.append(f"{name} " + ", ".join(f"{space.names[k]} {by[k]:+.3g}" for k in most))
    return f"{about} One to the {escape('; one '.join(said))}."


def why(space: InputSpace | None, looks: Sequence[Any]) -> list[dict[str, Any]]:
    """Which coordinates matter most to each model that was looked into; [] of images."""
    said: list[dict[str, Any]] = []
    for look in looks:
        if space is None or (found := look.saliency) is None:
            continue
        values, own = found.values[0].flatten(), f"{look.model.card.name}, {found.method}"
        width = len(space.names) // len(values)  # several channels have one value
        order = values.abs().argsort(descending=True)[:4].tolist()
        most = ", ".join(f"{space.names[k * width]} {values[k]:+.2g}" for k in order)
        for_ = look.model.classes[int(found.target[0])]
        said.append({"src": "", "words": f"{own}: most for {for_} or against: {most}"})
    return said


def drawing(space: InputSpace, x: torch.Tensor, origin: torch.Tensor | None = None) -> str:
    """A point `(C, H, W)` as SVG; what differs from `origin` in orange, and marked."""
    return page(*parts(space, x, origin))


def parts(space: InputSpace, x: torch.Tensor, origin: torch.Tensor | None) -> tuple[str, int]:
    """What is drawn of a point, and how high it is."""
    x = checks.images(x[None].detach().cpu().clamp(0, 1), space.shape, name="x")[0]
    origin = None if origin is None else origin.detach().cpu()
    draw = {"row": row, "node": node, "sentence": sentence}.get(space.kind, values)
    drawn = [*draw(space, x, origin)]
    bottom = max(LOW, *(round(bottom) for _, bottom in drawn))
    return "".join(part for part, _ in drawn), bottom + 6


def page(drawn: str, height: int) -> str:
    """Parts on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" width="{WIDE}" '
        f'height="{height}" font-family="system-ui,sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>'
    )


def text(x: float, y: float, words: str, colour: str = INK, more: str = "") -> str:
    """Words, from (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" {more}>{escape(words)}</text>'


def bar(
    i: int, name: str, value: str, at: float, before: float | None, *, free: bool
) -> tuple[str, float]:
    """A line: the name, how far the value is between its ends, and the value in its unit."""
    y = LINE * (i + 1)
    moved = before is not None and abs(at - before) > checks.ROUNDING
    colour = MOVED if moved else PALE
    short = name if len(name) <= 20 else name[:19] + "…"
    drawn = text(4, y, short if free else f"{short} ▪", INK if free else PALE)
    drawn += f'<rect x="132" y="{y - 8}" width="90" height="8" fill="{TRACK}"/>'
    drawn += f'<rect x="132" y="{y - 8}" width="{90 * at:.1f}" height="8" fill="{colour}"/>'
    if moved and before is not None:
        drawn += f'<rect x="{131 + 90 * before:.1f}" y="{y - 10}" width="2" height="12"/>'
    return drawn + text(228, y, ("▸ " if moved else "") + value, colour), y


def values(
    space: InputSpace, x: torch.Tensor, origin: torch.Tensor | None
) -> Iterator[tuple[str, float]]:
    """Coordinates by name; those moved most, or the first."""
    own, flat, free = space.values(x).flatten(), x.flatten(), space.free.flatten()
    before = None if origin is None else origin.flatten()
    order = range(len(flat)) if before is None else (flat - before).abs().argsort(descending=True)
    for i, k in enumerate([int(k) for k in order][:MOST]):
        was = None if before is None else float(before[k])
        yield bar(i, space.names[k], f"{own[k]:.4g}", float(flat[k]), was, free=bool(free[k]))


def row(space: Rows, x: torch.Tensor, origin: torch.Tensor | None) -> Iterator[tuple[str, float]]:
    """Columns in natural units, of categories the one chosen; those moved most, or the first."""
    flat, free = x.flatten(), space.free.flatten()
    before = None if origin is None else origin.flatten()
    named = space.named(x)
    columns = [*space.columns]
    if before is not None:
        columns.sort(key=lambda c: -float((flat[c.part] - before[c.part]).abs().max()))
    for i, column in enumerate(columns[:MOST]):
        k = column.start + (int(flat[column.part].argmax()) if column.options else 0)
        value = named[column.name]
        words = value if isinstance(value, str) else f"{value:.4g}"
        was = None if before is None else float(before[k])
        yield bar(i, column.name, words, float(flat[k]), was, free=bool(free[k]))
    if len(columns) > MOST:
        y = LINE * (MOST + 1)
        yield text(4, y, f"and {len(columns) - MOST} columns more", PALE), y


def node(space: Nodes, x: torch.Tensor, origin: torch.Tensor | None) -> Iterator[tuple[str, float]]:
    """The node in the middle, those around it and their edges, and features or their changes."""
    around, side = space.field_of.tolist(), 150
    angles = [2 * math.pi * i / max(len(around) - 1, 1) for i in range(len(around) - 1)]
    spots = [(side / 2, side / 2)]
    spots += [(side / 2 + 62 * math.cos(a), side / 2 + 62 * math.sin(a)) for a in angles]
    for i, a in enumerate(around):
        for j, b in enumerate(around[:i]):
            if space.adjacency[a, b]:
                (x1, y1), (x2, y2) = spots[i], spots[j]
                line = f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"'
                yield f'<line {line} stroke="{PALE}" stroke-opacity="0.5"/>', 0
    moved = [False] * len(around)
    if origin is not None:
        moved = ((x - origin).abs() > checks.ROUNDING)[0].any(1).tolist()
    for k, ((cx, cy), name, other) in enumerate(zip(spots, around, moved, strict=True)):
        colour = MOVED if other else ("#0072b2" if k == 0 else PALE)
        spot = f'<circle cx="{cx:.0f}" cy="{cy:.0f}" r="{9 if k == 0 else 5}" fill="{colour}"/>'
        yield spot, side
        if k == 0:
            yield text(cx - 9, cy + 22, str(name), INK, 'font-weight="bold"'), side
    words = lines_of(space, x, origin)
    for i, line in enumerate(words[:9]):
        yield text(side + 6, LINE * (i + 1), line, INK if origin is None else MOVED), LINE * (i + 1)


def lines_of(space: Nodes, x: torch.Tensor, origin: torch.Tensor | None) -> list[str]:
    """The features that the node itself has, or all that was changed."""
    if origin is not None:
        return space.changes(x, origin) or ["nothing changed"]
    own = x[0, 0].argsort(descending=True, stable=True)
    names = [space.names[int(k)].split(": ", 1)[1] for k in own if x[0, 0, k] > 0]
    return names or ["no feature"]


def sentence(
    space: Sentences, x: torch.Tensor, origin: torch.Tensor | None
) -> Iterator[tuple[str, float]]:
    """The nearest tokens in lines; those exchanged in orange, underlined, over what they were."""
    after = space.tokens(x[None])[0].tolist()
    before = after if origin is None else space.tokens(origin[None])[0].tolist()
    left, y = 6.0, 20.0
    for new, old in zip(after, before, strict=True):
        word, was = space.vocabulary[new], space.vocabulary[old]
        width = 7.2 * max(len(word), 0 if new == old else len(was)) + 8
        if left + width > WIDE and left > 6:
            left, y = 6.0, y + 34
        more = 'font-size="13"' + (' text-decoration="underline"' if new != old else "")
        yield text(left, y, word, INK if new == old else MOVED, more), y
        if new != old:
            yield text(left, y + 13, was, PALE, 'text-decoration="line-through"'), y + 13
        left += width
