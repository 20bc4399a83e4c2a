"""Ports: what a room asks of its collaborators. Each has a real implementation and one for tests (tests/fakes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.types import MediaRef, Sampling, VersionSpan, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What an engine sampled after a prompt.

    token_ids: sampled ids, the closing <|im_end|> included when reached. logprobs: one a token, in nats, after
    temperature and bans.
    versions: spans over token_ids. finished: ended by itself (not by the token limit). shaped: see Turn.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[VersionSpan, ...]
    finished: bool
    shaped: tuple[tuple[int, int], ...] = ()


class Generator(Protocol):
    """A live engine with a policy snapshot."""

    @property
    def version(self) -> int:
        """The policy version that new tokens are sampled under."""
        ...

    async def generate(self, prompt_ids: Sequence[int], images: Sequence[MediaRef], sampling: Sampling) -> Sample:
        """Sample one turn. `prompt_ids` have their image placeholders expanded; `images` are views in their order."""
        ...

    async def load(self, weights: Weights) -> float:
        """Take published weights without dropping requests in flight. Returns the seconds the engine stood still.

        Raises WeightsError, and keeps the old weights, when a digest does not match or the canary disagrees.
        """
        ...

    async def ping(self) -> None:
        """Proof of life. Raises ActorDied when the engine has ended."""
        ...

    async def close(self) -> None: ...


class Embedder(Protocol):
    """A frozen encoder of queries. Vectors have length 1; `digest` names the encoder, `dimension` the length."""

    @property
    def digest(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, question: str, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Shape (dimension,), norm 1. `pictures`: RGB, each (height, width, 3)."""
        ...
