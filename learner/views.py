"""Views as the model wants them: raw RGB pixels cut into normalised patches.

Equal to transformers' Qwen2VLImageProcessor without its resize, which views have had already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.chat import VisionShape
from common.errors import ModelError
from common.media import FolderMediaStore, pixels_of
from common.types import MediaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelShape:
    """A model's patches and colour statistics. temporal: copies of a still picture that make one patch."""

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pixel_shape(folder: Path, vision: VisionShape) -> PixelShape:
    """Read the processor's own file. Raises ModelError, one line."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(folder) / name
        if file.is_file():
            values = json.loads(file.read_text())
            values = values.get("image_processor", values)
            return PixelShape(
                patch=vision.patch,
                merge=vision.merge,
                temporal=int(values.get("temporal_patch_size", 2)),
                mean=tuple(values["image_mean"]),
                std=tuple(values["image_std"]),
            )
    raise ModelError(f"{folder}: no preprocessor_config.json; the model's processor is needed")


def patchify(pixels: NDArray[np.uint8], shape: PixelShape) -> NDArray[np.float32]:
    """(height, width, 3) → (patches, 3·temporal·patch²), rows ordered merge block by merge block, values (x/255 −
    mean)/std."""
    patch, merge = shape.patch, shape.merge
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    mean, std = np.asarray(shape.mean, np.float32) * 255, np.asarray(shape.std, np.float32) * 255
    normal = (pixels.astype(np.float32) - mean) / std
    blocks = normal.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[..., None, :, :]
    repeated = np.repeat(ordered, shape.temporal, axis=5)
    return np.ascontiguousarray(repeated.reshape(rows * columns, -1))


class Views:
    """Patches of stored views."""

    def __init__(self, store: FolderMediaStore, vision: VisionShape, shape: PixelShape) -> None:
        self._store = store
        self._vision = vision
        self._shape = shape

    def patches(self, refs: Sequence[MediaRef]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """All patches, (patches, features), and the grids, (picture, 3). Raises MediaError for a picture the store
        lacks."""
        pixels = [patchify(pixels_of(self._store, ref), self._shape) for ref in refs]
        return np.concatenate(pixels), np.array([self._vision.grid(ref) for ref in refs], np.int64)
