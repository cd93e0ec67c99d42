"""`Slice`: a rectangle in a two-dimensional plane through image space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from workbench import checks

Window = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True, eq=False)
class Slice:
    """The images `origin + a u + b v` for (a, b) in a window; u, v orthonormal `(C, H, W)`.

    Coordinates are L2 distances in image space. Make one with `through` or `span`.
    """

    origin: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    window: Window

    def images(self, points: torch.Tensor) -> torch.Tensor:
        """The images `(M, C, H, W)` at points `(M, 2)`; some may leave [0, 1]."""
        basis = torch.stack([self.u.flatten(), self.v.flatten()])
        flat = torch.addmm(self.origin.flatten(), points.to(self.origin), basis)
        return flat.view(-1, *self.origin.shape)

    def points(self, images: torch.Tensor) -> torch.Tensor:
        """Where images `(M, C, H, W)` fall when projected on the plane: `(M, 2)`."""
        delta = (images.to(self.origin) - self.origin).flatten(1)
        return delta @ torch.stack([self.u.flatten(), self.v.flatten()], 1)

    def off(self, images: torch.Tensor) -> torch.Tensor:
        """How far from the plane images are: L2 `(M,)`."""
        return (images.to(self.origin) - self.images(self.points(images))).flatten(1).norm(dim=1)

    def grid(self, n: int) -> torch.Tensor:
        """Points `(n * n, 2)` from end to end of the window, row by row from the bottom."""
        left, right, bottom, top = self.window
        line = partial(torch.linspace, steps=n, dtype=torch.float32, device="cpu")
        a, b = line(left, right), line(bottom, top)
        return torch.stack([a.repeat(n), b.repeat_interleave(n)], 1)


def through(
    x: torch.Tensor, u: torch.Tensor, v: torch.Tensor, extent: float | Window = 1.0
) -> Slice:
    """The plane through image `x` along directions `u` and `v`, each `(C, H, W)`.

    The directions are made orthonormal: `u` keeps its direction, `v` its side of it. extent:
    how far the window reaches from `x` to each side, or (left, right, bottom, top).

    Raises:
        ValueError: other shapes, a zero or NaN direction, collinear directions, no window.
    """
    checks.images(x[None], name="x")
    units = []
    for name, direction in (("u", u), ("v", v)):
        if direction.shape != x.shape:
            raise ValueError(
                f"{name}: expected the shape of x, {tuple(x.shape)}, got {tuple(direction.shape)}"
            )
        length = direction.double().norm()
        if not torch.isfinite(length) or length == 0:
            raise ValueError(f"{name}: expected a direction, got one of length {float(length)}")
        units.append(direction.double() / length)
    # Gram and Schmidt: what of v is orthogonal to u.
    across = units[1] - (units[0] * units[1]).sum() * units[0]
    if across.norm() < 1e-6:
        raise ValueError("u, v: the directions are collinear and span no plane")
    across = across - (units[0] * across).sum() * units[0]  # once more, against rounding
    window = (-extent, extent, -extent, extent) if isinstance(extent, (int, float)) else extent
    left, right, bottom, top = window
    if not (left < right and bottom < top):
        raise ValueError(
            f"extent: expected a positive number or (left, right, bottom, top), got {extent}"
        )
    return Slice(x, units[0].to(x), (across / across.norm()).to(x), (left, right, bottom, top))


def span(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, margin: float = 0.25) -> Slice:
    """The plane through three images, with a window that holds them and a margin (a share).

    Raises:
        ValueError: other shapes, or images on one line.
    """
    plane = through(x, first - x, second - x)
    corners = plane.points(torch.stack([x, first, second])).double()
    low, high = corners.amin(0), corners.amax(0)
    room = margin * float((high - low).max())
    left, bottom = (low - room).tolist()
    right, top = (high + room).tolist()
    return Slice(plane.origin, plane.u, plane.v, (left, right, bottom, top))
