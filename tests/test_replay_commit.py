"""The committer: whoever waits is told when a record is durable, or why it never will be, and leaves undisturbed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from common.errors import ReplayError
from replay.commit import Committer
from replay.config import Durability
from replay.disk import Disk
from replay.log import Log
from replay.records import Kind


class HeldDisk(Disk):
    """Syncs wait for `go`; then they fail where `error` says so."""

    def __init__(self) -> None:
        self.begun, self.go, self.error = threading.Event(), threading.Event(), 0

    def sync(self, file: int) -> None:
        self.begun.set()
        self.go.wait()
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        super().sync(file)


def a_committer(folder: Path, disk: HeldDisk, failures: list[str]) -> Committer:
    """Over a log whose first segment is there."""
    disk.go.set()
    log = Log(folder / "log", disk=disk)
    log.append(Kind.SPEND, b"first")
    log.commit()
    disk.go.clear()
    disk.begun.clear()
    return Committer(log, Durability(), on_failure=lambda: failures.append("failed"))


async def test_whoever_leaves_changes_nothing_for_the_others(tmp_path: Path) -> None:
    disk, ended = HeldDisk(), list[int]()
    committer = a_committer(tmp_path, disk, [])
    waiting = []
    for number in range(4):
        sequence, durable = committer.put(Kind.SPEND, b"%d" % number, then=lambda n=number: ended.append(n))
        assert sequence == 1 + number
        waiting.append(durable)
    flushed = asyncio.ensure_future(committer.flush())
    left = asyncio.ensure_future(committer.flush())
    await asyncio.to_thread(disk.begun.wait)
    waiting[1].cancel()
    waiting[3].cancel()
    left.cancel()
    await asyncio.sleep(0)
    assert not ended and not flushed.done() and not waiting[0].done()
    disk.go.set()
    await asyncio.gather(waiting[0], waiting[2], flushed)
    assert ended == [0, 1, 2, 3] and left.cancelled()
    await committer.flush()
    await committer.close()
    assert committer.last_sequence == 4


async def test_what_is_put_after_a_flush_does_not_hold_it_up(tmp_path: Path) -> None:
    disk = HeldDisk()
    committer = a_committer(tmp_path, disk, [])
    committer.put(Kind.SPEND, b"before")
    await asyncio.to_thread(disk.begun.wait)
    flushed = asyncio.ensure_future(committer.flush())
    await asyncio.sleep(0)
    _, later = committer.put(Kind.SPEND, b"after")
    disk.begun.clear()
    disk.go.set()
    flushed.add_done_callback(lambda _: disk.go.clear())
    await flushed
    disk.go.set()
    await later
    await committer.close()


async def test_a_failure_reaches_everybody_who_waits_and_frees_what_they_hold(tmp_path: Path) -> None:
    disk, ended, failures = HeldDisk(), list[int](), list[str]()
    committer = a_committer(tmp_path, disk, failures)
    disk.error = errno.EIO
    _, durable = committer.put(Kind.SPEND, b"1", then=lambda: ended.append(1))
    await asyncio.to_thread(disk.begun.wait)
    _, pending = committer.put(Kind.SPEND, b"2", then=lambda: ended.append(2))
    mark = committer.put_mark()
    flushed = asyncio.ensure_future(committer.flush())
    await asyncio.sleep(0)
    disk.go.set()
    for one in (durable, pending, mark, flushed):
        with pytest.raises(ReplayError):
            await one
    assert ended == [1, 2] and failures == ["failed"]
    with pytest.raises(ReplayError):
        committer.put(Kind.SPEND, b"3")
    with pytest.raises(ReplayError):
        await committer.flush()
