"""Merges of the neighbour index: beside searches, in a process of their own, killed anywhere; and damaged files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fakes.disks import Killed, KillingDisk
from fakes.experiences import an_experience, some_vectors

from common.errors import ReplayError
from replay.config import IndexConfig, ReplayConfig
from replay.disk import Disk
from replay.erasure import erase_source
from replay.frames import Bytes
from replay.index import NeighbourIndex, Wanted, exact_nearest
from replay.index.merging import Merging, merge
from replay.opening import open_replay
from replay.remembering import Remembering

CONFIG = IndexConfig(encoder="e", dimension=8, merge_entries=8)
VECTORS = some_vectors(64, 8)
QUERIES = some_vectors(5, 8, seed=1)


def filled(folder: Path, stop: int = 20, start: int = 0, *, disk: Disk | None = None) -> NeighbourIndex:
    """Experiences `start` to `stop`; the first five queries come back at 15 to 19."""
    index = NeighbourIndex(folder, CONFIG, disk=disk)
    for i in range(start, stop):
        index.follow(an_experience(VECTORS[i], query_id=f"q{i % 15 if i < 20 else i}"), i)
    return index


def check(index: NeighbourIndex, stop: int = 20) -> None:
    rows = np.arange(min(5, max(stop - 15, 0)), stop)
    for query in QUERIES:
        assert index.search(query, 7) == exact_nearest(VECTORS[rows], rows, query, 7)
    assert len(index) == len(rows)


async def at_once() -> None:
    """Everything is durable."""


def with_a_main_part(folder: Path) -> NeighbourIndex:
    """Rows 0 to 11 in the main part, of which 0 to 4 are retired; the others in the delta."""
    index = filled(folder, 12)
    index.merge()
    for i in range(12, 20):
        index.follow(an_experience(VECTORS[i], query_id=f"q{i % 15}"), i)
    return index


def test_a_merge_in_a_process_of_its_own(tmp_path: Path) -> None:
    index = with_a_main_part(tmp_path)
    check(index)
    index.save()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".faiss", ".entries", ""}
    again = NeighbourIndex(tmp_path, CONFIG)
    check(again)
    again.merge()
    check(again)
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"main", "manifest.json"}
    assert NeighbourIndex(tmp_path, CONFIG).loaded == 15


@pytest.mark.parametrize("what", ["merge", "keep"])
def test_killed_at_any_step_the_saved_index_is_the_old_one_or_the_new_one(tmp_path: Path, what: str) -> None:
    with_a_main_part(tmp_path / "run").save()
    num_old = num_new = 0
    for left in range(200):
        folder = tmp_path / f"killed-{left}"
        shutil.copytree(tmp_path / "run", folder)
        disk = KillingDisk(left)
        index = NeighbourIndex(folder, CONFIG, disk=disk)
        index.follow(an_experience(VECTORS[20], query_id="q20"), 20)
        try:
            if what == "keep":
                index.save()
            else:
                merge(folder, disk)
            finished = True
        except Killed:
            finished = False
        again = NeighbourIndex(folder, CONFIG)
        assert again.sequence in ((20,) if finished and what == "keep" else (19, 20)[: 1 + (what == "keep")])
        num_old, num_new = num_old + (again.sequence == 19), num_new + (again.sequence == 20)
        check(again, again.sequence + 1)
        if again.sequence == 19:
            again.follow(an_experience(VECTORS[20], query_id="q20"), 20)
        again.keep(frozen := again.freeze())
        merge(folder, Disk())
        again.adopt(frozen, *again.merged())
        again.save()
        check(again, 21)
        assert len(list(folder.iterdir())) == 3
        if finished:
            break
    assert finished
    assert num_old > 5
    assert num_new > (1 if what == "keep" else -1)


def test_a_merge_that_is_killed_is_said_to_be_and_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    index = with_a_main_part(tmp_path)
    frozen = index.freeze()
    index.keep(frozen)
    merging = Merging(tmp_path)
    merging.stop()
    with pytest.raises(ReplayError, match=f"not merged: exit status {-signal.SIGKILL}"):
        merging.wait()
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ReplayError, match=r"not merged: manifest.json cannot be read"):
        Merging(tmp_path).wait()
    check(index)


def test_what_a_process_of_an_earlier_merge_leaves_late_is_not_taken(tmp_path: Path) -> None:
    """Its parent was killed, and it ends a moment after the next one has opened the index."""
    index = with_a_main_part(tmp_path)
    index.save()
    merge(tmp_path, Disk())
    left = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "manifest.json"}
    index.save()
    for path, data in left.items():
        path.write_bytes(data)
    with pytest.raises(ReplayError, match=r"main-00000003 is of a merge that somebody else began"):
        index.merged()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a merge is held up by a pipe in the place of a file")
def test_a_merge_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom replay.index.merging import Merging\n"
        "print(Merging(Path(sys.argv[1]))._process.pid, flush=True)\ntime.sleep(600)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        merging = psutil.Process(int(parent.stdout.readline()))
        assert merging.is_running()
        parent.kill()
        parent.wait()
    for _ in range(600):
        if not merging.is_running() or merging.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    raise AssertionError("the merge lives on")


async def test_searches_and_experiences_go_on_beside_a_merge(tmp_path: Path) -> None:
    """Nobody waits for it, what came meanwhile is found after it, and it is on the disk."""
    memory = Remembering(filled(tmp_path, 7), durable=at_once)
    for i in range(7, 64):
        await memory.follow(an_experience(VECTORS[i], query_id=f"q{i % 15 if i < 20 else i}"), i)
        await asyncio.sleep(0.02)
        rows = np.arange(min(5, max(i - 14, 0)), i + 1)
        found = await memory.nearest(QUERIES[i % 5], 7, exclude_query="", wanted=Wanted())
        assert [(n.sequence, n.similarity) for n in found] == exact_nearest(VECTORS[rows], rows, QUERIES[i % 5], 7)
    await memory.merged()
    assert memory.merge_error == ""
    assert list(tmp_path.glob("main-*.faiss"))
    await memory.close()
    again = NeighbourIndex(tmp_path, CONFIG)
    assert again.sequence == 63
    check(again, 64)


class FullDisk(Disk):
    """No byte fits on it while `full`."""

    full = False

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file, buffers)


async def test_a_merge_that_fails_is_said_to_and_is_tried_again(tmp_path: Path) -> None:
    disk = FullDisk()
    memory = Remembering(filled(tmp_path, 7, disk=disk), durable=at_once)
    disk.full = True
    for i in range(7, 20):
        await memory.follow(an_experience(VECTORS[i], query_id=f"q{i % 15}"), i)
        await memory.merged()
    assert "No space left" in memory.merge_error
    assert not list(tmp_path.glob("main-*"))
    disk.full = False
    for i in range(20, 40):
        await memory.follow(an_experience(VECTORS[i], query_id=f"q{i}"), i)
        await memory.merged()
    assert memory.merge_error == ""
    assert list(tmp_path.glob("main-*"))
    await memory.close()
    check(NeighbourIndex(tmp_path, CONFIG), 40)


def test_any_flipped_bit_missing_file_or_foreign_file_leaves_the_index_to_be_rebuilt(tmp_path: Path) -> None:
    with_a_main_part(tmp_path / "run").save()
    other = filled(tmp_path / "other", 12)
    other.follow(an_experience(VECTORS[30], query_id="q0"), 30)
    other.merge()
    other.follow(an_experience(VECTORS[31], query_id="q1"), 31)
    other.save()
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert len(names) == 6
    for name in names:
        file = tmp_path / "run" / name
        data = file.read_bytes()
        if name != "manifest.json":
            for byte in range(0, len(data), max(1, len(data) // 25)):
                file.write_bytes(data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :])
                assert NeighbourIndex(tmp_path / "run", CONFIG).loaded == 0, (name, byte)
            file.write_bytes(data[:-1])
            assert NeighbourIndex(tmp_path / "run", CONFIG).loaded == 0
        foreign = [path for path in (tmp_path / "other").iterdir() if path.name.split("-")[0] == name.split("-")[0]]
        foreign = [path for path in foreign if path.suffix == file.suffix]
        assert foreign
        file.write_bytes(foreign[0].read_bytes())
        assert NeighbourIndex(tmp_path / "run", CONFIG).loaded == 0
        file.unlink()
        assert NeighbourIndex(tmp_path / "run", CONFIG).loaded == 0
        file.write_bytes(data)
    check(NeighbourIndex(tmp_path / "run", CONFIG))


@pytest.mark.parametrize("change", [{"encoder": "f"}, {"max_entries": 14}, {"ivf_entries": 5}, {"dimension": 9}])
def test_other_settings_leave_the_index_to_be_rebuilt(tmp_path: Path, change: dict[str, Any]) -> None:
    with_a_main_part(tmp_path).save()
    assert NeighbourIndex(tmp_path, replace(CONFIG, **change)).loaded == 0
    assert NeighbourIndex(tmp_path, replace(CONFIG, merge_entries=3, num_probes=2)).loaded == 15


def test_a_manifest_of_a_later_format_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path).save()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    assert NeighbourIndex(tmp_path, CONFIG).loaded == 0


def test_what_was_forgotten_does_not_come_back(tmp_path: Path) -> None:
    """An index that was ahead of the log, and a process that is killed before it saves the new one."""
    index = filled(tmp_path)
    index.save()
    index.reset()
    assert len(NeighbourIndex(tmp_path, CONFIG)) == len(index) == 0


# ── Through the buffer ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_replay_finds_the_same_after_merges_erasures_and_a_lost_index(tmp_path: Path) -> None:
    config = ReplayConfig(folder=tmp_path, index=CONFIG)
    fields: dict[str, Any] = {"family": "f", "chain": (), "answer": "7", "confidence": 1.0}
    buffer = open_replay(config)
    places = {}
    for i in range(20):
        source = "user-1" if i % 4 == 3 else "user-2"
        version = i // 5
        places[i] = await buffer.remember(
            VECTORS[i], query_id=f"q{i % 18}", source=source, trusted=i % 2 == 0, version=version, **fields
        )
    kept = [i for i in range(10, 20) if i % 4 != 3]
    wanted: dict[str, Any] = {"source": "user-2", "min_version": 2, "max_version": 9}

    async def found() -> list[tuple[int, float]]:
        near = await buffer.nearest(QUERIES[0], 5, **wanted)
        assert all((n.source, n.trusted, n.version) == ("user-2", n.sequence % 2 == 0, n.sequence // 5) for n in near)
        return [(n.sequence, n.similarity) for n in near]

    expected = exact_nearest(VECTORS[kept], np.array(kept), QUERIES[0], 5)
    assert places == {i: i for i in range(20)}
    assert await found() == expected
    assert [n.sequence % 2 for n in await buffer.nearest(QUERIES[0], 20, trusted=False)] == [1] * 9
    await buffer.close()
    for _ in range(2):
        buffer = open_replay(config)
        assert await found() == expected
        assert (await buffer.stats()).num_experiences == 18
        await buffer.close()
        shutil.rmtree(tmp_path / "index")
    assert erase_source(tmp_path, "user-1").num_records == 5
    buffer = open_replay(config)
    assert await found() == expected
    assert (await buffer.stats()).num_experiences == 14
    left = await buffer.nearest(QUERIES[0], 30)  # record 1 again, which the erased record 19 had taken the place of
    assert sorted(n.sequence for n in left) == [1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18]
    await buffer.close()


class SlowLog(Disk):
    """What lies in a folder called log is synced when `go` is set."""

    def __init__(self) -> None:
        self.go, self._logs = threading.Event(), set[int]()

    def create(self, path: Path) -> int:
        file = super().create(path)
        if path.parent.name == "log":
            self._logs.add(file)
        return file

    def sync(self, file: int) -> None:
        if file in self._logs:
            self.go.wait()
        super().sync(file)


async def test_an_index_is_not_written_before_the_log_that_it_follows(tmp_path: Path) -> None:
    disk = SlowLog()
    disk.go.set()
    config = ReplayConfig(folder=tmp_path, index=replace(CONFIG, merge_entries=2))
    buffer = open_replay(config, disk=disk)
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=1, votes=False)
    disk.go.clear()
    fields: dict[str, Any] = {"family": "f", "chain": (), "answer": "1", "confidence": 1.0}
    asked = [asyncio.ensure_future(buffer.remember(VECTORS[i], query_id=f"q{i}", **fields)) for i in range(4)]
    while (await buffer.stats()).num_experiences < 4:
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)
    assert not list((tmp_path / "index").glob("*")) and not any(task.done() for task in asked)
    disk.go.set()
    await asyncio.gather(*asked)
    assert buffer._index is not None
    await buffer._index.merged()
    assert (tmp_path / "index" / "manifest.json").exists()
    await buffer.close()
