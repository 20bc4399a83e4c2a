"""What `nearest` remembers: experiences become entries of the neighbour index, which a process merges meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from common.errors import ContractError, ReplayError
from common.types import Neighbour
from replay.records import Experience

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from replay.index import NeighbourIndex, Wanted
    from replay.index.merging import Merge


_P = ParamSpec("_P")
_R = TypeVar("_R")


class Remembering:
    """A neighbour index behind an event loop: calls take turns, in the order in which they came, in one thread.

    durable: waits until the records of everything that was followed are; the index is not written before, or a loss of
    power could leave it with experiences that the log does not hold.
    """

    def __init__(self, index: NeighbourIndex, *, durable: Callable[[], Awaitable[None]]) -> None:
        self._index = index
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-index")
        self._task: asyncio.Task[None] | None = None
        self._merging: Merge | None = None
        self._closed = False

    @property
    def num_entries(self) -> int:
        return len(self._index)

    @property
    def merge_error(self) -> str:
        """Why the last merge failed, "" when it did not."""
        return self._index.merge_error

    def experience(
        self,
        vector: NDArray[np.float32],
        *,
        query_id: str,
        family: str,
        chain: tuple[str, ...],
        answer: str | None,
        confidence: float,
        source: str = "",
        trusted: bool = False,
        version: int | None = None,
    ) -> Experience:
        """The record of it. Raises ContractError for a vector that the index does not take, or a negative version."""
        from replay.index import unit_vector

        if version is not None and version < 0:
            raise ContractError(f"an experience of policy version {version}; versions count from 0")
        return Experience(
            query_id=query_id,
            family=family,
            chain=chain,
            answer=answer,
            confidence=confidence,
            encoder=self._index.encoder,
            vector=unit_vector(vector, self._index.dimension).astype("<f4").tobytes(),
            source=source,
            trusted=trusted,
            version=version,
        )

    async def follow(self, experience: Experience, sequence: int) -> None:
        """Take the experience that became record `sequence`, also if whoever asks is cancelled."""
        await self._call(self._index.follow, experience, sequence)
        if self._index.merge_due() and not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._merge())

    async def nearest(
        self, vector: NDArray[np.float32], k: int, *, exclude_query: str, wanted: Wanted
    ) -> list[Neighbour]:
        return await self._call(self._index.nearest, vector, k, exclude_query=exclude_query, wanted=wanted)

    async def merged(self) -> None:
        """Wait for the merge that is under way, if there is one."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop a merge, and save the index."""
        self._closed = True
        if self._merging is not None:
            self._merging.stop()
        await self.merged()
        try:
            await self._call(self._index.save)
        finally:
            self._thread.shutdown()

    async def _call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, lambda: function(*args, **kwargs)))

    async def _merge(self) -> None:
        """Searches and experiences take their turns between these steps; a failure leaves the index as it was."""
        index = self._index
        try:
            frozen = await self._call(index.freeze)
            await self._durable()
            await asyncio.to_thread(index.keep, frozen)
            if self._closed:
                return
            self._merging = await asyncio.to_thread(index.start_merge)
            if self._closed:
                self._merging.stop()
            await asyncio.to_thread(self._merging.wait)
            part, main = await asyncio.to_thread(index.merged)
            await self._call(index.adopt, frozen, part, main)
            merged = await self._call(index.freeze)
            await self._durable()
            await asyncio.to_thread(index.keep, merged)
            index.merge_error = ""
        except (ReplayError, OSError) as error:
            index.merge_error = "" if self._closed else str(error)
        finally:
            self._merging = None
