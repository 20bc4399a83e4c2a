"""Group commit: one thread writes the log, and everything that arrives while it syncs shares the next sync.

`put` gives a record its number at once (so the state can follow it) and a future that ends when the record is durable.
A failure is fatal: it ends every future and every later `put`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from common.errors import ReplayError
from replay.config import Durability
from replay.frames import ALIGN
from replay.log import Log
from replay.snapshot import Position


@dataclass(frozen=True, slots=True)
class _Item:
    kind: int
    body: bytes
    durable: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Mark:
    """reached: ends when the log has come here."""

    reached: asyncio.Future[Position]


class Committer:
    """The only caller of `log.append`, `log.commit` and `log.mark`. Lives on one event loop; the disk is waited for
    elsewhere.

    on_failure: called once, on the loop, after a write or a sync failed.
    """

    def __init__(self, log: Log, durability: Durability, *, on_failure: Callable[[], None]) -> None:
        self._log = log
        self._durability = durability
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-log")
        self._pending: list[_Item | _Mark] = []
        self._pending_bytes = 0
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last: asyncio.Future[None] | None = None
        self._next = log.next_sequence
        self.num_bytes = log.num_bytes
        self.error: ReplayError | None = None

    @property
    def last_sequence(self) -> int:
        """Number of the last record put; −1 when there is none."""
        return self._next - 1

    def put(self, kind: int, body: bytes) -> tuple[int, asyncio.Future[None]]:
        """(sequence number, future that ends when it is durable). Raises ReplayError after a failure.

        Whoever waits may be cancelled: the record is written all the same, and others wait for it undisturbed.
        """
        if self.error is not None:
            raise self.error
        durable = asyncio.get_running_loop().create_future()
        durable.add_done_callback(_heard)
        waited = asyncio.shield(durable)
        waited.add_done_callback(_heard)
        self._pending.append(_Item(kind, body, durable))
        self._pending_bytes += len(body)
        self.num_bytes += ALIGN + len(body)
        if self._pending_bytes >= self._durability.group_bytes:
            self._full.set()
        self._start()
        self._next += 1
        self._last = durable
        return self._next - 1, waited

    def put_mark(self) -> asyncio.Future[Position]:
        """The end of the log after everything put so far, where a segment ends. Raises ReplayError after a failure."""
        if self.error is not None:
            raise self.error
        reached: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        reached.add_done_callback(_heard)
        self._pending.append(_Mark(reached))
        self._start()
        return reached

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self) -> None:
        """Wait until everything put so far is durable. Raises ReplayError after a failure."""
        if self._last is not None:
            await asyncio.shield(self._last)
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Write what is pending; then the thread ends. The log stays open."""
        try:
            await self.flush()
            if self._task is not None:
                await self._task
        finally:
            self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            await self._company()
            batch, self._pending, self._pending_bytes = self._pending, [], 0
            self._full.clear()
            marks: list[Position] = []
            try:
                marks = await loop.run_in_executor(self._thread, self._write, batch)
            except ReplayError as error:
                self.error = error
                batch, self._pending = batch + self._pending, []
            for item in batch:
                future = item.reached if isinstance(item, _Mark) else item.durable
                if self.error is not None:
                    future.set_exception(self.error)
                elif isinstance(item, _Mark):
                    item.reached.set_result(marks.pop(0))
                else:
                    item.durable.set_result(None)
            if self.error is not None:
                self._on_failure()

    async def _company(self) -> None:
        """Let a group gather for `group_ms`, unless it is large already."""
        if self._durability.mode == "group" and self._durability.group_ms > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._durability.group_ms / 1000)

    def _write(self, batch: list[_Item | _Mark]) -> list[Position]:
        """Returns where each mark is."""
        marks = list[Position]()
        for item in batch:
            if isinstance(item, _Mark):
                marks.append(self._log.mark())
                continue
            self._log.append(item.kind, item.body)
            if self._durability.mode == "always":
                self._log.commit()
        if self._durability.mode == "group":
            self._log.commit()
        return marks


def _heard(future: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: records that nobody waits for report it through `Committer.error`."""
    if not future.cancelled():
        future.exception()
