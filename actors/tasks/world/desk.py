"""A desk seen from above: coloured shapes that do not touch, some partly under a brown strip, and maybe a written note.

Drawn through a z-buffer, so what is seen of a shape is exact. Boxes, areas and fills are of the seen part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tasks.config import WorldConfig
from actors.tasks.scene import COLOURS
from actors.tasks.scenes.ground import add_static, draw_ground
from actors.tasks.scenes.paint import BAR_COLOURS, colour_names, lay
from actors.tasks.scenes.shapes import SHAPES, silhouette, tight_box
from actors.tasks.scenes.writing import lay_ink, write
from actors.tasks.shifts import Pen, Shift, paint, pen, severity
from common.geometry import GRID
from common.types import Box

NOTE, STRIP = "black", "brown"
"""The names of the colours of notes and strips; no shape has them."""
_GAP, _EDGE = 18, 6
"""Pixels, at least, between two things, and between a thing and the picture's edge."""
_SIZES = (0.17, 0.3)
"""Diameters of shapes, as shares of the side."""
_STRIP_SHARE = (0.1, 0.45)
"""What a strip hides of its shape."""
_INK_PX, _PAD = 15, 8
_TRIES = 40
_DEEP = 0.02
"""How far inside a thing, as a share of the side, the point lies at which a plan points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying:
    """A thing on the desk. box: tight around the pixels of it that are seen; area: their number."""

    colour: str
    box: Box
    area: int
    centroid: tuple[float, float]
    inside: tuple[int, int]
    """Of the points of the grid, the one that lies deepest in what is seen."""

    @property
    def fill(self) -> float:
        """Share of the box that the seen pixels take."""
        x0, y0, x1, y1 = self.box
        return self.area / ((x1 - x0) * (y1 - y0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """pixels: RGB, (side, side, 3). shapes: of different colours, in random order. note: what is written, and where."""

    pixels: NDArray[np.uint8]
    shapes: tuple[Lying, ...]
    note: Lying | None


def draw_desk(
    random: np.random.Generator, config: WorldConfig, *, num_shapes: int, note: bool, shift: Shift | None
) -> tuple[Desk, str]:
    """A desk with `num_shapes` shapes, and the colour that its note names ("" without a note)."""
    while True:
        found = _try(random, config, num_shapes, note, shift)
        if found is not None:
            return found


def _try(
    random: np.random.Generator, config: WorldConfig, num_shapes: int, note: bool, shift: Shift | None
) -> tuple[Desk, str] | None:
    side = config.side
    names = colour_names(random)[:num_shapes]
    pixels = add_static(random, draw_ground(random, config.ground, side), config.num_static)
    pixels = (pixels * (1 - severity(shift, "dark"))).astype(np.uint8)
    tone = int(pixels.mean())
    taken: list[Box] = []
    layers: list[tuple[int, tuple[int, int], NDArray[np.bool_], NDArray[np.uint8]]] = []
    word = names[int(random.integers(len(names)))] if note else ""
    if note:
        sheet = _sheet(word, pen(shift))
        at = _place(random, taken, sheet.shape[1], sheet.shape[0], side)
        if at is None:
            return None
        layers.append((num_shapes + 1, at, np.ones(sheet.shape[:2], bool), sheet))
    for number, name in enumerate(names, 1):
        shape, size = SHAPES[int(random.integers(len(SHAPES)))], side * float(random.uniform(*_SIZES))
        cut = silhouette(shape, size, float(random.uniform(0, 90)))
        at = _place(random, taken, cut.shape[1], cut.shape[0], side)
        if at is None:
            return None
        if random.integers(2):
            layers.append(_strip(random, cut, at))
        colour = np.array(paint(COLOURS[name], tone, shift), np.uint8)
        layers.append((number, at, cut, np.broadcast_to(colour, (*cut.shape, 3)).copy()))
    labels = np.zeros((side, side), np.uint8)
    lay(pixels, labels, layers)
    shapes = [_lying(name, labels == number, config, deep=_DEEP) for number, name in enumerate(names, 1)]
    sheet_lies = _lying(NOTE, labels == num_shapes + 1, config) if note else None
    if None in shapes:
        return None
    return Desk(pixels=pixels, shapes=tuple(filter(None, shapes)), note=sheet_lies), word


def _place(random: np.random.Generator, taken: list[Box], width: int, height: int, side: int) -> tuple[int, int] | None:
    """A free place for a thing of that size; it is taken from now on."""
    for _ in range(_TRIES):
        x, y = (int(random.integers(_EDGE, side - length - _EDGE + 1)) for length in (width, height))
        box = (x - _GAP, y - _GAP, x + width + _GAP, y + height + _GAP)
        if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in taken):
            taken.append((x, y, x + width, y + height))
            return x, y
    return None


def _strip(
    random: np.random.Generator, cut: NDArray[np.bool_], at: tuple[int, int]
) -> tuple[int, tuple[int, int], NDArray[np.bool_], NDArray[np.uint8]]:
    """A strip over one end of a shape, as long as that side of it and a little more."""
    height, width = cut.shape
    share = float(random.uniform(*_STRIP_SHARE))
    over = 5
    x, y = at
    end = int(random.integers(4))
    if end % 2:
        deep, size = round(width * share), (height + 2 * over, round(width * share) + over)
        corner = (x - over if end == 1 else x + width - deep, y - over)
    else:
        deep, size = round(height * share), (round(height * share) + over, width + 2 * over)
        corner = (x - over, y - over if end == 0 else y + height - deep)
    colour = np.array(BAR_COLOURS[STRIP], np.uint8)
    return 255, corner, np.ones(size, bool), np.broadcast_to(colour, (*size, 3)).copy()


def _sheet(word: str, pen: Pen) -> NDArray[np.uint8]:
    """A dark note with a word in light ink."""
    ink = write(word, _INK_PX, pen=pen)
    height, width = ink.coverage.shape
    sheet = np.full((height + 2 * _PAD, width + 2 * _PAD, 3), BAR_COLOURS[NOTE], np.uint8)
    lay_ink(ink, sheet, _PAD, _PAD, text=word, tone=pen.tone(255), height_px=_INK_PX, on=None)
    return sheet


def _lying(colour: str, mask: NDArray[np.bool_], config: WorldConfig, deep: float = 0.0) -> Lying | None:
    """The thing that these pixels are; None where no point of the grid lies deep enough in it to point at."""
    import cv2

    rows, columns = np.nonzero(mask)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    places = np.arange(config.grid_step, GRID, config.grid_step)
    at = places * len(mask) // GRID
    found = depth[np.ix_(at, at)]
    y, x = np.unravel_index(int(found.argmax()), found.shape)
    if found[y, x] < deep * len(mask):
        return None
    return Lying(
        colour=colour,
        box=tight_box(mask),
        area=len(rows),
        centroid=(float(columns.mean()), float(rows.mean())),
        inside=(int(places[x]), int(places[y])),
    )
