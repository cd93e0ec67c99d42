"""Threat models without a norm: the worst of a grid of rotations and shifts, or of light and blur.

Engstrom et al. (2019), Hendrycks, Dietterich (2019).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from workbench.attacks.base import Attack
from workbench.attacks.goals import Goal
from workbench.attacks.norms import Norm
from workbench.attacks.problem import Problem
from workbench.models import Classifier

Point = tuple[float, float, float]


class Transformation(Attack):
    """Every transformation of a grid, the mildest first, until one fools.

    No norm is kept small. The worst case over the grid is met where any point of it is.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)
    needs_gradient: ClassVar[bool] = False

    @property
    def distance(self) -> Norm:
        """The norm that is stated, though none is kept small."""
        return "L2"

    @classmethod
    def keeps(cls, norm: str) -> bool:
        """None."""
        return False

    def unfit(self, model: Classifier, goal: Goal | None = None) -> str:
        """That the model's input is no image, as a reason."""
        if model.space is not None:
            return f"it moves pixels, and a {model.space.kind} has none"
        return super().unfit(model, goal)

    def grid(self) -> list[Point]:
        """The transformations, the mildest first."""
        raise NotImplementedError

    def transform(self, x: torch.Tensor, point: Point) -> torch.Tensor:
        """Images under one of the transformations, in [0, 1]."""
        raise NotImplementedError

    def search(self, problem: Problem) -> Iterator[tuple[int, int]]:
        """One point of the grid a turn, for each image left."""
        grid = self.grid()
        for done, point in enumerate(grid):
            index = problem.active()
            if len(index) == 0:
                return
            images = self.transform(problem.x[index], point)
            problem.offer(images, problem.logits(images, index), index)
            yield done, len(grid)


class Spatial(Transformation):
    """Rotations and shifts, the mildest first, until one fools (Engstrom et al., 2019)."""

    title: ClassVar[str] = "Rotation and shift, black box"

    max_angle: float = Field(30.0, ge=0, le=180, description="largest rotation, in degrees")
    max_shift: float = Field(0.1, ge=0, le=1, description="largest shift, as a share of the side")
    n_angles: int = Field(31, ge=1, le=361, description="rotations tried, from end to end")
    n_shifts: int = Field(5, ge=1, le=101, description="shifts tried along each side")
    padding: Literal["zeros", "border", "reflection"] = Field(
        "zeros", description="what comes into view: black, the border, or the mirrored image"
    )

    def grid(self) -> list[Point]:
        """Every angle in degrees, shift right and shift down; the mildest first."""
        angles = np.linspace(-1, 1, self.n_angles) if self.n_angles > 1 else [0.0]
        shifts = np.linspace(-1, 1, self.n_shifts) if self.n_shifts > 1 else [0.0]
        shares = sorted(itertools.product(angles, shifts, shifts), key=np.linalg.norm)
        return [
            (float(a * self.max_angle), float(u * self.max_shift), float(v * self.max_shift))
            for a, u, v in shares
        ]

    def transform(self, x: torch.Tensor, point: Point) -> torch.Tensor:
        """Images turned anticlockwise by degrees, then shifted by shares of the side."""
        angle, right, down = point
        height, width = x.shape[2:]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        # Where each pixel comes from, in coordinates of -1 to 1 that need not be square.
        made = partial(torch.tensor, dtype=torch.float32, device="cpu")
        back = made([[cos, -sin * height / width], [sin * width / height, cos]])
        offset = back @ made([[-2.0 * right], [-2.0 * down]])
        theta = torch.cat([back, offset], 1).to(x).expand(len(x), 2, 3)
        places = F.affine_grid(theta, list(x.shape), align_corners=False)
        images = F.grid_sample(x, places, padding_mode=self.padding, align_corners=False)
        return images.clamp(0, 1)


class Natural(Transformation):
    """Brightness, contrast and blur, the mildest first (after Hendrycks, Dietterich, 2019)."""

    title: ClassVar[str] = "Brightness, contrast and blur, black box"

    max_brightness: float = Field(0.3, ge=0, le=1, description="largest change of brightness")
    max_contrast: float = Field(0.5, ge=0, lt=1, description="largest change of contrast, a share")
    max_blur: float = Field(1.0, ge=0, le=20, description="largest blur, sigma in pixels")
    n_levels: int = Field(7, ge=2, le=101, description="levels tried of each, from end to end")

    def grid(self) -> list[Point]:
        """Every change of brightness, factor of contrast and sigma of blur; the mildest first."""
        ends, levels = np.linspace(-1, 1, self.n_levels), np.linspace(0, 1, self.n_levels)
        shares = sorted(itertools.product(ends, ends, levels), key=np.linalg.norm)
        light, contrast, blur = self.max_brightness, self.max_contrast, self.max_blur
        return [(float(b * light), float(1 + c * contrast), float(s * blur)) for b, c, s in shares]

    def transform(self, x: torch.Tensor, point: Point) -> torch.Tensor:
        """Images blurred, then spread around their mean by a factor, then made brighter."""
        from scipy.ndimage import gaussian_filter

        light, contrast, sigma = point
        if sigma > 0:
            blurred = gaussian_filter(x.cpu().numpy(), (0, 0, sigma, sigma), mode="nearest")
            x = torch.from_numpy(blurred).to(x.device)
        mean = x.mean((1, 2, 3), keepdim=True)
        return (mean + contrast * (x - mean) + light).clamp(0, 1)
