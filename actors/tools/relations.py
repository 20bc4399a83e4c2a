"""How two regions of one picture lie to each other: overlap, distance, and in words.

A region is the union of its pixels, each a unit square. Distances are exact: between centroids, and between the
nearest points of the two (their gap, 0 where they touch or overlap).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import extent
from common.geometry import GRID

Bitmap: TypeAlias = NDArray[np.bool_]
"""A region of a picture: shape (height, width)."""

_CHUNK = 4_000_000
"""Pairs of a pixel and a row that are compared at once."""


def relate(first: Bitmap, second: Bitmap) -> dict[str, Any]:
    """Distance, gap, IoU and relation of two regions that are not empty, of one picture.

    distance, gap: in pixels; distance_grid, gap_grid: on the picture's 0-1000 grid.
    relation: of the first to the second: see `relation`.
    """
    height, width = first.shape
    scale = GRID / width, GRID / height
    dx, dy = offset(first, second)
    shared, union = int((first & second).sum()), int((first | second).sum())
    return {
        "relation": relation(first, second),
        "iou": round(shared / union, 3),
        "distance": round(float(np.hypot(dx, dy)), 1),
        "distance_grid": round(float(np.hypot(dx * scale[0], dy * scale[1])), 1),
        "gap": round(gap(first, second), 1),
        "gap_grid": round(gap(first, second, scale=scale), 1),
    }


def relation(first: Bitmap, second: Bitmap) -> str:
    """inside or contains (holes count as filled), overlaps, else left of, right of, above or below.

    Apart, the axis is the one on which their extents are farther from each other; where the extents meet on both
    axes, or are equally far on both, the one on which their centroids are. "amid" when nothing tells them apart.
    """
    if not (first & ~filled(second)).any():
        return "inside"
    if not (second & ~filled(first)).any():
        return "contains"
    if (first & second).any():
        return "overlaps"
    a, b = extent(first), extent(second)
    across, down = max(a[0] - b[2], b[0] - a[2]), max(a[1] - b[3], b[1] - a[3])
    dx, dy = offset(first, second)
    if max(across, down) < 0 or across == down:
        across, down = int(abs(dx) > abs(dy)), int(abs(dy) >= abs(dx))
    if across > down:
        return "left of" if dx > 0 else "right of"
    if dy == 0:
        return "amid"
    return "above" if dy > 0 else "below"


def offset(first: Bitmap, second: Bitmap) -> tuple[float, float]:
    """From the first's centroid to the second's, in pixels, x right and y down."""
    (x, y), (other_x, other_y) = centroid(first), centroid(second)
    return other_x - x, other_y - y


def centroid(region: Bitmap) -> tuple[float, float]:
    """Mean x and y of the pixels of a region that is not empty; whole numbers lie on the middle of pixels."""
    columns, rows = region.sum(axis=0), region.sum(axis=1)
    area = int(columns.sum())
    return float(columns @ np.arange(len(columns))) / area, float(rows @ np.arange(len(rows))) / area


def gap(first: Bitmap, second: Bitmap, *, scale: tuple[float, float] = (1.0, 1.0)) -> float:
    """min over pairs of pixels of √((sx·max(0, |Δx| − 1))² + (sy·max(0, |Δy| − 1))²), with (sx, sy) = `scale`.

    For a pixel of one region only the nearest pixel of each row of the other can be the nearest of all, and only
    pixels on a region's border can be at all: exact, without comparing all pairs.
    """
    if (first & second).any():
        return 0.0
    ours, theirs = border(first), border(second)
    if len(ours[0]) > len(theirs[0]):
        second, ours = first, theirs
    occupied = np.flatnonzero(second.any(axis=1))
    across = scale[0] * np.maximum(0, _to_nearest_in_row(second[occupied]) - 1)
    best = np.inf
    step = max(1, _CHUNK // len(occupied))
    for start in range(0, len(ours[0]), step):
        rows, columns = (part[start : start + step] for part in ours)
        down = scale[1] * np.maximum(0, np.abs(occupied[:, None] - rows[None, :]) - 1)
        best = min(best, float((across[:, columns] ** 2 + down**2).min()))
    return float(np.sqrt(best))


def border(region: Bitmap) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels that have a neighbour (of four) outside the region."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(region & ~inner)
    return rows, columns


def filled(region: Bitmap) -> Bitmap:
    """The region and its holes: all that cannot be reached from outside through sides of pixels."""
    import cv2

    padded = np.pad(region, 1).astype(np.uint8)
    _, labels = cv2.connectedComponents(1 - padded, connectivity=4)
    whole: Bitmap = labels[1:-1, 1:-1] != labels[0, 0]
    return whole


def _to_nearest_in_row(region: Bitmap) -> NDArray[np.float64]:
    """For each pixel of rows that each hold some of the region, the columns to the row's nearest pixel of it."""
    width = region.shape[1]
    columns = np.broadcast_to(np.arange(width, dtype=np.float64), region.shape)
    before = np.maximum.accumulate(np.where(region, columns, -np.inf), axis=1)
    after = np.minimum.accumulate(np.where(region, columns, np.inf)[:, ::-1], axis=1)[:, ::-1]
    nearest: NDArray[np.float64] = np.minimum(columns - before, after - columns)
    return nearest
