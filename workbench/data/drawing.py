"""A drawing among the images of a data set, and as text that a notebook can hold."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from workbench import checks
from workbench.data import pictures
from workbench.data.dataset import ImageDataset

if TYPE_CHECKING:
    import torch

KEPT = 2000  # images of the data set that stay beside the drawing


def with_drawing(
    images: ImageDataset, drawing: torch.Tensor | str, meant: str | None = None
) -> ImageDataset:
    """The first 2,000 images of a data set, and a drawing as the last of them.

    drawing: `(C, H, W)` in [0, 1], or its text (see `as_text`). meant: the class it is of;
    None or "" where there is none: its label is then -1, and no answer is right or wrong.

    Raises:
        ValueError: another shape than that of the images, an unknown class, no such text.
    """
    import torch

    image = from_text(drawing) if isinstance(drawing, str) else drawing
    if tuple(image.shape) != images.shape:
        raise ValueError(f"drawing: expected {images.shape}, got {tuple(image.shape)}")
    if meant and meant not in images.classes:
        raise checks.unknown("meant", meant, images.classes)
    label = torch.tensor([images.classes.index(meant) if meant else -1])
    return replace(
        images,
        images=torch.cat([images.images[:KEPT], image[None]]),
        labels=torch.cat([images.labels[:KEPT], label]),
        name=f"{images.name} and a drawing",
        factors=None,
    )


def as_text(image: torch.Tensor) -> str:
    """An image `(C, H, W)` in [0, 1] as a PNG in base64: 8 bits a value."""
    from PIL import Image

    pixels = (checks.images(image[None])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def from_text(text: str) -> torch.Tensor:
    """The image `(C, H, W)` that `as_text` wrote; another PNG as it looks on white.

    Raises:
        ValueError: not a PNG in base64.
    """
    import torch
    from PIL import Image

    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(BytesIO(content), formats=["PNG"]) as file:
            grey = file.mode in ("1", "L", "LA") or file.mode.startswith("I")
        pixels = np.array(pictures.read(BytesIO(content), "L" if grey else "RGB")[0])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"drawing: expected a PNG in base64, got {text[:40]!r}") from error
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(pixels / np.float32(255))
