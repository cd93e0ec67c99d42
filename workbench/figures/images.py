"""Images as PNG inside HTML: exact pixels, a caption and alt text each, and quick."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from workbench import checks
from workbench.figures.inputs import count, numbers, percent
from workbench.figures.palettes import SCALES, colourise, scale_limits

MISTAKE = "outline:3px solid var(--wb-warn, #b3261e)"  # always beside the sign ✗, never alone
SOFT = "color:var(--wb-soft, #57606a);font-size:12px"  # of captions
# What the colours of a map say, in words.
SCALE_WORDS = {"diverging": "blue below zero, orange above", "sequential": "the brighter, the more"}
OUTLINE = "outline:1px solid rgba(128,128,128,0.5)"


@dataclass(frozen=True)
class Picture:
    """HTML for any page (images and styles are inline), and `alt`: the same in words."""

    html: str = field(repr=False)
    alt: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.alt}


def png(image: torch.Tensor) -> bytes:
    """PNG of one image, float32 `(C, H, W)` in [0, 1], to the nearest of 256 levels."""
    return _encode(_one(image))


def img_tag(image: torch.Tensor, alt: str, height: int = 96) -> str:
    """An `<img>` of one image `(C, H, W)`, `height` CSS pixels high, pixels kept square."""
    return _tag(_one(image), alt, height)


def image_grid(
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    predicted: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    classes: Sequence[str] | None = None,
    *,
    columns: int = 8,
    height: int = 96,
    title: str | None = None,
) -> Picture:
    """A grid of images with their classes, predictions and confidences below.

    images: float32 `(N, C, H, W)` in [0, 1]. labels, predicted: int64 `(N,)`. confidence:
    `(N,)` in [0, 1], of the predicted class. classes: names, else the indices are shown.
    height: of one image, in CSS pixels. Mistakes carry a ✗ and the true class.
    """
    checks.positive("columns", columns)
    pixels = _pixels(images, "images")
    n = len(pixels)
    true = _names("labels", labels, classes, n)
    guess = _names("predicted", predicted, classes, n)
    if confidence is not None and predicted is None:
        raise ValueError("confidence: expected predicted as well, the classes it belongs to")
    if n == 0:
        return captioned("", "no images to show", title)
    sure: list[float | None] = [None] * n
    if confidence is not None:
        shares = numbers("confidence", confidence, 1)
        if len(shares) != n or shares.min() < 0 or shares.max() > 1:
            got = f"{len(shares)} in [{shares.min():.4g}, {shares.max():.4g}]"
            raise ValueError(f"confidence: expected {n} values in [0, 1], one an image, got {got}")
        sure = shares.tolist()
    wrong = [False] * n
    alt = count(n, "image")
    if labels is not None and predicted is not None:
        wrong = (labels != predicted).tolist()
        alt += f", {sum(wrong) or 'none'} of them mistaken"
    # Captions need some room even under narrow images.
    width = max(round(checks.positive("height", height) * images.shape[3] / images.shape[2]), 64)
    cells = []
    for i in range(n):
        words, caption = _caption(true[i], guess[i], sure[i], wrong[i])
        tag = _tag(pixels[i], words, height, MISTAKE if wrong[i] else OUTLINE)
        cells.append(
            f'<figure style="margin:0;width:{width}px">{tag}<figcaption style="{SOFT};'
            f'margin-top:4px;overflow-wrap:anywhere">{escape(caption)}</figcaption></figure>'
        )
    style = f"display:flex;flex-wrap:wrap;gap:10px;max-width:{columns * (width + 10)}px"
    return captioned(f'<div style="{style}">{"".join(cells)}</div>', alt, title)


def heat_overlay(
    image: torch.Tensor | None,
    values: torch.Tensor,
    scale: str = "diverging",
    *,
    limits: tuple[float, float] | None = None,
    height: int = 160,
    title: str | None = None,
    over: bool = False,
) -> Picture:
    """An image and, beside it, a map of values over it (a saliency, say) in colours.

    image: float32 `(C, H, W)` in [0, 1], or None to show the map alone. values: `(H', W')`,
    signed for "diverging" (blue negative, white zero, orange positive), any for
    "sequential". limits: the values at the ends of the scale; give the same to maps that
    are to be compared. over: lay the map over the image, with a slider from one to the other,
    which works in panels and reports without a kernel.
    """
    array = numbers("values", values, 2)
    low, high = scale_limits(array, scale, limits)
    alt = _map_in_words(array, scale, low, high)
    heat = _tag(colourise(array, scale, limits), alt, height)
    shown = "" if image is None else _tag(_one(image), "the image", height)
    shown = _laid_over(shown, heat) if over and shown else shown + heat
    bar = f"width:90px;height:10px;background:linear-gradient(90deg,{','.join(SCALES[scale])})"
    body = (
        f'<div style="display:flex;flex-wrap:wrap;gap:12px">{shown}</div><div style="display:flex;'
        f'align-items:center;gap:6px;margin-top:4px;{SOFT}">{low:.3g}<div style="{bar};{OUTLINE}">'
        f"</div>{high:.3g}</div>"
    )
    return captioned(body, SCALE_WORDS[scale], title, alt)


def _laid_over(image: str, heat: str, at: int = 7, most: int = 10) -> str:
    """A map over its image, and the slider that says how much of each is seen."""
    shares = [i / most for i in range(most + 1)]
    style = f"position:absolute;inset:0;opacity:{shares[at]}"
    frames = f'data-kind="opacity" data-frames="{shares}"'
    layers = f'<div {frames} style="{style}">{heat}</div>'
    words = [f"{share:.0%} map" for share in shares]
    said = escape(json.dumps(words), quote=True)
    status = f'<span role="status" data-kind="text" data-frames="{said}">{words[at]}</span>'
    slider = (
        f'<input type="range" min="0" max="{most}" value="{at}" style="width:7em" '
        f'aria-label="from the image to the map" aria-valuetext="{words[at]}">'
    )
    return (
        f'<div data-drag="over"><div style="position:relative;width:max-content;line-height:0">'
        f'{image}{layers}</div><div style="display:flex;gap:6px;align-items:center;{SOFT}">image'
        f"{slider}{status}</div></div>"
    )


def _one(image: torch.Tensor) -> np.ndarray:
    """uint8 `(H, W)` or `(H, W, 3)` of one checked image."""
    if isinstance(image, torch.Tensor) and image.ndim != 3:
        raise ValueError(f"image: expected shape (C, H, W), got {tuple(image.shape)}")
    return _pixels(image[None], "image")[0]


def _pixels(images: torch.Tensor, name: str) -> np.ndarray:
    """uint8 `(N, H, W)` or `(N, H, W, 3)` of a checked batch."""
    images = checks.images(images, name=name).detach().cpu()
    if images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"{name}: expected 1 or 3 channels of pixels, got {tuple(images.shape)}")
    levels = (images * 255).round().to(torch.uint8)
    return (levels[:, 0] if levels.shape[1] == 1 else levels.permute(0, 2, 3, 1)).numpy()


def _encode(pixels: np.ndarray) -> bytes:
    """PNG of uint8 `(H, W)` or `(H, W, 3)`; light compression, since images are small."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def png_data(pixels: np.ndarray) -> str:
    """The address of uint8 pixels as an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(_encode(pixels)).decode("ascii")


def _tag(pixels: np.ndarray, alt: str, height: int, style: str = OUTLINE) -> str:
    """An `<img>` with square hard pixels, `height` CSS pixels high; large ones are made smaller."""
    # max-width: notebooks shrink wide images by default, which would break the aspect ratio.
    size = f"height:{checks.positive('height', height)}px;width:auto;max-width:none"
    # Twice the height on the page is all that dense screens show.
    factor = len(pixels) // (2 * height)
    if factor > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
    rendering = "pixelated" if len(pixels) <= height else "auto"
    style = f"{size};image-rendering:{rendering};{style}"
    return f'<img alt="{escape(alt)}" src="{png_data(pixels)}" style="{style}">'


def captioned(body: str, caption: str, title: str | None = None, alt: str = "") -> Picture:
    """`body` below its caption, what is seen. alt: the numbers too, which show on hover."""
    shown = (f"<strong>{escape(title)}</strong>: " if title else "") + escape(caption)
    hover = f' title="{escape(alt, quote=True)}"' if alt else ""
    return Picture(
        f'<figure{hover} style="margin:8px 0;font-family:system-ui,sans-serif;font-size:13px">'
        f'<figcaption style="margin-bottom:4px;{SOFT}">{shown}</figcaption>{body}</figure>',
        alt or caption,
    )


def choice(block: str, name: str, words: str, style: str, *, chosen: bool, pick: bool) -> str:
    """A block, in a frame where it is chosen; with `pick` it can be picked and have the focus."""
    about = (
        f'data-pick="{name}" tabindex="0" role="button" aria-label="{escape(words)}" '
        f'aria-pressed="{str(chosen).lower()}" '
    ) * pick
    edge = f"3px solid {'var(--wb-a, #0072b2)' if chosen else 'transparent'}"
    cursor = "pointer" if pick else "auto"
    return f'<div {about}style="border:{edge};cursor:{cursor};{style}">{block}</div>'


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), caption: str = "") -> str:
    """Rows of HTML cells, the first of which says what its row is about."""
    cell = 'style="text-align:left;padding:2px 12px 2px 0;font-weight:normal"'
    heads = "".join(f'<th scope="col" {cell}>{name}</th>' for name in head)
    lines = [f"<tr>{heads}</tr>"] if head else []
    for name, *cells in rows:
        rest = "".join(f"<td {cell}>{each}</td>" for each in cells)
        lines.append(f'<tr><th scope="row" {cell}>{name}</th>{rest}</tr>')
    above = f'<caption style="caption-side:top;text-align:left">{caption}</caption>' * bool(caption)
    style = "border-collapse:collapse;font:13px system-ui,sans-serif"
    return f'<table style="{style}">{above}{"".join(lines)}</table>'


def bar(share: float) -> str:
    """A bar for a share in [0, 1], on a track that keeps every bar on the same scale."""
    return (
        '<div class="wb-track" style="width:160px;background:rgba(128,128,128,0.2)">'
        f'<div style="width:{100 * share:.1f}%;height:12px;background:var(--wb-a, #0072b2)">'
        "</div></div>"
    )


def _names(
    name: str, index: torch.Tensor | None, classes: Sequence[str] | None, n: int
) -> Sequence[str | None]:
    """The class name of each image; None where there is no `index`, or it is -1: not known."""
    if index is None:
        return [None] * n
    checks.labels(
        index, sys.maxsize if classes is None else len(classes), n, name=name, unknown=True
    )
    return [None if k < 0 else str(k if classes is None else classes[k]) for k in index.tolist()]


def _caption(
    true: str | None, guess: str | None, sure: float | None, wrong: bool
) -> tuple[str, str]:
    """Alt text and caption of one image of the grid."""
    if guess is None:
        return ("image", "") if true is None else (f"class {true}", true)
    alt = f"predicted as {guess}" if true is None else f"{true} predicted as {guess}"
    caption = f"✗ {guess}, is {true}" if wrong else guess
    if sure is not None:
        alt += f" with confidence {percent(sure)}"
        caption += f" · {percent(sure)}"
    return alt, caption


def _map_in_words(values: np.ndarray, scale: str, low: float, high: float) -> str:
    """Alt text of a map: its size, range, peak, and what its colours span."""
    rows, columns = values.shape
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    span = f"from {low:.3g} to {high:.3g}"
    if scale == "diverging":
        span = f"symmetric about zero, to ±{high:.3g}"
    return (
        f"map of {rows}×{columns} values from {values.min():.3g} to {values.max():.3g}, "
        f"strongest {values[row, column]:.3g} at row {row}, column {column}; colours {span}"
    )
