"""Which segmenter serves SEG: SAM2 where its weights lie in the weights folder, else the classical one.

The folder holds one of SAM2's checkpoints, or a folder that transformers saved, or is such a folder itself.
"""

from __future__ import annotations

from pathlib import Path

from actors.tools.backends import sam2, sam2_transformers
from actors.tools.backends.classical_segmenter import ClassicalSegmenter
from actors.tools.config import ToolsConfig
from actors.tools.ports import Segmenter
from common.errors import ModelError


def build_segmenter(config: ToolsConfig) -> Segmenter:
    """The configured segmenter, loaded. Raises ModelError, one line."""
    checkpoint = chosen_checkpoint(config)
    if checkpoint is None:
        return ClassicalSegmenter()
    if checkpoint.is_dir():
        return sam2_transformers.TransformersSegmenter(sam2_transformers.load_image_model(checkpoint))
    return sam2.Sam2Segmenter(sam2.load(checkpoint, overrides=config.sam2_overrides, image_size=config.sam2_image_size))


def describe_segmenter(config: ToolsConfig) -> str:
    """The segmenter's name, version and weights, without loading it. Raises ModelError, one line."""
    checkpoint = chosen_checkpoint(config)
    if checkpoint is not None:
        return describe_checkpoint(checkpoint)
    import cv2

    return f"classical (opencv {cv2.__version__})"


def describe_checkpoint(checkpoint: Path) -> str:
    return sam2_transformers.describe(checkpoint) if checkpoint.is_dir() else sam2.describe(checkpoint)


def chosen_checkpoint(config: ToolsConfig) -> Path | None:
    """SAM2's checkpoint for `config.segmenter`, or None for the classical one. Raises ModelError, one line."""
    if config.segmenter == "classical" or (config.segmenter == "auto" and config.weights_dir is None):
        return None
    if config.weights_dir is None:
        raise ModelError("tools.segmenter=sam2 needs tools.weights_dir, a folder with a SAM2 checkpoint")
    checkpoint = find_checkpoint(Path(config.weights_dir))
    if checkpoint is None and config.segmenter == "sam2":
        raise ModelError(missing(Path(config.weights_dir), "segmenter"))
    return checkpoint


def find_checkpoint(folder: Path) -> Path | None:
    """The first checkpoint by name in `folder`: a file of SAM2's own or a folder of transformers."""
    if sam2_transformers.is_checkpoint(folder):
        return folder
    for path in sorted(folder.glob("*")):
        if sam2.is_checkpoint(path) or (path.is_dir() and sam2_transformers.is_checkpoint(path)):
            return path
    return None


def missing(folder: Path, setting: str) -> str:
    """What to do about a folder without a checkpoint."""
    return f"{folder}: no SAM2 checkpoint, such as sam2.1_hiera_tiny.pt; put one there or set tools.{setting}=auto"
