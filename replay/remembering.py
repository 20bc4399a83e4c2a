"""What `nearest` remembers: experiences become entries of the neighbour index, one call at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from common.types import Neighbour
from replay.records import Experience

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from replay.index import NeighbourIndex


class Remembering:
    """A neighbour index behind an event loop: calls take turns, each in a thread."""

    def __init__(self, index: NeighbourIndex) -> None:
        self._index = index
        self._turn = asyncio.Lock()

    @property
    def num_entries(self) -> int:
        return self._index.num_entries

    def experience(
        self,
        vector: NDArray[np.float32],
        *,
        query_id: str,
        family: str,
        chain: tuple[str, ...],
        answer: str | None,
        confidence: float,
    ) -> Experience:
        """The record of it. Raises ContractError for a vector that the index does not take."""
        from replay.index import unit_vector

        return Experience(
            query_id=query_id,
            family=family,
            chain=chain,
            answer=answer,
            confidence=confidence,
            encoder=self._index.encoder,
            vector=unit_vector(vector, self._index.dimension).astype("<f4").tobytes(),
        )

    async def follow(self, experience: Experience, sequence: int) -> None:
        """Take the experience that became record `sequence`."""
        async with self._turn:
            await asyncio.to_thread(self._index.follow, experience, sequence)

    async def nearest(self, vector: NDArray[np.float32], k: int, *, exclude_query: str) -> list[Neighbour]:
        async with self._turn:
            return await asyncio.to_thread(lambda: self._index.nearest(vector, k, exclude_query=exclude_query))

    async def save(self) -> None:
        async with self._turn:
            await asyncio.to_thread(self._index.save)
