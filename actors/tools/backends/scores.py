"""How much of what is asked for each frame of a clip shows: one number a frame.

Frames come one after another and are shrunk as they come, so a long clip of large frames takes little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.shapes import find_shapes
from actors.tools.colours import NAMES, lab, name_indices
from actors.tools.ports import Encoder
from actors.tools.zoom import resample

Pixels = NDArray[np.uint8]

SIDE = 256
"""Frames are compared with their longer side at most this long."""
BATCH = 16
FAR = 64.0
"""Levels (of 255) that a masked pattern may differ by before nothing of it is left."""
NOTHING = ("a photo", "an empty scene", "a background")
"""What a text is weighed against."""
_BINS = 6
"""Levels a channel of Lab, in histograms of colours."""


def shrunk(pixels: Pixels) -> Pixels:
    return resample(pixels, min_side=1, max_side=SIDE)


def colour_scores(frames: Iterable[Pixels], colours: Sequence[str]) -> list[float]:
    """The share of each frame's pixels that are called one of `colours`."""
    indices = [NAMES.index(colour) for colour in colours]
    return [float(np.isin(name_indices(shrunk(frame)), indices).mean()) for frame in frames]


def shape_scores(frames: Iterable[Pixels], shape: str, colours: Sequence[str]) -> list[float]:
    """The share of each frame that regions of `shape` take, of one of `colours` where any are named."""
    scores = []
    for frame in frames:
        small = shrunk(frame)
        fitting = [
            item for item in find_shapes(small) if item.shape == shape and (not colours or item.colour in colours)
        ]
        scores.append(sum(item.area for item in fitting) / (small.shape[0] * small.shape[1]))
    return scores


def change_scores(frames: Iterable[Pixels]) -> list[float]:
    """How far each frame's colours are from those of the frame before, in [0, 1]; 0 for the first.

    Half the sum of |p − q| over a histogram of colours: what only moves keeps its colours and does not count.
    """
    scores: list[float] = []
    before: NDArray[np.float64] | None = None
    for frame in frames:
        now = _histogram(shrunk(frame))
        scores.append(0.0 if before is None else float(np.abs(now - before).sum() / 2))
        before = now
    return scores


def picture_scores(frames: Iterable[Pixels], pattern: Pixels, mask: NDArray[np.bool_] | None = None) -> list[float]:
    """How well `pattern` (its pixels in `mask`) fits anywhere in each frame, in [0, 1].

    A pattern larger than the frames is shrunk to fit. Several sizes around its own are tried.
    """
    scores = []
    for frame in frames:
        small = shrunk(frame)
        scale = small.shape[1] / frame.shape[1]
        scores.append(max(_fit(small, pattern, mask, scale * size) for size in (1.0, 0.8, 1.25)))
    return scores


def text_scores(frames: Iterable[Pixels], text: str, encoder: Encoder) -> list[float]:
    """The share that `text` gets of a softmax over it and `NOTHING`, frame by frame."""
    words = encoder.texts([text, *NOTHING])
    scores: list[float] = []
    for part in _batches(frames):
        logits = encoder.scale * (encoder.pictures(part) @ words.T)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores += [float(value) for value in odds[:, 0] / odds.sum(axis=1)]
    return scores


def likeness_scores(frames: Iterable[Pixels], pattern: Pixels, encoder: Encoder) -> list[float]:
    """The cosine between `pattern` and the frame or the quarter of it (nine, overlapping) that is most like it."""
    wanted = encoder.pictures([pattern])[0]
    return [float((encoder.pictures(_parts(frame)) @ wanted).max()) for frame in frames]


def _parts(frame: Pixels) -> list[Pixels]:
    height, width = frame.shape[:2]
    half = max(1, height // 2), max(1, width // 2)
    corners = [(height * row // 4, width * column // 4) for row in range(3) for column in range(3)]
    return [frame, *(frame[top : top + half[0], left : left + half[1]] for top, left in corners)]


def _batches(frames: Iterable[Pixels]) -> Iterable[list[Pixels]]:
    source = iter(frames)
    while part := list(islice(source, BATCH)):
        yield part


def _fit(frame: Pixels, pattern: Pixels, mask: NDArray[np.bool_] | None, scale: float) -> float:
    """How well `pattern` fits at its best place in `frame`, at `scale`, in [0, 1].

    The normalised correlation of the colours; of a masked pattern, or one of a single shade, which correlates with
    nothing, 1 − d / FAR with d the root of the mean squared difference.
    """
    import cv2

    inside = min(scale, frame.shape[1] / pattern.shape[1], frame.shape[0] / pattern.shape[0])
    size = max(1, int(pattern.shape[1] * inside)), max(1, int(pattern.shape[0] * inside))
    small = cv2.resize(np.ascontiguousarray(pattern), size, interpolation=cv2.INTER_AREA)
    if mask is None and float(small.std(axis=(0, 1)).max()) >= 1:
        found = cv2.matchTemplate(frame, small, cv2.TM_CCOEFF_NORMED)
        return float(np.clip(np.nan_to_num(found, posinf=0, neginf=0).max(), 0.0, 1.0))
    whole = np.ones(pattern.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
    weights = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    if weights.sum() < 1:
        return 0.0
    floats = frame.astype(np.float32), small.astype(np.float32)
    squares = cv2.matchTemplate(*floats, cv2.TM_SQDIFF, mask=np.repeat(weights[..., None], 3, axis=2))
    difference = np.sqrt(max(0.0, float(squares.min())) / (3 * float((weights**2).sum())))
    return float(max(0.0, 1 - difference / FAR))


def _histogram(pixels: Pixels) -> NDArray[np.float64]:
    """Shares of pixels in cells of Lab, (_BINS³,); a pixel belongs to its cells by linear weights, so that a little
    noise changes a little.
    """
    values = lab(pixels).reshape(-1, 3).astype(np.float64)
    places = (values + np.array([0, 100, 100])) * ((_BINS - 1) / 100, (_BINS - 1) / 200, (_BINS - 1) / 200)
    places = places.clip(0, _BINS - 1 - 1e-6)
    low = places.astype(np.int64)
    share = places - low
    histogram = np.zeros(_BINS**3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share), axis=1)
        cell = low + corner
        histogram += np.bincount((cell[:, 0] * _BINS + cell[:, 1]) * _BINS + cell[:, 2], weight, minlength=_BINS**3)
    return histogram / len(values)
