"""How far a rate counted on a few images, or a mean over a few seeds, can be from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean, stdev


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


def paired(
    a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The mean of `a` - `b` over pairs (seeds, splits), and the interval that Student's t gives.

    Raises:
        ValueError: unequal counts, fewer than two pairs, or a level outside (0, 1).
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a, b: expected as many, at least 2 each, got {len(a)} and {len(b)}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, such as 0.95, got {level}")
    from scipy.stats import t

    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    mean, n = fmean(differences), len(differences)
    reach = float(t.ppf((1 + level) / 2, n - 1)) * stdev(differences) / sqrt(n)
    return mean, (mean - reach, mean + reach)
