"""Every image of a grid round one: a few pixels, a few values each (Huang et al., 2017).

With the values apart by one grey level this is all there is of 8-bit images; what lies between
the values is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench import checks
from workbench.models import Classifier, ready
from workbench.steps import Step, work

BATCH = 2000, 2**22  # images at a time: at most, and numbers in them


@dataclass(frozen=True, eq=False)
class GridCheck:
    """Whether all images of a grid get the label of the image in its middle.

    safe: None while some are left. counterexample: the first of another label, `(C, H, W)`.
    checked: how many were looked at, of `total`.
    """

    safe: bool | None
    counterexample: torch.Tensor | None
    checked: int
    total: int

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        return {"safe": self.safe, "checked": self.checked, "total": self.total}


@work
def exhaustive_grid_check(
    model: Classifier,
    x: torch.Tensor,
    pixels: Sequence[int] | torch.Tensor,
    values: Sequence[float] | torch.Tensor,
    *,
    limit: int = 10_000_000,
) -> Iterator[Step[GridCheck]]:
    """Try every combination of `values` at `pixels` of `x` `(C, H, W)`, up to the first that
    changes the label.

    pixels: places in the flattened image, `(m,)`. values: in [0, 1], `(V,)` for all pixels or
    `(m, V)`, a row for each.

    Raises:
        ValueError: an image that breaks the contract, a pixel outside it or given twice, values
            outside [0, 1] or of another shape, more than `limit` combinations.
    """
    ready(model)
    x = checks.images(x[None], model.input_shape)
    places, table = grid(x, pixels, values)
    base, rows = table.shape[1], torch.arange(len(places))
    total = base ** len(places)
    if total > limit:
        raise ValueError(
            f"pixels, values: {base}^{len(places)} = {total:,} combinations are more than "
            f"limit={limit:,}; take fewer pixels or values, or raise the limit"
        )
    label = model.predict(x).label
    # The numbers below `total` in base V: digit i says which value pixel i has.
    strides = base**rows
    size = min(max(1, BATCH[1] // x.numel()), BATCH[0])
    for start in range(0, total, size):
        index = torch.arange(start, min(start + size, total))
        batch = x.flatten(1).repeat(len(index), 1)
        batch[:, places] = table[rows, index[:, None] // strides % base]
        images = batch.view(-1, *model.input_shape)
        with torch.no_grad():
            wrong = model(images.to(model.device)).argmax(1).cpu() != label
        done = start + len(index)
        if bool(wrong.any()):
            first = int(wrong.int().argmax())
            check = GridCheck(False, images[first].clone(), start + first + 1, total)
            yield Step(total, total, "another label found", check)
            return
        check = GridCheck(done == total or None, None, done, total)
        yield Step(done, total, f"{done:,} images", check)


def grid(
    x: torch.Tensor, pixels: Sequence[int] | torch.Tensor, values: Sequence[float] | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The checked pixels `(m,)` of images like x, and the values of each, `(m, V)`."""
    places, table = torch.as_tensor(pixels), torch.as_tensor(values, dtype=torch.float32)
    if places.ndim != 1 or not len(places) or places.is_floating_point():
        raise ValueError(f"pixels: expected places in the flattened image (m,), got {pixels}")
    if places.min() < 0 or places.max() >= x.numel() or len(places.unique()) < len(places):
        raise ValueError(
            f"pixels: expected different places in 0..{x.numel() - 1}, got {places.tolist()}"
        )
    table = table.expand(len(places), -1) if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != len(places) or not table.numel():
        raise ValueError(
            f"values: expected (V,) or ({len(places)}, V), a row for each pixel, got "
            f"{tuple(torch.as_tensor(values).shape)}"
        )
    if not bool(((table >= 0) & (table <= 1)).all()):
        raise ValueError(f"values: expected values in [0, 1], got {table.unique().tolist()[:9]}")
    return places, table
