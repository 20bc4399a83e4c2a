"""Retention: what nothing asks for goes, by size or age; the fold, the counts and the chain stay as they were."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.disks import Killed, KillingDisk
from fakes.replays import OS, a_buffer, a_phase, balanced, put
from fakes.values import a_query, a_rollout, an_answer_turn

from common.errors import LogDamaged
from common.media import FolderMediaStore, put_view
from common.schema import decode_rollouts
from common.types import Turn
from replay.audit.audit import audit_replay
from replay.config import ReplayConfig, Retention
from replay.disk import Disk
from replay.erasure import erase_source
from replay.folding import fold
from replay.frames import PRUNED
from replay.log import Log
from replay.opening import open_replay
from replay.packs import PackedMedia
from replay.records import Kind
from replay.retention import Pruner, Pruning, asked_for
from replay.segments import read_frames, read_segments
from replay.state import FOLD_VERSION, State

SMALL: dict[str, Any] = {"segment_bytes": 16 << 10, "snapshot_bytes": 1 << 20, "keep_draws": 2}
NUM_GROUPS = 10


async def a_run(folder: Path, live: FolderMediaStore, *, num_groups: int = NUM_GROUPS) -> State:
    """All groups but the last drawn, the last two draws remembered; each rollout shows a picture of its group, and one
    that all share.
    """
    shared = put_view(live, np.full((8, 8, 3), 255, np.uint8))
    async with a_buffer(folder, live_media=live.root, **SMALL) as buffer:
        await a_phase(buffer)
        for group in range(num_groups + 1):
            await buffer.admit(f"g{group}")
            own = put_view(live, np.full((8, 8, 3), group, np.uint8))
            for sibling in range(2):
                seen = Turn(role="tool", token_ids=(1, 3, 3, 2), images=(own, shared))
                said = an_answer_turn(tuple(range(800)), version=group)
                fields: dict[str, Any] = {"query": a_query(f"q{group}", images=()), "calls": (), "turns": (seen, said)}
                await put(buffer, a_rollout(group, sibling, score=float(sibling), **fields))
            if group < num_groups:
                await buffer.sample(group)
                await buffer.advance(group + 1, group + 1)
        return State.unpack(buffer.state.pack())


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pixelis-test-", dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def prune(folder: Path, log: Log, retention: Retention, *, disk: Disk | None = None) -> Pruning:
    """As opening does: what was begun is finished, then what is due goes."""
    state, pruner = fold(log), Pruner(folder, log, retention, disk=disk)
    num_media = pruner.finish()
    done = pruner.prune(asked_for(state), log.segments)
    return replace(done, num_media=num_media + done.num_media)


def pruned(folder: Path, retention: Retention, **disk: Any) -> Pruning:
    log = Log(folder / "log")
    try:
        return prune(folder, log, retention, **disk)
    finally:
        log.close()


def folded(folder: Path) -> State:
    log = Log(folder / "log")
    state = fold(log)
    log.close()
    return state


async def test_the_fold_is_the_same_and_what_may_be_asked_for_is_there(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    run = tmp_path / "run"
    before = await a_run(run, live)
    size = sum(path.stat().st_size for path in (run / "log").glob("*.segment"))
    done = pruned(run, Retention(keep_bytes=1))
    assert (done.num_rollouts, done.num_media) == (16, 8)
    assert sum(path.stat().st_size for path in (run / "log").glob("*.segment")) < size / 2 < done.num_bytes
    assert folded(run) == before
    contents = read_segments(run / "log")
    assert contents.losses == ()
    assert all(segment.footer for segment in contents.segments)
    assert len(list(PackedMedia(run / "media").digests())) == 4
    config = ReplayConfig(folder=run, live_media=live.root, durability=OS, **SMALL)
    live.trim(0)
    buffer = open_replay(config)
    for step in (8, 9):
        draw = await buffer.sample(step)
        assert {rollout.query.query_id for rollout in decode_rollouts(draw.rollouts)} == {f"q{step}"}
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=0, votes=False, step=9, version=20)
    assert (await buffer.sample(9)).rollouts == draw.rollouts
    assert balanced(await buffer.stats())
    copy = a_rollout(0, 0, query=a_query(images=()), calls=(), turns=(an_answer_turn(),))
    assert await put(buffer, copy) == [False]
    await buffer.close()
    log = Log(run / "log", fold=FOLD_VERSION)
    assert log.snapshot is not None
    first = next(log.frames(kinds=frozenset({PRUNED})))
    with pytest.raises(LogDamaged, match="pruned to its keys"):
        log.read(first.sequence)
    log.close()


async def test_the_oldest_go_first_and_only_as_many_as_asked_for(tmp_path: Path) -> None:
    await a_run(tmp_path, FolderMediaStore(tmp_path / "live"))
    size = sum(path.stat().st_size for path in (tmp_path / "log").glob("*.segment"))
    assert pruned(tmp_path, Retention(keep_bytes=2 * size)).num_rollouts == 0
    assert pruned(tmp_path, Retention(keep_age_s=3600.0)).num_rollouts == 0
    done = pruned(tmp_path, Retention(keep_bytes=size - 8000))
    assert 0 < done.num_rollouts < 16
    kinds = [frame.kind for frame in read_frames(tmp_path / "log") if frame.kind in (Kind.ROLLOUT, Kind.PRUNED)]
    assert kinds == [Kind.PRUNED] * done.num_rollouts + [Kind.ROLLOUT] * (22 - done.num_rollouts)
    assert pruned(tmp_path, Retention(keep_age_s=1e-9)).num_rollouts == 16 - done.num_rollouts
    assert pruned(tmp_path, Retention(keep_bytes=1)).num_rollouts == 0


async def test_opening_prunes_by_its_configuration(tmp_path: Path) -> None:
    await a_run(tmp_path, FolderMediaStore(tmp_path / "live"))
    buffer = open_replay(ReplayConfig(folder=tmp_path, durability=OS, retention=Retention(keep_bytes=1), **SMALL))
    assert balanced(await buffer.stats())
    await buffer.close()
    assert sum(frame.kind == Kind.PRUNED for frame in read_frames(tmp_path / "log")) == 16


async def test_what_was_pruned_can_be_erased(tmp_path: Path) -> None:
    await a_run(tmp_path, FolderMediaStore(tmp_path / "live"))
    pruned(tmp_path, Retention(keep_bytes=1))
    assert erase_source(tmp_path, "q3").num_rollouts == 2
    assert not [path for path in tmp_path.rglob("*.*") if path.is_file() and b'"q3"' in path.read_bytes()]
    assert folded(tmp_path).erased == 2
    assert read_segments(tmp_path / "log").losses == ()


async def test_killed_anywhere_the_fold_is_the_same_and_the_next_goes_on(memory: Path) -> None:
    live = FolderMediaStore(memory / "live")
    before = await a_run(memory / "run", live, num_groups=4)
    calls, finished = 0, False
    while not finished:
        run = memory / f"run{calls}"
        shutil.copytree(memory / "run", run)
        disk = KillingDisk(-1)
        log = Log(run / "log", disk=disk)
        disk.left = calls
        try:
            prune(run, log, Retention(keep_bytes=1), disk=disk)
            finished = True
        except Killed:
            pass
        disk.left = -1
        log.close()
        audited = audit_replay(run)
        assert not audited.violations, audited.violations
        assert folded(run) == before
        pruned(run, Retention(keep_bytes=1))
        assert folded(run) == before
        assert sum(frame.kind == Kind.PRUNED for frame in read_frames(run / "log")) == 4
        assert len(list(PackedMedia(run / "media").digests())) == 4
        shutil.rmtree(run)
        calls += 1
    assert calls > 10
