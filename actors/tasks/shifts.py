"""Shifts: how the world may look or move otherwise than in training, at a severity in [0, 1].

    dark      the ground loses light, things keep theirs          blur      a Gaussian blur of up to 6 px
    hue       things' colours turn on the colour circle           jpeg      JPEG at a quality down to 2
    wash      things fade towards the ground                      noise     up to ±160 of 255 on every channel
    ink       ink fades towards what it lies on, then inverts     stroke    letters up to 2 px bolder
    font      from 0.5 on another face, from 0.75 a bold serif    speed     clips run up to twice as fast
    occluder  the bar of clips hides up to 0.95 of what passes    drop      frames between the shown repeat others

Severity 0 changes nothing. What a shift costs a policy is measured, not assumed (docs/world.md).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHIFTS = ("dark", "hue", "wash", "noise", "jpeg", "blur", "ink", "stroke", "font", "speed", "occluder", "drop")
_MAX_NOISE, _MAX_BLUR_PX, _MIN_QUALITY, _MAX_STROKE_PX = 160, 6.0, 2, 2
_FACES = ((0.75, "DejaVuSerif-Bold.ttf"), (0.5, "DejaVuSansMono.ttf"))
"""From this severity on, this face; they come with matplotlib."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change of the world. kind: one of SHIFTS; severity in [0, 1]."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """How text is written. face: a font file, "" for Pillow's own. stroke: pixels of extra boldness. fade: how far the
    ink has gone from its own tone (0) over that of what it lies on (0.5) to its opposite (1)."""

    face: str = ""
    stroke: int = 0
    fade: float = 0.0

    def tone(self, own: int) -> int:
        """The grey level of ink whose own is 0 or 255."""
        return round(own + (255 - 2 * own) * self.fade)


def severity(shift: Shift | None, kind: str) -> float:
    """Of a shift of this kind; 0 for any other or none."""
    return shift.severity if shift is not None and shift.kind == kind else 0.0


def pen(shift: Shift | None) -> Pen:
    """The pen that text is written with under a shift."""
    face = next((face for least, face in _FACES if severity(shift, "font") >= least), "")
    return Pen(face=face, stroke=round(_MAX_STROKE_PX * severity(shift, "stroke")), fade=severity(shift, "ink"))


def paint(colour: Rgb, ground: int, shift: Shift | None) -> Rgb:
    """A colour under a shift, on a ground of that tone."""
    washed, turned = severity(shift, "wash"), severity(shift, "hue")
    if washed:
        red, green, blue = (int(v * (1 - washed) + ground * washed) for v in colour)
        return red, green, blue
    if turned:
        hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in colour))
        red, green, blue = (int(v * 255) for v in colorsys.hsv_to_rgb((hue + turned) % 1, saturation, value))
        return red, green, blue
    return colour


def developed(pixels: NDArray[np.uint8], shift: Shift | None, random: np.random.Generator) -> NDArray[np.uint8]:
    """A finished picture through a poor lens, sensor or file: noise, blur, jpeg; else as it is. RGB in and out."""
    if noise := severity(shift, "noise"):
        amplitude = round(noise * _MAX_NOISE)
        added = random.integers(-amplitude, amplitude + 1, pixels.shape)
        return (pixels.astype(np.int16) + added).clip(0, 255).astype(np.uint8)
    if blur := severity(shift, "blur"):
        import cv2

        blurred: NDArray[np.uint8] = cv2.GaussianBlur(pixels, (0, 0), _MAX_BLUR_PX * blur)
        return blurred
    if jpeg := severity(shift, "jpeg"):
        return _pressed(pixels, round(95 + (_MIN_QUALITY - 95) * jpeg))
    return pixels


def _pressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


@cache
def font(size: int, face: str = "") -> Any:
    """A font of Pillow's own face, or of a file that comes with matplotlib."""
    from PIL import ImageFont

    if not face:
        return ImageFont.load_default(size=size)
    from importlib.resources import files

    return ImageFont.truetype(str(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / face), size)
