"""`InputSpace`: names, units, what may move, and the nearest that exists."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from workbench import checks
from workbench.data import ImageDataset
from workbench.models import Classifier, wrap

SHOWN = 4  # changes named in a sentence


@dataclass(frozen=True, eq=False)
class InputSpace:
    """What the coordinates of a point `(C, H, W)` in [0, 1] mean: `value = low + x * unit`.

    names: one a coordinate, in order. low, unit: floats `(C, H, W)`, in natural units. free: bool
    `(C, H, W)`, what attacks, traversals and the box of a proof may move. A space of one's own
    gives `nearest`, where not every point in [0, 1] exists.

    Raises:
        ValueError: shapes that differ, or a unit that is not above zero.
    """

    kind: ClassVar[str] = "values"

    names: tuple[str, ...]
    low: torch.Tensor
    unit: torch.Tensor
    free: torch.Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(t.shape) for t in (self.low, self.unit, self.free)}
        if len(shapes) > 1 or self.low.ndim != 3 or self.low.numel() != len(self.names):
            raise ValueError(
                f"low, unit, free: expected the shape (C, H, W) of {len(self.names)} names, "
                f"got {sorted(shapes)}"
            )
        if not bool((self.unit > 0).all()) or not bool(self.low.isfinite().all()):
            raise ValueError("unit: expected numbers above zero, and low finite ones")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a point, `(C, H, W)`."""
        c, h, w = self.low.shape
        return c, h, w

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """Points `(..., C, H, W)` in natural units, float64."""
        low, unit = self.low.to(x.device), self.unit.to(x.device)
        return low.double() + x.double() * unit.double()

    def points(self, values: torch.Tensor) -> torch.Tensor:
        """Values `(..., C, H, W)` in natural units as points, float32 in [0, 1].

        Raises:
            ValueError: a value that is missing, or outside what the space spans; it is named.
        """
        low, unit = self.low.to(values.device), self.unit.to(values.device)
        x = (values.double() - low.double()) / unit.double()
        outside = ~((x >= -checks.ROUNDING) & (x <= 1 + checks.ROUNDING))  # NaN too
        if bool(outside.any()):
            at = outside.reshape(-1, len(self.names)).nonzero()[0].tolist()
            got = float(values.reshape(-1, len(self.names))[at[0], at[1]])
            first = float(low.flatten()[at[1]])
            last = first + float(unit.flatten()[at[1]])
            raise ValueError(
                f"values: point {at[0]}: {self.names[at[1]]}: expected {first:g} to {last:g}, "
                f"got {got:g}"
            )
        return x.clamp(0, 1).float()

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest points that exist, of points `(N, C, H, W)`."""
        return x

    @property
    def rest(self) -> torch.Tensor:
        """The point `(C, H, W)` that stands for nothing known: the middle of each coordinate."""
        return torch.full(self.shape, 0.5)

    @property
    def parts(self) -> torch.Tensor:
        """int64 `(C, H, W)`: coordinates of one number are one thing; here each is its own."""
        return torch.arange(len(self.names)).view(self.shape)

    def without(
        self, model: Classifier, x: torch.Tensor, target: torch.Tensor
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """How much the scores of `target` `(N,)` fall, where each part in turn is at rest.

        Done, total, and the falls `(N, H, W)` so far, shared among a part's coordinates.
        """
        parts, rest = self.parts.to(x.device), self.rest.to(x)
        fall, n = torch.zeros_like(x), int(parts.max()) + 1
        with torch.no_grad():
            score = model(x).gather(1, target[:, None])
            for i in range(n):
                there = parts == i
                hidden = model(torch.where(there, rest, x)).gather(1, target[:, None])
                fall += ((score - hidden) / there.sum())[..., None, None] * there
                yield i + 1, n, fall.sum(1)

    def held(self, x: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        """Points with the coordinates that may not move as they are in `origin`."""
        return torch.where(self.free.to(x.device), x, origin)

    def existing(self, x: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        """The nearest points that exist to points moved from `origin`, both `(N, C, H, W)`."""
        return self.held(self.nearest(x), origin)

    def changes(self, x: torch.Tensor, origin: torch.Tensor) -> list[str]:
        """What was moved in a point `(C, H, W)`, the most moved first: "age 31 to 34"."""
        by = (x - origin).abs().flatten()
        before, after = self.values(origin).flatten(), self.values(x).flatten()
        order = [i for i in by.argsort(descending=True).tolist() if by[i] > checks.ROUNDING]
        return [f"{self.names[i]} {before[i]:.4g} to {after[i]:.4g}" for i in order]

    def words(self, x: torch.Tensor, origin: torch.Tensor | None = None) -> str:
        """A point `(C, H, W)` in a sentence: what was changed, or its first values."""
        if origin is not None:
            moved = self.changes(x, origin)
            rest = f" and {len(moved) - SHOWN} more" * (len(moved) > SHOWN)
            return "; ".join(moved[:SHOWN]) + rest or "nothing changed"
        values = self.values(x).flatten().tolist()
        some = zip(self.names[:SHOWN], values, strict=False)
        return ", ".join(f"{name} {value:.4g}" for name, value in some)

    def classifier(
        self, module: nn.Module, classes: Any = None, *, name: str = "my model"
    ) -> Classifier:
        """A classifier of points, of a module that takes natural values `(N, C, H, W)`.

        The space is not kept with its weights: `model.space = space` after loading.

        Raises:
            TypeError, ValueError: as `models.wrap`.
        """
        body = nn.Sequential(Natural(self.low, self.unit), *self.around(module))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="input_shape=")  # it is no picture's
            model = wrap(body, input_shape=self.shape, classes=classes, name=name)
        model.space = self
        return model

    def around(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """The modules between natural values `(N, C, H, W)` and the answer."""
        return (module,)

    def dataset(
        self, x: torch.Tensor, labels: Any = None, classes: Any = None, *, name: str = "my data"
    ) -> ImageDataset:
        """Points `(N, C, H, W)` with labels, for panels and whatever takes a data set.

        Raises:
            TypeError, ValueError: as `ImageDataset`.
        """
        checks.images(x, self.shape, name="x")
        y = torch.full((len(x),), -1) if labels is None else torch.tensor([int(k) for k in labels])
        names = classes if classes is not None else [str(k) for k in range(int(y.max()) + 1)]
        return ImageDataset(x, y, checks.class_names(names), name, space=self)


class Natural(nn.Module):
    """Points in [0, 1] to natural values, `(N, C, H, W)` both."""

    low: torch.Tensor
    unit: torch.Tensor

    def __init__(self, low: torch.Tensor, unit: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.float())
        self.register_buffer("unit", unit.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values in natural units."""
        return self.low + x * self.unit
