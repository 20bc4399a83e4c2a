"""Making the pictures of rollouts durable: what comes while others are written shares the next write and sync.

One thread at a time appends; on the event loop nobody touches a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from common.columns import Columns
from common.errors import ContractError, DiskFull, ReplayError
from replay.media import DurableMedia


@dataclass(frozen=True, slots=True)
class _Asked:
    rollout: Columns
    kept: asyncio.Future[int | ContractError | DiskFull]


class Keeping:
    """On one event loop. wait_for_room: until it is worth trying again where the disk is full."""

    def __init__(self, media: DurableMedia, *, wait_for_room: Callable[[DiskFull], Awaitable[None]]) -> None:
        self._media = media
        self._wait_for_room = wait_for_room
        self._pending: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def keep(self, rollout: Columns) -> None:
        """Wait until the pictures of a rollout are durable, and for room where there is none.

        Raises ContractError for one that the live store does not hold, ReplayError where the disk refuses: then nothing
        more is kept.
        """
        while not self._media.holds(rollout.media):
            kept = await self._asked(rollout)
            if isinstance(kept, ContractError):
                raise kept
            if isinstance(kept, DiskFull):
                await self._wait_for_room(kept)

    def _asked(self, rollout: Columns) -> asyncio.Future[int | ContractError | DiskFull]:
        loop = asyncio.get_running_loop()
        asked = _Asked(rollout, loop.create_future())
        self._pending.append(asked)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return asked.kept

    async def _run(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                found = await asyncio.to_thread(self._keep, batch)
            except Exception as error:  # whatever it was, nobody may wait for ever
                known = isinstance(error, ReplayError)
                failure = error if known else ReplayError(f"a bug ended the keeping of media: {error!r}")
                for asked in batch:
                    if not asked.kept.done():
                        asked.kept.set_exception(failure)
                if not known:
                    raise
                continue
            for asked, kept in zip(batch, found, strict=True):
                if not asked.kept.done():
                    asked.kept.set_result(kept)

    def _keep(self, batch: Sequence[_Asked]) -> list[int | ContractError | DiskFull]:
        return self._media.keep_all([(asked.rollout.media, asked.rollout.cuts()) for asked in batch])
