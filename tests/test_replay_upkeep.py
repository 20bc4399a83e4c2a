"""Pruning while a run goes on: nobody waits for it, nothing that may be asked for goes, and the log stays small."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.replays import OS, a_phase, balanced, put
from fakes.values import a_query, a_rollout, an_answer_turn

from common.errors import ContractError, MediaError
from common.media import FolderMediaStore, put_view
from common.types import MediaRef, Rollout, Turn
from replay import reading
from replay.audit.audit import audit_replay
from replay.buffer import ReplayBuffer
from replay.config import ReplayConfig, Retention
from replay.disk import Disk
from replay.folding import fold
from replay.frames import PRUNED
from replay.log import Log
from replay.media import DurableMedia
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.reading import read_log
from replay.records import Kind
from replay.retention import Pruner, asked_for
from replay.segments import Contents, read_frames, read_segments
from replay.state import State

SMALL: dict[str, Any] = {"segment_bytes": 16 << 10, "snapshot_bytes": 64 << 10, "keep_draws": 2, "durability": OS}
KEEP = 160 << 10


def rewrites_a_segment(aside: Path) -> bool:
    name = aside.name.removeprefix(".aside-")
    return name != aside.name and name.endswith(".segment") and aside.with_name(name).exists()


class SlowPruning(Disk):
    """Rewritten segments are not written before `go`."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def create(self, path: Path) -> int:
        if rewrites_a_segment(path):
            self.begun.set()
            self.go.wait()
        return super().create(path)


def sibling(group: int, number: int, *pictures: MediaRef) -> Rollout:
    """Some 17 kB."""
    seen = Turn(role="tool", token_ids=(1, *(3,) * len(pictures), 2), images=pictures)
    said = an_answer_turn(tuple(range(800)), version=group)
    fields: dict[str, Any] = {"query": a_query(f"q{group}", images=()), "calls": (), "turns": (seen, said)}
    return a_rollout(group, number, score=float(number), **fields)


async def a_step(buffer: ReplayBuffer, step: int, live: FolderMediaStore | None = None) -> None:
    """One group: admitted, filled, drawn and learned from. Each group has a picture; another is in every second."""
    pictures: list[MediaRef] = []
    if live is not None:
        pictures = [put_view(live, np.full((8, 8, 3), colour, np.uint8)) for colour in (step, 200 + step % 2)]
    await buffer.admit(f"g{step}")
    await put(buffer, *(sibling(step, number, *pictures) for number in range(2)))
    draw = await buffer.sample(step)
    assert draw.rollout_ids == (f"g{step}/0", f"g{step}/1")
    await buffer.advance(step + 1, step + 1)


async def a_run(folder: Path) -> ReplayConfig:
    """Twelve steps, and closed."""
    config = ReplayConfig(folder=folder, **SMALL)
    buffer = open_replay(config)
    await a_phase(buffer)
    for step in range(12):
        await a_step(buffer, step)
    await buffer.close()
    return config


def folded(folder: Path) -> State:
    log = Log(folder / "log")
    state = fold(log)
    log.close()
    return state


async def test_a_log_stays_small_while_it_is_written_and_the_fold_is_the_same(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    config = ReplayConfig(folder=tmp_path / "run", live_media=live.root, retention=Retention(keep_bytes=KEEP), **SMALL)
    buffer = open_replay(config)
    await a_phase(buffer)
    largest = 0
    for step in range(40):
        await a_step(buffer, step, live)
        await buffer._upkeep.idle()
        largest = max(largest, (await buffer.stats()).log_bytes)
    assert largest < 1.5 * KEEP < 40 * 2 * 17_000 / 4
    stats = await buffer.stats()
    assert stats.retention_error == stats.snapshot_error == ""
    assert balanced(stats)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    kinds = [frame.kind for frame in read_frames(tmp_path / "copy" / "log")]
    assert kinds.count(PRUNED) > 50 and kinds.count(PRUNED) + kinds.count(Kind.ROLLOUT) == 80
    assert folded(tmp_path / "copy") == buffer.state
    live.trim(0)
    assert (await buffer.sample(38)).rollout_ids == ("g38/0", "g38/1")
    await buffer.close()
    audited = audit_replay(tmp_path / "run")
    assert not audited.violations, audited.violations
    assert audited.media.num_kept == audited.media.num_referred < 20
    buffer = open_replay(config)
    assert (await buffer.sample(39)).rollout_ids == ("g39/0", "g39/1")
    await buffer.close()


async def test_draws_go_on_while_a_segment_is_rewritten_and_maps_outlive_it(tmp_path: Path) -> None:
    disk = SlowPruning()
    config = ReplayConfig(folder=tmp_path, retention=Retention(keep_bytes=KEEP), **SMALL)
    buffer = open_replay(config, disk=disk)
    await a_phase(buffer)
    await a_step(buffer, 0)
    first = buffer._log.mapped([2])
    held = bytes(first[0].body)
    step = 1
    while not disk.begun.is_set():
        await a_step(buffer, step)
        step += 1
    for later in range(step, step + 6):
        await a_step(buffer, later)
    assert buffer._log.read(2).body == held
    disk.go.set()
    await buffer._upkeep.idle()
    assert bytes(first[0].body) == held
    with pytest.raises(Exception, match="pruned to its keys"):
        buffer._log.read(2)
    await buffer.close()
    assert folded(tmp_path) == buffer.state


async def test_what_is_old_goes_while_the_run_goes_on(tmp_path: Path) -> None:
    config = ReplayConfig(folder=tmp_path, retention=Retention(keep_age_s=1e-6), **SMALL)
    buffer = open_replay(config)
    await a_phase(buffer)
    for step in range(12):
        await a_step(buffer, step)
        await buffer._upkeep.idle()
    assert sum(frame.kind == PRUNED for frame in read_frames(tmp_path / "log")) >= 12
    await buffer.close()


class FullDisk(Disk):
    """Rewriting a segment fails while `full`."""

    full = True

    def create(self, path: Path) -> int:
        if self.full and rewrites_a_segment(path):
            raise OSError(28, "No space left on device")
        return super().create(path)


async def test_a_pruning_that_the_disk_refuses_is_told_and_taken_up_again(tmp_path: Path) -> None:
    disk = FullDisk()
    config = ReplayConfig(folder=tmp_path, retention=Retention(keep_bytes=KEEP), **SMALL)
    buffer = open_replay(config, disk=disk)
    await a_phase(buffer)
    for step in range(8):
        await a_step(buffer, step)
        await buffer._upkeep.idle()
    assert "No space left" in (await buffer.stats()).retention_error
    disk.full = False
    for step in range(8, 16):
        await a_step(buffer, step)
        await buffer._upkeep.idle()
    assert (await buffer.stats()).retention_error == ""
    assert (await buffer.stats()).log_bytes < 1.5 * KEEP
    await buffer.close()
    assert folded(tmp_path) == buffer.state


async def test_damage_stays_as_it_lies_with_every_picture_and_the_rest_is_pruned(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    config = ReplayConfig(folder=tmp_path / "run", live_media=live.root, **SMALL)
    buffer = open_replay(config)
    await a_phase(buffer)
    for step in range(12):
        await a_step(buffer, step, live)
    await buffer.close()
    path = next(path for path in sorted((tmp_path / "run" / "log").glob("*.segment")) if b"g4/1" in path.read_bytes())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"g4/1", b"g4/7"))
    num_media = len(dict(PackedMedia(tmp_path / "run" / "media").sizes()))
    config = replace(config, retention=Retention(keep_bytes=KEEP))
    buffer = open_replay(config)
    for step in range(12, 24):
        await a_step(buffer, step, live)
        await buffer._upkeep.idle()
    assert "does not match its hash" in (await buffer.stats()).retention_error
    await buffer.close()
    assert path.read_bytes() == data.replace(b"g4/1", b"g4/7")
    kinds = [frame.kind for frame in read_frames(tmp_path / "run" / "log")]
    assert 30 < kinds.count(PRUNED) == 47 - kinds.count(Kind.ROLLOUT)
    assert len(dict(PackedMedia(tmp_path / "run" / "media").sizes())) == num_media + 12


async def test_who_reads_a_log_while_it_is_pruned_reads_all_of_it(tmp_path: Path) -> None:
    config = await a_run(tmp_path)
    log = read_log(tmp_path / "log")
    entries = log.entries()
    first = [next(entries) for _ in range(8)]
    assert log.as_it_was
    await open_replay(replace(config, retention=Retention(keep_bytes=1))).close()
    rest = list(entries)
    assert not log.as_it_was
    assert [entry.place.sequence for entry in (*first, *rest)] == list(range(log.next_sequence))
    assert PRUNED not in {entry.kind for entry in first}
    assert PRUNED in {entry.kind for entry in rest}


async def test_a_log_that_is_pruned_between_two_looks_at_it_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_run(tmp_path)
    before = read_log(tmp_path / "log")

    def pruned_since(folder: Path) -> Contents:
        found = read_segments(folder)
        log = Log(folder)
        Pruner(tmp_path, log, Retention(keep_bytes=1)).prune(asked_for(fold(log)), log.segments)
        log.abandon()
        return found

    monkeypatch.setattr(reading, "read_segments", pruned_since)
    found = read_log(tmp_path / "log")
    assert not found.as_it_was and found.segments == before.segments
    assert len(list(found.entries())) == len(list(before.entries())) == found.next_sequence


def test_a_picture_that_is_asked_for_while_it_goes_stays(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    media = DurableMedia(tmp_path / "media", live=live, sync=False)
    refs = [put_view(live, np.full((8, 8, 3), colour, np.uint8)) for colour in range(3)]
    media.keep(refs)

    def unneeded() -> set[str]:
        with media.pinned(refs[:1]):
            media.keep(refs[:1])
        return {ref.digest for ref in refs[:2]}

    assert media.remove(unneeded) == ({refs[1].digest}, {refs[0].digest})
    assert media.get(refs[0].digest) == live.get(refs[0].digest)
    assert media.get(refs[2].digest) == live.get(refs[2].digest)
    with pytest.raises(MediaError):
        media.get(refs[1].digest)
    assert media.keep(refs) == refs[1].num_bytes
    assert media.get(refs[1].digest) == live.get(refs[1].digest)
    with media.pinned(refs):
        assert media.remove(lambda: {ref.digest for ref in refs})[0] == set()
    assert media.remove(lambda: {ref.digest for ref in refs}) == ({ref.digest for ref in refs}, set())
    live.trim(0)
    with pytest.raises(ContractError):
        media.keep(refs)
    media.close()
