"""How far a rate counted on a few images can be from the truth."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The interval that holds the true rate with confidence `level` (Wilson, 1927).

    Nothing counted says nothing: `total` 0 gives (0, 1).

    Raises:
        ValueError: not 0 <= successes <= total, or a level outside (0, 1).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes: expected 0 to total={total}, got {successes}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level}")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, weight = successes / total, z * z / total
    centre = (rate + weight / 2) / (1 + weight)
    reach = z * sqrt(rate * (1 - rate) / total + weight / (4 * total)) / (1 + weight)
    # At the ends the formula is exact and its floating-point value is not.
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == total else centre + reach
    return low, high
