"""Trackers: correlation with what was seen, without weights, and OpenCV's NanoTrack, a small Siamese network.

Without weights a frame is searched near the last place for what best correlates with the first frame's patch or with
the last patch that was surely the thing, at three scales; while it is lost the whole frame is searched for the first
patch. Both trackers give the same boxes for the same frames, which reenactment needs (OpenCV's MIL does not).

NanoTrack's own score stays high on whatever resembles the thing, so there a frame counts as seen when the colours in
its box still resemble those of the first one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.media import content_digest
from common.types import Box

NANO_FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")
MIN_LIKENESS = 0.5
"""Correlation (of patches, or of colour histograms) under which a box holds something else."""
SURE = 0.8
"""Correlation above which a patch is trusted as the thing's new looks."""
SCALES = (1.0, 0.96, 1.04)
MIN_SIDE = 4
"""Pixels; a smaller patch correlates with anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """Where a patch fits best. score: normalised correlation in [−1, 1]."""

    box: Box
    score: float


class CorrelationTracker:
    """A `Tracker` without weights."""

    def track(self, frames: Iterable[NDArray[np.uint8]], box: Box) -> list[tuple[Box, bool]]:
        """A box in pixels and whether the thing is seen, one a frame; the first frame holds it in `box`."""
        found: list[tuple[Box, bool]] = []
        looks: list[NDArray[np.uint8]] = []
        for pixels in frames:
            if not found:
                looks = [_cut(pixels, box)] * 2
                found.append((box, True))
                continue
            last, seen = found[-1]
            whole = (0, 0, pixels.shape[1], pixels.shape[0])
            region = _around(last, pixels.shape) if seen else whole
            match = max((_best(pixels, region, patch, last) for patch in looks), key=lambda match: match.score)
            if match.score < MIN_LIKENESS and region != whole:
                match = _best(pixels, whole, looks[0], last)
            if match.score >= SURE:
                looks[1] = _cut(pixels, match.box)
            seen = match.score >= MIN_LIKENESS
            found.append((match.box if seen else last, seen))
        return found


def _best(pixels: NDArray[np.uint8], region: Box, patch: NDArray[np.uint8], last: Box) -> _Match:
    """The best place for `patch`, near the size of `last`, inside `region` of a frame."""
    import cv2

    x0, y0, x1, y1 = region
    searched = np.ascontiguousarray(pixels[y0:y1, x0:x1])
    best = _Match(box=last, score=-1.0)
    for scale in SCALES:
        width, height = round((last[2] - last[0]) * scale), round((last[3] - last[1]) * scale)
        if not (MIN_SIDE <= width <= x1 - x0 and MIN_SIDE <= height <= y1 - y0):
            continue
        sized = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA)
        if float(sized.std()) < 1:  # a patch of one shade correlates with nothing
            continue
        _, score, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(searched, sized, cv2.TM_CCOEFF_NORMED))
        # Another scale must earn its place, or rounding makes the box creep.
        if score > best.score + (0.0 if scale == 1 else 0.01):
            best = _Match(box=(x0 + x, y0 + y, x0 + x + width, y0 + y + height), score=float(score))
    return best


def _around(box: Box, shape: tuple[int, ...]) -> Box:
    """The box and its own size on every side, within the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        max(0, box[0] - width),
        max(0, box[1] - height),
        min(shape[1], box[2] + width),
        min(shape[0], box[3] + height),
    )


def _cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]])


class NanoTracker:
    """A `Tracker`: OpenCV's NanoTrack. files: its backbone and its head, as ONNX."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self._files = files

    def track(self, frames: Iterable[NDArray[np.uint8]], box: Box) -> list[tuple[Box, bool]]:
        """A box in pixels and whether the thing is seen, one a frame; the first frame holds it in `box`."""
        import cv2

        settings = cv2.TrackerNano.Params()
        settings.backbone, settings.neckhead = (str(path) for path in self._files)
        tracker = cv2.TrackerNano.create(settings)
        found: list[tuple[Box, bool]] = []
        first: NDArray[np.float32] | None = None
        for pixels in frames:
            image = np.ascontiguousarray(pixels)
            if first is None:
                tracker.init(image, (box[0], box[1], box[2] - box[0], box[3] - box[1]))
                first = _colours(image, box)
                found.append((box, True))
                continue
            followed, (x, y, width, height) = tracker.update(image)
            place = _within((x, y, x + width, y + height), image.shape) if followed else found[-1][0]
            likeness = cv2.compareHist(first, _colours(image, place), cv2.HISTCMP_CORREL)
            found.append((place, bool(followed and likeness >= MIN_LIKENESS)))
        return found


def nano_files(folder: Path) -> tuple[Path, Path]:
    """NanoTrack's two networks in `folder`. Raises ModelError, one line."""
    backbone, head = (folder / name for name in NANO_FILES)
    for path in (backbone, head):
        if not path.is_file():
            raise ModelError(f"{path}: no such file; put NanoTrack's two networks there or set tools.tracker=auto")
    return backbone, head


def describe_tracker(nano: tuple[Path, Path] | None) -> str:
    """The back end's version and weights."""
    import cv2

    if nano is None:
        return f"correlation (opencv {cv2.__version__})"
    return f"NanoTrack (opencv {cv2.__version__}, {content_digest(b''.join(path.read_bytes() for path in nano))[:8]})"


def _within(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> Box:
    """A box of at least one pixel inside the picture."""
    height, width = shape[:2]
    x0, y0 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2]))), max(y0 + 1, min(height, round(box[3])))


def _colours(image: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    """Histogram of hue and saturation inside the box."""
    import cv2

    inside = cv2.cvtColor(_cut(image, box), cv2.COLOR_RGB2HSV)
    histogram: NDArray[np.float32] = cv2.calcHist([inside], [0, 1], None, [24, 8], [0, 180, 0, 256])
    return histogram
