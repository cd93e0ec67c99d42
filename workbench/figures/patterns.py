"""Activation patterns: what an image has on and off, beside what its class has."""

from __future__ import annotations

from html import escape

import numpy as np
import torch

from workbench.figures.images import Picture, captioned, img_tag, table
from workbench.figures.inputs import count
from workbench.figures.palettes import rgb
from workbench.patterns import PatternQuality, Patterns

PITCH = 9  # pixels from cell to cell, one of them a gap
MOST = 16_384  # cells in a strip
ROWS = 20  # of the table, where there are more classes
# A letter is a colour: the states differ in shape and in brightness too.
COLOURS = {
    ".": "#ffffff",
    "B": "#0b3d78",
    "b": "#7db1d9",
    "V": "#b34700",
    "g": "#e4e4e4",
    "d": "#777777",
}
FULL, OPEN = ["BBBBBBBB"] * 8, ["bbbbbbbb", *["b......b"] * 6, "bbbbbbbb"]
CROSS = ["V......V", ".V....V.", "..V..V..", "...VV..."]
CROSS += CROSS[::-1]
FILLED = ["".join("V."[cell == "V"] for cell in row) for row in CROSS]
GLYPHS = {
    "on, as in the pattern": FULL,
    "off, as in the pattern": OPEN,
    "on, should be off": FILLED,
    "off, should be on": CROSS,
    "on, not in the pattern": [*["gggggggg"] * 2, *["ggddddgg"] * 4, *["gggggggg"] * 2],
    "off, not in the pattern": ["gggggggg"] * 8,
}  # fmt: skip


def states(on: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """The state of each neuron, as its place in `GLYPHS`: int64 `(n,)`.

    on: bool `(n,)`. phase: `(n,)`, +1 where the pattern asks for on, -1 for off, 0 free.
    """
    kept = torch.where(on, 0, 1)
    return torch.where(phase == 0, kept + 4, torch.where((phase > 0) == on, kept, kept + 2))


def pattern_strip(
    on: torch.Tensor,
    phase: torch.Tensor,
    layer: str,
    *,
    chosen: int | None = None,
    pick: bool = False,
    unit: str = "neuron",
) -> Picture:
    """One cell a neuron, in rows: on or off, and whether the pattern asks for that.

    on: bool `(n,)`. phase: int8 `(n,)`. chosen: the neuron with a frame. pick: the strip
    carries `data-pick="layer:NAME"` and can have the focus. unit: what a neuron is called. Of
    more than `MOST` the first are drawn.
    """
    state, wide = states(on, phase), columns(len(on))
    pixels = cells(state[:MOST], wide)
    counts = torch.bincount(state, minlength=len(GLYPHS)).tolist()
    described = ", ".join(f"{n} {name}" for n, name in zip(counts, GLYPHS, strict=True) if n)
    alt = f"{layer}, {len(on)} {unit}s: {described}"
    alt += f"; the first {MOST:,} are drawn" * (len(on) > MOST)
    alt += f"; {unit} {chosen} is looked at" * (chosen is not None)
    if chosen is not None and chosen < MOST:
        top, left = (PITCH * place for place in divmod(chosen, wide))
        frame = pixels[:, top : top + PITCH + 1, left : left + PITCH + 1]
        frame[:, [1, -2]] = frame[:, :, [1, -2]] = torch.tensor([[[0.94]], [[0.89]], [[0.26]]])
        frame[:, [0, -1]] = frame[:, :, [0, -1]] = 0
    attributes = f'data-pick="layer:{escape(layer)}" tabindex="0" role="button" '
    attributes += f'aria-label="{escape(alt)}; arrow keys go from {unit} to {unit}" '
    style = f"display:inline-block;line-height:0;cursor:{'crosshair' if pick else 'auto'}"
    tag = img_tag(pixels, alt, pixels.shape[1])
    against = sum(counts[2:4])
    words = f"{layer}: {count(len(on), unit)}, {sum(counts[::2])} on"
    words += f", {against} against the pattern" * bool((phase != 0).any())
    return captioned(f'<div {attributes * pick}style="{style}">{tag}</div>', words, alt=alt)


def columns(n: int) -> int:
    """How many of `n` neurons stand in a row of a strip."""
    return min(n, 64 if n <= 1024 else 112)


def pattern_legend() -> Picture:
    """The six states of a neuron."""
    items = []
    for i, name in enumerate(GLYPHS):
        tag = img_tag(cells(torch.tensor([i]), 1), name, 14)
        items.append(f'<span style="white-space:nowrap;margin-right:16px">{tag} {name}</span>')
    alt = f"states of a neuron: {'; '.join(GLYPHS)}"
    return Picture(f'<div style="font-size:12px">{"".join(items)}</div>', alt)


def pattern_table(
    patterns: Patterns, quality: PatternQuality, broken: torch.Tensor, label: int
) -> Picture:
    """One row a class: how many neurons of its pattern an image breaks, and how good that is.

    broken: of one image, `(K,)`. label: the class predicted. Of more than `ROWS` classes those
    with the least of their pattern broken, and the one predicted.
    """
    heads = ("class", "violated", "of", "recall", "precision")
    rows, described, sizes = [], [], patterns.sizes.tolist()
    for k in listed(patterns, broken, label):
        name, mined = patterns.classes[k], bool(patterns.total[k])
        shares = [percent(float(v[k])) for v in (quality.recall, quality.precision)]
        values = [str(int(broken[k])) if mined else "no pattern", str(sizes[k]), *shares]
        heading = f"<b>{escape(name)}</b> ◀ answer" if k == label else escape(name)
        rows.append([heading, *values])
        described.append(f"{name} {values[0]}")
    alt = f"neurons violated of each class's pattern: {', '.join(described)}"
    summary = quality.summary()
    numbers = (
        f"delta {patterns.delta:g}: mean size {patterns.mean_size:.0f}, recall "
        f"{percent(summary['recall'])}, precision {percent(summary['precision'])} on held-out "
        "images"
    )
    words = "neurons of each class's pattern that this image violates"
    if len(rows) < len(patterns.classes):
        words += f"; {len(rows)} of {len(patterns.classes):,} classes: the least violated"
    return captioned(table(rows, heads), words, alt=f"{words}; {numbers}; {alt}")


def listed(patterns: Patterns, broken: torch.Tensor, label: int) -> list[int]:
    """The classes in the table."""
    if len(broken) <= ROWS:
        return list(range(len(broken)))
    best: list[int] = broken.argsort(stable=True)[:ROWS].tolist()
    return [label, *(k for k in best if k != label and patterns.total[k])][:ROWS]


def percent(share: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if share is None or share != share else f"{share:.1%}"


def cells(state: torch.Tensor, wide: int) -> torch.Tensor:
    """Glyphs in rows of `wide`, float32 `(3, H, W)`, with a gap before and after each."""
    tall = -(-len(state) // wide)
    glyphs = np.array([[list(row) for row in glyph] for glyph in GLYPHS.values()])
    values = np.ones((len(glyphs) + 1, PITCH, PITCH, 3), np.float32)  # the last: no neuron
    for letter, colour in zip(COLOURS, rgb(tuple(COLOURS.values())), strict=True):
        values[:-1, 1:, 1:][glyphs == letter] = colour / 255
    index = np.full(tall * wide, len(glyphs))
    index[: len(state)] = state.numpy()
    grid = values[index].reshape(tall, wide, PITCH, PITCH, 3).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(tall * PITCH, wide * PITCH, 3)
    padded = np.pad(grid, ((0, 1), (0, 1), (0, 0)), constant_values=1)
    return torch.from_numpy(padded).permute(2, 0, 1)
