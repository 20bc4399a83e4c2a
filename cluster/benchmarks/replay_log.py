"""The log against bare system calls: what hashing, headers, chains and bookkeeping cost.

Counted in processor time of this process, in which the disk and other programs have no part, where nobody waits for the
disk.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cluster.benchmarks.harness import Figure, compared, in_turn, single
from cluster.benchmarks.replay_rows import PHASE, SIBLINGS, Rows, group_name
from common.schema import decode_rollouts, merge_rollouts
from replay.commit import Committer
from replay.config import Durability, ReplayConfig
from replay.frames import scan
from replay.log import Log
from replay.maps import map_file
from replay.opening import open_replay
from replay.records import Admit, Begin, Kind, encode
from replay.segments import Segment
from replay.state import FOLD_VERSION, State

APPEND, DURABLE, VERIFY, GATHER, OPEN_S = 0.65, 0.70, 0.5, 10.0, 2.0
SYNC_ROUNDS = 5
"""Rounds of what waits for the disk, for each of the others: a disk is noisy, and these are short."""
WHOLE = 1 << 40
"""Bytes that no segment here reaches."""

Clock: TypeAlias = Callable[[], float]
Through: TypeAlias = Callable[[Log, list[list[bytes]], Clock], Awaitable[float]]
"""Makes groups of bodies durable, one after another; seconds of the clock."""


BEGIN = Begin(phase=PHASE, groups_per_step=SIBLINGS, max_policy_lag=1 << 20, votes=False, step=0, version=0)
"""The phase of the rows, in which any number of groups may be under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSizes:
    """How much is measured. rows: appended, walked, and drawn from. group: rollouts that share a sync. draw: that are
    gathered at once. open_bytes: of the log that is opened; open_rounds: how often.
    """

    rows: int = 2048
    group: int = 64
    groups: int = 12
    draw: int = 64
    draws: int = 24
    open_bytes: int = 1 << 30
    open_rounds: int = 5


def cpu_s(work: Callable[[], object]) -> float:
    """Seconds of processor time that the whole process spends on it."""
    began = time.process_time()
    work()
    return time.process_time() - began


async def measure_log(folder: Path, rows: Rows, sizes: LogSizes, rounds: int) -> list[Figure]:
    bodies = list(rows.bodies(0, sizes.rows))
    with _walked(folder / "walked", bodies) as (log, segment):
        return [
            await _append(folder, bodies, rounds),
            *await _durable(folder, bodies, sizes, rounds),
            await _verify(folder / "walked" / segment.name, rounds),
            await _gather(log, folder / "walked" / segment.name, sizes, rounds),
            _decode(log, sizes, rounds),
        ]


async def _append(folder: Path, bodies: list[bytes], rounds: int) -> Figure:
    frames = _frames(folder / "frames", bodies)
    num_bytes = sum(map(len, frames))

    async def ours() -> float:
        with _a_log(folder / "ours") as log:
            return num_bytes / cpu_s(lambda: [log.append(Kind.ROLLOUT, body) for body in bodies]) / 1e6

    async def raw() -> float:
        with _a_file(folder / "raw") as file:
            return num_bytes / cpu_s(lambda: [os.write(file, frame) for frame in frames]) / 1e6

    mine, theirs, again = await in_turn(ours, raw, rounds=rounds)
    return compared(
        "append_vs_write",
        mine,
        theirs,
        unit="MB per CPU second",
        against="write of the same bytes",
        target=APPEND,
        again=again,
    )


async def _durable(folder: Path, bodies: list[bytes], sizes: LogSizes, rounds: int) -> list[Figure]:
    """Groups of records, each synced before the next, against the same writes and syncs: in processor time, and in wall
    time with the waiting for the disk. Then the same through the group commit, whose promises one awaits on a loop.
    """
    frames = _frames(folder / "frames", bodies)
    starts = [sizes.group * number % max(len(bodies) - sizes.group, 1) for number in range(sizes.groups)]
    num_bytes = sum(len(frame) for start in starts for frame in frames[start : start + sizes.group])
    figures = []
    for name, clock, through, target in (
        ("durable_vs_fdatasync", time.process_time, _logged, DURABLE),
        ("durable_wall_vs_fdatasync", time.perf_counter, _logged, None),
        ("group_commit_vs_fdatasync", time.perf_counter, _committed, None),
    ):

        async def ours(clock: Clock = clock, through: Through = through) -> float:
            groups = [bodies[start : start + sizes.group] for start in starts]
            with _a_log(folder / "ours") as log:
                return num_bytes / await through(log, groups, clock) / 1e6

        async def raw(clock: Clock = clock) -> float:
            with _a_file(folder / "raw") as file:
                began = clock()
                for start in starts:
                    for frame in frames[start : start + sizes.group]:
                        os.write(file, frame)
                    os.fdatasync(file)
                return num_bytes / (clock() - began) / 1e6

        mine, theirs, again = await in_turn(ours, raw, rounds=SYNC_ROUNDS * rounds)
        unit = "MB per CPU second" if clock is time.process_time else "MB/s"
        against = "the same writes + fdatasync"
        figures.append(compared(name, mine, theirs, unit=unit, against=against, target=target, again=again))
    return figures


async def _logged(log: Log, groups: list[list[bytes]], clock: Clock) -> float:
    began = clock()
    for group in groups:
        for body in group:
            log.append(Kind.ROLLOUT, body)
        log.commit()
    return clock() - began


async def _committed(log: Log, groups: list[list[bytes]], clock: Clock) -> float:
    committer = Committer(log, Durability(group_ms=0), on_failure=lambda: None)
    began = clock()
    for group in groups:
        for body in group:
            committer.put(Kind.ROLLOUT, body)
        await committer.flush()
    seconds = clock() - began
    await committer.close()
    return seconds


async def _verify(path: Path, rounds: int) -> Figure:
    """Every byte of a segment, against copying it; both map the file anew."""
    num_bytes = path.stat().st_size
    copy = np.ones(num_bytes, np.uint8)

    def walk() -> None:
        found = scan(map_file(path), first_sequence=0, chain=0)
        assert found.sealed and not found.holes

    async def ours() -> float:
        return num_bytes / cpu_s(walk) / 1e9

    async def memcpy() -> float:
        return num_bytes / cpu_s(lambda: np.copyto(copy, np.frombuffer(map_file(path), np.uint8))) / 1e9

    mine, theirs, again = await in_turn(ours, memcpy, rounds=rounds)
    return compared(
        "verify_vs_memcpy",
        mine,
        theirs,
        unit="GB per CPU second",
        against="memcpy of the file's map",
        target=VERIFY,
        again=again,
    )


async def _gather(log: Log, path: Path, sizes: LogSizes, rounds: int) -> Figure:
    """The rollouts of draws, anywhere in the log, checked and in one buffer; against copying as many bytes in a row."""
    random = np.random.default_rng(0)
    data = np.frombuffer(map_file(path), np.uint8)
    num_bytes = sum(len(log.read(sequence).body) for sequence in range(sizes.draw))
    copy = np.ones(num_bytes, np.uint8)

    async def ours() -> float:
        drawn = [random.choice(sizes.rows, sizes.draw, replace=False).tolist() for _ in range(sizes.draws)]

        def gather() -> None:
            for sequences in drawn:
                merge_rollouts([frame.body for frame in log.mapped(sequences)])

        return 1e3 * cpu_s(gather) / sizes.draws

    async def memcpy() -> float:
        starts = random.integers(0, len(data) - num_bytes, sizes.draws)

        def copied() -> None:
            for start in starts:
                np.copyto(copy, data[start : start + num_bytes])

        return 1e3 * cpu_s(copied) / sizes.draws

    mine, theirs, again = await in_turn(ours, memcpy, rounds=rounds)
    return compared(
        "gather_vs_memcpy",
        mine,
        theirs,
        unit="ms a draw",
        against="memcpy of as many bytes",
        target=GATHER,
        better="lower",
        again=again,
    )


def _decode(log: Log, sizes: LogSizes, rounds: int) -> Figure:
    """What the learner does with a draw: Python values, every law checked."""
    buffer = merge_rollouts([frame.body for frame in log.mapped(range(sizes.draw))])
    values = [1e3 * cpu_s(lambda: decode_rollouts(buffer)) for _ in range(rounds)]
    return single("decode_ms", values, unit="CPU ms a draw")


async def measure_opening(folder: Path, rows: Rows, sizes: LogSizes) -> Figure:
    """Of a log whose rollouts are all live, after a clean stop, its files not in the page cache."""
    config = ReplayConfig(folder=folder, durability=Durability(mode="os"), snapshot_bytes=WHOLE)
    await asyncio.to_thread(_filled, config, rows, sizes.open_bytes)
    values = []
    for _ in range(sizes.open_rounds):
        _forget_pages(folder)
        began = time.perf_counter()
        buffer = open_replay(config)
        values.append(time.perf_counter() - began)
        assert (await buffer.stats()).log_bytes >= sizes.open_bytes
        await buffer.close()
    shutil.rmtree(folder)
    return single("open_1gib_s", values, unit="s", target=OPEN_S)


def _filled(config: ReplayConfig, rows: Rows, num_bytes: int) -> None:
    """A log of so many bytes with the snapshot of a clean stop."""
    log, state = Log(config.folder / "log", segment_bytes=config.segment_bytes), State()
    begin_phase(log, state)
    number = 0
    while log.num_bytes < num_bytes or number % SIBLINGS:
        if number % SIBLINGS == 0:
            admit = Admit(number=number // SIBLINGS, group_id=group_name(number // SIBLINGS))
            log.append(*encode(admit))
            state.apply(admit)
        state.add(rows.keys(number), log.append(Kind.ROLLOUT, rows.body(number)))
        number += 1
    log.close(state.pack(), fold=FOLD_VERSION)


def begin_phase(log: Log, state: State) -> None:
    log.append(*encode(BEGIN))
    state.apply(BEGIN)


def _forget_pages(folder: Path) -> None:
    """Let the page cache forget the files' contents, which are on the disk."""
    for path in folder.glob("*/*"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def _frames(folder: Path, bodies: list[bytes]) -> list[bytes]:
    """What the log writes for these bodies: a frame each."""
    with _walked(folder, bodies) as (_, segment):
        data = map_file(folder / segment.name)
        found = scan(data, first_sequence=0, chain=0)
        frames = [bytes(data[offset : offset + header.size]) for offset, header in found.frames]
    shutil.rmtree(folder)
    return frames


@contextmanager
def _walked(folder: Path, bodies: list[bytes]) -> Iterator[tuple[Log, Segment]]:
    """A log open for reading, with all of `bodies` in the one segment that is given."""
    log = Log(folder, segment_bytes=WHOLE)
    for body in bodies:
        log.append(Kind.ROLLOUT, body)
    log.close()
    log = Log(folder, segment_bytes=WHOLE)
    try:
        yield log, log.segments[0]
    finally:
        log.close()


@contextmanager
def _a_log(folder: Path) -> Iterator[Log]:
    log = Log(folder, segment_bytes=WHOLE)
    try:
        yield log
    finally:
        log.close()
        shutil.rmtree(folder)


@contextmanager
def _a_file(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND, 0o644)
    try:
        yield file
    finally:
        os.close(file)
        path.unlink()
