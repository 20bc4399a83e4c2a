"""Boxes, and the one place where coordinate frames are converted.

The model writes coordinates on a grid of 0–1000 relative to the picture it refers to; tools work in that picture's
pixels. Other models write in other frames: shares of the sides, pixels of the picture as they were shown it (resized),
or pixels of the file. A number alone does not say which, and a box of the resized picture applied to the file cuts out
another place. So a box that is not on the grid travels with its `Frame`, and `convert` is the only way between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from common.types import Box

GRID = 1000
"""Relative coordinates run from 0 to GRID on both axes."""

FrameKind: TypeAlias = Literal["grid", "share", "view", "original"]
"""grid: 0–1000 of each side. share: 0–1 of each side. view: pixels of the picture as the model was shown it, resized.
original: pixels of the picture itself.
"""

Coordinates: TypeAlias = tuple[float, ...]
"""x, y, x, y, … in some frame: a point has two, a box four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What coordinates are counted in: `width` × `height` units span the picture."""

    kind: FrameKind
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"a {self.kind} frame of {self.width} × {self.height} spans nothing")

    @classmethod
    def grid(cls) -> Frame:
        return cls(kind="grid", width=GRID, height=GRID)

    @classmethod
    def share(cls) -> Frame:
        return cls(kind="share", width=1, height=1)

    @classmethod
    def view(cls, width: int, height: int) -> Frame:
        """Pixels of the resized picture; it shows the whole picture without a border."""
        return cls(kind="view", width=width, height=height)

    @classmethod
    def original(cls, width: int, height: int) -> Frame:
        return cls(kind="original", width=width, height=height)


def convert(values: Sequence[float], source: Frame, target: Frame) -> Coordinates:
    """The same place in another frame, nothing rounded: each axis is scaled by the ratio of the frames' sides.

    >>> convert((224, 112), Frame.view(448, 448), Frame.original(1792, 896))
    (896.0, 224.0)
    """
    sides = ((source.width, target.width), (source.height, target.height))
    return tuple(value * sides[i % 2][1] / sides[i % 2][0] for i, value in enumerate(values))


_HAIR = 1e-6
"""Pixels; far above what float64 loses in a conversion, far below the grid's own step (a whole number on it is a
multiple of 0.001 px).
"""


def grid_to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """A box on the 0–1000 grid as half-open pixels, rounded outward and clipped to the picture.

    An edge that a conversion left within `_HAIR` of a pixel's edge lies on it.

    >>> grid_to_pixels((0, 0, 1000, 500), 448, 448)
    (0, 0, 448, 224)
    """
    x0, y0, x1, y1 = box
    return (
        max(0, math.floor(x0 * width / GRID + _HAIR)),
        max(0, math.floor(y0 * height / GRID + _HAIR)),
        min(width, math.ceil(x1 * width / GRID - _HAIR)),
        min(height, math.ceil(y1 * height / GRID - _HAIR)),
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
