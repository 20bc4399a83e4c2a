"""A disk that is full for a while: who writes waits, what was acknowledged stays, and the same replay goes on."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.replays import a_phase, balanced, put
from fakes.values import a_group, a_query, an_answer_turn

from common.errors import DiskFull, ReplayError
from common.media import FolderMediaStore, put_view
from common.types import Rollout, Turn
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import Durability, ReplayConfig
from replay.disk import Disk
from replay.frames import Bytes
from replay.log import Log
from replay.media import DurableMedia
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.segments import read_frames


class SmallDisk(Disk):
    """Takes `room` more bytes, then none. error: what it says then."""

    def __init__(self, room: int = 1 << 40, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error

    def create(self, path: Path) -> int:
        self._need()
        return super().create(path)

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        self._need()
        data = b"".join(buffers)[: self.room]
        self.room -= len(data)
        return os.write(file, data)

    def _need(self) -> None:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))


def open_small(folder: Path, disk: Disk, **changes: Any) -> ReplayBuffer:
    settings: dict[str, Any] = {"segment_bytes": 16 << 10, "pack_bytes": 4096} | changes
    return open_replay(ReplayConfig(folder=folder, durability=Durability(group_ms=0), **settings), disk=disk)


def illustrated(live: FolderMediaStore, group: int) -> list[Rollout]:
    shown = put_view(live, np.full((16, 16, 3), group, np.uint8))
    turns = (Turn(role="tool", token_ids=(1, 3, 2), images=(shown,)), an_answer_turn())
    return a_group(group, query=a_query(images=()), turns=turns, calls=())


async def until_waiting(buffer: ReplayBuffer) -> str:
    while not (told := (await buffer.stats()).waiting_for):
        await asyncio.sleep(0.001)
    return told


@pytest.mark.parametrize("room", [0, 100, 5000, 12_000, 17_000, 23_000])
async def test_who_writes_waits_for_room_and_the_same_replay_goes_on(tmp_path: Path, room: int) -> None:
    """The room ends in a picture, a rollout, or where a segment or a pack is begun."""
    live = FolderMediaStore(tmp_path / "live")
    disk = SmallDisk()
    buffer = open_small(tmp_path / "run", disk, live_media=live.root)
    await a_phase(buffer, lag=9)
    for group in range(4):
        await buffer.admit(f"g{group}")
    assert await put(buffer, *illustrated(live, 0)) == [True, True]
    disk.room = room
    rollouts = [rollout for group in (1, 2, 3) for rollout in illustrated(live, group)]
    adding = [asyncio.ensure_future(put(buffer, rollout)) for rollout in rollouts]
    assert "No space left" in await until_waiting(buffer)
    assert not all(task.done() for task in adding)
    assert audit_replay(tmp_path / "run").clean
    disk.room = 1 << 40
    assert await asyncio.gather(*adding) == [[True]] * 6
    assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1")
    stats = await buffer.stats()
    assert (stats.inserted, stats.waiting_for) == (8, "") and balanced(stats)
    await buffer.close()
    audit = audit_replay(tmp_path / "run")
    assert audit.clean and audit.balance.inserted == 8, audit.violations


async def test_closing_on_a_full_disk_says_so_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    disk = SmallDisk()
    buffer = open_small(tmp_path, disk)
    await a_phase(buffer, lag=9)
    await buffer.admit("g0")
    first, second = a_group(0)
    await put(buffer, first)
    disk.room = 0
    late = asyncio.ensure_future(put(buffer, second))
    await until_waiting(buffer)
    with pytest.raises(DiskFull, match="No space left"):
        await buffer.close()
    with pytest.raises(DiskFull):
        await late
    again = open_small(tmp_path, Disk())
    assert (await again.stats()).inserted == 1
    assert await put(again, first, second) == [False, True]
    await again.close()


async def test_another_failure_of_a_write_ends_it(tmp_path: Path) -> None:
    disk = SmallDisk(error=errno.EIO)
    buffer = open_small(tmp_path, disk)
    await a_phase(buffer, lag=9)
    await buffer.admit("g0")
    first, second = a_group(0)
    await put(buffer, first)
    disk.room = 0
    with pytest.raises(ReplayError, match="Input/output error"):
        await put(buffer, second)
    disk.room = 1 << 40
    with pytest.raises(ReplayError, match="Input/output error"):
        await put(buffer, second)
    with pytest.raises(ReplayError, match="Input/output error"):
        await buffer.close()
    again = open_small(tmp_path, Disk())
    assert (await again.stats()).inserted == 1
    await again.close()


def test_a_segment_that_there_is_no_room_for_is_started_later(tmp_path: Path) -> None:
    disk = SmallDisk()
    log = Log(tmp_path, segment_bytes=4096, disk=disk)
    for i in range(4):
        log.append(1, bytes([i]) * 800)
    disk.room = 64 + 128  # footer and seal, no header of another segment
    for _ in range(2):
        with pytest.raises(DiskFull, match="a segment could not be started"):
            log.append(1, b"more" * 200)
    assert [bytes(log.read(i).body)[0] for i in range(4)] == [0, 1, 2, 3]
    assert not list(tmp_path.glob(".aside-*"))
    disk.room = 1 << 40
    assert log.append(1, b"more" * 200) == 4
    log.close()
    assert [len(frame.body) for frame in read_frames(tmp_path)] == [800] * 5


def test_a_log_that_is_closed_where_no_segment_could_be_started_is_whole(tmp_path: Path) -> None:
    disk = SmallDisk()
    log = Log(tmp_path, segment_bytes=4096, disk=disk)
    for i in range(4):
        log.append(1, bytes([i]) * 800)
    disk.room = 64 + 128
    with pytest.raises(DiskFull):
        log.append(1, b"more" * 200)
    log.close(b"state", fold=1)
    assert log.snapshot_error == "No space left on device"
    again = Log(tmp_path)
    assert (again.next_sequence, again.recovery.losses, again.recovery.cut_bytes) == (4, (), 0)
    again.close()


def test_a_pack_that_there_is_no_room_for_is_begun_later(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    refs = [put_view(live, np.full((16, 16, 3), value, np.uint8)) for value in range(12)]
    disk = SmallDisk()
    media = DurableMedia(tmp_path / "kept", live=live, pack_bytes=4096, disk=disk)
    for ref in refs:
        disk.room = 0
        with pytest.raises(DiskFull):
            media.keep([ref])
        disk.room = 64 + 64 + 768  # a header of a pack and a picture, but no index
        media.keep([ref])
    assert media.index_error == "No space left on device"
    media.close()
    reader = PackedMedia(tmp_path / "kept")
    assert all(reader.get(ref.digest) == live.get(ref.digest) for ref in refs)
    DurableMedia(tmp_path / "kept", live=live).close()
    assert all(pack.has_index for pack in PackedMedia(tmp_path / "kept").packs)


def test_media_that_were_closed_begin_no_pack(tmp_path: Path) -> None:
    """A thread that is late must not write where the next writer may."""
    live = FolderMediaStore(tmp_path / "live")
    media = DurableMedia(tmp_path / "kept", live=live)
    media.close()
    with pytest.raises(ReplayError, match="closed"):
        media.keep([put_view(live, np.zeros((4, 4, 3), np.uint8))])
    assert not list((tmp_path / "kept").iterdir())
