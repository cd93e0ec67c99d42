"""Arrays that people have, as images and labels of the contract, or what they look like."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from reprlib import repr as short
from typing import Any

import numpy as np

from workbench import checks

WHITE = {"uint8": 255, "uint16": 65535}
DARK = {"uint8": 16, "uint16": 4095}  # a set that ends here has another scale, perhaps
SCALES = (1, 16, 255, 1023, 4095, 65535)
MOST = 100_000  # classes that labels alone can make
ON_WHITE = "a = images[..., 3:] / 255; images = images[..., :3] / 255 * a + 1 - a"


def plain(name: str, values: Any) -> np.ndarray:
    """An array of whatever holds one: lists, pictures, tensors on any device."""
    import torch

    try:
        if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
            values = torch.stack(tuple(values))
        if isinstance(values, torch.Tensor):
            values = (values.float() if values.is_floating_point() else values).numpy(force=True)
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name}: expected an array, each item of the same shape, got {short(values)}; {error}"
        ) from None


def images(given: Any, n_labels: int | None) -> np.ndarray:
    """float32 `(N, C, H, W)`; values that are no images are left to `checks.images`.

    given: `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`; bool, uint8, uint16, other whole
    numbers that can only be of 0..255, or floats.

    Raises:
        TypeError, ValueError: another dtype, shape, range or channel count.
    """
    pixels, is_array = plain("images", given), not hasattr(given, "is_floating_point")
    shape = pixels.shape
    if pixels.ndim == 3 and n_labels in (None, 1) and len(pixels) > 1:
        if (shape[2] in (1, 3, 4) and min(shape[:2]) >= 8) or n_labels == 1:
            raise ValueError(
                f"images: shape {shape} may be one picture, or {len(pixels)} grey ones; pass "
                "images[None] if it is one, images[:, None] if each is a picture"
            )
        if len(pixels) == 3:
            _warn(
                f"shape {shape} is read as 3 grey images; if it is one of RGB, pass images[None]", 4
            )
    pixels = _scaled(pixels)
    if pixels.ndim == 3 and 0 not in shape[1:]:
        return pixels[:, None]
    first, last = (pixels.ndim == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    if not (first or last) or 0 in shape[1:]:
        rgba = pixels.ndim == 4 and 4 in (shape[1], shape[3])
        raise ValueError(
            "images: expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, got "
            f"shape {shape}{f'; RGBA is laid on white by {ON_WHITE}' if rgba else ''}"
        )
    if first and last and is_array and set(shape[1:]) != {1}:
        _warn(
            f"shape {shape} is read as (N, C, H, W); if it is (N, H, W, C), pass "
            "images.transpose(0, 3, 1, 2)",
            stacklevel=4,
        )
    return pixels if first else pixels.transpose(0, 3, 1, 2)


def labels(
    given: np.ndarray | None, n: int, classes: Any
) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """int64 `(N,)`, the names of the classes, and whether these are more than numbers.

    given: whole numbers, or names of classes; None where no class is known. classes: as
    `checks.class_names` takes them; None for the names that occur, or for the numbers.

    Raises:
        TypeError, ValueError: another dtype or shape; a name that is none of `classes`.
    """
    names = None if classes is None else checks.class_names(classes)
    y = np.full(n, -1) if given is None else given
    if y.ndim == 2:
        how = "ravel()" if y.shape[1] == 1 else "argmax(1), if they are one-hot"
        raise ValueError(f"labels: expected shape (N,), got {y.shape}; pass labels.{how}")
    if y.dtype.kind in "SU" or (y.dtype == object and all(isinstance(v, str) for v in y)):
        words = [v.decode() if isinstance(v, bytes) else str(v) for v in y.tolist()]
        names = in_order(words) if names is None else names
        number = {name: k for k, name in enumerate(names)}
        for word in words:
            if word not in number:
                raise checks.unknown("label", word, names)
        return np.array([number[word] for word in words], np.int64), names, not mere(names)
    if y.dtype.kind not in "iu" and y.size:
        whole = y.dtype.kind == "b" or (y.dtype.kind == "f" and bool((y == np.floor(y)).all()))
        advice = "; pass labels.astype(int)" if whole else ""
        raise TypeError(f"labels: expected whole numbers or names, got {y.dtype}{advice}")
    y = y.astype(np.int64)
    if names is not None:
        return y, names, True
    highest = int(y.max(initial=-1 if len(y) else 0))
    if highest >= MOST:
        raise ValueError(
            f"labels: expected numbers of classes, got {highest}; number them by "
            "np.unique(labels, return_inverse=True), or give names"
        )
    return y, tuple(map(str, range(highest + 1))), False


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once: by number where all are numbers, else as text."""
    once = set(names)
    numbers = all(name.isdecimal() for name in once)
    return tuple(sorted(once, key=lambda name: (int(name) if numbers else 0, name)))


def mere(names: Iterable[str]) -> bool:
    """Whether names are just the numbers of the classes."""
    return all(name == str(k) for k, name in enumerate(names))


def dark(pixels: np.ndarray) -> str:
    """What a set of uint8 or uint16 looks like that is almost black; else ""."""
    name, high = pixels.dtype.name, int(pixels.max(initial=0))
    if not 0 < high <= DARK[name]:
        return ""
    return (
        f"almost black, since the highest {name} is {high} and white is {WHITE[name]}; this "
        f"looks like values in 0..{_scale(high)}"
    )


def _scale(high: float) -> int:
    """The value of white that goes with a highest value."""
    return next((scale for scale in SCALES if scale >= high), SCALES[-1])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """float32, white at 1."""
    name, kind = pixels.dtype.name, pixels.dtype.kind
    if kind not in "biuf":
        raise TypeError(
            f"images: expected uint8 or floats in [0, 1], got {name}; np.stack(pictures) makes "
            "an array of pictures of one size"
        )
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    scale = _scale(high)
    if kind == "f":
        if low >= 0 and 2 < high <= SCALES[-1]:
            raise ValueError(
                f"images: expected floats in [0, 1], got [{low:.4g}, {high:.4g}]; this looks "
                f"like values in 0..{scale}: pass images / {scale}"
            )
        if 0 < high <= 1 / 255:
            _warn(f"the highest value is {high:.2g}, almost black: divided by 255 twice?")
    elif kind != "b" and name not in WHITE and not (low >= 0 and DARK["uint8"] < high <= 255):
        raise TypeError(
            f"images: expected uint8 or floats in [0, 1], got {name} in [{low:g}, {high:g}]; "
            f"divide by the value of white{f', as in images / {scale}' if low >= 0 else ''}"
        )
    elif name in WHITE and (text := dark(pixels)):
        _warn(f"{text}; if so, pass images / {scale}")
    scaled = pixels.astype(np.float32)
    if kind not in "bf":
        scaled /= np.float32(WHITE.get(name, 255))
    return scaled


def _warn(text: str, stacklevel: int = 5) -> None:
    """Warn where `ImageDataset.from_arrays` was called."""
    warnings.warn(f"images: {text}", stacklevel=stacklevel)
