"""Replays with a bug, by which tests show that a round of kills would notice it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from fakes.failpoints import Failpoint, FatalDisk

from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig
from replay.folding import fold
from replay.frames import Bytes
from replay.log import Log
from replay.records import Kind, Rewind

BUGS = ("no sync before the answer", "a late sync of draws", "a draw forgotten at opening")
NO_BUG = "none"
"""The disk drops what was not synced, and the replay is as it should be."""


class DroppingDisk(FatalDisk):
    """At the failpoint, what was not synced is lost, as in a power cut."""

    def __init__(self, failpoint: Failpoint | None, noted: Path) -> None:
        super().__init__(failpoint, noted)
        self._synced: dict[int, int] = {}
        self._changing = threading.RLock()

    def create(self, path: Path) -> int:
        with self._changing:
            file = super().create(path)
            self._synced[file] = 0
            return file

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        with self._changing:
            return super().write(file, buffers)

    def sync(self, file: int) -> None:
        size = os.fstat(file).st_size
        super().sync(file)
        with self._changing:
            self._synced[file] = size

    def close(self, file: int) -> None:
        with self._changing:
            self._synced.pop(file, None)
            super().close(file)

    def drop(self) -> None:
        """A thread that reads what goes through a map is ended by SIGBUS, and the process with it."""
        self._changing.acquire()
        for file, size in self._synced.items():
            os.ftruncate(file, size)


class HastyLog(Log):
    """Says that everything is durable and waits for nothing."""

    def commit(self) -> None:
        self._check()


class CarelessLog(Log):
    """Says that a draw is durable, and syncs it eight times later."""

    _left = 0

    def append_some(self, records: Sequence[tuple[int, Bytes]]) -> int:
        count = super().append_some(records)
        if any(kind == Kind.DRAW for kind, _ in records[:count]):
            self._left = 8
        return count

    def commit(self) -> None:
        if self._left:
            self._left -= 1
        else:
            super().commit()


def open_with(bug: str, config: ReplayConfig, folder: Path, failpoint: Failpoint | None) -> ReplayBuffer:
    """The buffer of `config`, without media and index, with this bug."""
    kind = {BUGS[0]: HastyLog, BUGS[1]: CarelessLog}.get(bug, Log)
    disk = DroppingDisk(failpoint, folder / "killed")
    log = kind(config.folder / "log", segment_bytes=config.segment_bytes, disk=disk)
    state = fold(log)
    if bug == BUGS[2] and state.draws:
        state.apply(Rewind(step=max(state.draws), version=max(state.versions), orphans=False))
    return ReplayBuffer(config, log=log, state=state)
