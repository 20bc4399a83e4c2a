"""Whoever hands in a rollout may be gone before it is kept: what it shows stays all the same, and so does what others
show.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fakes.replays import a_phase, put
from fakes.values import a_query, a_rollout, an_answer_turn

from common.cuts import Cut
from common.media import FolderMediaStore, put_view
from common.schema import encode_rollouts
from common.types import MediaRef, Rollout, Turn
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import Durability, ReplayConfig
from replay.disk import Disk
from replay.folding import fold
from replay.log import Log
from replay.media import DurableMedia
from replay.orphans import unneeded
from replay.packs import PackedMedia


class SlowSync(Disk):
    """The next sync after `slow` was set waits for `go`."""

    def __init__(self) -> None:
        self.slow, self.begun, self.go = threading.Event(), threading.Event(), threading.Event()

    def sync(self, file: int) -> None:
        if self.slow.is_set():
            self.slow.clear()
            self.begun.set()
            self.go.wait()
        super().sync(file)


@dataclass(frozen=True, slots=True)
class Desk:
    """A buffer, and its media and log, of which somebody else removes."""

    buffer: ReplayBuffer
    media: DurableMedia
    log: Log
    live: FolderMediaStore

    def picture(self, seed: int) -> MediaRef:
        return put_view(self.live, np.full((8, 8, 3), seed, np.uint8))


def a_desk(folder: Path, *, group_ms: float = 0.0, disk: Disk | None = None) -> Desk:
    live = FolderMediaStore(folder / "live")
    config = ReplayConfig(folder=folder / "replay", durability=Durability(group_ms=group_ms))
    log = Log(config.folder / "log")
    media = DurableMedia(config.folder / "media", live=live, disk=disk)
    return Desk(ReplayBuffer(config, log=log, state=fold(log), media=media), media, log, live)


def showing(number: int, *pictures: MediaRef) -> Rollout:
    seen = Turn(role="tool", token_ids=(1, *(3,) * len(pictures), 2), images=pictures)
    turns = (seen, an_answer_turn())
    return a_rollout(0, number, score=float(number), query=a_query("q", images=()), calls=(), turns=turns)


async def given_up(desk: Desk, rollout: Rollout, when: Callable[[], bool]) -> None:
    """Hand a rollout in, and be gone as soon as `when`."""
    task = asyncio.ensure_future(desk.buffer.add(encode_rollouts([rollout])))
    while not when():
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def whole(folder: Path) -> bool:
    return not audit_replay(folder / "replay").violations


async def test_a_picture_stays_while_the_record_that_needs_it_waits_to_be_written(tmp_path: Path) -> None:
    desk = a_desk(tmp_path, group_ms=1500.0)
    await a_phase(desk.buffer)
    await desk.buffer.admit("g0")
    shown = desk.picture(1)
    desk.media.keep([shown])
    before = desk.log.next_sequence

    await given_up(desk, showing(0, shown), when=lambda: bool(desk.buffer.state.groups["g0"].members))
    assert desk.log.next_sequence == before, "the record was written too soon to show anything"
    assert desk.media.remove(lambda: unneeded(desk.log, {shown.digest})) == (set(), {shown.digest})

    assert await put(desk.buffer, showing(0, shown)) == [False]
    assert desk.media.remove(lambda: {shown.digest}) == ({shown.digest}, set()), "it is held for ever"
    desk.media.keep([shown])
    await desk.buffer.close()
    assert whole(tmp_path)


async def test_nobody_takes_a_picture_for_kept_that_went_while_another_kept_it(tmp_path: Path) -> None:
    before = a_desk(tmp_path)
    old, new = before.picture(1), before.picture(2)
    before.media.keep([old])
    await before.buffer.close()
    disk = SlowSync()
    desk = a_desk(tmp_path, disk=disk)
    await a_phase(desk.buffer)
    await desk.buffer.admit("g0")
    desk.media.keep([desk.picture(3)])

    disk.slow.set()
    await given_up(desk, showing(0, old, new), when=disk.begun.is_set)
    going, stayed = await asyncio.to_thread(desk.media.remove, lambda: {old.digest})
    disk.go.set()
    while not desk.media.holds([new]):
        await asyncio.sleep(0)
    assert going | stayed == {old.digest}

    assert await put(desk.buffer, showing(1, old)) == [True]
    assert old.digest in PackedMedia(tmp_path / "replay" / "media")
    await desk.buffer.close()
    assert whole(tmp_path)


def test_the_pack_that_is_written_is_left_alone_while_others_are_cleared(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    source = put_view(live, pixels)

    def a_part(size: int) -> Cut:
        """Of a picture that is not kept, so that packs are looked through for it."""
        return Cut(target=put_view(live, pixels[:size, :size]), source=source, box=(0, 0, size, size))

    class Meanwhile(Disk):
        """What goes is asked for again when the first folder is synced for its removal."""

        def sync_folder(self, path: Path) -> None:
            super().sync_folder(path)
            if self.asked is not None:
                self.asked, asked = None, self.asked
                asked()

        asked: Callable[[], None] | None = None

    def begin_a_pack() -> set[str]:
        for size in (2, 3):
            with media.pinned([a_part(size).target]):
                media.keep([a_part(size).target], [a_part(size)])
        disk.asked = ask_again
        return {gone.digest}

    def ask_again() -> None:
        media.keep([gone])
        media.keep([a_part(4).target], [a_part(4)])

    disk = Meanwhile()
    media = DurableMedia(tmp_path / "media", live=live, disk=disk)
    gone = put_view(live, np.zeros((8, 8, 3), np.uint8))
    media.keep([gone])
    assert media.remove(begin_a_pack) == ({gone.digest}, set())
    media.keep([a_part(5).target], [a_part(5)])
    for digest in (gone.digest, *(a_part(size).target.digest for size in (2, 3, 4, 5))):
        assert media.get(digest) == PackedMedia(tmp_path / "media").get(digest) == live.get(digest)
    media.close()
