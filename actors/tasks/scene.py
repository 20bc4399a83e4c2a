"""Scenes of the procedural world: coloured plates, each with a code, on a quiet background, and their exact truth.

A scene is drawn at 448 px, where a digit is 17–20 px high; the model sees it at 64 px, where a digit is under 3 px. So
the code
can be read only through the tools, and that is a fact of resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.ground import add_static
from actors.tasks.shifts import Pen, Rgb, Shift, paint, pen, severity
from actors.tasks.shifts import font as face
from common.types import Box

if TYPE_CHECKING:
    from PIL import ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 40),
    "purple": (150, 60, 180),
    "orange": (240, 140, 30),
    "cyan": (50, 200, 210),
    "pink": (240, 140, 180),
}
_FONT_SIZES = (17, 18, 20)
_GAP = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """A coloured plate: its box and the box of its digits, in pixels of the source."""

    colour: str
    code: str
    box: Box
    text_box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """pixels: RGB, (side, side, 3). plates: in the order they were placed."""

    pixels: NDArray[np.uint8]
    plates: tuple[Plate, ...]


def draw_scene(
    random: np.random.Generator, *, num_plates: int, side: int = 448, shift: Shift | None = None, num_static: int = 0
) -> Scene:
    """A scene with `num_plates` plates of different colours that do not touch."""
    from PIL import Image, ImageDraw

    ground = int(random.integers(150, 236))
    ground = int(ground * (1 - severity(shift, "dark")))
    tone = int(np.clip(ground + random.integers(-12, 13), 0, 255))
    image = Image.new("RGB", (side, side), (tone, tone, tone))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = (int(v) for v in (random.integers(0, side), random.integers(0, side), random.integers(10, 61)))
        colour = tuple(int(v) for v in np.clip(ground + random.integers(-30, 21, 3), 0, 255))
        draw.ellipse((x, y, x + size, y + size), fill=colour)
    if num_static:
        image = Image.fromarray(add_static(random, np.asarray(image), num_static))
        draw = ImageDraw.Draw(image)
    names = [str(name) for name in random.permutation(list(COLOURS))[:num_plates]]
    plates: list[Plate] = []
    for name in names:
        box = _place(random, plates, side)
        plates.append(_draw_plate(draw, random, name, box, paint=paint(COLOURS[name], ground, shift), pen=pen(shift)))
    return Scene(pixels=np.asarray(image), plates=tuple(plates))


def _place(random: np.random.Generator, plates: list[Plate], side: int) -> Box:
    """A box clear of the others; they always fit, since at most four small plates share a large picture."""
    while True:
        width, height = int(random.integers(52, 73)), int(random.integers(30, 43))
        x, y = int(random.integers(4, side - width - 3)), int(random.integers(4, side - height - 3))
        box = (x, y, x + width, y + height)
        if all(_apart(box, plate.box) for plate in plates):
            return box


def _apart(a: Box, b: Box) -> bool:
    return a[2] + _GAP < b[0] or b[2] + _GAP < a[0] or a[3] + _GAP < b[1] or b[3] + _GAP < a[1]


def _draw_plate(
    draw: ImageDraw.ImageDraw, random: np.random.Generator, colour: str, box: Box, *, paint: Rgb, pen: Pen
) -> Plate:
    code = "".join(str(digit) for digit in random.integers(0, 10, 3))
    font = face(int(random.choice(_FONT_SIZES)), pen.face)
    draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=paint)
    width = draw.textlength(code, font=font)
    at = (box[0] + (box[2] - box[0] - width) / 2, box[1] + (box[3] - box[1] - 18) / 2 - 2)
    draw.text(at, code, font=font, fill=(pen.tone(0),) * 3, stroke_width=pen.stroke)
    left, top, right, bottom = draw.textbbox(at, code, font=font, stroke_width=pen.stroke)
    return Plate(colour=colour, code=code, box=box, text_box=(int(left), int(top), int(right) + 1, int(bottom) + 1))
