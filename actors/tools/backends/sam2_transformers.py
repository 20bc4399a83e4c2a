"""SAM2 and EdgeTAM as transformers publishes them: a folder with config.json and safetensors.

A checkpoint of the video model holds the image model too, so one folder serves both ports. Pictures, points and masks
are brought to the model's square here, as its processors do, so a folder needs no processor files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends import edgetam
from actors.tools.backends.masks import extent, file_digest
from actors.tools.backends.sam2 import points_and_labels, prepared
from actors.tools.ports import Frames, Prompt, Region, Sighting
from common.errors import ModelError

MODELS = {
    "sam2": ("Sam2Model", None),
    "sam2_video": ("Sam2Model", "Sam2VideoModel"),
    "edgetam": ("EdgeTamModel", None),
    "edgetam_video": ("EdgeTamModel", "EdgeTamVideoModel"),
}
"""model_type of config.json → the classes for pictures and for clips."""


class TransformersSegmenter:
    """A `Segmenter`: Sam2Model or EdgeTamModel."""

    def __init__(self, model: Any) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._side = _side(model)

    def segment(self, pixels: NDArray[np.uint8], prompt: Prompt) -> Region:
        """The mask and the model's own estimate of its IoU; of three masks for a lone point, the surest."""
        torch = self._torch
        height, width = pixels.shape[:2]
        points, labels = points_and_labels(prompt)
        scale = np.array([self._side / width, self._side / height], np.float32)
        inputs: dict[str, Any] = {}
        if len(points):
            inputs["input_points"] = torch.from_numpy(points * scale)[None, None]
            inputs["input_labels"] = torch.from_numpy(labels)[None, None]
        if prompt.box is not None:
            corners = np.array(prompt.box, np.float32) * np.tile(scale, 2)
            inputs["input_boxes"] = torch.from_numpy(corners)[None, None]
        image = prepared(pixels, self._side, torch)[None]
        device = self._model.device
        with torch.inference_mode():
            found = self._model(
                pixel_values=image.to(device),
                multimask_output=prompt.box is None and len(points) == 1,
                **{name: value.to(device) for name, value in inputs.items()},
            )
            scores = found.iou_scores[0, 0].float().cpu().numpy()
            best = int(np.argmax(scores))
            logits = _resized(found.pred_masks[:, 0, best : best + 1], (height, width), torch)
        return Region(mask=(logits[0, 0] > 0).cpu().numpy(), score=float(np.clip(scores[best], 0, 1)))

    def segment_many(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> list[Region]:
        """`segment` of each, one after the other."""
        return [self.segment(pixels, prompt) for pixels, prompt in zip(pictures, prompts, strict=True)]


class TransformersTracker:
    """A `Tracker`: Sam2VideoModel or EdgeTamVideoModel, fed frame by frame."""

    def __init__(self, model: Any) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._side = _side(model)

    def track(self, frames: Frames, seed: Prompt) -> Iterator[Sighting]:
        """One sighting a frame; where the model says that there is no object, or shows no pixel, it is not visible."""
        torch = self._torch
        session = self._session(frames[0], seed)
        last = (0, 0, 1, 1)
        for index in range(len(frames)):
            pixels = frames[index]
            with torch.inference_mode():
                image = prepared(pixels, self._side, torch)
                found = self._model(session, frame_idx=index, frame=image.to(self._model.device))
                logits = _resized(found.pred_masks, pixels.shape[:2], torch)
                mask = (logits[0, 0] > 0).cpu().numpy()
                visible = bool(mask.any()) and float(found.object_score_logits.max()) > 0
            self._forget(session, index)
            last = extent(mask) if visible else last
            yield Sighting(box=last, visible=visible, mask=mask if visible else None)

    def _session(self, first: NDArray[np.uint8], seed: Prompt) -> Any:
        """A session that knows what to follow from frame 0 on."""
        import transformers

        torch, device = self._torch, self._model.device
        height, width = first.shape[:2]
        name = type(self._model).__name__.replace("Model", "InferenceSession")
        session = getattr(transformers, name)(
            video_height=height,
            video_width=width,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=self._model.dtype,
        )
        thing = session.obj_id_to_idx(1)
        if seed.mask is not None:
            mask = torch.from_numpy(seed.mask.astype(np.float32))[None, None]
            session.add_mask_inputs(thing, 0, (_resized(mask, (self._side, self._side), torch) >= 0.5).float())
        else:
            points, labels = points_and_labels(seed)
            if seed.box is not None:  # a box is its two corners, labelled 2 and 3
                points = np.concatenate([np.array(seed.box, np.float32).reshape(2, 2), points])
                labels = np.concatenate([np.array([2, 3], np.int32), labels])
            points = points * np.array([self._side / width, self._side / height], np.float32)
            session.add_point_inputs(
                thing,
                0,
                {
                    "point_coords": torch.from_numpy(points)[None, None],
                    "point_labels": torch.from_numpy(labels)[None, None],
                },
            )
        session.obj_with_new_inputs = [1]
        return session

    def _forget(self, session: Any, index: int) -> None:
        """Drop the frame, and the outputs that no later frame attends to."""
        session.processed_frames.pop(index)
        config = self._model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for kept in (session.output_dict_per_obj[0]["non_cond_frame_outputs"], session.frames_tracked_per_obj[0]):
            for old in [frame for frame in kept if frame <= index - reach]:
                del kept[old]


def _side(model: Any) -> int:
    """The side of the model's square input, in pixels."""
    size = model.config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


def _resized(masks: Any, size: tuple[int, ...], torch: Any) -> Any:
    """Masks or logits (1, 1, h, w) at another size."""
    return torch.nn.functional.interpolate(
        masks.float(), size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )


@functools.cache
def load_image_model(folder: Path) -> Any:
    """The model for pictures. Raises ModelError, one line."""
    return _load(folder, MODELS[model_type(folder)][0])


@functools.cache
def load_video_model(folder: Path) -> Any:
    """The model for clips; the folder `can_track`. Raises ModelError, one line."""
    name = MODELS[model_type(folder)][1]
    assert name is not None
    return _load(folder, name)


def _load(folder: Path, name: str) -> Any:
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = edgetam.read_config(folder, name) if name.startswith("EdgeTam") else None  # None: as config.json says
    try:
        model, report = getattr(transformers, name).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ModelError(f"{folder}: {name} does not load ({str(error).splitlines()[0]})") from error
    if report["missing_keys"]:
        raise ModelError(f"{folder}: no weights for {sorted(report['missing_keys'])[0]} of {name}")
    return model.eval().to(device)


def model_type(folder: Path) -> str:
    """What config.json says the model is; "" where there is no such file."""
    try:
        found = json.loads((folder / "config.json").read_text()).get("model_type", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return str(found)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds one of MODELS with weights."""
    return model_type(folder) in MODELS and any(folder.glob("*.safetensors"))


def can_track(folder: Path) -> bool:
    """Whether a checkpoint's folder holds a model for clips."""
    return MODELS[model_type(folder)][1] is not None


def describe(folder: Path) -> str:
    digests = "".join(file_digest(path) for path in sorted(folder.glob("*.safetensors")))
    short = file_digest(folder / "config.json")[:4] + digests[:8]
    return f"transformers {importlib.metadata.version('transformers')} ({model_type(folder)} {folder.name} {short})"
