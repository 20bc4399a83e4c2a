"""SAM2 as its authors publish it (arXiv:2408.00714): the image predictor and the video predictor of package sam2.

A checkpoint is sam2's own `.pt`, read as tensors only, or the same tensors as safetensors; its name says which of the
package's configurations it belongs to. One loaded model serves both predictors.

The video predictor reads frames from memory, one at a time, and forgets what its memory attention no longer looks at,
so its state does not grow with the clip.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import extent, file_digest
from actors.tools.ports import Frames, Prompt, Region, Sighting
from common.errors import ModelError

CONFIGS = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "sam2_hiera_tiny": "configs/sam2/sam2_hiera_t.yaml",
    "sam2_hiera_small": "configs/sam2/sam2_hiera_s.yaml",
    "sam2_hiera_base_plus": "configs/sam2/sam2_hiera_b+.yaml",
    "sam2_hiera_large": "configs/sam2/sam2_hiera_l.yaml",
}
"""File stem of a checkpoint → its configuration inside the package."""
POSTPROCESSING = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
)
"""What build_sam2_video_predictor adds, but for its filling of holes, which needs a CUDA extension."""


class Sam2Segmenter:
    """A `Segmenter`: the image predictor."""

    def __init__(self, model: Any) -> None:
        import torch
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._torch = torch
        self._predictor: Any = SAM2ImagePredictor(model)
        # The predictor assumes 1024 px; its feature maps are a quarter, an eighth and a sixteenth of the side.
        self._predictor._bb_feat_sizes = [(model.image_size // part,) * 2 for part in (4, 8, 16)]

    def segment(self, pixels: NDArray[np.uint8], prompt: Prompt) -> Region:
        """The mask and SAM2's own estimate of its IoU. A lone point may mean a part or the whole: the surest of three
        masks is taken.
        """
        return self.segment_many([pixels], [prompt])[0]

    def segment_many(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> list[Region]:
        """`segment` of each, the image encoder run on all pictures together."""
        marks = [points_and_labels(prompt) for prompt in prompts]
        given = {
            "box_batch": [None if prompt.box is None else np.array(prompt.box, np.float32) for prompt in prompts],
            "point_coords_batch": [points if len(points) else None for points, _ in marks],
            "point_labels_batch": [labels if len(labels) else None for _, labels in marks],
        }
        alone = [prompt.box is None and len(points) == 1 for prompt, (points, _) in zip(prompts, marks, strict=True)]
        with self._torch.inference_mode():
            self._predictor.set_image_batch([np.ascontiguousarray(pixels) for pixels in pictures])
            # One mask or three is a choice for the whole batch; decoding costs little beside encoding.
            found = {
                choice: self._predictor.predict_batch(**given, multimask_output=choice) for choice in sorted(set(alone))
            }
        regions = []
        for index, choice in enumerate(alone):
            masks, scores, _ = (part[index] for part in found[choice])
            best = int(np.argmax(scores))
            regions.append(Region(mask=masks[best] > 0, score=float(np.clip(np.ravel(scores)[best], 0, 1))))
        return regions


class Sam2Tracker:
    """A `Tracker`: the video predictor."""

    def __init__(self, model: Any) -> None:
        import torch

        self._torch = torch
        self._model = model

    def track(self, frames: Frames, seed: Prompt) -> Iterator[Sighting]:
        """One sighting a frame; a frame where SAM2 says that there is no object, or shows no pixel, is not visible."""
        with self._torch.inference_mode():
            state = self._state(frames)
            if seed.mask is not None:
                self._model.add_new_mask(state, frame_idx=0, obj_id=1, mask=seed.mask)
            else:
                points, labels = points_and_labels(seed)
                box = None if seed.box is None else np.array(seed.box, np.float32)
                self._model.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=points, labels=labels, box=box)
        steps = self._model.propagate_in_video(state, start_frame_idx=0)
        last = (0, 0, 1, 1)
        while True:
            with self._torch.inference_mode():
                step = next(steps, None)
                if step is None:
                    return
                index, _, logits = step
                mask = (logits[0, 0] > 0).cpu().numpy()
                visible = bool(mask.any()) and self._score(state, index) > 0
                self._forget(state, index)
            last = extent(mask) if visible else last
            yield Sighting(box=last, visible=visible, mask=mask if visible else None)

    def _state(self, frames: Frames) -> dict[str, Any]:
        """What `init_state` makes, over frames in memory instead of a folder of files."""
        device = self._model.device
        height, width = frames[0].shape[:2]
        per_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked")
        return {
            "images": _Prepared(frames, self._model.image_size, self._torch),
            "num_frames": len(frames),
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
            "video_height": height,
            "video_width": width,
            "device": device,
            "storage_device": device,
            "cached_features": {},
            "constants": {},
            "obj_id_to_idx": {},
            "obj_idx_to_id": {},
            "obj_ids": [],
            **{f"{name}_per_obj": {} for name in per_object},
        }

    def _score(self, state: dict[str, Any], index: int) -> float:
        outputs = state["output_dict_per_obj"][0]
        kept = outputs["cond_frame_outputs"].get(index) or outputs["non_cond_frame_outputs"][index]
        return float(kept["object_score_logits"].max())

    def _forget(self, state: dict[str, Any], index: int) -> None:
        """Drop the outputs of frames that no later frame attends to: mask memories reach `num_maskmem` strides back,
        object pointers `max_obj_ptrs_in_encoder` frames.
        """
        model = self._model
        reach = max(model.num_maskmem * model.memory_temporal_stride_for_eval, model.max_obj_ptrs_in_encoder)
        for name in ("frames_tracked_per_obj", "output_dict_per_obj"):
            kept = state[name][0]
            kept = kept.get("non_cond_frame_outputs", kept)
            for old in [frame for frame in kept if frame <= index - reach]:
                del kept[old]


class _Prepared:
    """Frames as the model takes them: (3, side, side) float32, normalised; the most recent one is kept."""

    def __init__(self, frames: Frames, side: int, torch: Any) -> None:
        self._frames = frames
        self._side = side
        self._torch = torch
        self._recent: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Any:
        if self._recent is None or self._recent[0] != index:
            self._recent = index, prepared(self._frames[index], self._side, self._torch)
        return self._recent[1]


def prepared(pixels: NDArray[np.uint8], side: int, torch: Any) -> Any:
    """RGB pixels as SAM2's input: (3, side, side) float32, squeezed to a square, normalised as ImageNet's."""
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=True)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (image[0] - mean) / deviation


def points_and_labels(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points (n, 2) in pixels and their labels (n,): 1 on the thing, 0 off it."""
    points = np.array((*prompt.points, *prompt.negative), np.float32).reshape(-1, 2)
    labels = np.array([1] * len(prompt.points) + [0] * len(prompt.negative), np.int32)
    return points, labels


@functools.cache
def load(checkpoint: Path, *, overrides: tuple[str, ...] = (), image_size: int = 1024) -> Any:
    """The model of a checkpoint, on a GPU where there is one; loaded once. Raises ModelError, one line."""
    import torch
    from sam2 import sam2_video_predictor
    from sam2.build_sam import build_sam2_video_predictor
    from tqdm import tqdm  # type: ignore[import-untyped]

    sam2_video_predictor.tqdm = functools.partial(tqdm, disable=True)  # its progress bar has no switch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_sam2_video_predictor(
        CONFIGS[checkpoint.stem],
        None,
        device=device,
        apply_postprocessing=False,
        hydra_overrides_extra=[*POSTPROCESSING, *size_overrides(image_size), *overrides],
    )
    try:
        model.load_state_dict(_tensors(checkpoint, torch))
    except (RuntimeError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{checkpoint}: does not hold the weights of {checkpoint.stem} ({reason})") from error
    return model


def _tensors(checkpoint: Path, torch: Any) -> dict[str, Any]:
    if checkpoint.suffix == ".pt":
        found: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
        return found
    from safetensors.torch import load_file

    loaded: dict[str, Any] = load_file(str(checkpoint))
    return loaded


def is_checkpoint(path: Path) -> bool:
    """Whether a file's name is that of one of SAM2's checkpoints."""
    return path.stem in CONFIGS and path.suffix in (".safetensors", ".pt")


def describe(checkpoint: Path) -> str:
    return f"sam2 {importlib.metadata.version('sam2')} ({checkpoint.stem} {file_digest(checkpoint)[:8]})"


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
