"""Scenes of the procedural world: coloured plates, each with a code, on a quiet background, and their exact truth.

A scene is drawn at 448 px, where a digit is 17–20 px high; the model sees it at 64 px, where a digit is under 3 px. So
the code
can be read only through the tools, and that is a fact of resolution.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
SHIFTS = ("dark", "hue", "wash", "noise")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change of the world's look. kind: dark (ground), hue (of plates), wash (plates fade), noise; severity in [0,
    1].
    """

    kind: str
    severity: float

    @classmethod
    def parse(cls, text: str) -> Shift | None:
        """ "dark:0.3" → Shift; "" → None. Raises ValueError naming what is known."""
        if not text:
            return None
        kind, _, severity = text.partition(":")
        try:
            value = float(severity)
        except ValueError:
            value = -1.0
        if kind not in SHIFTS or not 0 <= value <= 1:
            raise ValueError(
                f"shift must be one of {', '.join(SHIFTS)} with a severity in [0, 1], like dark:0.3; got {text!r}"
            )
        return cls(kind=kind, severity=value)


def draw_scene(random: np.random.Generator, *, num_plates: int, side: int = 448, shift: Shift | None = None) -> Scene:
    """A scene with `num_plates` plates of different colours that do not touch."""
    from PIL import Image, ImageDraw

    ground = int(random.integers(150, 236))
    if shift is not None and shift.kind == "dark":
        ground = int(ground * (1 - shift.severity))
    tone = int(np.clip(ground + random.integers(-12, 13), 0, 255))
    image = Image.new("RGB", (side, side), (tone, tone, tone))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = (int(v) for v in (random.integers(0, side), random.integers(0, side), random.integers(10, 61)))
        colour = tuple(int(v) for v in np.clip(ground + random.integers(-30, 21, 3), 0, 255))
        draw.ellipse((x, y, x + size, y + size), fill=colour)
    names = [str(name) for name in random.permutation(list(COLOURS))[:num_plates]]
    plates: list[Plate] = []
    for name in names:
        box = _place(random, plates, side)
        plates.append(_draw_plate(draw, random, name, box, _paint(COLOURS[name], ground, shift)))
    pixels = np.asarray(image)
    if shift is not None and shift.kind == "noise":
        amplitude = round(shift.severity * 160)
        noise = random.integers(-amplitude, amplitude + 1, pixels.shape)
        pixels = (pixels.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
    return Scene(pixels=pixels, plates=tuple(plates))


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


def _paint(colour: tuple[int, int, int], ground: int, shift: Shift | None) -> tuple[int, int, int]:
    if shift is None or shift.kind not in ("hue", "wash"):
        return colour
    if shift.kind == "wash":
        red, green, blue = (int(v * (1 - shift.severity) + ground * shift.severity) for v in colour)
        return red, green, blue
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in colour))
    red, green, blue = (int(v * 255) for v in colorsys.hsv_to_rgb((hue + shift.severity) % 1, saturation, value))
    return red, green, blue


def _draw_plate(
    draw: ImageDraw.ImageDraw, random: np.random.Generator, colour: str, box: Box, paint: tuple[int, int, int]
) -> Plate:
    code = "".join(str(digit) for digit in random.integers(0, 10, 3))
    font = _font(int(random.choice(_FONT_SIZES)))
    draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=paint)
    width = draw.textlength(code, font=font)
    at = (box[0] + (box[2] - box[0] - width) / 2, box[1] + (box[3] - box[1] - 18) / 2 - 2)
    draw.text(at, code, font=font, fill=(0, 0, 0))
    left, top, right, bottom = draw.textbbox(at, code, font=font)
    return Plate(colour=colour, code=code, box=box, text_box=(int(left), int(top), int(right) + 1, int(bottom) + 1))


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
