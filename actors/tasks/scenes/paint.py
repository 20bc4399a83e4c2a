"""Laying things down front to back: a pixel belongs to the first thing that claims it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scene import COLOURS
from actors.tasks.scenes.ground import clouds
from common.types import Box

BAR_COLOURS: dict[str, tuple[int, int, int]] = {"brown": (120, 75, 40), "black": (24, 24, 28)}
MIN_CONTRAST = 100
"""Sum over the channels of |paint − ground| that three quarters of what lies behind a thing must reach."""


def colour_names(random: np.random.Generator) -> list[str]:
    """The eight colours of things in a random order."""
    return [str(name) for name in random.permutation(list(COLOURS))]


def shaded(random: np.random.Generator, silhouette: NDArray[np.bool_], shading: float) -> NDArray[np.int32]:
    """How light a thing is in places, in 1/1024 of its paint; int32, (height, width).

    Half of it is a slope across the thing and half is a soft pattern; nowhere further than `shading` from 1024.
    """
    height, width = silhouette.shape
    if shading == 0:
        return np.full((height, width), 1024, np.int32)
    right, down = (int(v) for v in random.integers(-128, 129, 2))
    slope = (
        right * (2 * np.arange(width, dtype=np.int32)[None, :] - width) // width
        + down * (2 * np.arange(height, dtype=np.int32)[:, None] - height) // height
    ) // 2
    pattern = clouds(random, height, width, (4, 12)).astype(np.int32) - 128
    light: NDArray[np.int32] = 1024 + (slope + pattern) * round(1024 * shading) // 256
    return light


def painted(rgb: tuple[int, int, int], light: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A paint under a light (see `shaded`): rgb · light / 1024, rounded and clipped; (height, width, 3)."""
    lit: NDArray[np.uint8] = ((np.array(rgb) * light[..., None] + 512) >> 10).clip(0, 255).astype(np.uint8)
    return lit


def lay(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    layers: Iterable[tuple[int, tuple[int, int], NDArray[np.bool_], NDArray[np.uint8]]],
) -> None:
    """Paint layers (number, (x, y), silhouette, patch), the front one first, where nothing lies yet, in place.

    (x, y) is where the silhouette's first pixel comes to lie; what reaches out of the picture is left out.
    """
    height, width = labels.shape
    for number, (x, y), silhouette, patch in layers:
        x0, y0, x1, y1 = clipped((x, y, x + silhouette.shape[1], y + silhouette.shape[0]), height, width)
        if x0 >= x1 or y0 >= y1:
            continue
        inside = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        free = silhouette[inside] & (labels[y0:y1, x0:x1] == 0)
        labels[y0:y1, x0:x1][free] = number
        np.copyto(pixels[y0:y1, x0:x1], patch[inside], where=free[..., None])


def clipped(box: Box, height: int, width: int) -> Box:
    """The part of a box inside the picture; empty when x0 ≥ x1 or y0 ≥ y1."""
    return max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])


def stands_out(ground: NDArray[np.uint8], box: Box, rgb: tuple[int, int, int]) -> bool:
    """Whether a paint is far enough from most of the ground in a box, looked at in every fourth row and column."""
    x0, y0, x1, y1 = clipped(box, *ground.shape[:2])
    behind = ground[y0:y1:4, x0:x1:4].reshape(-1, 3).astype(np.int16)
    far = np.abs(behind - np.array(rgb, np.int16)).sum(axis=1) >= MIN_CONTRAST
    return int(far.sum()) * 4 >= 3 * len(far)
