"""How noisy a picture is, so that only noisy ones are smoothed: smoothing costs corners and thin strokes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_NOISE = 2.0
"""Levels (of 255) above which a picture is smoothed."""


def noise(pixels: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise in an RGB picture, in levels, robust to edges.

    Immerkær's operator (CVIU 1996), which flat and tilted ground do not move, with the median in place of the mean: its
    response to noise of deviation σ has deviation 6σ, so σ = median |response| / (6 · 0.6745).
    """
    import cv2

    operator = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.median(np.abs(cv2.filter2D(grey, -1, operator)))) / (6 * 0.6745)
