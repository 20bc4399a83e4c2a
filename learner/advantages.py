"""Group-relative advantages.

A rollout is judged against its siblings, so no value network is needed: A_i = r_i − mean_j(r_j).
Dividing by the standard deviation favours very easy and very hard tasks (Dr. GRPO, arXiv:2503.20783), so it is off
by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_advantages(
    rewards: Sequence[float], groups: Sequence[str], *, standardise: bool = False, epsilon: float = 1e-6
) -> NDArray[np.float64]:
    """A_i = r_i − mean of its group, optionally / (std + epsilon) with ddof 1. A lone rollout, or an even group, has 0.

    rewards, groups: one a rollout. Returns (rollout,).
    """
    values = np.asarray(rewards, np.float64)
    names = np.asarray(groups)
    advantages = np.zeros(len(values))
    for name in dict.fromkeys(groups):
        members = names == name
        centred = values[members] - values[members].mean()
        if np.abs(centred).max() < 1e-12:
            continue
        scale = values[members].std(ddof=1) + epsilon if standardise else 1.0
        advantages[members] = centred / scale
    return advantages
