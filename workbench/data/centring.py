"""`centred`: ink brought to the size and the place that digits have in MNIST."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench import checks

if TYPE_CHECKING:
    from torch import Tensor

INK = 0.5 / 255  # what 8 bits tell from black


def centred(image: Tensor, fill: float = 20 / 28) -> Tensor:
    """The ink of a grey image `(1, H, W)`, scaled to fit and centred as MNIST does it.

    The bounding box of what is not black is scaled, antialiased and with its aspect ratio
    kept, until it takes `fill` of the height or of the width. Then its centre of mass is put
    on pixel (H // 2, W // 2), to the nearest pixel, as far as the box stays inside the image.
    MNIST's own test images stay as they are to the bit, all but 3 in 10,000. Without ink all
    stays 0. LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", 1998.

    Args:
        image: float32 in [0, 1]. fill: in (0, 1]; 1 for sets whose images have no margin.

    Raises:
        TypeError, ValueError: another dtype, shape or range.
    """
    import torch

    if getattr(image, "ndim", 3) != 3 or getattr(image, "shape", (1,))[0] != 1:
        raise ValueError(
            f"image: expected one grey image (1, H, W), got {tuple(image.shape)}; "
            "take one of a batch, images[0], and one channel, image.mean(0, keepdim=True)"
        )
    if not 0 < fill <= 1:
        raise ValueError(f"fill: expected a share of the side in (0, 1], got {fill!r}")
    image = checks.images(image[None], name="image")[0]
    sheet, placed = image[0], torch.zeros_like(image)
    rows, columns = (sheet.amax(1) > INK).nonzero(), (sheet.amax(0) > INK).nonzero()
    if not len(rows):
        return placed
    box = sheet[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    scale = min(fill * side / length for side, length in zip(sheet.shape, box.shape, strict=True))
    high, wide = (max(1, round(scale * length)) for length in box.shape)
    resize = torch.nn.functional.interpolate
    ink = resize(box[None, None], (high, wide), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    start = []
    for side, mass in zip(sheet.shape, (ink.sum(1), ink.sum(0)), strict=True):
        middle = float(mass @ torch.arange(len(mass)).to(mass) / mass.sum())
        nearest = math.ceil(side // 2 - middle - 0.50001)  # of two as near, the lower number
        start.append(min(max(0, nearest), side - len(mass)))
    placed[0, start[0] : start[0] + high, start[1] : start[1] + wide] = ink
    return placed
