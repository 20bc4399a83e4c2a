"""A recorded multi-turn run, for the rollout figure: what was said and what tools returned are fixed, so ours and
the peer see the same token ids, the same pictures, the same dependencies between turns, and sample as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.chat import Chat, canonical_json
from common.media import FolderMediaStore, put_image
from common.protocols import Generator, Sample
from common.types import ExecutedCall, MediaRef, Observation, Query, Sampling, ToolCall, Weights

TURNS = (
    '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>',
    '<tool_call>{"name":"OCR","arguments":{"image":"image_2"}}</tool_call>',
    "<answer>493</answer>",
)
"""What an agent says in the recording: a crop, a read, an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of an engine: the prompt (placeholders expanded), its views, and how many tokens were sampled."""

    prompt_ids: tuple[int, ...]
    images: tuple[MediaRef, ...]
    sampling: Sampling
    num_tokens: int


class Recorder:
    """Samples from the real engine, notes the request, and says what the recording says next."""

    def __init__(self, engine: Generator, chat: Chat) -> None:
        self._engine = engine
        self._said = [chat.written(text) for text in TURNS]
        self.requests: list[Request] = []

    @property
    def version(self) -> int:
        return self._engine.version

    async def generate(self, prompt_ids: Sequence[int], images: Sequence[MediaRef], sampling: Sampling) -> Sample:
        sample = await self._engine.generate(prompt_ids, images, sampling)
        said = self._said[len(self.requests) % len(self._said)]
        self.requests.append(
            Request(
                prompt_ids=tuple(prompt_ids),
                images=tuple(images),
                sampling=sampling,
                num_tokens=len(sample.token_ids),
            )
        )
        return replace(sample, token_ids=said, logprobs=(0.0,) * len(said), finished=True)

    async def load(self, weights: Weights) -> float:
        return await self._engine.load(weights)

    async def ping(self) -> None:
        await self._engine.ping()

    async def close(self) -> None:
        await self._engine.close()


class RecordedTools:
    """Tools that answer at once with what the recording holds."""

    def __init__(self, crop: MediaRef) -> None:
        self._crop = crop

    def open(self, query: Query) -> None:
        return None

    async def execute(self, call: ToolCall, workspace: None) -> tuple[ExecutedCall, None]:
        if call.name == "ZOOM":
            observation = Observation(text=canonical_json({"image": "image_2"}), image=self._crop)
        else:
            observation = Observation(text=canonical_json({"text": "493"}))
        return ExecutedCall(call=call, observation=observation), workspace

    def random_call(self, workspace: None, random: np.random.Generator) -> None:
        return None

    def back_ends(self) -> dict[str, str]:
        return {"ZOOM": "recorded", "OCR": "recorded"}

    async def close(self) -> None:
        pass


def recorded_queries(store: FolderMediaStore, count: int, *, siblings: int = 8) -> tuple[list[Query], MediaRef]:
    """`count` queries, every `siblings` of them over one picture, and the crop that ZOOM returns."""
    random = np.random.default_rng(0)
    pictures = [
        put_image(store, random.integers(0, 255, (448, 448, 3), dtype=np.uint8)) for _ in range(-(-count // siblings))
    ]
    crop = put_image(store, random.integers(0, 255, (60, 90, 3), dtype=np.uint8))
    queries = [
        Query(query_id=f"recorded-{i}", question="code on the red plate?", images=(pictures[i // siblings],))
        for i in range(count)
    ]
    return queries, crop
