"""What lies behind the things: a quiet tone, a muted texture, or a photograph.

Textures and photographs are resampled by OpenCV's fixed-point methods only, so they have the same bytes everywhere.
The photographs are PNG files that come with scikit-image; nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tasks.scenes.truth import Ground
from common.media import decode_image

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "motorcycle_left")


def draw_ground(random: np.random.Generator, ground: Ground, side: int) -> NDArray[np.uint8]:
    """RGB, (side, side, 3)."""
    if ground == "quiet":
        tone = np.clip(random.integers(150, 236) + random.integers(-8, 9, 3), 0, 255)
        return np.broadcast_to(tone.astype(np.uint8), (side, side, 3)).copy()
    return _texture(random, side) if ground == "texture" else _photograph(random, side)


def clouds(random: np.random.Generator, height: int, width: int, cells: tuple[int, ...]) -> NDArray[np.uint8]:
    """Value noise, uint8, (height, width): an octave for each number of cells, half as strong as the one before."""
    cv2 = one_thread()
    total = np.zeros((height, width), np.uint16)
    weights = [1 << (len(cells) - 1 - octave) for octave in range(len(cells))]
    for weight, count in zip(weights, cells, strict=True):
        grid = random.integers(0, 256, (count, count), dtype=np.uint8)
        total += np.uint16(weight) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    mixed: NDArray[np.uint8] = (total // np.uint16(sum(weights))).astype(np.uint8)
    return mixed


def add_static(random: np.random.Generator, pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The ground with `count` patches of independent random pixels, each of a fifth of the side; RGB."""
    side = len(pixels) // 5
    patched = pixels.copy() if count else pixels
    for _ in range(count):
        x, y = (int(value) for value in random.integers(0, len(pixels) - side + 1, 2))
        patched[y : y + side, x : x + side] = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return patched


def add_noise(random: np.random.Generator, pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Noise of standard deviation `sigma` (of 255) on every channel: the difference of two uniform bytes, scaled.

    A uniform byte has variance (256² − 1) / 12, so the difference of two has a deviation of 104.5.
    """
    if sigma == 0:
        return pixels
    raw = np.frombuffer(random.bytes(2 * pixels.size), np.uint8).reshape(2, *pixels.shape).astype(np.int32)
    scaled = ((raw[0] - raw[1]) * round(sigma * 256 / 104.5) + 128) >> 8
    noisy: NDArray[np.uint8] = (pixels + scaled).clip(0, 255).astype(np.uint8)
    return noisy


def one_thread() -> Any:
    """cv2, told to work in the calling thread alone: pictures this small only wait for other threads."""
    import cv2

    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    return cv2


def _texture(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    cv2 = one_thread()
    soft = clouds(random, side, side, (int(random.integers(3, 9)), int(random.integers(14, 30)), side // 4))
    pattern = str(random.choice(("clouds", "stripes", "tiles", "grain")))
    rows, columns = np.arange(side, dtype=np.int32)[:, None], np.arange(side, dtype=np.int32)[None, :]
    if pattern == "stripes":
        along, across = (int(v) for v in random.integers(-16, 17, 2))
        period = max(abs(along) + abs(across), 8) * int(random.integers(10, 24))
        wave = (along * rows + across * columns) % period * 510 // period
        values = (np.minimum(wave, 510 - wave) + soft) // 2
    elif pattern == "tiles":
        tile = int(random.integers(18, 49))
        joint = (rows % tile < 2) | (columns % tile < 2)
        shades = random.integers(60, 256, (side // tile + 1, side // tile + 1))
        values = np.where(joint, 0, shades[rows // tile, columns // tile] * 2 + soft) // 3
    elif pattern == "grain":
        grains = np.frombuffer(random.bytes(side * side), np.uint8).reshape(side, side).astype(np.int32)
        values = (2 * soft.astype(np.int32) + grains) // 3
    else:
        values = soft.astype(np.int32)
    painted: NDArray[np.uint8] = cv2.LUT(cv2.merge([values.astype(np.uint8)] * 3), _palette(random))
    return painted


def _palette(random: np.random.Generator) -> NDArray[np.uint8]:
    """256 muted colours between a darker and a lighter one; (1, 256, 3)."""
    middle, contrast = int(random.integers(95, 191)), int(random.integers(28, 52))
    tint = random.integers(-12, 13, 3)
    steps = np.arange(256)[:, None]
    palette = middle + tint * (steps - 32) // 128 + (steps - 128) * contrast // 128
    clipped: NDArray[np.uint8] = palette.clip(0, 255).astype(np.uint8)
    return clipped[None]


def _photograph(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A square cut of one of the photographs, mirrored half of the time."""
    cv2 = one_thread()
    whole = _load(PHOTOGRAPHS[int(random.integers(len(PHOTOGRAPHS)))])
    height, width = whole.shape[:2]
    cut = int(random.integers(min(height, width) * 3 // 4, min(height, width) + 1))
    y, x = int(random.integers(0, height - cut + 1)), int(random.integers(0, width - cut + 1))
    mirrored = bool(random.integers(2))
    square = np.ascontiguousarray(whole[y : y + cut, x : x + cut][:, :: -1 if mirrored else 1])
    resized: NDArray[np.uint8] = cv2.resize(square, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    return resized


@cache
def _load(name: str) -> NDArray[np.uint8]:
    path = files("skimage").joinpath("data", f"{name}.png")
    pixels = decode_image(path.read_bytes(), name=f"{name}.png")
    pixels.setflags(write=False)
    return pixels
