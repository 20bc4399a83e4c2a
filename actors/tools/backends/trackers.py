"""Which tracker serves TRK: SAM2's or NanoTrack where their weights lie in the weights folder, else the classical
one.
"""

from __future__ import annotations

from pathlib import Path

from actors.tools.backends import nano, sam2, sam2_transformers
from actors.tools.backends.classical_segmenter import ClassicalSegmenter
from actors.tools.backends.classical_tracker import ClassicalTracker
from actors.tools.backends.segmenters import describe_checkpoint, find_checkpoint, missing
from actors.tools.config import ToolsConfig
from actors.tools.ports import Tracker
from common.errors import ModelError


def build_tracker(config: ToolsConfig) -> Tracker:
    """The configured tracker, loaded. Raises ModelError, one line."""
    kind, checkpoint = chosen_tracker(config)
    if kind == "classical" or checkpoint is None:
        return ClassicalTracker(ClassicalSegmenter())
    if kind == "nano":
        return nano.NanoTracker(nano.find_files(checkpoint), ClassicalSegmenter())
    if checkpoint.is_dir():
        return sam2_transformers.TransformersTracker(sam2_transformers.load_video_model(checkpoint))
    return sam2.Sam2Tracker(sam2.load(checkpoint, overrides=config.sam2_overrides, image_size=config.sam2_image_size))


def describe_tracker(config: ToolsConfig) -> str:
    """The tracker's name, version and weights, without loading it. Raises ModelError, one line."""
    kind, checkpoint = chosen_tracker(config)
    if kind == "nano" and checkpoint is not None:
        return nano.describe(nano.find_files(checkpoint))
    if checkpoint is not None:
        return describe_checkpoint(checkpoint)
    import cv2

    return f"classical (opencv {cv2.__version__})"


def chosen_tracker(config: ToolsConfig) -> tuple[str, Path | None]:
    """ "sam2" with its checkpoint, "nano" with its folder, or "classical". Raises ModelError, one line, for what is
    configured and not there.
    """
    if config.tracker == "classical" or (config.tracker == "auto" and config.weights_dir is None):
        return "classical", None
    if config.weights_dir is None:
        raise ModelError(f"tools.tracker={config.tracker} needs tools.weights_dir, the folder with its weights")
    folder = Path(config.weights_dir)
    if config.tracker == "nano":
        nano.find_files(folder)
        return "nano", folder
    checkpoint = find_checkpoint(folder)
    if checkpoint is not None and (checkpoint.is_file() or sam2_transformers.can_track(checkpoint)):
        return "sam2", checkpoint
    if config.tracker == "sam2":
        if checkpoint is not None:
            raise ModelError(f"{checkpoint}: a model for pictures cannot track; put a *_video checkpoint there")
        raise ModelError(missing(folder, "tracker"))
    return ("nano", folder) if all((folder / name).is_file() for name in nano.FILES) else ("classical", None)
