"""Published weights: safetensors buckets with a digest a tensor, and a canary.

Tensors stream through one at a time, so no rank ever holds a whole model under ZeRO-3. A version's folder appears
whole: it is written aside, then renamed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from blake3 import blake3
from safetensors.torch import save_file
from torch import Tensor

from common.chat import Chat
from common.media import FolderMediaStore, put_view
from common.types import Query, Trace, Turn
from common.types import Tensor as TensorRecord
from learner.anchor import tensor_bytes

CANARY_SIDE = 224
"""Pixels a side of the canary's picture before it is fitted to the model."""


class BucketWriter:
    """Writes named tensors into `folder` as bucket-0000.safetensors, … of about `bucket_bytes` each, or as one file
    called `only`."""

    def __init__(self, folder: Path, *, bucket_bytes: int = 2**63, only: str = "") -> None:
        self._folder = folder
        self._aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        self._bucket_bytes = bucket_bytes
        self._only = only
        self._waiting: dict[str, Tensor] = {}
        self._num_bytes = 0
        self._buckets: list[str] = []
        self.records: list[TensorRecord] = []

    def add(self, name: str, tensor: Tensor) -> None:
        whole = tensor.detach().to("cpu", copy=True).contiguous()
        record = TensorRecord(
            name=name,
            bucket=len(self._buckets),
            dtype=str(whole.dtype).removeprefix("torch."),
            shape=tuple(whole.shape),
            digest=blake3(tensor_bytes(whole)).hexdigest(),
        )
        self.records.append(record)
        self._waiting[name] = whole
        self._num_bytes += whole.numel() * whole.element_size()
        if self._num_bytes >= self._bucket_bytes:
            self._flush()

    def _flush(self) -> None:
        name = self._only or f"bucket-{len(self._buckets):04d}.safetensors"
        save_file(self._waiting, self._aside / name, metadata={"format": "pt"})
        self._buckets.append(name)
        self._waiting, self._num_bytes = {}, 0

    def note(self, name: str, text: str) -> None:
        """A small file beside the buckets."""
        (self._aside / name).write_text(text)

    def close(self) -> tuple[str, ...]:
        """Finish; returns the paths of the buckets."""
        if self._waiting:
            self._flush()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._aside.rename(self._folder)
        return tuple(str(self._folder / name) for name in self._buckets)


def canary_trace(chat: Chat, store: FolderMediaStore) -> Trace:
    """A fixed question about a fixed picture (colour ramps), and a fixed answer with weight 1."""
    width, height = chat.vision.fit(CANARY_SIDE, CANARY_SIDE)
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    view = put_view(store, np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))
    query = Query(query_id="canary", question="What is the number on the plate?")
    turns = (
        chat.question(query, [view]),
        Turn(role="assistant", token_ids=chat.written("<answer>493</answer>")),
    )
    weights = tuple(float(turn.role == "assistant") for turn in turns for _ in turn.token_ids)
    return Trace(trace_id="canary", family="", level=0, kind="", query=query, turns=turns, weights=weights)


def export(folder: Path, model_folder: Path, buckets: tuple[str, ...], records: list[TensorRecord]) -> None:
    """Make a published snapshot a transformers folder: the buckets, their index, and the model folder's other files."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in sorted(model_folder.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, aside / file.name)
    if len(buckets) == 1:
        shutil.copyfile(buckets[0], aside / "model.safetensors")
    else:
        names = [f"model-{i + 1:05d}-of-{len(buckets):05d}.safetensors" for i in range(len(buckets))]
        for source, name in zip(buckets, names, strict=True):
            shutil.copyfile(source, aside / name)
        index = {"metadata": {}, "weight_map": {record.name: names[record.bucket] for record in records}}
        (aside / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
