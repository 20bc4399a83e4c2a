"""Trackers of OpenCV: MIL, which learns from the first frame alone, and NanoTrack, a small Siamese network with
weights.

Neither says by itself whether the thing is still there (NanoTrack's score stays high on whatever resembles it), so a
frame counts as seen when the colours in its box still resemble those of the first one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.media import content_digest
from common.types import Box

NANO_FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")
MIN_LIKENESS = 0.5
"""Correlation of colour histograms under which the box holds something else."""


class OpenCvTracker:
    """A `Tracker`. nano: paths of NanoTrack's backbone and head, or None for MIL."""

    def __init__(self, nano: tuple[Path, Path] | None = None) -> None:
        self._nano = nano

    def track(self, frames: Iterable[NDArray[np.uint8]], box: Box) -> list[tuple[Box, bool]]:
        """A box in pixels and whether the thing is seen, one a frame; the first frame holds it in `box`."""
        import cv2

        cv2.setRNGSeed(0)  # MIL samples its examples with OpenCV's global generator
        tracker = self._made()
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

    def _made(self) -> Any:
        import cv2

        if self._nano is None:
            return cv2.TrackerMIL.create()
        settings = cv2.TrackerNano.Params()
        settings.backbone, settings.neckhead = (str(path) for path in self._nano)
        return cv2.TrackerNano.create(settings)


def nano_files(folder: Path) -> tuple[Path, Path]:
    """NanoTrack's two networks in `folder`. Raises ModelError, one line."""
    backbone, head = (folder / name for name in NANO_FILES)
    for path in (backbone, head):
        if not path.is_file():
            raise ModelError(f"{path}: no such file; put NanoTrack's two networks there or set tools.tracker=auto")
    return backbone, head


def describe_tracker(nano: tuple[Path, Path] | None) -> str:
    import cv2

    if nano is None:
        return f"MIL (opencv {cv2.__version__})"
    return f"NanoTrack (opencv {cv2.__version__}, {content_digest(b''.join(path.read_bytes() for path in nano))[:8]})"


def _within(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> Box:
    """A box of at least one pixel inside the picture."""
    height, width = shape[:2]
    x0, y0 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2]))), max(y0 + 1, min(height, round(box[3])))


def _colours(image: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    """Histogram of hue and saturation inside the box."""
    import cv2

    inside = cv2.cvtColor(np.ascontiguousarray(image[box[1] : box[3], box[0] : box[2]]), cv2.COLOR_RGB2HSV)
    histogram: NDArray[np.float32] = cv2.calcHist([inside], [0, 1], None, [24, 8], [0, 180, 0, 256])
    return histogram
