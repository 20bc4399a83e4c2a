"""Failing calls: whichever call to the disk fails, and however, no promise is broken.

One small life of a replay (fakes/crash_workload) is played again and again; each time another call fails with EIO,
ENOSPC or a short write. A disk that is full for a moment is waited for while a replay runs; what else fails ends the
process with a ReplayError and nothing but that, for ever, and the next process goes on with what lies there. In the
end the replay must keep every promise that it gave, as it lies and after a loss of power.

Round r takes the calls whose number is r modulo NUM_ROUNDS, so all rounds take every call.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.crash_workload import Play, a_config, one_life
from fakes.failing_disk import FailingDisk, Fault
from fakes.recording_disk import RecordingDisk, Told
from soak.crash_images import examine, look, quietly

from common.errors import ReplayError
from replay.config import Durability

NUM_ROUNDS = 60
NUM_IN_CI = 1
FAULTS: tuple[Fault, ...] = ("EIO", "ENOSPC", "short write")
SEED = 3


def run_round(number: int, folder: Path) -> dict[str, int]:
    """Raises AssertionError that names the call and what was violated; its folder is left to look at."""
    num_calls = play_with(folder / "whole", None, "EIO").num_calls
    counts = {"plays": 0, "went_on": 0, "stopped": 0}
    for fault in FAULTS:
        for nth in range(number, num_calls, NUM_ROUNDS):
            where = folder / f"{fault.replace(' ', '-')}-{nth}"
            try:
                stopped = play_with(where, nth, fault).stopped
            except Exception as error:
                raise AssertionError(f"round {number}: {fault} at call {nth} ({where}): {error!r}") from error
            counts["plays"] += 1
            counts["stopped" if stopped else "went_on"] += 1
            shutil.rmtree(where)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """num_calls: of the whole play. failed: the call that failed, "" for none. stopped: a process ended with it."""

    num_calls: int
    failed: str
    stopped: bool


def play_with(folder: Path, nth: int | None, fault: Fault, *, disk_type: type[FailingDisk] = FailingDisk) -> Outcome:
    """Play in `folder`, call `nth` failing (None: no call), and check what is left."""
    chance = random.Random(SEED)
    root = folder / "disk"
    root.mkdir(parents=True)
    disk = disk_type(root, -1 if nth is None else nth, fault)
    settings: dict[str, Any] = {"snapshot_bytes": 16 << 10, "durability": Durability(group_ms=0)}
    config = dataclasses.replace(a_config(root, folder / "live", chance), **settings)
    play = Play(config, disk, chance, disk.tell, name="first")
    stopped = asyncio.run(quietly(_lives(play, disk)))
    promises = [op.what for op in disk.ops if isinstance(op, Told)]
    look(disk, play.config, folder / "powerless", chance)
    asyncio.run(quietly(examine(play.config, promises, RecordingDisk(root), chance)))
    return Outcome(num_calls=disk.num_calls, failed=disk.failed, stopped=stopped)


async def _lives(play: Play, disk: FailingDisk) -> bool:
    stopped = False
    for number in range(4):
        before = disk.failed
        try:
            await one_life(play, number, steps=1, close=number != 1)
        except ReplayError as error:
            assert disk.failed and (not before or disk.fault == "ENOSPC"), f"{error}, though no call failed"
            assert disk.failed.startswith("sync") or disk.fault == "EIO" or not play.alive, f"not waited for: {error}"
            stopped = True
    assert not (stopped and disk.fault == "short write"), "a short write is no failure"
    return stopped
