"""Boxes, and the one place where coordinate frames are converted.

The model writes coordinates on a grid of 0–1000 relative to the picture it refers to; tools work in that picture's
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.types import Box

GRID = 1000
"""Relative coordinates run from 0 to GRID on both axes."""


def grid_to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """A box on the 0–1000 grid as half-open pixels, rounded outward and clipped to the picture.

    >>> grid_to_pixels((0, 0, 1000, 500), 448, 448)
    (0, 0, 448, 224)
    """
    x0, y0, x1, y1 = box
    return (
        max(0, math.floor(x0 * width / GRID)),
        max(0, math.floor(y0 * height / GRID)),
        min(width, math.ceil(x1 * width / GRID)),
        min(height, math.ceil(y1 * height / GRID)),
    )


def pixels_to_grid(box: Box, width: int, height: int, *, step: int = 1) -> Box:
    """Half-open pixels as a box on the 0–1000 grid, rounded outward to multiples of `step`.

    >>> pixels_to_grid((100, 100, 160, 140), 448, 448, step=50)
    (200, 200, 400, 350)
    """
    x0, y0, x1, y1 = box
    return (
        max(0, step * math.floor(x0 * GRID / width / step)),
        max(0, step * math.floor(y0 * GRID / height / step)),
        min(GRID, step * math.ceil(x1 * GRID / width / step)),
        min(GRID, step * math.ceil(y1 * GRID / height / step)),
    )


def area(box: Box) -> int:
    """Pixels inside; 0 for an empty box."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; 0 when both are empty."""
    shared = area(intersection(a, b))
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0


def covers(outer: Box, inner: Box) -> bool:
    """Whether `inner` lies wholly inside `outer`."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
