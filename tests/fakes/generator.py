"""A generator that says what it is told, token by token, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.chat import Chat
from common.errors import ActorDied
from common.protocols import Sample
from common.types import MediaRef, Sampling, VersionSpan, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    prompt_ids: tuple[int, ...]
    images: tuple[MediaRef, ...]
    sampling: Sampling


class ScriptedGenerator:
    """Says `script[i]` in its i-th turn, then starts over. Every token has log-prob −0.5.

    A turn longer than the sampling's max_tokens is cut there and not finished.
    """

    def __init__(
        self,
        chat: Chat,
        script: Sequence[str],
        *,
        version: int = 0,
        logprob: float = -0.5,
        shaped: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self._chat = chat
        self._script = list(script)
        self._version = version
        self._logprob = logprob
        self._shaped = shaped
        self.asked: list[Asked] = []
        self.loaded: list[Weights] = []
        self.closed = False

    @property
    def version(self) -> int:
        return self._version

    async def generate(self, prompt_ids: Sequence[int], images: Sequence[MediaRef], sampling: Sampling) -> Sample:
        said = self._script[len(self.asked) % len(self._script)]
        self.asked.append(Asked(prompt_ids=tuple(prompt_ids), images=tuple(images), sampling=sampling))
        whole = self._chat.written(said)
        ids = whole[: sampling.max_tokens]
        return Sample(
            token_ids=ids,
            logprobs=(self._logprob,) * len(ids),
            versions=(VersionSpan(start=0, stop=len(ids), version=self._version),),
            finished=len(ids) == len(whole),
            shaped=self._shaped,
        )

    async def load(self, weights: Weights) -> float:
        self.loaded.append(weights)
        self._version = weights.version
        return 0.0

    async def ping(self) -> None:
        """It lives until it is closed."""
        if self.closed:
            raise ActorDied("the scripted engine has ended")

    async def close(self) -> None:
        self.closed = True
