"""Names of colours: a pixel is called what the nearest named colour is called, in CIELAB, where distance is what the
eye sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAMED: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 40),
    "purple": (150, 60, 180),
    "orange": (240, 140, 30),
    "cyan": (50, 200, 210),
    "pink": (240, 140, 180),
    "brown": (120, 75, 40),
    "black": (10, 10, 10),
    "grey": (135, 135, 135),
    "white": (245, 245, 245),
}
NAMES = tuple(NAMED)
_PART = 1 << 18
"""Pixels that are named at once."""


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB of RGB pixels, shape (…, 3) kept; a picture or a row of pixels."""
    import cv2

    rows = np.ascontiguousarray(pixels, np.float32).reshape(1, -1, 3) / 255
    converted: NDArray[np.float32] = cv2.cvtColor(rows, cv2.COLOR_RGB2Lab)
    return converted.reshape(pixels.shape)


def name_indices(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """For each RGB pixel the index in NAMES of its nearest named colour; shape (…)."""
    anchors = lab(np.array([NAMED[name] for name in NAMES], np.uint8)).reshape(-1, 3)
    # argmin |v − a|² = argmax v·a − |a|²/2, which is one matrix product
    closeness = lab(pixels) @ anchors.T - (anchors**2).sum(axis=1) / 2
    nearest: NDArray[np.intp] = closeness.argmax(axis=-1)
    return nearest


def tally(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many of the RGB pixels, shape (n, 3), each name has, (len(NAMES),), and the sums of their channels, (…, 3).

    A part at a time, so that a large picture takes little memory.
    """
    counts, sums = np.zeros(len(NAMES), np.int64), np.zeros((len(NAMES), 3))
    for start in range(0, len(pixels), _PART):
        part = pixels[start : start + _PART]
        names = name_indices(part)
        counts += np.bincount(names, minlength=len(NAMES))
        for channel in range(3):
            sums[:, channel] += np.bincount(names, part[:, channel], minlength=len(NAMES))
    return counts, sums
