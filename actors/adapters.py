"""Adapters that the engine serves beside its base weights: which one new requests take, and when one may go.

A new adapter joins the ones in use, so nothing pauses: a request keeps the adapter it began with to its end, and the
next one takes the newest. Prefixes are cached under the adapter's name, so none is ever read by another's request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.types import Weights

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for."""
MAX_SERVED = 3
"""Adapters that one step of the engine may mix: the newest, the one before, whose requests are ending, and one that is
on trial."""


def reserved_rank(rank: int) -> int:
    """The least rank that vLLM reserves room for and that holds an adapter of `rank`."""
    return next(each for each in RANKS if each >= rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One version's adapter in the engine."""

    version: int
    folder: Path

    @property
    def number(self) -> int:
        """The engine's own, from 1."""
        return self.version + 1

    def request(self) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        return LoRARequest(lora_name=f"v{self.version}", lora_int_id=self.number, lora_path=str(self.folder))


def adapter_of(weights: Weights) -> Adapter:
    (file,) = weights.buckets
    return Adapter(version=weights.version, folder=Path(file).resolve().parent)


class Served:
    """The adapters in the engine and how many requests use each. `remove` takes one out of the engine by its number."""

    def __init__(self, remove: Callable[[int], Awaitable[object]]) -> None:
        self._remove = remove
        self._users: dict[Adapter, int] = {}
        self._freed = asyncio.Event()
        self.newest: Adapter | None = None

    @property
    def versions(self) -> list[int]:
        """Of the adapters in the engine."""
        return [adapter.version for adapter in self._users]

    @contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """Within, `adapter` stays in the engine."""
        if adapter is None:
            yield
            return
        self._users[adapter] += 1
        try:
            yield
        finally:
            self._users[adapter] -= 1
            self._freed.set()

    @contextmanager
    def on_trial(self, adapter: Adapter) -> Iterator[None]:
        """Within, `adapter`, which has just been given to the engine, stays there; afterwards as the newest only."""
        self._users[adapter] = 0
        with self.using(adapter):
            yield

    async def room(self) -> None:
        """Wait until another adapter may join: until the requests of all but the newest and one more have ended."""
        while True:
            self._freed.clear()
            await self.sweep()
            if len(self._users) < MAX_SERVED:
                return
            await self._freed.wait()

    async def sweep(self) -> None:
        """Take out the adapters that nobody uses and nobody will: all unused ones but the newest."""
        while unused := [each for each, users in self._users.items() if not users and each != self.newest]:
            del self._users[unused[0]]
            await self._remove(unused[0].number)
