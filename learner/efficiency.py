"""A mild preference for short chains.

Only a right rollout pays for calls beyond the optimum; otherwise short and wrong would be the cheapest policy.
"""

from __future__ import annotations


def excess(num_calls: int, optimum: int | None) -> int:
    """max(0, n − n*); 0 where the optimum is not known."""
    return 0 if optimum is None else max(0, num_calls - optimum)


def penalty(num_calls: int, optimum: int | None, *, right: float, rate: float, limit: float) -> float:
    """right · min(limit, rate · max(0, n − n*)), with `right` the answer's score in [0, 1]."""
    return right * min(limit, rate * excess(num_calls, optimum))
