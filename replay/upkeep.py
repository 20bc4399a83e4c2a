"""What is done beside the work, in a thread of its own, one thing at a time: snapshots, and pruning.

A draw waits for none of it. For a snapshot the event loop copies the state (replay/state: a dictionary a kind of thing)
and asks for the end of the log after it; the thread packs the copy, piece by piece so that others run in between, and
writes it. Pruning rewrites sealed segments, so the snapshots before it no longer match them; the next one is due then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from common.errors import LogDamaged, MediaError, ReplayError
from replay.commit import Committer
from replay.config import ReplayConfig
from replay.log import Log
from replay.retention import Pruner, asked_for
from replay.segments import Segment
from replay.snapshot import Position
from replay.state import FOLD_VERSION, State


class Upkeep:
    """Lives on the buffer's event loop; `follow` is called where the state has followed every record that was put.

    reading: the records that draws are being read from. error: why the last pruning was not finished, "" when it was;
    nothing is lost by it.
    """

    def __init__(
        self,
        config: ReplayConfig,
        log: Log,
        committer: Committer,
        pruner: Pruner,
        *,
        reading: Callable[[], Set[int]],
    ) -> None:
        self._config = config
        self._log = log
        self._committer = committer
        self._pruner = pruner
        self._reading = reading
        self._snapshot_at = log.num_bytes_trusted + config.snapshot_bytes
        self._num_sealed = log.num_sealed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-upkeep")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.error = ""

    def follow(self, state: State) -> None:
        """Begin what is due, unless something is under way."""
        if (self._task is not None and not self._task.done()) or self._committer.error is not None:
            return
        if self._log.num_sealed != self._num_sealed:
            self._num_sealed = self._log.num_sealed
            if self._pruner.due():
                self._start(self._prune(self._log.segments, state.copy(), frozenset(self._reading())))
                return
        if self._committer.num_bytes >= self._snapshot_at:
            self._snapshot_at = self._committer.num_bytes + self._config.snapshot_bytes
            self._start(self._snapshot(state.copy(), self._committer.put_mark()))

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """End what is under way, a pruning after its segment; then the thread ends."""
        self._stopping = True
        try:
            await self.idle()
        finally:
            self._thread.shutdown()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)

    async def _snapshot(self, state: State, reached: asyncio.Future[Position]) -> None:
        try:
            position = await reached
        except ReplayError:
            return  # the log failed; whoever writes is told
        await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._log.keep(position, packed(state), fold=FOLD_VERSION)
        )

    async def _prune(self, segments: Sequence[Segment], state: State, reading: Set[int]) -> None:
        """segments were sealed before the state was copied, so it knows of every rollout in them. What it says of them
        is durable before anything goes: after a kill nobody asks for what went.
        """
        try:
            await self._committer.flush()
        except ReplayError:
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self._pass, segments, state, reading)
        self._snapshot_at = 0

    def _pass(self, segments: Sequence[Segment], state: State, reading: Set[int]) -> None:
        try:
            self._pruner.prune(asked_for(state) | reading, segments, stop=lambda: self._stopping)
            self.error = ""
        except (OSError, LogDamaged, MediaError, ReplayError) as error:
            self.error = f"{error}"


def packed(state: State) -> bytes:
    """`state.pack()`; other threads run between its pieces."""
    pieces = []
    for piece in state.pieces():
        pieces.append(piece)
        time.sleep(0)
    return b"".join(pieces)
