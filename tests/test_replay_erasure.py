"""Erasure: nothing of the source is left in any file, everything else is as it was, and a kill leaves old or new."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.disks import Killed, KillingDisk
from fakes.replays import OS, a_buffer, balanced, put
from fakes.values import a_consensus, a_query, a_rollout, an_answer_turn

from common.errors import LogDamaged, LogLocked, MediaError, UserError
from common.media import FolderMediaStore, put_view
from common.types import MediaRef, Provenance, Rollout, Turn
from replay.audit.audit import audit_replay
from replay.config import Drawing, IndexConfig, ReplayConfig, Retention
from replay.erasure import Erasure, erase_source
from replay.folding import fold
from replay.frames import PRUNED, TOMBSTONE
from replay.log import Log
from replay.media import DurableMedia
from replay.opening import open_replay
from replay.orphans import announced
from replay.packs import PackedMedia
from replay.segments import read_frames, read_segments
from replay.state import FOLD_VERSION, State

SECRET = b"secret"
INDEX = IndexConfig(encoder="e", dimension=3)
SMALL: dict[str, Any] = {"segment_bytes": 8192, "snapshot_bytes": 8192, "pack_bytes": 16 << 10}


def shown(live: FolderMediaStore, value: int) -> MediaRef:
    return put_view(live, np.full((32, 32, 3), value, np.uint8))


def a_sibling(group: int, sibling: int, ref: MediaRef, *, version: int, query: str, producer: str) -> Rollout:
    seen = Turn(role="tool", token_ids=(1, 3, 2), images=(ref,))
    return a_rollout(
        group,
        sibling,
        query=a_query(query, images=()),
        turns=(seen, an_answer_turn(version=version)),
        calls=(),
        answer=f"answer to {query}",
        producer=producer,
    )


async def a_run(folder: Path, live: FolderMediaStore) -> dict[str, MediaRef]:
    """Six groups that vote, a draw a step; groups 1 (drawn) and 5 (live) are the secret query's, and one rollout of
    group 3 is the secret producer's.
    """
    common, secret = shown(live, 7), shown(live, 9)
    config = {"live_media": live.root, "index": INDEX, "drawing": Drawing(max_reuse=2), **SMALL}
    async with a_buffer(folder, **config) as buffer:
        await buffer.begin("rft", groups_per_step=1, max_policy_lag=8, votes=True)
        for group in range(6):
            hidden = group in (1, 5)
            query = "secret-query" if hidden else f"q{group}"
            await buffer.admit(f"g{group}")
            for sibling in range(2):
                ref = secret if hidden and sibling else common
                producer = "secret-producer" if (group, sibling) == (3, 1) else "actor-0"
                rollout = a_sibling(group, sibling, ref, version=0, query=query, producer=producer)
                assert await put(buffer, rollout) == [True]
            vote = a_consensus(group, answer=f"answer to {query}")
            if group != 5:
                await buffer.settle(vote)
            vector = np.eye(3, dtype=np.float32)[group % 3]
            experience: dict[str, Any] = {"family": "f", "chain": (), "answer": vote.answer, "confidence": 1.0}
            await buffer.remember(vector, query_id=query, **experience)
        for step in range(4):
            await buffer.sample(step)
            await buffer.advance(step + 1, step + 1)
    return {"common": common, "secret": secret}


def holds(folder: Path, word: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]


def numbers(folder: Path) -> list[int]:
    return sorted(frame.sequence for frame in read_frames(folder / "log"))


@pytest.mark.parametrize("pruned", [False, True])
async def test_nothing_of_whom_the_queries_came_from_is_left(tmp_path: Path, pruned: bool) -> None:
    live, run = FolderMediaStore(tmp_path / "live"), tmp_path / "run"
    ref = shown(live, 7)
    retention = Retention(keep_bytes=1) if pruned else Retention()
    async with a_buffer(run, live_media=live.root, retention=retention, **SMALL) as buffer:
        await buffer.begin("rft", groups_per_step=1, max_policy_lag=8, votes=False)
        for group, source in enumerate(("somebody", "another", "")):
            await buffer.admit(f"g{group}")
            for sibling in range(2):
                plain = a_sibling(group, sibling, ref, version=0, query=f"q{group}", producer="actor-0")
                score = replace(plain.facts, score=float(sibling))
                await put(buffer, replace(plain, provenance=Provenance(source=source), facts=score))
        for step in range(2):
            await buffer.sample(step)
            await buffer.advance(step + 1, step + 1)
        await buffer.release("rft", 2)
    if pruned:
        await open_replay(ReplayConfig(folder=run, durability=OS, retention=retention, **SMALL)).close()
        assert PRUNED in {frame.kind for frame in read_frames(run / "log")}
    assert holds(run, b"somebody") and holds(run, b"another")
    assert erase_source(run, "somebody").num_rollouts == 2
    assert not holds(run, b"somebody") and holds(run, b"another")
    assert audit_replay(run).clean
    before = numbers(run)
    with pytest.raises(UserError, match="a name"):
        erase_source(run, "")
    assert set(before) <= set(numbers(run))


async def test_a_shared_picture_outlives_the_erasure_and_goes_with_whoever_else_showed_it(tmp_path: Path) -> None:
    """Wherever the pruning that takes it is killed, the audit finds no breach, and the next opening ends it."""
    live, run = FolderMediaStore(tmp_path / "live"), tmp_path / "run"
    ref = shown(live, 7)
    async with a_buffer(run, live_media=live.root, **SMALL) as buffer:
        await buffer.begin("rft", groups_per_step=1, max_policy_lag=8, votes=False)
        for group, query in enumerate(("secret-query", "q1", "q2", "q3")):
            await buffer.admit(f"g{group}")
            for sibling in range(2):
                plain = a_sibling(group, sibling, ref, version=0, query=query, producer="actor-0")
                await put(buffer, replace(plain, facts=replace(plain.facts, score=float(sibling))))
        for step in range(4):
            await buffer.sample(step)
            await buffer.advance(step + 1, step + 1)
        await buffer.release("rft", 4)
    erase_source(run, "secret-query")
    assert ref.digest in PackedMedia(run / "media")
    config = ReplayConfig(folder=run, durability=OS, retention=Retention(keep_bytes=1), **SMALL)
    num_announced, left = 0, 0
    while True:
        disk = KillingDisk(left)
        try:
            await open_replay(config, disk=disk).close()
        except Killed:
            left += 1
        else:
            break
        audit = audit_replay(run)
        assert audit.clean, (left, audit.violations)
        num_announced += bool(announced(run / "media"))
    assert num_announced and ref.digest not in PackedMedia(run / "media")


async def test_nothing_of_a_query_is_left_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    refs = await a_run(tmp_path / "run", live)
    run = tmp_path / "run"
    before = {frame.sequence: bytes(frame.body) for frame in read_frames(run / "log")}
    assert holds(run, b"secret-query")
    assert erase_source(run, "secret-query") == Erasure(num_rollouts=4, num_records=7, num_media=1)
    assert holds(run, b"secret-query") == holds(run, b"\x09" * 3072) == []
    after = {frame.sequence: bytes(frame.body) for frame in read_frames(run / "log")}
    gone = set(before) - set(after)
    assert len(gone) == 7
    assert all(after[sequence] == body for sequence, body in before.items() if sequence not in gone)
    contents = read_segments(run / "log")
    assert contents.losses == ()
    assert all(segment.footer for segment in contents.segments)
    media = PackedMedia(run / "media")
    assert media.get(refs["common"].digest) == live.get(refs["common"].digest)
    with pytest.raises(MediaError, match="is not in"):
        media.get(refs["secret"].digest)
    buffer = open_replay(ReplayConfig(folder=run, live_media=live.root, durability=OS, index=INDEX, **SMALL))
    stats = await buffer.stats()
    assert (stats.erased, stats.inserted, stats.num_experiences, stats.lost_records) == (4, 12, 4, 0)
    assert balanced(stats)
    assert [buffer.state.draws[step].rollout_ids for step in range(4)] == [("g0/0", "g0/1")] * 2 + [(), ()]
    assert (await buffer.sample(0)).rollout_ids == ("g0/0", "g0/1")
    assert "g5" not in buffer.state.groups
    await buffer.close()
    log = Log(run / "log", fold=FOLD_VERSION)
    assert log.snapshot is not None
    with pytest.raises(LogDamaged, match="was erased"):
        log.read(min(gone))
    by_snapshot = fold(log)
    log.close()
    log = Log(run / "log")
    assert [frame.sequence for frame in log.frames(kinds=frozenset({TOMBSTONE}))] == sorted(gone)
    assert fold(log) == by_snapshot
    log.close()


async def test_an_erased_picture_that_is_sent_again_and_not_logged_is_an_orphan_and_no_breach(tmp_path: Path) -> None:
    live, run = FolderMediaStore(tmp_path / "live"), tmp_path / "run"
    refs = await a_run(run, live)
    erase_source(run, "secret-query")
    media = DurableMedia(run / "media", live=live)
    media.keep([refs["secret"]])
    media.abandon()
    told = audit_replay(run)
    assert told.clean, told
    assert any("orphan" in note for note in told.notes)


async def test_a_producer_can_be_erased_and_its_siblings_go_on(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    await a_run(tmp_path, live)
    assert erase_source(tmp_path, "secret-producer").num_rollouts == 1
    assert holds(tmp_path, b"secret-producer") == []
    config = ReplayConfig(folder=tmp_path, durability=OS, drawing=Drawing(max_reuse=2), **SMALL)
    buffer = open_replay(config)
    stats = await buffer.stats()
    assert (stats.erased, stats.spent_reasons.get("erased")) == (1, 1)
    assert balanced(stats)
    await buffer.rewind(2, version=9, orphans=False)
    assert (await buffer.sample(2)).rollout_ids == ("g1/0", "g1/1")
    await buffer.close()
    assert erase_source(tmp_path, "secret-query").num_rollouts == 4
    assert holds(tmp_path, SECRET) == []


async def test_what_is_not_there_cannot_be_erased(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no log"):
        erase_source(tmp_path, "nobody")
    live = FolderMediaStore(tmp_path / "live")
    await a_run(tmp_path / "run", live)
    with pytest.raises(UserError, match="holds nothing of nobody"):
        erase_source(tmp_path / "run", "nobody")
    log = Log(tmp_path / "run" / "log")
    with pytest.raises(LogLocked):
        erase_source(tmp_path / "run", "secret-query")
    log.close()


async def test_an_erasure_that_is_killed_anywhere_is_not_begun_or_is_finished_at_the_next_opening(
    tmp_path: Path,
) -> None:
    live = FolderMediaStore(tmp_path / "live")
    await a_run(tmp_path / "run", live)
    outcomes: list[int] = []
    calls, finished = 0, False
    while not finished:
        run = tmp_path / f"run{calls}"
        shutil.copytree(tmp_path / "run", run)
        try:
            erase_source(run, "secret-query", disk=KillingDisk(calls))
            finished = True
        except Killed:
            pass
        buffer = open_replay(ReplayConfig(folder=run, durability=OS, index=INDEX, **SMALL))
        stats = await buffer.stats()
        assert balanced(stats)
        assert (stats.inserted, stats.lost_records, stats.erased in (0, 4)) == (12, 0, True), calls
        assert bool(holds(run, b"secret-query")) == (stats.erased == 0), calls
        outcomes.append(stats.erased)
        assert State.unpack(buffer.state.pack()) == buffer.state
        await buffer.close()
        shutil.rmtree(run)
        calls += 1
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 4}
