"""Likeness of words and pictures: a CLIP or SigLIP model from a local folder.

The folder is a transformers model as `save_pretrained` writes it: configuration, safetensors, tokenizer and image
processor. Nothing is downloaded, and no code of the folder is run.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.tools.backends.masks import file_digest
from common.errors import ModelError

KINDS = ("clip", "siglip", "siglip2")
"""`model_type` of the configurations that are known."""
BATCH = 16


class TransformersEncoder:
    """An `Encoder`. Loads the model when made. Raises ModelError, one line."""

    def __init__(self, folder: Path) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(f"{folder}: not a whole model ({str(error).splitlines()[0][:120]})") from error
        self._model.eval().to(self._device)
        self._padded = self._model.config.model_type != "clip"  # SigLIP was trained on texts of full length

    @property
    def scale(self) -> float:
        """What the model multiplies cosines by before a softmax or sigmoid."""
        return float(self._model.logit_scale.exp())

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, (len(texts), dimension)."""
        tokens = self._tokenizer(
            list(texts), padding="max_length" if self._padded else True, truncation=True, return_tensors="pt"
        ).to(self._device)
        with self._torch.inference_mode():
            return _unit(self._model.get_text_features(**tokens).pooler_output)

    def pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Unit vectors, (len(pictures), dimension)."""
        found = []
        for start in range(0, len(pictures), BATCH):
            part = [np.ascontiguousarray(pixels) for pixels in pictures[start : start + BATCH]]
            inputs = self._processor(images=part, return_tensors="pt", input_data_format="channels_last")
            with self._torch.inference_mode():
                found.append(_unit(self._model.get_image_features(**inputs.to(self._device)).pooler_output))
        return np.concatenate(found)


def encoder_folder(folder: Path) -> Path:
    """The first of `folder` and its subfolders that holds a known model. Raises ModelError, one line."""
    for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        config = place / "config.json"
        if config.is_file() and _kind(config) in KINDS:
            return place
    raise ModelError(f"{folder}: no CLIP or SigLIP model; put one there or set tools.encoder=auto")


def describe_encoder(folder: Path) -> str:
    """The back end's version and weights, without loading them."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder}: no .safetensors file beside config.json; save the model as safetensors")
    digests = ", ".join(file_digest(path)[:8] for path in weights)
    return f"{_kind(folder / 'config.json')} (transformers {importlib.metadata.version('transformers')}, {digests})"


def _kind(config: Path) -> str:
    try:
        return str(json.loads(config.read_text()).get("model_type", ""))
    except (json.JSONDecodeError, AttributeError):
        return ""


def _unit(features: Any) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (features / features.norm(dim=-1, keepdim=True)).float().cpu().numpy()
    return unit
