"""What the model sees of a picture.

"fixed": letterboxed to a small square by area averaging, with a thin frame of four colours whose lines tell a small
model where the borders are. "native": resized to the size that the model's processor would choose, so that it changes
nothing.

Augmentations make voters differ: the same picture, a little brighter, of another tint, or moved by a pixel or two.
They have names such as "hue:3", and a name always gives the same pixels. The numbers run through a Halton sequence, so
a handful of voters already covers the ranges evenly. Tools never see them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from actors.config import ViewConfig
from common.chat import VisionShape
from common.media import FolderMediaStore, pixels_of, put_view
from common.types import MediaRef, Query

Pixels = NDArray[np.uint8]

AUGMENTATIONS = ("brightness", "hue", "shift", "mixed")
"""Kinds; a name is a kind, a colon and a number, "mixed" being all three."""

_BRIGHTNESS = (0.7, 1.6)
_HUE = 0.04
_SHIFT = 1 / 32
"""Bounds of the factor (evenly on a logarithmic scale), and the largest changes: of the colour circle, of the side."""


def see(
    pixels: Pixels, config: ViewConfig, vision: VisionShape, augmentation: str = "", frame: int | None = None
) -> Pixels:
    """The view of a picture: RGB, (height, width, 3) in and out. frame: its index in a clip; None for a still picture.

    Raises ValueError for an augmentation that has no meaning.
    """
    if config.kind == "native":
        height, width = pixels.shape[:2]
        columns, rows = vision.fit(width, height)
        return augment(_resize(pixels, columns, rows), augmentation)
    framed = _frame(augment(_letterbox(pixels, config), augmentation), config)
    if frame is None:
        return framed
    return number(framed, frame, cell=vision.patch * vision.merge)


def number(view: Pixels, frame: int, *, cell: int) -> Pixels:
    """Mark a clip's frame: in every cell (one visual token) a dot of 2×2 px whose red, green and blue are the bits
    of the index modulo 8, so each token knows its frame without asking its neighbours.
    """
    colour = [255 * (frame >> bit & 1) for bit in range(3)]
    marked = view.copy()
    for row in (2, 3):
        for column in (2, 3):
            marked[row::cell, column::cell] = colour
    return marked


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Area averaging where it shrinks, linear where it grows."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width <= pixels.shape[1] and height <= pixels.shape[0]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


def _letterbox(pixels: Pixels, config: ViewConfig) -> Pixels:
    height, width = pixels.shape[:2]
    scale = config.side / max(height, width)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    view = np.empty((config.side, config.side, 3), np.uint8)
    view[:] = config.fill
    top, left = (config.side - rows) // 2, (config.side - columns) // 2
    view[top : top + rows, left : left + columns] = _resize(pixels, columns, rows)
    return view


def _frame(view: Pixels, config: ViewConfig) -> Pixels:
    if not config.frame_px:
        return view
    framed, thick = view.copy(), config.frame_px
    top, bottom, left, right = config.frame
    framed[:thick], framed[-thick:] = top, bottom
    framed[:, :thick], framed[:, -thick:] = left, right
    return framed


def augment(pixels: Pixels, name: str) -> Pixels:
    """Apply the augmentation called `name` ("" changes nothing)."""
    if not name:
        return pixels
    kind, _, number = name.partition(":")
    if kind not in AUGMENTATIONS or not number.isdecimal():
        raise ValueError(f'views must be "" or one of {", ".join(AUGMENTATIONS)} and a number ("hue:3"), got {name!r}')
    lightness, tint, down, across = (van_der_corput(int(number), base) for base in (2, 3, 5, 7))
    if kind in ("brightness", "mixed"):
        low, high = _BRIGHTNESS
        pixels = np.clip(np.rint(pixels * (low * (high / low) ** lightness)), 0, 255).astype(np.uint8)
    if kind in ("hue", "mixed"):
        pixels = _turn_hue(pixels, _HUE * (2 * tint - 1))
    if kind in ("shift", "mixed"):
        most = max(1, round(_SHIFT * max(pixels.shape[:2])))
        pixels = _move(pixels, *(round(most * (2 * share - 1)) for share in (down, across)))
    return pixels


def van_der_corput(number: int, base: int) -> float:
    """The digits of `number` mirrored at the point, in [0, 1): 1, 2, 3 in base 2 give 1/2, 1/4, 3/4. Numbers in
    prime bases side by side are a Halton sequence (Halton 1960)."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


def _turn_hue(pixels: Pixels, share: float) -> Pixels:
    from PIL import Image

    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 256) % 256)  # wraps, as the colour circle does
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _move(pixels: Pixels, down: int, across: int) -> Pixels:
    """Move the content; the border it leaves repeats the edge."""
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - across, 0, pixels.shape[1] - 1)
    return np.ascontiguousarray(pixels[rows][:, columns])


class Viewer:
    """Makes views of stored pictures and keeps them in the same store."""

    def __init__(
        self, store: FolderMediaStore, vision: VisionShape, config: ViewConfig, *, max_kept: int = 16384
    ) -> None:
        self._store = store
        self._vision = vision
        self._config = config
        self._kept: OrderedDict[tuple[str, str, int | None], MediaRef] = OrderedDict()
        self._max_kept = max_kept

    async def view(self, picture: MediaRef, augmentation: str = "", frame: int | None = None) -> MediaRef:
        """The view of `picture`, made on a thread the first time. frame: its index, where it is of a clip. Raises
        MediaError when the store lacks it.
        """
        key = (picture.digest, augmentation, frame)
        found = self._kept.get(key)
        if found is not None and found.digest in self._store:
            self._kept.move_to_end(key)
            return found
        made = await asyncio.to_thread(self._make, picture, augmentation, frame)
        self._kept[key] = made
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return made

    def _make(self, picture: MediaRef, augmentation: str, frame: int | None) -> MediaRef:
        pixels = pixels_of(self._store, picture)
        return put_view(self._store, see(pixels, self._config, self._vision, augmentation, frame))

    async def of_query(self, query: Query, augmentation: str = "") -> list[MediaRef]:
        """The views that a query opens with: its pictures, or the frames of its clip that are shown."""
        if query.clip is None:
            return [await self.view(picture, augmentation) for picture in query.images]
        return [await self.view(query.clip.frames[i], augmentation, i) for i in query.clip.shown]
