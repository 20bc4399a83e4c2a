"""NanoTrack: a small Siamese network that OpenCV runs, where its two ONNX files are at hand.

Its own score stays high on whatever resembles the thing, so a frame counts as seen when the colours in its box still
resemble those of the first one. It makes boxes, no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import extent, file_digest
from actors.tools.ports import Frames, Prompt, Segmenter, Sighting
from common.errors import ModelError
from common.types import Box

FILES = ("nanotrack_backbone.onnx", "nanotrack_head.onnx")
MIN_LIKENESS = 0.5
"""Correlation of colour histograms under which a box holds something else."""


class NanoTracker:
    """A `Tracker`. files: backbone and head, as ONNX. segmenter: finds the box of a thing that points mark."""

    def __init__(self, files: tuple[Path, Path], segmenter: Segmenter) -> None:
        self._files = files
        self._segmenter = segmenter

    def track(self, frames: Frames, seed: Prompt) -> Iterator[Sighting]:
        """A box a frame."""
        import cv2

        settings = cv2.TrackerNano.Params()
        settings.backbone, settings.neckhead = (str(path) for path in self._files)
        tracker = cv2.TrackerNano.create(settings)
        image = np.ascontiguousarray(frames[0])
        box = self._box(image, seed)
        tracker.init(image, (box[0], box[1], box[2] - box[0], box[3] - box[1]))
        first = _colours(image, box)
        yield Sighting(box=box, visible=True)
        for index in range(1, len(frames)):
            image = np.ascontiguousarray(frames[index])
            followed, (x, y, width, height) = tracker.update(image)
            box = _within((x, y, x + width, y + height), image.shape) if followed else box
            likeness = cv2.compareHist(first, _colours(image, box), cv2.HISTCMP_CORREL)
            yield Sighting(box=box, visible=bool(followed and likeness >= MIN_LIKENESS))

    def _box(self, image: NDArray[np.uint8], seed: Prompt) -> Box:
        if seed.box is not None:
            return seed.box
        mask = self._segmenter.segment(image, seed).mask if seed.mask is None else seed.mask
        box = extent(mask)
        return _within((float(box[0]), float(box[1]), float(box[2]), float(box[3])), image.shape)


def find_files(folder: Path) -> tuple[Path, Path]:
    """The two networks in `folder`. Raises ModelError, one line."""
    backbone, head = (folder / name for name in FILES)
    for path in (backbone, head):
        if not path.is_file():
            raise ModelError(f"{path}: no such file; put NanoTrack's two networks there or set tools.tracker=auto")
    return backbone, head


def describe(files: tuple[Path, Path]) -> str:
    import cv2

    return f"NanoTrack (opencv {cv2.__version__}, {''.join(file_digest(path)[:4] for path in files)})"


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
