"""Snapshots and footers: what opening does not walk is what a walk would have found; what does not match is walked."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.replays import OS, a_buffer, a_phase, balanced, put, random_run, resumed
from fakes.values import a_group
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from replay.config import Drawing, Durability, ReplayConfig
from replay.disk import Disk
from replay.folding import fold, follow
from replay.footer import footer_offsets, read_footer
from replay.frames import ALIGN, SegmentHeader, scan
from replay.log import Log
from replay.maps import map_file
from replay.opening import open_replay
from replay.seen import MAX_EPOCHS, MAX_GAPS, MAX_PRODUCERS, Producers, Seen
from replay.segments import read_segments
from replay.state import FOLD_VERSION, State

SMALL: dict[str, Any] = {"segment_bytes": 16 << 10, "snapshot_bytes": 40 << 10}


def folded(folder: Path, *, trusting: bool) -> tuple[State, Log]:
    log = Log(folder, fold=FOLD_VERSION if trusting else None)
    state = fold(log)
    log.close()
    return state, log


def both_ways(folder: Path, aside: Path) -> tuple[State, State, Log]:
    """The state by a full walk of a copy, the state by whatever snapshot is trusted, and the log that trusted."""
    shutil.copytree(folder, aside)
    walked, _ = folded(aside, trusting=False)
    shutil.rmtree(aside)
    state, log = folded(folder, trusting=True)
    return walked, state, log


async def a_run(folder: Path, seed: int, *, close: bool = True, **drawing: Any) -> State:
    """A random run over many small segments; without `close` its folder as a kill leaves it."""
    config = {"drawing": Drawing(**drawing), **SMALL}
    async with a_buffer(folder if close else folder / "alive", **config) as buffer:
        await a_phase(buffer, groups_per_step=2, lag=2)
        await random_run(buffer, random.Random(seed), groups_per_step=2, lag=2)
        await put(buffer, *a_group(500, phase="another"))
        if not close:
            await buffer._committer.flush()
            await buffer._upkeep.idle()  # a snapshot may be under way, which nobody waits for
            shutil.copytree(folder / "alive" / "log", folder / "log")
        return State.unpack(buffer.state.pack())


async def test_a_clean_stop_leaves_a_snapshot_and_nothing_is_walked(tmp_path: Path) -> None:
    before = await a_run(tmp_path, 1)
    state, log = folded(tmp_path / "log", trusting=True)
    assert state == before
    assert log.recovery.num_trusted == len(list((tmp_path / "log").glob("*.segment"))) - 1 > 3
    assert log.snapshot is not None and log.snapshot.position.next_sequence == log.next_sequence


async def test_after_a_kill_only_what_follows_the_last_snapshot_is_walked(tmp_path: Path) -> None:
    before = await a_run(tmp_path, 2, close=False)
    walked, state, log = both_ways(tmp_path / "log", tmp_path / "copy")
    assert state == walked == before
    assert log.snapshot is not None and 0 < log.snapshot.position.next_sequence <= log.next_sequence
    assert log.recovery.refused == ()
    if log.snapshot.position.next_sequence == log.next_sequence:  # the kill came right behind it: take the one before
        *_, newest = sorted((tmp_path / "log").glob("*.snapshot"))
        newest.unlink()
        walked, state, log = both_ways(tmp_path / "log", tmp_path / "copy")
        assert state == walked == before
    assert log.snapshot is not None and 0 < log.snapshot.position.next_sequence < log.next_sequence


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    keep=st.floats(0, 1),
    reuse=st.integers(1, 3),
    selector=st.sampled_from(["fifo", "uniform", "prioritised", "mixture"]),
)
def test_the_state_from_a_snapshot_and_the_rest_is_that_of_the_full_fold_at_any_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, keep: float, reuse: int, selector: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    fresh = 0.5 if reuse > 1 else 1.0
    asyncio.run(a_run(folder, seed, close=False, selector=selector, max_reuse=reuse, fresh=fresh))
    shutil.rmtree(folder / "alive")
    paths = sorted((folder / "log").glob("*.segment"))
    left = int(keep * sum(path.stat().st_size for path in paths))
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data[: max(left, ALIGN)]) if left > 0 else path.unlink()
        left -= len(data)
    walked, state, _ = both_ways(folder / "log", folder / "copy")
    assert state == walked


async def test_a_fold_without_any_one_record_still_balances(tmp_path: Path) -> None:
    await a_run(tmp_path, 7, selector="mixture", max_reuse=2, fresh=0.5)
    log = Log(tmp_path / "log")
    frames = [replace(frame, body=bytes(frame.body)) for frame in log.frames()]
    log.close()
    for missing in [*range(0, len(frames), 3), *range(8)]:
        state = State()
        for frame in frames[:missing] + frames[missing + 1 :]:
            follow(state, frame)
        parts = (state.live, sum(state.spent.values()), state.expired, state.quarantined)
        assert state.inserted == sum(parts), frames[missing]


def _flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 4
    path.write_bytes(data)


async def test_a_damaged_snapshot_is_left_aside_for_an_older_one_and_then_for_the_whole_log(tmp_path: Path) -> None:
    before = await a_run(tmp_path, 3)
    log = tmp_path / "log"
    snapshots = sorted(log.glob("*.snapshot"))
    assert len(snapshots) == 2
    for i, path in enumerate(reversed(snapshots)):
        _flip(path, len(path.read_bytes()) // 2)
        copy = tmp_path / f"copy{i}"
        shutil.copytree(log, copy)
        state, opened = folded(copy, trusting=True)
        assert state == before
        assert [line.split(":")[0] for line in opened.recovery.refused] == [p.name for p in snapshots[::-1][: i + 1]]
        assert (opened.snapshot is None) == (i == 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda paths: paths[1].unlink(),
        lambda paths: _flip(paths[1], 20),
        lambda paths: _flip(paths[2], paths[2].stat().st_size - 20),
        lambda paths: _flip(paths[2], paths[2].stat().st_size - ALIGN - 20),
        lambda paths: paths[1].write_bytes(paths[2].read_bytes()),
    ],
)
async def test_a_log_that_a_snapshot_does_not_match_is_walked(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    await a_run(tmp_path, 4)
    change(sorted((tmp_path / "log").glob("*.segment")))
    walked, state, log = both_ways(tmp_path / "log", tmp_path / "copy")
    assert log.snapshot is None
    assert len(log.recovery.refused) == 2
    assert state == walked
    assert log.recovery.losses


async def test_a_snapshot_of_another_fold_is_of_no_use(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.append(2, b"{}")
    log.close(b"a state", fold=FOLD_VERSION + 1)
    log = Log(tmp_path, fold=FOLD_VERSION)
    assert log.snapshot is None
    assert log.recovery.refused == (f"00000001.snapshot: made by fold {FOLD_VERSION + 1}",)


async def test_verify_walks_everything_whatever_a_snapshot_says(tmp_path: Path) -> None:
    before = await a_run(tmp_path, 5)
    first = min((tmp_path / "log").glob("*.segment"))
    _flip(first, ALIGN + ALIGN + 2)
    config = ReplayConfig(folder=tmp_path, durability=OS)
    trusting = open_replay(config)
    assert trusting.state == before
    await trusting.close()
    verified = open_replay(config, verify=True)
    assert (await verified.stats()).lost_records == 1
    await verified.close()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), min_size=0, max_size=40))
def test_a_footer_says_what_a_walk_finds(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = Log(folder, segment_bytes=8192)
    for size in sizes:
        log.append(1, bytes(size))
    log.close()
    for segment in read_segments(folder).segments:
        data = map_file(folder / segment.name)
        header = SegmentHeader.unpack(data, name="")
        footer = read_footer(data, header)
        found = scan(data, first_sequence=header.first_sequence, chain=header.chain)
        assert footer is not None
        assert (footer.stop_sequence, footer.chain) == (found.next_sequence, found.chain)
        assert list(footer_offsets(data, footer.start)) == [offset for offset, _ in found.frames]


def test_a_segment_is_ended_at_its_age(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_age_s=1e-9)
    for i in range(3):
        log.append(1, b"%d" % i)
    log.close()
    assert len(list(tmp_path.glob("*.segment"))) == 3
    assert all(segment.created_ns > 0 for segment in read_segments(tmp_path).segments)


class NoRoomForSnapshots(Disk):
    def rename(self, old: Path, new: Path) -> None:
        if new.suffix == ".snapshot":
            raise OSError(28, "No space left on device")
        super().rename(old, new)


def test_a_snapshot_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    log = Log(tmp_path, disk=NoRoomForSnapshots())
    log.append(1, b"one")
    log.checkpoint(b"state", fold=FOLD_VERSION)
    assert log.snapshot_error == "No space left on device"
    assert log.append(1, b"two") == 1
    log.close(b"state", fold=FOLD_VERSION)
    log = Log(tmp_path, fold=FOLD_VERSION)
    assert (log.snapshot, log.next_sequence, log.recovery.losses) == (None, 2, ())


# ── what is kept is bounded ──────────────────────────────────────────────────────────────────────────────────────────


async def test_only_the_last_draws_are_kept_and_a_learner_cannot_go_back_before_them(tmp_path: Path) -> None:
    async with a_buffer(tmp_path, keep_draws=3) as buffer:
        await a_phase(buffer)
        for i in range(10):
            await buffer.admit(f"g{i}")
            await put(buffer, *a_group(i, version=i))
            await buffer.sample(i)
            await buffer.advance(i + 1, i + 1)
        state = buffer.state
        assert list(state.draws) == [7, 8, 9]
        assert set(state.used) == set(state.closed) == {"g7", "g8", "g9"}
        assert (state.forgotten, len(state.versions)) == (7, 4)
        with pytest.raises(ConfigError, match="remembers steps 7 to 10"):
            await resumed(buffer, lag=0, step=6, version=11)
        await resumed(buffer, lag=0, step=7, version=11)
        assert (await buffer.sample(7)).rollout_ids == ("g7/0", "g7/1")
        assert await put(buffer, *a_group(2, version=2, producer="ghost")) == [True, True]
        stats = await buffer.stats()
        assert stats.spent_reasons["late"] == 2
        assert balanced(stats)


async def test_a_checkpoint_lets_earlier_draws_go(tmp_path: Path) -> None:
    async with a_buffer(tmp_path) as buffer:
        await a_phase(buffer)
        for i in range(4):
            await buffer.admit()
            await put(buffer, *a_group(f"rft/{i}", version=i, producer=f"p{i}"))
            await buffer.sample(i)
            await buffer.advance(i + 1, i + 1)
        await buffer.release("sft", 4)
        assert len(buffer.state.draws) == 4
        await buffer.release("rft", 3)
        assert (list(buffer.state.draws), buffer.state.floor) == ([3], 3)
        assert buffer.state.why_over("rft/0") == "forgotten"
        assert buffer.state.why_over("rft/7") == ""
        await buffer.release("rft", 9)  # the phase ended at step 4, of nine that it might have taken
        assert (list(buffer.state.draws), buffer.state.floor) == ([], 4)
    assert folded(tmp_path / "log", trusting=False)[0] == folded(tmp_path / "log", trusting=True)[0]


async def test_a_draw_that_is_forgotten_before_the_learner_has_done_it_keeps_the_credits_of_its_groups(
    tmp_path: Path,
) -> None:
    """A group a step and lag 1: two groups may be under way, both drawn ahead here, and one draw is remembered."""
    async with a_buffer(tmp_path, keep_draws=1) as buffer:
        await a_phase(buffer, lag=1)
        for i in range(2):
            await buffer.admit(f"g{i}")
            await put(buffer, *a_group(i))
            await buffer.sample(i)
        assert list(buffer.state.draws) == [1]
        assert not buffer.state.may_admit()
        await buffer.advance(1, 1)
        assert await buffer.admit("g2") == 2
        assert not buffer.state.may_admit()
    assert folded(tmp_path / "log", trusting=False)[0] == folded(tmp_path / "log", trusting=True)[0]


@given(numbers=st.lists(st.integers(0, 60), max_size=80), probe=st.integers(0, 70))
def test_seen_is_a_set(numbers: list[int], probe: int) -> None:
    seen = Seen()
    for number in numbers:
        seen = seen.plus(number)
    assert (probe in seen) == (probe in set(numbers))
    starts = [seen.below, *np.ravel(seen.above).astype(int)]
    assert starts == sorted(set(starts)) or not seen.above


def test_producers_and_gaps_and_epochs_of_one_are_bounded() -> None:
    seen = Seen()
    for number in range(0, 8 * MAX_GAPS, 2):
        seen = seen.plus(number)
    assert len(seen.above) == MAX_GAPS
    producers = Producers()
    for epoch in range(2 * MAX_EPOCHS):
        producers.add("a", epoch, 0)
    assert len(producers.seen["a"]) == MAX_EPOCHS
    assert producers.holds("a", 0, 99)
    assert not producers.holds("a", MAX_EPOCHS, 1)
    producers = Producers()
    for number in range(MAX_PRODUCERS):
        producers.add(f"p{number}", 0, 0)
    producers.add("p0", 0, 1)
    producers.add("another", 0, 0)
    assert len(producers.seen) == MAX_PRODUCERS
    assert producers.holds("p0", 0, 0) and not producers.holds("p1", 0, 0)


async def test_snapshots_are_taken_while_records_are_durable_too(tmp_path: Path) -> None:
    config = ReplayConfig(folder=tmp_path, durability=Durability(mode="group", group_ms=0), **SMALL)
    buffer = open_replay(config)
    await a_phase(buffer, lag=100)
    for i in range(30):
        await buffer.admit(f"g{i}")
        await put(buffer, *a_group(i))
    while len(list((tmp_path / "log").glob("*.snapshot"))) < 2:
        await asyncio.sleep(0.001)
    before = State.unpack(buffer.state.pack())
    await buffer.close()
    state, _ = folded(tmp_path / "log", trusting=True)
    assert state == before


class SlowSnapshots(Disk):
    """Snapshots are not written before `go`."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def create(self, path: Path) -> int:
        if path.name.endswith(".snapshot"):
            self.begun.set()
            self.go.wait()
        return super().create(path)


async def test_nobody_waits_for_a_snapshot_and_it_holds_its_moment(tmp_path: Path) -> None:
    disk = SlowSnapshots()
    buffer = open_replay(ReplayConfig(folder=tmp_path / "alive", durability=OS, **SMALL), disk=disk)
    await a_phase(buffer, lag=100)
    number = 0
    while not disk.begun.is_set():
        await buffer.admit(f"g{number}")
        await put(buffer, *a_group(number))
        number += 1
    draw = await buffer.sample(0)
    await put(buffer, *a_group(500, phase="another"))
    assert draw.rollout_ids == ("g0/0", "g0/1")
    disk.go.set()
    while not list((tmp_path / "alive" / "log").glob("[0-9]*.snapshot")):
        await asyncio.sleep(0.001)
    shutil.copytree(tmp_path / "alive" / "log", tmp_path / "log")
    walked, state, log = both_ways(tmp_path / "log", tmp_path / "copy")
    assert state == walked == buffer.state
    assert log.snapshot is not None and log.snapshot.position.next_sequence < log.next_sequence - 3
    await buffer.close()
