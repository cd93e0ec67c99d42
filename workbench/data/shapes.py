"""`shapes`: generated 32x32 colour images whose every cause is known.

Ten outlines, each with a texture, a colour and a background of ten, a size, a tilt and
a place. By default only the outline tells the class. Any of the three cues can be
tied to the class (`correlate`), set against it (`cue_conflict`), and two classes can be
blended with known probabilities (`morphs`): so there is a truth to test explanations,
shortcuts and confidences against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench import checks
from workbench.data.dataset import ImageDataset
from workbench.data.outlines import OUTLINES
from workbench.data.surfaces import BACKGROUNDS, COLOURS, DARKER, TEXTURES, uniforms

if TYPE_CHECKING:
    import pandas as pd

CLASSES = tuple(OUTLINES)
CUES = {"texture": tuple(TEXTURES), "colour": tuple(COLOURS), "background": tuple(BACKGROUNDS)}
SPLITS = {"train": 10_000, "test": 2_000}
STREAMS = {"train": 0, "test": 1, "morphs": 2}  # each draws from its own random numbers

SIZE = 32
CENTRES = np.arange(SIZE, dtype=np.float32) + 0.5
COLUMN, ROW = CENTRES[None, None, :], CENTRES[None, :, None]  # of every pixel's centre
RANGES = {"scale": (9.0, 12.5), "rotation": (-25.0, 25.0), "x": (13.0, 19.0), "y": (13.0, 19.0)}
PHASES = ("texture_a", "texture_b", "background_a", "background_b")
DRAWS = ("shape", *CUES, *RANGES, *PHASES, "t", "label")
CHUNK = 250  # images drawn at a time, to spare memory

Columns = dict[str, np.ndarray]
Distance = Callable[[Columns, np.ndarray, np.ndarray], np.ndarray]


def load(
    split: str,
    limit: int | None,
    seed: int = 0,
    correlate: Mapping[str, float] | None = None,
    cue_conflict: bool = False,
) -> ImageDataset:
    """Images `(N, 3, 32, 32)` in steps of 1/255, labels and factors.

    seed: another seed gives other images. The first n images of a split are the same
    whatever `limit`.
    correlate: `{"texture": 0.9}` gives an image of class k the k-th texture with
    probability 0.9, else one of the other nine, all equally likely. So 1 means always,
    0.1 means independent (the default for each cue), 0 means never. Also for
    `"colour"` and `"background"`.
    cue_conflict: every texture is another class's, named in the column `texture_class`
    (whoever goes by texture is wrong every time).

    The factors: `shape`, `texture`, `colour`, `background` by name; `scale`, the radius
    of the surrounding circle in pixels; `rotation`, degrees anticlockwise; `x` and `y`,
    the centre in pixels from the left and the top edge.

    Raises:
        ValueError: unknown cue, a probability outside [0, 1], or a cue conflict with a
            texture tied to the class.
    """
    n = min(limit or SPLITS[split], SPLITS[split])
    columns = _draw(n, STREAMS[split], seed, _chances(correlate, cue_conflict))
    factors = _frame(columns)
    if cue_conflict:
        factors["texture_class"] = [CLASSES[k] for k in columns["texture"]]
    return _dataset(columns, _outline, factors, "shapes", split)


def morphs(a: str, b: str, n: int, seed: int = 0) -> ImageDataset:
    """`n` images between the classes `a` and `b`, labelled by a coin of known bias.

    The outline is `(1 - t) * a + t * b` in signed distances, t uniform in [0, 1); the
    label is `b` with probability t. The factors hold `t` and the true probabilities
    `p_a` = 1 - t and `p_b` = t, so that a confidence can be compared with the truth.
    The classes stay the ten of `shapes`.

    Raises:
        ValueError: an unknown class, the same class twice, or `n` below 1.
    """
    for name in (a, b):
        checks.known("class of shapes", name, CLASSES)
    if a == b:
        raise ValueError(f"b: expected a class other than a, got {b!r} twice")
    checks.positive("n", n)
    columns = _draw(n, STREAMS["morphs"], seed, _chances(None, False))
    t = columns["t"]
    columns["shape"] = np.where(columns["label"] < t, CLASSES.index(b), CLASSES.index(a))

    def blend(part: Columns, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        (weight,) = _each(part, "t")
        return (1 - weight) * OUTLINES[a](x, y) + weight * OUTLINES[b](x, y)

    factors = _frame(columns).assign(t=t, p_a=1 - t, p_b=t)
    return _dataset(columns, blend, factors, f"shapes, {a} to {b}", "test")


def _chances(correlate: Mapping[str, float] | None, cue_conflict: bool) -> dict[str, float]:
    """For each cue, the probability that it takes the class's own value."""
    chance = dict.fromkeys(CUES, 1 / len(CLASSES))
    for cue, value in (correlate or {}).items():
        checks.known("cue to correlate", cue, CUES)
        if not 0 <= value <= 1:
            raise ValueError(f"correlate: expected a probability for {cue!r}, got {value!r}")
        chance[cue] = value
    if cue_conflict:
        if "texture" in (correlate or {}):
            raise ValueError("correlate: the texture cannot be tied to the class in a cue conflict")
        chance["texture"] = 0
    return chance


def _draw(n: int, stream: int, seed: int, chance: Mapping[str, float]) -> Columns:
    """The factors of `n` images: for each a row of uniforms, each turned into one factor."""
    checks.positive("seed", seed, least=0)
    k = len(CLASSES)
    whole = -(-n // k) * k  # every ten images in a row are one of each class
    columns = dict(zip(DRAWS, uniforms([seed, stream], whole, len(DRAWS)).T, strict=True))
    columns["shape"] = np.argsort(columns["shape"].reshape(-1, k), axis=1).ravel()
    for cue, p in chance.items():
        columns[cue] = _cue(columns["shape"], columns[cue], p)
    for name, (low, high) in RANGES.items():
        columns[name] = low + (high - low) * columns[name]
    return {name: column[:n] for name, column in columns.items()}


def _cue(labels: np.ndarray, u: np.ndarray, p: float) -> np.ndarray:
    """The class's own value where u < p, else one of the others, equally likely."""
    others = len(CLASSES) - 1
    step = 1 + np.floor((u - p) / max(1 - p, 1e-12) * others)
    step = np.where(u < p, 0, np.clip(step, 1, others)).astype(np.int64)
    return (labels + step) % len(CLASSES)


def _frame(columns: Columns) -> pd.DataFrame:
    import pandas as pd

    names = {"shape": CLASSES, **CUES}
    frame = {key: [values[k] for k in columns[key]] for key, values in names.items()}
    return pd.DataFrame({**frame, **{key: columns[key] for key in RANGES}})


def _dataset(
    columns: Columns, distance: Distance, factors: pd.DataFrame, name: str, split: str
) -> ImageDataset:
    """The images of these factors, rounded to bytes."""
    labels = columns["shape"]
    images = np.empty((len(labels), 3, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, len(labels), CHUNK):
        rows = slice(start, start + CHUNK)
        part = {key: column[rows] for key, column in columns.items()}
        inside = _coverage(part, distance)[:, None]
        picture = _foreground(part) * inside + _background(part) * (1 - inside)
        images[rows] = np.round(255 * np.clip(picture, 0, 1))
    return ImageDataset.from_arrays(
        images, labels, CLASSES, name=name, split=split, factors=factors
    )


def _coverage(part: Columns, distance: Distance) -> np.ndarray:
    """Share of each pixel that lies inside, from the distance of its centre to the edge."""
    x0, y0, scale = _each(part, "x", "y", "scale")
    angle = np.deg2rad(part["rotation"])[:, None, None]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    # Pixel centres as the shape sees them: shifted, scaled, tilted, y upwards.
    x, y = (COLUMN - x0) / scale, (y0 - ROW) / scale
    edge = distance(part, cos * x + sin * y, cos * y - sin * x)
    return np.clip(0.5 - scale * edge, 0, 1).astype(np.float32)


def _outline(part: Columns, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _choose(list(OUTLINES.values()), part["shape"], x, y)


def _foreground(part: Columns) -> np.ndarray:
    """The textured colour, as if the shape filled the image: `(N, 3, 32, 32)`."""
    x, y, a, b = _each(part, "x", "y", "texture_a", "texture_b")
    textures = list(TEXTURES.values())
    pattern = _choose(textures, part["texture"], COLUMN - x, ROW - y, a, b)
    palette = np.array(list(COLOURS.values()), dtype=np.float32) / 255
    tone = palette[part["colour"]][:, :, None, None]
    # The second tone is darker, except on black, where it is a dark grey.
    other = np.where(tone.max(axis=1, keepdims=True) > 0, DARKER * tone, np.float32(0.4))
    return tone + (other - tone) * pattern[:, None]


def _background(part: Columns) -> np.ndarray:
    """The background, as if there were no shape: `(N, 3, 32, 32)`."""
    a, b = _each(part, "background_a", "background_b")
    x, y = 2 * COLUMN / SIZE - 1 + 0 * a, 2 * ROW / SIZE - 1 + 0 * a
    tints, patterns = zip(*BACKGROUNDS.values(), strict=True)
    level = _choose(patterns, part["background"], x, y, a, b)
    tint = np.array(tints, dtype=np.float32)[part["background"]]
    return level[:, None] * tint[:, :, None, None]


def _each(part: Columns, *names: str) -> list[np.ndarray]:
    """Columns as float32 `(N, 1, 1)`: one number for all pixels of an image."""
    return [part[name].astype(np.float32)[:, None, None] for name in names]


def _choose(
    functions: Sequence[Callable[..., np.ndarray]], choice: np.ndarray, *arguments: np.ndarray
) -> np.ndarray:
    """Row i of the result is the `choice[i]`-th function of row i of the arguments."""
    result = np.empty((len(choice), SIZE, SIZE), dtype=np.float32)
    for k, function in enumerate(functions):
        rows = choice == k
        result[rows] = function(*(argument[rows] for argument in arguments))
    return result
