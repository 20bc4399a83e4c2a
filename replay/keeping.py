"""Making the pictures of rollouts durable: what comes while others are written shares the next write, and what is
written while others are synced shares the next sync.

One thread at a time appends, another syncs; on the event loop nobody touches a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from common.errors import ContractError, DiskFull, ReplayError
from replay.inspecting import Inspected
from replay.media import DurableMedia, Wanted

AT_ONCE = 16
"""Rollouts whose pictures are appended before a sync may begin: the next are appended meanwhile."""

_Kept: TypeAlias = int | ContractError | DiskFull
"""Bytes that were appended, or why one rollout's pictures are refused."""


@dataclass(frozen=True, slots=True)
class _Asked:
    rollout: Inspected
    kept: asyncio.Future[_Kept]


class Keeping:
    """On one event loop. wait_for_room: until it is worth trying again where the disk is full."""

    def __init__(self, media: DurableMedia, *, wait_for_room: Callable[[DiskFull], Awaitable[None]]) -> None:
        self._media = media
        self._wait_for_room = wait_for_room
        self._pending: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None
        self._syncing = set[asyncio.Task[None]]()

    async def keep(self, rollout: Inspected) -> None:
        """Wait until the pictures of a rollout are durable, and for room where there is none.

        Raises ContractError for one that the live store does not hold, ReplayError where the disk refuses: then nothing
        more is kept.
        """
        while not self._media.holds(rollout.keys.media):
            kept = await self._asked(rollout)
            if isinstance(kept, ContractError):
                raise kept
            if not isinstance(kept, DiskFull):
                return
            await self._wait_for_room(kept)

    def _asked(self, rollout: Inspected) -> asyncio.Future[_Kept]:
        loop = asyncio.get_running_loop()
        asked = _Asked(rollout, loop.create_future())
        self._pending.append(asked)
        if self._task is None:
            self._start()
        return asked.kept

    def _start(self, before: asyncio.Task[None] | None = None) -> None:
        """A task for those that wait; another follows for those that come after a bug ended it."""
        self._task = None
        if self._pending and (before is None or not before.cancelled()):
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._start)

    async def _run(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:AT_ONCE], self._pending[AT_ONCE:]
            with _answering(batch), ExitStack() as pins:
                pins.enter_context(self._media.pinned(ref for asked in batch for ref in asked.rollout.keys.media))
                found, digests = await asyncio.to_thread(self._append, batch)
                task = asyncio.get_running_loop().create_task(self._sync(batch, found, digests, pins.pop_all()))
                self._syncing.add(task)
                task.add_done_callback(self._syncing.discard)

    async def _sync(
        self, batch: Sequence[_Asked], found: Sequence[_Kept], digests: Sequence[str], pins: ExitStack
    ) -> None:
        """pins: what is held while this is done, whoever of those that asked is gone by now."""
        with pins, _answering(batch):
            await asyncio.to_thread(self._media.sync, digests)
            for asked, kept in zip(batch, found, strict=True):
                if not asked.kept.done():
                    asked.kept.set_result(kept)

    def _append(self, batch: Sequence[_Asked]) -> tuple[list[_Kept], tuple[str, ...]]:
        rollouts = [asked.rollout for asked in batch]
        return self._media.append_all([Wanted(one.keys.media, one.cuts, one.proven) for one in rollouts])


@contextmanager
def _answering(batch: Sequence[_Asked]) -> Iterator[None]:
    """Whatever ends this, nobody may wait for ever."""
    try:
        yield
    except ReplayError as error:
        _tell(batch, error)
    except Exception as error:
        _tell(batch, ReplayError(f"a bug ended the keeping of media: {error!r}"))
        raise


def _tell(batch: Sequence[_Asked], error: ReplayError) -> None:
    for asked in batch:
        if not asked.kept.done():
            asked.kept.set_exception(error)
