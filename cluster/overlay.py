"""Draws what a call found (actors/marks.py) over its pictures: boxes with words, tinted masks, frames in a row, and a
bar of the intervals of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.marks import Interval, Label, Marks, Scene
from common.media import FolderMediaStore, pixels_of

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

PINK: Colour = (255, 45, 120)
BLUE: Colour = (0, 130, 255)
"""Found, and asked about."""
GREY: Colour = (120, 126, 138)
PAPER: Colour = (246, 247, 249)
INK: Colour = (22, 24, 29)
TINTS: tuple[Colour, ...] = ((255, 45, 120), (0, 170, 255))
"""Of the first mask and of the one it is compared with."""
_TINT = 0.45
_POINT = 2
"""Pixels; a smaller box is a point and is drawn larger."""
_LEGIBLE = 256
"""Pixels; smaller pictures are enlarged by a whole factor, so that words fit on them."""
_GAP, _BAR = 8, 14
"""Pixels: between frames, height of the interval bar."""


def draw(marks: Marks, store: FolderMediaStore, *, max_side: int, text_px: int = 13) -> Pixels:
    """One picture of everything, RGB. max_side: of a picture alone, or of a whole row. text_px: size of words.

    Raises MediaError.
    """
    if not marks.scenes:
        raise ValueError("there is nothing to draw")
    count = len(marks.scenes)
    side = max_side if count == 1 else max(64, (max_side - _GAP * (count - 1)) // count)
    panels = [_panel(scene, store, max_side=side, text_px=text_px) for scene in marks.scenes]
    row = _in_a_row(panels)
    if marks.span_s is None:
        return row
    return np.concatenate([row, _bar(marks.intervals, marks.span_s, row.shape[1], text_px)], axis=0)


def stacked(sheets: Sequence[Pixels]) -> Pixels:
    """Pictures one below the other."""
    if len(sheets) == 1:
        return sheets[0]
    width = max(sheet.shape[1] for sheet in sheets)
    height = sum(sheet.shape[0] for sheet in sheets) + _GAP * (len(sheets) - 1)
    page = np.full((height, width, 3), PAPER, np.uint8)
    top = 0
    for sheet in sheets:
        page[top : top + sheet.shape[0], : sheet.shape[1]] = sheet
        top += sheet.shape[0] + _GAP
    return page


def save(pixels: Pixels, path: Path) -> None:
    """Write a PNG. Raises OSError."""
    from PIL import Image

    Image.fromarray(pixels).save(path, "PNG")


def _panel(scene: Scene, store: FolderMediaStore, *, max_side: int, text_px: int) -> Pixels:
    """A picture with its masks, boxes and caption."""
    from PIL import Image

    pixels = pixels_of(store, scene.picture)
    for ref, tint in zip(scene.masks, TINTS, strict=False):
        pixels = tinted(pixels, pixels_of(store, ref)[..., 0] > 127, tint)
    picture, longer = Image.fromarray(np.ascontiguousarray(pixels)), max(pixels.shape[:2])
    scale = max_side / longer if longer > max_side else float(max(1, min(_LEGIBLE, max_side) // longer))
    if scale != 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    if scene.asked is not None:
        _label(picture, [Label(box=scene.asked)], scale, BLUE, text_px)
    _label(picture, scene.labels, scale, GREY if scene.missing else PINK, text_px)
    if not scene.caption:
        return np.asarray(picture)
    sheet = Image.new("RGB", (picture.width, picture.height + text_px + 8), PAPER)
    sheet.paste(picture, (0, 0))
    words = f"{scene.caption}{' hidden' if scene.missing else ''}"
    _write(sheet, (2, picture.height + 2), words, INK, text_px)
    return np.asarray(sheet)


def tinted(pixels: Pixels, mask: NDArray[np.bool_], tint: Colour) -> Pixels:
    """The picture with `mask` coloured and its border drawn."""
    painted = pixels.copy()
    painted[mask] = (pixels[mask] * (1 - _TINT) + np.array(tint) * _TINT).astype(np.uint8)
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    painted[mask & ~inner] = tint
    return painted


def _label(picture: Any, labels: Sequence[Label], scale: float, colour: Colour, text_px: int) -> None:
    from PIL import ImageDraw

    canvas = ImageDraw.Draw(picture)
    thick = max(1, round(max(picture.size) / 300))
    for label in labels:
        x0, y0, x1, y1 = (round(value * scale) for value in label.box)
        if x1 - x0 <= _POINT * scale and y1 - y0 <= _POINT * scale:
            x0, y0, x1, y1 = x0 - 3 * thick, y0 - 3 * thick, x1 + 3 * thick, y1 + 3 * thick
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=thick)
        if label.text:
            below = y1 + text_px + 4 < picture.height
            at = (x0 + thick + 1, y1 if below else max(0, y0 - text_px - 4))
            _write(picture, at, label.text, colour, text_px)


def _write(picture: Any, at: tuple[int, int], text: str, colour: Colour, text_px: int) -> None:
    """Words with a halo, so that they can be read on any ground; smaller where they do not fit into the width."""
    from PIL import ImageDraw, ImageFont

    canvas, room = ImageDraw.Draw(picture), picture.width - 4
    text = text if len(text) <= 60 else f"{text[:57]}..."
    while text_px > 8 and canvas.textlength(text, font=ImageFont.load_default(size=text_px)) > room:
        text_px -= 1
    font = ImageFont.load_default(size=text_px)
    x = max(1, min(at[0], round(picture.width - canvas.textlength(text, font=font)) - 2))
    canvas.text((x, at[1]), text, font=font, fill=colour, stroke_width=2, stroke_fill=(255, 255, 255))


def _in_a_row(panels: Sequence[Pixels]) -> Pixels:
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + _GAP * (len(panels) - 1)
    row = np.full((height, width, 3), PAPER, np.uint8)
    left = 0
    for panel in panels:
        row[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + _GAP
    return row


def _bar(intervals: Sequence[Interval], span_s: tuple[float, float], row_width: int, text_px: int) -> Pixels:
    """Time from left to right with the intervals filled; as wide as the row above it."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (row_width, 8 + _BAR + text_px + 8), PAPER)
    canvas = ImageDraw.Draw(sheet)
    start, stop = span_s
    lasting = max(stop - start, 1e-9)

    def across(second: float) -> int:
        return round(4 + (row_width - 9) * min(max((second - start) / lasting, 0.0), 1.0))

    canvas.rectangle((across(start), 8, across(stop), 8 + _BAR), fill=(227, 230, 235))
    for interval in intervals:
        canvas.rectangle(
            (across(interval.start_s), 8, max(across(interval.start_s) + 1, across(interval.stop_s)), 8 + _BAR),
            fill=PINK,
        )
        words = f"{interval.start_s:g}-{interval.stop_s:g}s {interval.text}".strip()
        _write(sheet, (across(interval.start_s), 11 + _BAR), words, INK, text_px)
    if not intervals:
        _write(sheet, (4, 11 + _BAR), f"nothing found in {start:g}-{stop:g}s", INK, text_px)
    return np.asarray(sheet)
