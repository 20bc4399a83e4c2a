"""Segmenters: GrabCut and colour floods without weights, SAM2 with them.

Without weights a box is separated by GrabCut (Rother et al. 2004): colour mixtures of what lies inside and around
it, cut where they meet. A point takes the connected region whose colour is close to the point's. Both see the region
at most `SIDE` px long and are seeded, so the same call gives the same mask.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.noise import MAX_NOISE, noise
from actors.tools.colours import lab
from common.errors import ModelError
from common.media import content_digest
from common.types import Box

SIDE = 320
TOLERANCE = 14.0
"""CIELAB distance to the point's colour within which a pixel belongs to it; a just noticeable difference is about 2."""
SAM2_CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "sam2_hiera_tiny": "configs/sam2/sam2_hiera_t.yaml",
    "sam2_hiera_small": "configs/sam2/sam2_hiera_s.yaml",
    "sam2_hiera_base_plus": "configs/sam2/sam2_hiera_b+.yaml",
    "sam2_hiera_large": "configs/sam2/sam2_hiera_l.yaml",
}
"""File stem of a checkpoint → its configuration inside the sam2 package."""


class GrabCut:
    """A `Segmenter` without weights."""

    def segment(
        self, pixels: NDArray[np.uint8], *, box: Box | None, point: tuple[int, int] | None
    ) -> tuple[NDArray[np.bool_], float | None]:
        """The mask (height, width); there is no score."""
        if box is not None:
            return self._in_box(pixels, box), None
        assert point is not None
        return self._at_point(pixels, point), None

    def _in_box(self, pixels: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
        import cv2

        height, width = pixels.shape[:2]
        margin = max(8, round(0.4 * max(box[2] - box[0], box[3] - box[1])))
        x0, y0 = max(0, box[0] - margin), max(0, box[1] - margin)
        x1, y1 = min(width, box[2] + margin), min(height, box[3] + margin)
        scale = min(1.0, SIDE / max(x1 - x0, y1 - y0))
        size = max(2, round((x1 - x0) * scale)), max(2, round((y1 - y0) * scale))
        region = cv2.resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
        labels = np.full(region.shape[:2], cv2.GC_BGD, np.uint8)
        left, top = int((box[0] - x0) * scale), int((box[1] - y0) * scale)
        right, bottom = max(left + 1, round((box[2] - x0) * scale)), max(top + 1, round((box[3] - y0) * scale))
        labels[top:bottom, left:right] = cv2.GC_PR_FGD
        if (labels == cv2.GC_PR_FGD).all():
            labels[[0, -1], :] = labels[:, [0, -1]] = cv2.GC_BGD
        if min(int((labels == cv2.GC_BGD).sum()), int((labels == cv2.GC_PR_FGD).sum())) < 16:
            inside = labels == cv2.GC_PR_FGD
        else:
            cv2.setRNGSeed(0)
            cv2.grabCut(region, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
            inside = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
            inside = _largest_piece(inside) if inside.any() else _box_mask(inside.shape, (left, top, right, bottom))
        mask = np.zeros((height, width), bool)
        back = cv2.resize(inside.astype(np.uint8), (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
        mask[y0:y1, x0:x1] = back > 0
        return mask

    def _at_point(self, pixels: NDArray[np.uint8], point: tuple[int, int]) -> NDArray[np.bool_]:
        import cv2

        x, y = point
        image = np.ascontiguousarray(pixels)
        values = lab(cv2.medianBlur(image, 5) if noise(image) > MAX_NOISE else image)
        near = (((values - values[y, x]) ** 2).sum(axis=-1) <= TOLERANCE**2).astype(np.uint8)
        _, labels = cv2.connectedComponents(near, connectivity=4)
        same: NDArray[np.bool_] = labels == labels[y, x]
        return same


class Sam2:
    """A `Segmenter`: SAM2's image predictor with a checkpoint (safetensors, or sam2's own .pt read as tensors only)."""

    def __init__(self, checkpoint: Path, *, overrides: tuple[str, ...] = (), image_size: int = 1024) -> None:
        import torch
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._torch = torch
        device = "cuda" if torch.cuda.is_available() else "cpu"
        as_pickle = checkpoint.suffix == ".pt"
        model = build_sam2(
            SAM2_CONFIGS[checkpoint.stem],
            str(checkpoint) if as_pickle else None,
            device=device,
            apply_postprocessing=False,
            hydra_overrides_extra=[*size_overrides(image_size), *overrides],
        )
        if not as_pickle:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(str(checkpoint), device=device))
        self._predictor: Any = SAM2ImagePredictor(model)
        if image_size != 1024:
            # The predictor assumes 1024 px; its feature maps are a quarter, an eighth and a sixteenth of the side.
            self._predictor._bb_feat_sizes = [(image_size // part,) * 2 for part in (4, 8, 16)]

    def segment(
        self, pixels: NDArray[np.uint8], *, box: Box | None, point: tuple[int, int] | None
    ) -> tuple[NDArray[np.bool_], float | None]:
        """The mask (height, width) and SAM2's own estimate of its IoU."""
        with self._torch.inference_mode():
            self._predictor.set_image(np.ascontiguousarray(pixels))
            masks, scores, _ = self._predictor.predict(
                box=None if box is None else np.array(box, np.float32),
                point_coords=None if point is None else np.array([point], np.float32),
                point_labels=None if point is None else np.array([1]),
                multimask_output=False,
            )
        return masks[0] > 0, float(scores[0])


def sam2_checkpoint(folder: Path) -> Path:
    """The first known checkpoint in `folder`. Raises ModelError, one line."""
    for path in sorted(folder.glob("*")):
        if path.stem in SAM2_CONFIGS and path.suffix in (".safetensors", ".pt"):
            return path
    raise ModelError(
        f"{folder}: no SAM2 checkpoint, such as sam2.1_hiera_tiny.pt; put one there or set tools.segmenter=auto"
    )


def describe_sam2(checkpoint: Path) -> str:
    digest = content_digest(checkpoint.read_bytes())[:8]
    return f"sam2 {importlib.metadata.version('sam2')} ({checkpoint.stem} {digest})"


def size_overrides(image_size: int) -> list[str]:
    """Hydra overrides for an input other than SAM2's 1024 px: the memory attention works on a sixteenth of the side."""
    if image_size == 1024:
        return []
    side = image_size // 16
    layer = "++model.memory_attention.layer"
    return [
        f"++model.image_size={image_size}",
        f"{layer}.self_attention.feat_sizes=[{side},{side}]",
        f"{layer}.cross_attention.feat_sizes=[{side},{side}]",
    ]


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _box_mask(shape: tuple[int, ...], box: Box) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask
