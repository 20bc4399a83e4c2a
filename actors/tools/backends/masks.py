"""What the back ends share about masks, boxes and files of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.types import Box


def extent(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around a mask; (0, 0, 0, 0) around an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_mask(shape: tuple[int, ...], box: Box) -> NDArray[np.bool_]:
    """What lies inside a box."""
    mask = np.zeros(shape[:2], bool)
    mask[max(0, box[1]) : box[3], max(0, box[0]) : box[2]] = True
    return mask


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union in [0, 1]; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    """The box with `margin` px more on every side, within a picture of `shape`."""
    height, width = shape[:2]
    return max(0, box[0] - margin), max(0, box[1] - margin), min(width, box[2] + margin), min(height, box[3] + margin)


def file_digest(path: Path) -> str:
    """blake3 of a file, hexadecimal, without reading it into memory."""
    from blake3 import blake3

    return blake3().update_mmap(path).hexdigest()
