"""What transformers itself says about a model folder: the outside truth for sampled log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.chat import Chat
from common.media import FolderMediaStore, pixels_of
from common.types import Canary, MediaRef, Tensor, Weights


class Reference:
    """A plain forward pass in float32, one sequence at a time, pictures through the folder's own processor."""

    def __init__(self, folder: Path, chat: Chat, store: FolderMediaStore) -> None:
        import transformers as hf

        self._model = hf.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
        self._processor = hf.AutoImageProcessor.from_pretrained(folder)
        self._chat = chat
        self._store = store

    def logits(self, ids: Sequence[int], images: Sequence[MediaRef]) -> NDArray[np.float64]:
        """(tokens, vocabulary): row i predicts token i + 1."""
        import torch
        from PIL import Image

        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids)])}
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == self._chat.image_pad).int()
        if images:
            pictures = [Image.fromarray(pixels_of(self._store, view)) for view in images]
            inputs |= dict(self._processor(images=pictures, return_tensors="pt"))
        with torch.no_grad():
            return np.asarray(self._model(**inputs).logits[0].double().numpy())

    def logprobs(
        self, ids: Sequence[int], images: Sequence[MediaRef], *, temperature: float = 1.0, banned: Sequence[int] = ()
    ) -> NDArray[np.float64]:
        """(tokens,): of each token after the ones before it; the first has NaN."""
        logits = self.logits(ids, images)
        logits[:, list(banned)] = -np.inf
        scaled = logits / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        table = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return np.concatenate([[np.nan], table[np.arange(len(ids) - 1), np.asarray(ids[1:])]])

    def greedy(
        self, ids: Sequence[int], images: Sequence[MediaRef], num_tokens: int, *, banned: Sequence[int] = ()
    ) -> list[int]:
        """The likeliest continuation, token by token."""
        grown = list(ids)
        for _ in range(num_tokens):
            last = self.logits(grown, images)[-1]
            last[list(banned)] = -np.inf
            grown.append(int(last.argmax()))
        return grown[len(ids) :]

    def canary(self, ids: Sequence[int], images: Sequence[MediaRef], token_ids: Sequence[int]) -> Canary:
        whole = [*ids, *token_ids]
        logprobs = self.logprobs(whole, images, banned=self._chat.banned)[len(ids) :]
        return Canary(
            prompt_ids=tuple(ids), images=tuple(images), token_ids=tuple(token_ids), logprobs=tuple(logprobs.tolist())
        )


def weights_of(folder: Path, version: int, *, canary: Canary | None = None) -> Weights:
    """A model folder as published weights, its one file as the only bucket."""
    from blake3 import blake3
    from safetensors import safe_open

    file = next(Path(folder).glob("*.safetensors"))
    with safe_open(file, "np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors = tuple(
        Tensor(
            name=name, bucket=0, dtype="float32", shape=tuple(array.shape), digest=blake3(array.tobytes()).hexdigest()
        )
        for name, array in arrays.items()
    )
    return Weights(
        version=version, parent=version - 1, step=version, buckets=(str(file),), tensors=tensors, canary=canary
    )
