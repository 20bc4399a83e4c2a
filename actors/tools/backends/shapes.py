"""Finds plain shapes of one colour in a small picture, without a network.

Regions are connected pixels of one named colour. What shape a region has is told by how much of its simplest hulls it
fills: a disc fills its circle, a rectangle its tightest box, a triangle its triangle; a star fills little even of its
convex hull.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tools.colours import NAMES, name_indices

SHAPES = ("circle", "ellipse", "square", "rectangle", "triangle", "star", "cross", "ring", "heart")
ALIASES = {
    "disc": "circle",
    "disk": "circle",
    "ball": "circle",
    "dot": "circle",
    "oval": "ellipse",
    "box": "square",
    "bar": "rectangle",
    "plate": "rectangle",
}
MIN_SHARE = 4e-4
"""Smaller regions, as a share of the picture, have no shape to speak of."""
MIN_AREA = 24
MAX_SHARE = 0.4
"""Larger regions are ground."""
FILLED = 0.86
"""How much of its hull a region must fill: a pixel's width along the edge of a small one is some 10 % of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A region. area: pixels."""

    shape: str
    colour: str
    area: int


def shape_named(word: str) -> str | None:
    """The shape that a word (a plural too) stands for."""
    for form in (word, word.removesuffix("s")):
        if form in SHAPES or form in ALIASES:
            return ALIASES.get(form, form)
    return None


def find_shapes(pixels: NDArray[np.uint8]) -> list[Shape]:
    """Plain shapes in an RGB picture."""
    import cv2

    names = name_indices(pixels)
    count = names.size
    found = []
    for index in np.flatnonzero(np.bincount(names.ravel(), minlength=len(NAMES)) >= MIN_AREA):
        region = cv2.morphologyEx((names == index).astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        num, labels, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
        for label in range(1, num):
            x, y, width, height, area = (int(value) for value in stats[label])
            if not max(MIN_AREA, MIN_SHARE * count) <= area <= MAX_SHARE * count:
                continue
            piece = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
            shape = classify(piece)
            if shape is not None:
                found.append(Shape(shape=shape, colour=NAMES[int(index)], area=area))
    return found


def classify(piece: NDArray[np.uint8]) -> str | None:
    """The shape of a region, (height, width) of 0 and 1, or None for none of them."""
    import cv2

    padded = np.pad(piece, 1)
    contours, nesting = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = [contour for contour, (_, _, _, parent) in zip(contours, nesting[0], strict=True) if parent < 0]
    outline = max(outer, key=len)
    solid = np.zeros_like(padded)
    cv2.drawContours(solid, [outline], -1, 1, cv2.FILLED)
    area = float(solid.sum())
    # Corners of pixels, not their centres: a hull through centres is half a pixel too small on every side.
    points = (outline.reshape(-1, 1, 2) + np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])).reshape(-1, 2)
    hull = cv2.convexHull(points.astype(np.float32))
    _, (width, height), _ = cv2.minAreaRect(hull)
    _, radius = cv2.minEnclosingCircle(hull)
    triangle = cv2.minEnclosingTriangle(hull)[0]
    solidity, box = area / float(cv2.contourArea(hull)), area / (width * height)
    ratio = max(width, height) / min(width, height)
    if area > 1.15 * float(piece.sum()):
        return "ring" if area / (np.pi * radius**2) > FILLED else None
    if solidity < 0.82:  # of a five-pointed star 0.56, of an upright cross 0.73
        return None if solidity < 0.35 or ratio > 1.35 else "star" if solidity < 0.65 else "cross"
    if box > FILLED:
        return "square" if ratio < 1.2 else "rectangle"
    if area / (np.pi * radius**2) > FILLED:
        return "circle"
    if area / float(triangle) > FILLED:
        return "triangle"
    if 0.72 < box < 0.86 and solidity > 0.93:
        return "ellipse"
    return "heart" if 0.52 < box <= 0.78 and ratio < 1.35 else None
