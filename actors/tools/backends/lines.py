"""Finds lines of text in a small picture without a network.

A glyph is a thin stroke that differs from what lies around it: the black-hat (dark ink) and the top-hat (light ink)
of a plane of the picture are bright on strokes and dark elsewhere. Two planes are tried, the brightest and the
darkest channel: black on any colour stands out most in the first, any colour on white in the second. Connected
components of strokes, joined along the horizontal where heights and gaps agree, are lines; of lines that overlap, a
whole one with the most ink stays. What touches the picture's border is a glyph cut in half, unless nothing else is
there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import covers
from common.types import Box

MIN_CONTRAST = 28
"""Levels (of 255) between ink and ground under which a stroke is noise."""
NARROW = 17
"""Pixels; strokes of text up to about 60 px high are narrower."""
MIN_GLYPH_HEIGHT = 7
"""Pixels; the recogniser cannot read smaller ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """Ink on one line. box: half-open pixels. plane: which plane it stands out in. ink: its strength. cut: by the
    border.
    """

    box: Box
    plane: int
    ink: float
    num_glyphs: int
    cut: bool

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


def planes_of(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The brightest and the darkest channel of an RGB picture, each (height, width)."""
    import cv2

    red, green, blue = cv2.split(pixels)
    return cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)


def find_lines(pixels: NDArray[np.uint8]) -> tuple[TextLine, ...]:
    """Lines of an RGB picture in reading order. Empty where there is no ink.

    A kernel wider than a stroke finds it, one as wide as a plate finds the plate: the narrow one is tried first, and
    one that grows with the picture where it finds nothing.
    """
    wide = max(7, round(max(pixels.shape[:2]) / 14))
    for side in sorted({min(wide, NARROW), wide}):
        lines = _lines_with(pixels, side | 1)
        if lines:
            break
    return lines


def _lines_with(pixels: NDArray[np.uint8], side: int) -> tuple[TextLine, ...]:
    candidates = [
        line
        for index, plane in enumerate(planes_of(pixels))
        for dark in (True, False)
        for line in _lines_of(_strokes(plane, side, dark=dark), index)
    ]
    words = [line for line in candidates if line.num_glyphs > 1 and not line.cut]
    candidates = [line for line in candidates if line.num_glyphs > 1 or not any(_holds(line, word) for word in words)]
    chosen: list[TextLine] = []
    for line in sorted(candidates, key=lambda line: (line.cut, -line.ink)):
        if all(_shared(line.box, other.box) < 0.3 for other in chosen):
            chosen.append(line)
    whole = [line for line in chosen if not line.cut]
    return tuple(_reading_order(_without_corners(whole or chosen)))


def _strokes(plane: NDArray[np.uint8], side: int, *, dark: bool) -> NDArray[np.uint8]:
    """How far each pixel stands out from the ground as a stroke narrower than `side`, in levels."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    hat: NDArray[np.uint8] = cv2.morphologyEx(plane, cv2.MORPH_BLACKHAT if dark else cv2.MORPH_TOPHAT, kernel)
    return hat


def _lines_of(strokes: NDArray[np.uint8], plane: int) -> list[TextLine]:
    import cv2

    ink = (strokes > max(MIN_CONTRAST, 0.3 * float(strokes.max()))).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    glyphs = [stats[index] for index in range(1, count) if _is_glyph(stats[index], strokes.shape)]
    groups: list[list[NDArray[np.int32]]] = []
    for glyph in sorted(glyphs, key=lambda glyph: int(glyph[0])):
        near = [group for group in groups if any(_joined(glyph, other) for other in group)]
        groups = [group for group in groups if not any(group is other for other in near)]
        groups.append([glyph, *(other for group in near for other in group)])
    return [_line(group, strokes, plane) for group in groups if len(group) > 1 or not _is_bar(group[0])]


def _is_glyph(stats: NDArray[np.int32], shape: tuple[int, ...]) -> bool:
    _, _, width, height, area = (int(value) for value in stats)
    return (
        height >= max(MIN_GLYPH_HEIGHT, 0.02 * shape[0])
        and 0.08 <= width / height <= 14
        and area >= 0.08 * width * height
    )


def _is_bar(stats: NDArray[np.int32]) -> bool:
    """A filled rectangle alone: the gap between two plates, or an edge, not a letter."""
    _, _, width, height, area = (int(value) for value in stats)
    return area > 0.85 * width * height or width < 0.15 * height


def _joined(a: NDArray[np.int32], b: NDArray[np.int32]) -> bool:
    """Whether two glyphs stand beside each other on one line."""
    ax, ay, aw, ah = (int(value) for value in a[:4])
    bx, by, bw, bh = (int(value) for value in b[:4])
    overlap = min(ay + ah, by + bh) - max(ay, by)
    gap = max(ax, bx) - min(ax + aw, bx + bw)
    return overlap > 0.5 * min(ah, bh) and gap < 0.9 * max(ah, bh) and max(ah, bh) < 2.2 * min(ah, bh)


def _line(group: list[NDArray[np.int32]], strokes: NDArray[np.uint8], plane: int) -> TextLine:
    edges = np.array([[glyph[0], glyph[1], glyph[0] + glyph[2], glyph[1] + glyph[3]] for glyph in group])
    x0, y0 = (int(value) for value in edges[:, :2].min(axis=0))
    x1, y1 = (int(value) for value in edges[:, 2:].max(axis=0))
    height, width = strokes.shape
    return TextLine(
        box=(x0, y0, x1, y1),
        plane=plane,
        ink=float(strokes[y0:y1, x0:x1].sum(dtype=np.float64)),
        num_glyphs=len(group),
        cut=x0 <= 1 or y0 <= 1 or x1 >= width - 1 or y1 >= height - 1,
    )


def _without_corners(lines: list[TextLine]) -> list[TextLine]:
    """A lone mark much lower than the tallest line is the corner of a plate or a speck."""
    tallest = max((line.height for line in lines), default=0)
    return [line for line in lines if line.num_glyphs > 1 or line.height >= 0.7 * tallest]


def _reading_order(lines: Iterable[TextLine]) -> list[TextLine]:
    """Rows from top to bottom, each from left to right: a line joins the row whose middle it crosses."""
    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        row = next((row for row in rows if row[0].box[1] <= middle < row[0].box[3]), None)
        if row is None:
            rows.append([line])
        else:
            row.append(line)
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def _holds(mark: TextLine, word: TextLine) -> bool:
    """Whether a mark lies around a word: it is the word's ground. A hole in a letter is over half as high as it."""
    return covers(mark.box, word.box) and mark.height > 2 * word.height


def _shared(a: Box, b: Box) -> float:
    """Intersection as a share of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, width) * max(0, height) / smaller
