"""The textures, colours and backgrounds of `shapes`, ten of each.

Patterns take pixel coordinates and two phases `a`, `b` in [0, 1), drawn anew for each
image, so that a texture tells nothing but its name. No sine is used: triangle waves
round alike on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

NOISE_SIZE = 64
DARKER = 0.45  # the second tone of a texture, as a share of the colour


def uniforms(entropy: int | list[int], *shape: int) -> np.ndarray:
    """Uniform draws in [0, 1), from raw bits that numpy promises never to change."""
    bits = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(int(np.prod(shape)))
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)


NOISE = uniforms(5, NOISE_SIZE, NOISE_SIZE).astype(np.float32)


def noise(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One fixed sheet of noise in [0, 1), shifted by the phases."""
    column = np.floor(x + NOISE_SIZE * a).astype(np.int64) % NOISE_SIZE
    row = np.floor(y + NOISE_SIZE * b).astype(np.int64) % NOISE_SIZE
    return NOISE[row, column]


def soft_noise(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Noise at a sixth of the resolution, interpolated: blotches in [0, 1)."""
    x, y = x / 6 + NOISE_SIZE * a, y / 6 + NOISE_SIZE * b
    column, row = np.floor(x), np.floor(y)
    across, down = x - column, y - row
    nil = np.zeros_like(a)
    top, low = (
        noise(column, r, nil, nil) * (1 - across) + noise(column + 1, r, nil, nil) * across
        for r in (row, row + 1)
    )
    return top * (1 - down) + low * down


def wave(v: np.ndarray) -> np.ndarray:
    """A triangle wave in [0, 1] with period 1."""
    return np.abs(2 * (v - np.floor(v)) - 1)


def band(v: np.ndarray) -> np.ndarray:
    """Stripes of period 1 with soft edges, half of the area each."""
    return np.clip(4 * wave(v) - 1.5, 0, 1)


def line(v: np.ndarray) -> np.ndarray:
    """Thin lines of period 1."""
    return np.clip(6 * wave(v) - 4, 0, 1)


def dots(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Round spots on a square grid, 6 pixels apart."""
    u, v = 3 * wave(x / 6 + a), 3 * wave(y / 6 + b)
    return np.clip(2.3 - np.sqrt(u * u + v * v), 0, 1)


TEXTURES: dict[str, Pattern] = {
    "plain": lambda x, y, a, b: np.zeros_like(x),
    "rows": lambda x, y, a, b: band(y / 5 + a),
    "columns": lambda x, y, a, b: band(x / 5 + a),
    "diagonals": lambda x, y, a, b: band((x + y) / 7 + a),
    "checks": lambda x, y, a, b: np.abs(band(x / 8 + a) - band(y / 8 + b)),
    "dots": dots,
    "grid": lambda x, y, a, b: np.maximum(line(x / 6 + a), line(y / 6 + b)),
    "zigzag": lambda x, y, a, b: band(y / 5 + 0.8 * wave(x / 8 + b) + a),
    "grain": lambda x, y, a, b: np.clip(2 * noise(x, y, a, b) - 0.5, 0, 1),
    "rings": lambda x, y, a, b: band(np.sqrt(x * x + y * y) / 5 + a),
}

# Okabe and Ito's eight (2008), told apart by the colour-blind, and two more.
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "orange": (230, 159, 0),
    "sky blue": (86, 180, 233),
    "green": (0, 158, 115),
    "yellow": (240, 228, 66),
    "blue": (0, 114, 178),
    "vermilion": (213, 94, 0),
    "pink": (204, 121, 167),
    "violet": (110, 50, 170),
    "brown": (122, 75, 30),
}

GREY, WARM, COOL = (1.0, 1.0, 1.0), (1.0, 0.93, 0.84), (0.84, 0.93, 1.0)

# A tint and a brightness each; x and y here run over -1..1 across the image. All are
# light and muted, so that every colour stands out from every background.
BACKGROUNDS: dict[str, tuple[tuple[float, float, float], Pattern]] = {
    "light": (GREY, lambda x, y, a, b: np.full_like(x, 0.9)),
    "grey": (GREY, lambda x, y, a, b: np.full_like(x, 0.7)),
    "warm": (WARM, lambda x, y, a, b: np.full_like(x, 0.82)),
    "cool": (COOL, lambda x, y, a, b: np.full_like(x, 0.82)),
    "fade down": (GREY, lambda x, y, a, b: 0.79 - 0.14 * y),
    "fade right": (GREY, lambda x, y, a, b: 0.79 - 0.14 * x),
    "spotlight": (GREY, lambda x, y, a, b: 0.92 - 0.15 * (x * x + y * y)),
    "sand": (WARM, lambda x, y, a, b: 0.7 + 0.22 * noise(16 * x, 16 * y, a, b)),
    "clouds": (COOL, lambda x, y, a, b: 0.66 + 0.3 * soft_noise(16 * x, 16 * y, a, b)),
    "ruled": (GREY, lambda x, y, a, b: 0.84 - 0.14 * line(16 * y / 6 + a)),
}
