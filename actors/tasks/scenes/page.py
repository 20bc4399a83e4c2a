"""Pages: lines of text of several heights on a ground or on plates, with exact boxes.

Text stands on the ground itself where the ground is calm and of one lightness under it, and on a plate of its own
otherwise (and now and then anyway); the ink is black or white, whichever is further from what it lies on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scene import COLOURS
from actors.tasks.scenes.ground import add_noise, draw_ground
from actors.tasks.scenes.paint import colour_names, painted, shaded
from actors.tasks.scenes.truth import Difficulty, Still, Thing, Written
from actors.tasks.scenes.writing import Ink, lay_ink, write
from common.types import Box

HEIGHTS_PX = (12, 16, 20, 28)
LINES_A_HEIGHT = 2
MIN_CONTRAST = 90
"""Least distance in lightness, of 255, between ink and the mean of what it lies on."""
MAX_UNREST = 28
"""Largest standard deviation of lightness under a line that stands on the ground itself."""
PLATE_SHARE = 0.35
_GAP = 8
_PAD = 6
_DARK, _LIGHT = 16, 245
_WORDS = tuple(
    word
    for line in (
        "total harbour garden window silver ticket north open closed market river stone paper bridge coffee station",
        "number street light winter summer signal copper engine flower bottle castle valley orange museum",
    )
    for word in line.split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of text at its place: (x, y) is where the first pixel of its ink lies."""

    text: str
    height_px: int
    ink: Ink
    x: int
    y: int
    plate: bool

    @property
    def box(self) -> Box:
        height, width = self.ink.coverage.shape
        return self.x, self.y, self.x + width, self.y + height


def draw_page(
    random: np.random.Generator, difficulty: Difficulty, *, side: int = 448, heights_px: tuple[int, ...] = HEIGHTS_PX
) -> Still:
    """A square page with two lines of text of each height; the height is that of a capital letter, in pixels.

    Things are the plates; the target is 0. Raises ValueError for a side under 320 or a height outside 6–40.
    """
    if side < 320:
        raise ValueError(f"side must be at least 320, got {side}")
    if not heights_px or not all(6 <= height <= 40 for height in heights_px):
        raise ValueError(f"heights_px must be heights in 6–40, got {heights_px}")
    ground = draw_ground(random, difficulty.ground, side)
    while True:
        lines = _set(random, difficulty, ground, heights_px)
        if lines is not None:
            return _print(random, difficulty, ground, lines)


def _set(
    random: np.random.Generator, difficulty: Difficulty, ground: NDArray[np.uint8], heights_px: tuple[int, ...]
) -> list[_Line] | None:
    """Lines at places where they do not touch; None when they do not fit this time."""
    side = len(ground)
    lightness = _lightness(ground)
    lines: list[_Line] = []
    for height_px in sorted(heights_px * LINES_A_HEIGHT, reverse=True):
        degrees = 0.0
        if difficulty.tilt_degrees > 0 and random.integers(2):
            degrees = float(random.uniform(-difficulty.tilt_degrees, difficulty.tilt_degrees))
        text = _text(random)
        ink = write(text, height_px, degrees)
        height, width = ink.coverage.shape
        edge = _PAD + 2
        if width + 2 * edge > side:
            return None
        for attempt in range(60):
            x, y = (int(random.integers(edge, side - length - edge + 1)) for length in (width, height))
            box = (x - _PAD, y - _PAD, x + width + _PAD, y + height + _PAD)
            if not all(_apart(box, line.box) for line in lines):
                continue
            # Where no calm place is found soon, the line gets a plate.
            plate = difficulty.ground != "quiet" and (attempt >= 20 or float(random.random()) < PLATE_SHARE)
            if plate or _calm(lightness[box[1] : box[3], box[0] : box[2]]):
                lines.append(_Line(text=text, height_px=height_px, ink=ink, x=x, y=y, plate=plate))
                break
        else:
            return None
    return lines


def _text(random: np.random.Generator) -> str:
    """A word, a code, an amount or a date."""
    kind = int(random.integers(5))
    if kind == 0:
        word = _WORDS[int(random.integers(len(_WORDS)))]
        return word.capitalize() if random.integers(2) else word.upper()
    if kind == 1:
        return " ".join(_WORDS[int(index)] for index in random.choice(len(_WORDS), 2, replace=False))
    if kind == 2:
        letters = "".join("ABCDEFGHKLMNPRSTUVWXYZ"[int(index)] for index in random.integers(0, 22, 3))
        return f"{letters}-{int(random.integers(0, 10000)):04d}"
    if kind == 3:
        return f"{int(random.integers(1, 1000))}.{int(random.integers(0, 100)):02d}"
    return f"{int(random.integers(1990, 2030))}-{int(random.integers(1, 13)):02d}-{int(random.integers(1, 29)):02d}"


def _apart(padded: Box, other: Box) -> bool:
    """Whether a padded box keeps its distance to another line's padded box."""
    gap = _PAD + _GAP
    return (
        padded[2] + gap <= other[0]
        or other[2] + gap <= padded[0]
        or padded[3] + gap <= other[1]
        or other[3] + gap <= padded[1]
    )


def _lightness(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Luma of ITU-R BT.601 in whole numbers, 0–255; (height, width)."""
    luma: NDArray[np.int32] = (pixels.astype(np.int32) * np.array([299, 587, 114], np.int32)).sum(axis=2) // 1000
    return luma.astype(np.int32)


def _calm(lightness: NDArray[np.int32]) -> bool:
    mean = float(lightness.mean())
    return max(mean - _DARK, _LIGHT - mean) >= MIN_CONTRAST and float(lightness.std()) <= MAX_UNREST


def _print(random: np.random.Generator, difficulty: Difficulty, ground: NDArray[np.uint8], lines: list[_Line]) -> Still:
    """Paint plates and ink, in reading order from top to bottom."""
    pixels, labels = ground, np.zeros(ground.shape[:2], np.uint8)
    inked = np.zeros_like(labels)
    names = colour_names(random)
    plates: list[Thing] = []
    strings: list[Written] = []
    for line in sorted(lines, key=lambda line: (line.y, line.x)):
        on = None
        if line.plate:
            plate = _plate(
                random,
                line,
                difficulty,
                colour=names[len(plates) % len(names)],
                number=len(plates) + 1,
                pixels=pixels,
                labels=labels,
            )
            plates.append(plate)
            on = plate.number
        strings.append(_inked(line, on, pixels, inked, number=len(strings) + 1))
    return Still(
        pixels=add_noise(random, pixels, difficulty.noise),
        labels=labels,
        ink=inked,
        things=tuple(plates),
        silhouettes=tuple(np.ones((p.box[3] - p.box[1], p.box[2] - p.box[0]), bool) for p in plates),
        strings=tuple(strings),
        target=0,
        difficulty=difficulty.name,
    )


def _plate(
    random: np.random.Generator,
    line: _Line,
    difficulty: Difficulty,
    *,
    colour: str,
    number: int,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
) -> Thing:
    """A rectangle behind a line, painted in place."""
    x0, y0, x1, y1 = line.box
    box = x0 - _PAD, y0 - _PAD, x1 + _PAD, y1 + _PAD
    whole = np.ones((box[3] - box[1], box[2] - box[0]), bool)
    pixels[box[1] : box[3], box[0] : box[2]] = painted(COLOURS[colour], shaded(random, whole, difficulty.shading))
    labels[box[1] : box[3], box[0] : box[2]] = number
    return Thing(
        number=number,
        shape="plate",
        colour=colour,
        rgb=COLOURS[colour],
        box=box,
        area=whole.size,
        amodal_box=box,
        amodal_area=whole.size,
    )


def _inked(line: _Line, on: int | None, pixels: NDArray[np.uint8], inked: NDArray[np.uint8], *, number: int) -> Written:
    """Lay the ink of a line over what is there, in place, dark on light or light on dark."""
    x0, y0, x1, y1 = line.box
    tone = _DARK if float(_lightness(pixels[y0:y1, x0:x1]).mean()) >= (_DARK + _LIGHT) / 2 else _LIGHT
    inked[y0:y1, x0:x1][line.ink.coverage > 0] = number
    return lay_ink(line.ink, pixels, x0, y0, text=line.text, tone=tone, height_px=line.height_px, on=on)
