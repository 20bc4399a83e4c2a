"""What is done beside the work, in a thread of its own, one thing at a time: snapshots.

A draw waits for none of it. The event loop copies the state (replay/state: a dictionary a kind of thing) and asks for
the end of the log after it; the thread packs the copy, piece by piece so that others run in between, and writes it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from common.errors import ReplayError
from replay.commit import Committer
from replay.config import ReplayConfig
from replay.log import Log
from replay.snapshot import Position
from replay.state import FOLD_VERSION, State


class Upkeep:
    """Lives on the buffer's event loop; `follow` is called where the state has followed every record that was put."""

    def __init__(self, config: ReplayConfig, log: Log, committer: Committer) -> None:
        self._config = config
        self._log = log
        self._committer = committer
        self._snapshot_at = log.num_bytes_trusted + config.snapshot_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-upkeep")
        self._task: asyncio.Task[None] | None = None

    def follow(self, state: State) -> None:
        """Begin what is due, unless something is under way."""
        if self._task is not None and not self._task.done():
            return
        if self._committer.error is None and self._committer.num_bytes >= self._snapshot_at:
            self._snapshot_at = self._committer.num_bytes + self._config.snapshot_bytes
            copied, reached = state.copy(), self._committer.put_mark()
            self._task = asyncio.get_running_loop().create_task(self._snapshot(copied, reached))

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """End what is under way; then the thread ends."""
        await self.idle()
        self._thread.shutdown()

    async def _snapshot(self, state: State, reached: asyncio.Future[Position]) -> None:
        try:
            position = await reached
        except ReplayError:
            return  # the log failed; whoever writes is told
        await asyncio.get_running_loop().run_in_executor(self._thread, self._keep, position, state)

    def _keep(self, position: Position, state: State) -> None:
        self._log.keep(position, packed(state), fold=FOLD_VERSION)


def packed(state: State) -> bytes:
    """`state.pack()`; other threads run between its pieces."""
    pieces = []
    for piece in state.pieces():
        pieces.append(piece)
        time.sleep(0)
    return b"".join(pieces)
