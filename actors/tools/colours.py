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


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB of RGB pixels, shape (…, 3) kept; a picture or a row of pixels."""
    import cv2

    rows = np.ascontiguousarray(pixels, np.float32).reshape(1, -1, 3) / 255
    converted: NDArray[np.float32] = cv2.cvtColor(rows, cv2.COLOR_RGB2Lab)
    return converted.reshape(pixels.shape)


def name_indices(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """For each RGB pixel the index in NAMES of its nearest named colour; shape (…)."""
    anchors = lab(np.array([NAMED[name] for name in NAMES], np.uint8))
    values = lab(pixels)
    distances = np.stack([((values - anchor) ** 2).sum(axis=-1) for anchor in anchors])
    nearest: NDArray[np.intp] = distances.argmin(axis=0)
    return nearest


def dominant(pixels: NDArray[np.uint8]) -> str:
    """The name that most of the RGB pixels, shape (n, 3), have."""
    return NAMES[int(np.bincount(name_indices(pixels).ravel(), minlength=len(NAMES)).argmax())]
