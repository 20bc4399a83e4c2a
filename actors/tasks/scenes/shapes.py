"""Silhouettes: outlines rasterised by the even-odd rule at pixel centres, so a pixel is inside or it is not.

Only additions, multiplications and divisions of IEEE doubles happen after the outline's corners were rounded to a
sixteenth of a pixel, so a silhouette has the same pixels on every machine.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.truth import Shape

SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "star", "cross", "ring", "heart")
_Outline = tuple[tuple[float, float], ...]


def silhouette(shape: Shape, size: float, degrees: float = 0.0) -> NDArray[np.bool_]:
    """The shape within a circle of diameter `size` pixels, turned by `degrees`, as bool trimmed to its tight box."""
    radius = size / 2
    half = math.ceil(radius) + 1
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def put(x: float, y: float) -> tuple[float, float]:
        return round(16 * (half + radius * (c * x - s * y))) / 16, round(16 * (half + radius * (s * x + c * y))) / 16

    inside = fill([[put(x, y) for x, y in outline] for outline in _outlines(shape)], 2 * half, 2 * half)
    return trimmed(inside)


def fill(outlines: list[list[tuple[float, float]]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centres lie inside an odd number of times; bool, (height, width)."""
    starts = np.array([corner for outline in outlines for corner in outline])
    stops = np.array([corner for outline in outlines for corner in outline[1:] + outline[:1]])
    (x0, y0), (x1, y1) = starts.T, stops.T
    centres = np.arange(height)[:, None] + 0.5
    rows, edges = np.nonzero((y0 <= centres) != (y1 <= centres))
    at = x0[edges] + (rows + 0.5 - y0[edges]) * (x1 - x0)[edges] / (y1 - y0)[edges]
    columns = np.clip(np.ceil(at - 0.5).astype(np.int64), 0, width)
    toggles = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    inside: NDArray[np.bool_] = (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)
    return inside


def trimmed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its empty borders."""
    x0, y0, x1, y1 = tight_box(mask)
    return mask[y0:y1, x0:x1]


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The half-open box around the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@cache
def _outlines(shape: Shape) -> tuple[_Outline, ...]:
    """Corners inside the unit circle, y down; a second outline is a hole."""
    if shape == "circle":
        return (_regular(72, 1.0),)
    if shape == "ring":
        return _regular(72, 1.0), _regular(72, 0.55)
    if shape in ("square", "triangle"):
        return (_regular(4, 1.0, 45) if shape == "square" else _regular(3, 1.0),)
    if shape == "star":
        return (tuple(corner for pair in zip(_regular(5, 1.0), _regular(5, 0.45, 36), strict=True) for corner in pair),)
    if shape == "cross":
        a, b = 0.32, 0.92
        quarter = ((-a, -b), (a, -b), (a, -a))
        turned = [(quarter, 1, 0), (quarter, 0, 1), (quarter, -1, 0), (quarter, 0, -1)]
        return (tuple((c * x - s * y, s * x + c * y) for corners, c, s in turned for x, y in corners),)
    if shape == "heart":
        angles = [2 * math.pi * step / 64 for step in range(64)]
        return (
            tuple(
                (
                    math.sin(t) ** 3,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17 - 0.1,
                )
                for t in angles
            ),
        )
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


def _regular(num_corners: int, radius: float, turned: float = 0.0) -> _Outline:
    """A regular polygon, its first corner up."""
    angles = [math.radians(turned + 360 * step / num_corners) for step in range(num_corners)]
    return tuple((radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles)
