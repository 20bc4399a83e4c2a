"""Pictures with known truth, and a stand-in for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.tools.ports import ReadLine
from common.media import FolderMediaStore, put_image
from common.types import Box, Clip, Query

PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 40),
    "purple": (150, 60, 180),
    "orange": (240, 140, 30),
    "cyan": (50, 200, 210),
    "pink": (240, 140, 180),
}
SIDE = 448


@dataclass(frozen=True, slots=True, kw_only=True)
class Plates:
    """A scene of coloured plates with a code each: pixels (448, 448, 3), and per plate its colour, box and code."""

    pixels: NDArray[np.uint8]
    colours: tuple[str, ...]
    boxes: tuple[Box, ...]
    codes: tuple[str, ...]


def _fits(box: Box, others: list[Box], gap: int = 6) -> bool:
    return all(
        box[2] + gap < other[0] or other[2] + gap < box[0] or box[3] + gap < other[1] or other[3] + gap < box[1]
        for other in others
    )


def plates(seed: int, *, num_plates: int = 3) -> Plates:
    """Plates of 52–72 × 30–42 px with three digits of 17–20 px in Pillow's own font, over grey with faint ellipses."""
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(seed)

    def between(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    ground = between(150, 235)
    image = Image.new("RGB", (SIDE, SIDE), (ground,) * 3)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, width = between(0, SIDE), between(0, SIDE), between(10, 60)
        shade = tuple(min(255, max(0, ground + between(-30, 20))) for _ in range(3))
        draw.ellipse((x, y, x + width, y + width), fill=shade)
    colours = tuple(str(name) for name in random.permutation(list(PALETTE))[:num_plates])
    boxes: list[Box] = []
    codes: list[str] = []
    for colour in colours:
        while True:
            width, height = between(52, 72), between(30, 42)
            x, y = between(4, SIDE - width - 4), between(4, SIDE - height - 4)
            if _fits((x, y, x + width, y + height), boxes):
                break
        boxes.append((x, y, x + width, y + height))
        codes.append(f"{between(0, 999):03d}")
        draw.rectangle(boxes[-1], fill=PALETTE[colour])
        font = ImageFont.load_default(size=(17, 18, 20)[between(0, 2)])
        left = x + (width - draw.textlength(codes[-1], font=font)) / 2
        draw.text((left, y + (height - 18) / 2 - 2), codes[-1], font=font, fill=(0, 0, 0))
    return Plates(pixels=np.asarray(image), colours=colours, boxes=tuple(boxes), codes=tuple(codes))


def clip_of(store: FolderMediaStore, frames: list[NDArray[np.uint8]], *, step_s: float = 0.5) -> Query:
    """A query about a clip whose frames are `step_s` apart."""
    refs = tuple(put_image(store, frame) for frame in frames)
    times = tuple(index * step_s for index in range(len(refs)))
    return Query(query_id="q", question="?", clip=Clip(frames=refs, times_s=times, shown=(0,)))


class FixedReader:
    """A reader that reads `text` everywhere and counts how often it is asked."""

    def __init__(self, text: str = "493") -> None:
        self.text = text
        self.num_reads = 0

    def read(self, pixels: NDArray[np.uint8]) -> tuple[ReadLine, ...]:
        self.num_reads += 1
        lines = self.text.split("\n")
        return tuple(
            ReadLine(text=line, confidence=0.9, box=(0, 10 * index, 20, 10 * index + 8))
            for index, line in enumerate(lines)
        )

    def read_many(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[ReadLine, ...]]:
        return [self.read(pixels) for pixels in pictures]
