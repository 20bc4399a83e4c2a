"""Lines of text cut out of a picture, level, each in several grey planes.

A line is a quadrilateral. One that lies level is sliced out, a slanted one is warped so that it reads from left to
right. Ink and ground may be as bright as each other and differ in colour only, so a strip has more than one plane:
brightness, the brightest and the darkest channel, and the axis along which its colours spread most. The one in which
two levels explain most of the spread (Otsu's criterion) comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.lines import planes_of
from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.ports import Corners
from common.types import Box

BLUR = 0.8
"""Standard deviation, in pixels, of the blur that a noisy crop gets first. Reading plates under noise of ±30 levels
goes from 0.40 to 1.00 exact and of ±60 from 0.28 to 0.94.
"""
MAX_TILT = 0.02
"""Rise over run of a side under which a quadrilateral counts as level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A line of text. box: half-open pixels of the picture. corners: of a slanted line, clockwise from its top left.

    planes: (height, width) each, the most promising first.
    """

    box: Box
    corners: Corners | None
    planes: tuple[NDArray[np.uint8], ...]


def cut(pixels: NDArray[np.uint8], quad: NDArray[np.float64]) -> Strip | None:
    """The line inside `quad`, (4, 2) corners in pixels clockwise from the top left. None where nothing is inside."""
    box = bounds(quad, pixels.shape)
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        return None
    if is_level(quad):
        strip, corners = pixels[box[1] : box[3], box[0] : box[2]], None
    else:
        strip, corners = warped(pixels, quad)[0], tuple((float(x), float(y)) for x, y in quad)
    return Strip(box=box, corners=corners, planes=planes(np.ascontiguousarray(strip)))


def is_level(quad: NDArray[np.float64]) -> bool:
    """Whether the upper and the lower side of a quadrilateral run along x, and the others along y."""
    sides = np.abs(np.roll(quad, -1, axis=0) - quad)
    rise = [sides[0, 1] / max(1e-6, sides[0, 0]), sides[2, 1] / max(1e-6, sides[2, 0])]
    lean = [sides[1, 0] / max(1e-6, sides[1, 1]), sides[3, 0] / max(1e-6, sides[3, 1])]
    return bool(max(rise) <= MAX_TILT and max(lean) <= 0.25)


def warped(pixels: NDArray[np.uint8], quad: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What lies inside `quad`, seen from the front, and the 3×3 transform from there back to the picture.

    The longer of two opposite sides gives the size. The transform maps places, (0, 0) being the corner of a pixel.
    """
    import cv2

    lengths = np.linalg.norm(np.roll(quad, -1, axis=0) - quad, axis=1)
    width, height = max(2, round(max(lengths[0], lengths[2]))), max(2, round(max(lengths[1], lengths[3])))
    front = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    # OpenCV counts from the centres of pixels.
    there = cv2.getPerspectiveTransform(quad.astype(np.float32) - 0.5, front - 0.5)
    image: NDArray[np.uint8] = cv2.warpPerspective(
        np.ascontiguousarray(pixels), there, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    back: NDArray[np.float64] = cv2.getPerspectiveTransform(front, quad.astype(np.float32))
    return image, back


def mapped(points: Corners, transform: NDArray[np.float64]) -> Corners:
    """Places under a 3×3 transform."""
    places = np.array([(x, y, 1.0) for x, y in points]) @ transform.T
    return tuple((float(x / w), float(y / w)) for x, y, w in places)


def planes(strip: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    """Grey planes of an RGB strip, the one whose two levels lie farthest apart first."""
    import cv2

    if noise(strip) > MAX_NOISE:
        strip = cv2.GaussianBlur(strip, (0, 0), BLUR)
    grey = strip.mean(axis=2).astype(np.uint8)
    return tuple(sorted((grey, *planes_of(strip), principal(strip)), key=lambda plane: -contrast(plane)))


def principal(strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The strip along the axis on which its colours spread most, its middle 98 % stretched to 0-255."""
    colours = strip.reshape(-1, 3).astype(np.float64)
    colours -= colours.mean(axis=0)
    _, axes = np.linalg.eigh(colours.T @ colours)
    axis = axes[:, -1] * (1 if axes[:, -1].sum() >= 0 else -1)  # the sign that keeps bright things bright
    values = colours @ axis
    low, high = np.percentile(values, (1, 99))
    stretched: NDArray[np.uint8] = ((values - low) * 255 / max(1e-6, high - low)).clip(0, 255).astype(np.uint8)
    return stretched.reshape(strip.shape[:2])


def contrast(plane: NDArray[np.uint8]) -> float:
    """The share of a plane's variance that lies between its two classes, at the best threshold (Otsu 1979)."""
    counts = np.bincount(plane.ravel(), minlength=256).astype(np.float64)
    levels, total = np.arange(256), counts.sum()
    below, mass = np.cumsum(counts), np.cumsum(counts * levels)
    mean = mass[-1] / total
    variance = float((counts * (levels - mean) ** 2).sum() / total)
    inside = (below > 0) & (below < total)
    if variance == 0 or not inside.any():
        return 0.0
    between = (mean * below[inside] - mass[inside]) ** 2 / (below[inside] * (total - below[inside]))
    return float(between.max() / variance)


def bounds(quad: NDArray[np.float64], shape: tuple[int, ...]) -> Box:
    """The box around corners, within the picture."""
    x0, y0 = np.floor(quad.min(axis=0)).astype(int)
    x1, y1 = np.ceil(quad.max(axis=0)).astype(int)
    return max(0, int(x0)), max(0, int(y0)), min(shape[1], int(x1)), min(shape[0], int(y1))


def in_rows(strips: list[Strip]) -> list[Strip]:
    """Reading order: a line joins the row whose middle it crosses; rows from the top, each from the left."""
    rows: list[list[Strip]] = []
    for strip in sorted(strips, key=lambda strip: strip.box[1] + strip.box[3]):
        middle = (strip.box[1] + strip.box[3]) / 2
        row = next((row for row in rows if row[0].box[1] <= middle < row[0].box[3]), None)
        if row is None:
            rows.append([strip])
        else:
            row.append(strip)
    return [strip for row in rows for strip in sorted(row, key=lambda strip: strip.box[0])]
