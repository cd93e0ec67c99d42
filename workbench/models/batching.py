"""How many images fit in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

VALUES = 2**21  # input values a pass: 13 images of 3 x 224 x 224, 682 of 3 x 32 x 32


def batch_size(input_shape: Sequence[int], most: int = 500, *, copies: int = 1) -> int:
    """How many images of shape `(C, H, W)` to give to a model at a time.

    At most `most`; fewer of large images, so that a pass takes a second or two and little
    memory. copies: how often each image is in the pass.
    """
    return max(1, min(most, VALUES // (math.prod(input_shape) * copies)))
