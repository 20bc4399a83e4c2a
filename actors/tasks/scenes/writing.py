"""Ink: a line of text as coverage, level or leaning, and where it may be read.

The letters are those of the font that comes with Pillow, so another version of Pillow may draw other pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.shapes import tight_box
from actors.tasks.scenes.truth import Written
from actors.tasks.shifts import Pen, font

MIN_COVERAGE = 32
"""Of 255: fainter fringes of a letter are not painted, so that every pixel of the ink differs from what it lies on."""
_MARGIN = 3
PLAIN = Pen()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """coverage: uint8, (height, width), trimmed to the ink. polygon: four corners of the ink's own rectangle, relative
    to the first pixel, clockwise from where reading begins.
    """

    coverage: NDArray[np.uint8]
    polygon: tuple[tuple[float, float], ...]


@cache
def font_size(height_px: int) -> int:
    """The largest size at which a capital H is at most `height_px` pixels high.

    Hinting leaves gaps: where no size gives the height itself, capitals are one pixel lower (12 px gives 11).
    """
    return max(size for size in range(4, 3 * height_px + 8) if _capital_px(size) <= height_px)


def write(text: str, height_px: int, degrees: float = 0.0, pen: Pen = PLAIN) -> Ink:
    """A line of text whose capitals are `height_px` high (in the plain face), turned clockwise by `degrees`."""
    from PIL import Image, ImageDraw

    face = font(font_size(height_px), pen.face)
    left, top, right, bottom = face.getbbox(text, stroke_width=pen.stroke)
    width, height = math.ceil(right - left) + 2 * _MARGIN, math.ceil(bottom - top) + 2 * _MARGIN
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((_MARGIN - left, _MARGIN - top), text, font=face, fill=255, stroke_width=pen.stroke)
    level = _solid(np.asarray(image))
    x0, y0, x1, y1 = tight_box(level > 0)
    level = level[y0:y1, x0:x1]
    corners = ((0.0, 0.0), (float(x1 - x0), 0.0), (float(x1 - x0), float(y1 - y0)), (0.0, float(y1 - y0)))
    if degrees == 0:
        return Ink(coverage=level, polygon=corners)
    # A generous frame around the line, so that turning about its centre cuts nothing off.
    reach = math.ceil(math.hypot(*level.shape) / 2) + _MARGIN
    framed = np.zeros((2 * reach, 2 * reach), np.uint8)
    down, right_by = reach - level.shape[0] // 2, reach - level.shape[1] // 2
    framed[down : down + level.shape[0], right_by : right_by + level.shape[1]] = level
    turned = _solid(np.asarray(Image.fromarray(framed).rotate(-degrees, resample=Image.Resampling.BILINEAR)))
    x0, y0, x1, y1 = tight_box(turned > 0)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def turn(x: float, y: float) -> tuple[float, float]:
        dx, dy = x + right_by - reach, y + down - reach
        return round(reach + c * dx - s * dy - x0, 2), round(reach + s * dx + c * dy - y0, 2)

    return Ink(coverage=turned[y0:y1, x0:x1], polygon=tuple(turn(x, y) for x, y in corners))


def lay_ink(
    ink: Ink, pixels: NDArray[np.uint8], x: int, y: int, *, text: str, tone: int, height_px: int, on: int | None
) -> Written:
    """Lay ink over what is there, its first pixel at (x, y), in place: (tone · c + ground · (255 − c)) / 255, rounded.

    c is the coverage and `tone` the grey level of the ink.
    """
    height, width = ink.coverage.shape
    under = pixels[y : y + height, x : x + width].astype(np.int32)
    coverage = ink.coverage.astype(np.int32)[..., None]
    pixels[y : y + height, x : x + width] = (tone * coverage + under * (255 - coverage) + 127) // 255
    return Written(
        text=text,
        box=(x, y, x + width, y + height),
        polygon=tuple((x + dx, y + dy) for dx, dy in ink.polygon),
        height_px=height_px,
        on=on,
    )


def _solid(coverage: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept: NDArray[np.uint8] = np.where(coverage >= MIN_COVERAGE, coverage, 0).astype(np.uint8)
    return kept


def _capital_px(size: int) -> int:
    _, top, _, bottom = font(size).getbbox("H")
    return int(bottom - top)
