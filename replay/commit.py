"""Group commit: one thread writes the log, and everything that arrives while it syncs shares the next sync.

`put` gives a record its number at once (so the state can follow it) and a future that ends when the record is durable.
While the disk is full everybody waits, and the write is tried again. Any other failure is fatal: it ends every future
and every later `put`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from common.errors import DiskFull, ReplayError
from replay.config import Durability
from replay.frames import ALIGN
from replay.log import RECORDS_AT_ONCE, Log
from replay.snapshot import Position

RETRY_S = 0.05
"""Between two tries of a write that there was no room for."""


@dataclass(frozen=True, slots=True)
class _Item:
    kind: int
    body: bytes
    durable: asyncio.Future[None]
    then: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class _Mark:
    """reached: ends when the log has come here."""

    reached: asyncio.Future[Position]


class Committer:
    """The only caller of `log.append`, `log.commit` and `log.mark`. Lives on one event loop; the disk is waited for
    elsewhere.

    on_failure: called once, on the loop, after a write or a sync failed. waiting_for: what the disk said last, while
    it is full; "" otherwise.
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
        self._waiting = deque[tuple[int, asyncio.Future[None]]]()
        self._closing = asyncio.Event()
        self.waiting_for = ""
        self._next = self._num_durable = log.next_sequence
        self.num_bytes = log.num_bytes
        self.error: ReplayError | None = None

    @property
    def last_sequence(self) -> int:
        """Number of the last record put; −1 when there is none."""
        return self._next - 1

    def put(
        self, kind: int, body: bytes, *, then: Callable[[], None] | None = None
    ) -> tuple[int, asyncio.Future[None]]:
        """(sequence number, future that ends when it is durable). Raises ReplayError after a failure.

        Whoever waits may be cancelled: the record is written all the same, and others wait for it undisturbed. then:
        called when the record is durable or never will be.
        """
        if self.error is not None:
            raise self.error
        durable = asyncio.get_running_loop().create_future()
        self._pending.append(_Item(kind, body, durable, then))
        self._pending_bytes += len(body)
        self.num_bytes += ALIGN + len(body)
        if self._pending_bytes >= self._durability.group_bytes:
            self._full.set()
        self._start()
        self._next += 1
        return self._next - 1, durable

    def put_mark(self) -> asyncio.Future[Position]:
        """The end of the log after everything put so far, where a segment ends. Raises ReplayError after a failure."""
        if self.error is not None:
            raise self.error
        reached: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self._pending.append(_Mark(reached))
        self._start()
        return reached

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self) -> None:
        """Wait until everything put so far is durable. Raises ReplayError after a failure."""
        if self._num_durable < self._next and self.error is None:
            reached = asyncio.get_running_loop().create_future()
            self._waiting.append((self._next, reached))
            await reached
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Write what is pending; then the thread ends. The log stays open. Raises DiskFull where there is no room for
        it now, another ReplayError after a failure.
        """
        self._closing.set()
        try:
            await self.flush()
            if self._task is not None:
                await self._task
        finally:
            self._thread.shutdown()

    async def wait_for_room(self, error: DiskFull) -> None:
        """Until it is time to try again: soon, or at once when the buffer closes."""
        self.waiting_for = str(error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), RETRY_S)
        self.waiting_for = ""

    def fail(self, error: ReplayError) -> None:
        """Nothing more is written or acknowledged."""
        if self.error is None:
            self.error = error
            self._on_failure()

    async def _run(self) -> None:
        while self._pending:
            await self._company()
            batch, self._pending, self._pending_bytes = deque(self._pending), [], 0
            self._full.clear()
            try:
                while batch:
                    await self._write_some(batch)
            except ReplayError as error:
                self.fail(error)
            except Exception as error:
                self.fail(ReplayError(f"{self._log.folder}: a bug ended the log's thread: {error!r}"))
                raise
            finally:
                if self.error is not None:
                    lost, self._pending = [*batch, *self._pending], []
                    for item in lost:
                        _end(item, self.error)
                    while self._waiting:
                        _fail(self._waiting.popleft()[1], self.error)

    async def _write_some(self, batch: deque[_Item | _Mark]) -> None:
        """Write from the front of `batch` what there is room for; whoever waits for that is told, and no other."""
        items = tuple(batch)
        marks, full = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        for item in items[: len(items) - len(batch)]:
            if isinstance(item, _Mark):
                _reach(item.reached, marks.pop(0))
            else:
                self._num_durable += 1
                _end(item)
        while self._waiting and self._waiting[0][0] <= self._num_durable:
            _reach(self._waiting.popleft()[1], None)
        if full is not None:
            if self._closing.is_set():
                raise full
            await self.wait_for_room(full)

    async def _company(self) -> None:
        """Let a group gather for `group_ms`, unless it is large already."""
        if self._durability.mode == "group" and self._durability.group_ms > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._durability.group_ms / 1000)

    def _write(self, batch: deque[_Item | _Mark]) -> tuple[list[Position], DiskFull | None]:
        """Take from the front of `batch` what is durable, or written where nothing is synced. Returns where each mark
        is, and why it ended early.
        """
        rest, marks, full = deque(batch), list[Position](), None
        most = 1 if self._durability.mode == "always" else RECORDS_AT_ONCE
        while rest and full is None:
            try:
                if isinstance(rest[0], _Mark):
                    marks.append(self._log.mark())
                    rest.popleft()
                    continue
                for _ in range(self._log.append_some(_records(rest, most))):
                    rest.popleft()
                if self._durability.mode == "always":
                    self._log.commit()
            except DiskFull as error:
                full, most = (error if most == 1 else None), 1  # there may be room for the first of them
        if self._durability.mode == "group":
            self._log.commit()
        while len(batch) > len(rest):
            batch.popleft()
        return marks, full


def _records(items: Iterable[_Item | _Mark], most: int) -> list[tuple[int, bytes]]:
    """Those before the first mark."""
    found = list[tuple[int, bytes]]()
    for item in islice(items, most):
        if isinstance(item, _Mark):
            break
        found.append((item.kind, item.body))
    return found


def _end(item: _Item | _Mark, error: ReplayError | None = None) -> None:
    """Tell whoever waits, if anybody still does, that a record is durable, or why it never will be."""
    future: asyncio.Future[Any] = item.reached if isinstance(item, _Mark) else item.durable
    if error is None:
        _reach(future, None)
    else:
        _fail(future, error)
    if isinstance(item, _Item) and item.then is not None:
        item.then()


def _reach(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: ReplayError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: a record that nobody waits for reports it through `Committer.error`
