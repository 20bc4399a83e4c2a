"""Confidence intervals at 95 %, and the exact test for pairs.

Tasks are what is sampled, so a task is what is resampled: calls or tokens of one rollout are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from common.seeds import stream

Z = 1.959963984540054
"""The normal distribution's quantile at 0.975."""
NUM_RESAMPLES = 2000
_AT_ONCE = 2**21
"""Draws held in memory at a time."""


def wilson(successes: int, num: int) -> tuple[float, float]:
    """The score interval of a proportion (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927), for p = successes / num:

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    It lies in [0, 1] and has a width also at 0 and at 1.
    """
    if not 0 <= successes <= num or num < 1:
        raise ValueError(f"needs 0 <= successes <= num and num >= 1, got {successes} of {num}")
    p, share = successes / num, Z * Z / num
    middle = p + share / 2
    half = Z * math.sqrt(p * (1 - p) / num + share / (4 * num))
    low, high = (middle - half) / (1 + share), (middle + half) / (1 + share)
    return (0.0 if successes == 0 else low), (1.0 if successes == num else high)


def bootstrap(
    values: Sequence[float], weights: Sequence[float] | None = None, *, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile interval of Σ values / Σ weights (of the mean, where every weight is 1) over resampled items.

    None for fewer than two items, whose spread nobody knows. The order of the items does not matter. A resample whose
    weights are all 0 says nothing and is left out.
    """
    if len(values) < 2:
        return None
    pairs = np.stack([np.asarray(values, np.float64), _ones_or(weights, len(values))])
    if (pairs == pairs[:, :1]).all() and pairs[1, 0]:
        return (float(pairs[0, 0] / pairs[1, 0]),) * 2  # nothing to draw: every resample is the same
    pairs = pairs[:, np.lexsort(pairs)]
    found = _resampled(pairs, stream(seed, "bootstrap"))
    if not len(found):
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _resampled(pairs: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """NUM_RESAMPLES ratios, fewer where weights were 0. pairs: shape (2, items)."""
    num = pairs.shape[1]
    step = max(1, _AT_ONCE // num)
    parts = []
    for start in range(0, NUM_RESAMPLES, step):
        drawn = random.integers(0, num, (min(step, NUM_RESAMPLES - start), num))
        above, below = pairs[0][drawn].sum(axis=1), pairs[1][drawn].sum(axis=1)
        parts.append(above[below != 0] / below[below != 0])
    return np.concatenate(parts)


def _ones_or(weights: Sequence[float] | None, num: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num)
    if len(weights) != num:
        raise ValueError(f"{num} values need as many weights, got {len(weights)}")
    return np.asarray(weights, np.float64)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p-value that gains and losses are equally likely (Q. McNemar, Psychometrika 12, 1947):

        min(1, 2 Σ_{k ≤ min(gained, lost)} C(n, k) / 2ⁿ), n = gained + lost

    Tasks on which both arms did alike say nothing about it. 1 where there are no others.
    """
    num = gained + lost
    tail = sum(math.comb(num, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**num)))
