"""Back ends that need weights: SAM2's own loading at a shrunk size, and NanoTrack where its networks are at hand."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes.tools import plates

from actors.tools.backends.trackers import NANO_FILES, CorrelationTracker, NanoTracker, nano_files
from actors.tools.catalogue import describe_back_ends, furnish
from actors.tools.config import ToolsConfig
from common.geometry import iou
from common.media import FolderMediaStore

SHRUNK = (
    "++model.image_encoder.trunk.embed_dim=32",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[256,128,64,32]",
    "++model.memory_attention.num_layers=1",
)
TRACKER_WEIGHTS = Path(os.environ.get("PIXELIS_TRACKER_WEIGHTS", Path(__file__).parents[2] / "shared/data/trackers"))


def test_sam2_is_used_when_a_checkpoint_lies_in_the_weights_folder(tmp_path):
    import torch
    from safetensors.torch import save_file
    from sam2.build_sam import build_sam2

    from actors.tools.backends.segmenters import size_overrides

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_sam2(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        None,
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[*size_overrides(256), *SHRUNK],
    )
    save_file(model.state_dict(), tmp_path / "sam2.1_hiera_tiny.safetensors")
    config = ToolsConfig(
        num_workers=0, ocr="none", weights_dir=str(tmp_path), sam2_overrides=SHRUNK, sam2_image_size=256
    )
    assert describe_back_ends(config)["SEG"].startswith("sam2 1.1.0 (sam2.1_hiera_tiny ")
    segmenter = furnish(config, FolderMediaStore(tmp_path / "media")).segmenter
    pixels = plates(0).pixels[:200, :300]
    for place in ({"box": (40, 30, 160, 120), "point": None}, {"box": None, "point": (100, 80)}):
        mask, score = segmenter.segment(pixels, **place)
        again, _ = segmenter.segment(pixels, **place)
        assert mask.shape == (200, 300) and mask.dtype == bool and score is not None
        assert np.array_equal(mask, again)


@pytest.mark.weights
def test_supplied_sam2_weights_segment_a_plate():
    folder = os.environ.get("PIXELIS_WEIGHTS_DIR")
    if folder is None:
        pytest.skip("set PIXELIS_WEIGHTS_DIR to a folder with a SAM2 checkpoint")
    scene = plates(0)
    config = ToolsConfig(num_workers=0, ocr="none", segmenter="sam2", weights_dir=folder)
    segmenter = furnish(config, FolderMediaStore(Path(folder) / ".media")).segmenter
    x0, y0, x1, y1 = scene.boxes[0]
    mask, _ = segmenter.segment(scene.pixels, box=scene.boxes[0], point=None)
    truth = np.zeros(mask.shape, bool)
    truth[y0 : y1 + 1, x0 : x1 + 1] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


@pytest.mark.skipif(not TRACKER_WEIGHTS.is_dir(), reason=f"NanoTrack's networks are not in {TRACKER_WEIGHTS}")
def test_nanotrack_is_used_when_its_networks_lie_in_the_weights_folder(tmp_path):
    for name, source in zip(NANO_FILES, ("nanov2_backbone.onnx", "nanov2_head.onnx"), strict=True):
        shutil.copy(TRACKER_WEIGHTS / source, tmp_path / name)
    config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(tmp_path))
    assert describe_back_ends(config)["TRK"].startswith("NanoTrack")
    frames, boxes = drifting_plate(8)
    first, again = (NanoTracker(nano_files(tmp_path)).track(frames, boxes[0]) for _ in range(2))
    assert first == again
    assert np.mean([iou(box, true) for (box, _), true in zip(first, boxes, strict=True)]) > 0.7


def test_the_correlation_tracker_keeps_to_a_plate_that_crosses_others():
    frames, boxes = drifting_plate(24)
    found = CorrelationTracker().track(frames, boxes[0])
    assert np.mean([iou(box, true) for (box, _), true in zip(found, boxes, strict=True)]) > 0.8


def drifting_plate(num_frames):
    """A plate that drifts 12 px right and 4 px down a frame across a scene of other plates; its boxes."""
    ground, plate = plates(3, num_plates=4).pixels, plates(5)
    x0, y0, x1, y1 = plate.boxes[0]
    frames, boxes = [], []
    for index in range(num_frames):
        left, top = 20 + 12 * index, 100 + 4 * index
        frame = ground.copy()
        frame[top : top + y1 - y0, left : left + x1 - x0] = plate.pixels[y0:y1, x0:x1]
        frames.append(frame)
        boxes.append((left, top, left + x1 - x0, top + y1 - y0))
    return frames, boxes
