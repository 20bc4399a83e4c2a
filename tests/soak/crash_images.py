"""Crash images: whatever a loss of power or a kill leaves of a replay, it opens, keeps every promise and goes on.

A round plays one life of a replay (fakes/crash_workload) on a disk that records, and looks at 50 of the states that a
crash at some moment could have left (fakes/crash_images): 40 by a loss of power, 10 by a kill. Every fifth is crashed
once more while the replay is opened from it and goes on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fakes.crash_images import Image
from fakes.crash_workload import Play, a_config, live
from fakes.promises import Promise, as_it_lies, check_promises
from fakes.recording_disk import RecordingDisk, Told

from replay.config import Durability, ReplayConfig

T = TypeVar("T")
NUM_ROUNDS = 100
NUM_IN_CI = 4
IMAGES = 50


def run_round(number: int, folder: Path) -> dict[str, int]:
    """Raises AssertionError that names the round, the image and what was violated; its folder is left to look at."""
    return check_images(number, folder)


def check_images(
    number: int,
    folder: Path,
    *,
    disk_type: type[RecordingDisk] = RecordingDisk,
    durability: Durability | None = None,
) -> dict[str, int]:
    """A round on another disk or with another durability, to show that images tell."""
    chance = random.Random(f"crash images/{number}")
    root, media = folder / "disk", folder / "live"
    root.mkdir(parents=True)
    disk = disk_type(root)
    config = a_config(root, media, chance)
    config = config if durability is None else dataclasses.replace(config, durability=durability)
    play = Play(config, disk, chance, disk.tell, name="first")
    asyncio.run(quietly(live(play, disk, chance)))
    calls = sum(not isinstance(op, Told) for op in disk.ops)
    counts = {"calls": calls, "merges": play.mergers.num_started, "images": 0, "crashed_twice": 0}
    for image in range(IMAGES):
        seed = random.Random(f"crash images/{number}/{image}")
        where = folder / f"image-{image}"
        try:
            counts["crashed_twice"] += look(disk, play.config, where, seed, again=image % 5 == 0)
        except Exception as error:
            raise AssertionError(f"round {number}, image {image} ({where}): {error!r}") from error
        counts["images"] += 1
        shutil.rmtree(where)
    shutil.rmtree(folder)
    return counts


def look(
    disk: RecordingDisk,
    config: ReplayConfig,
    where: Path,
    chance: random.Random,
    *,
    told: Sequence[Promise] = (),
    again: bool = False,
) -> int:
    """Make one image under `where` and check it; returns how many images were made of its own opening."""
    ops = disk.ops[: chance.randint(0, len(disk.ops))]
    root = where / "disk"
    root.mkdir(parents=True)
    image = Image(disk.before, ops)
    if chance.random() < 0.2:
        image.killed(root, chance)
    else:
        image.powerless(root, chance)
    promises = [*told, *(op.what for op in ops if isinstance(op, Told))]
    moved = dataclasses.replace(config, folder=root / config.folder.relative_to(disk.root), live_media=where / "live")
    second = RecordingDisk(root)
    asyncio.run(quietly(examine(moved, promises, second, chance)))
    if not again:
        return 0
    look(second, moved, where / "again", chance, told=promises)
    return 1


async def examine(
    config: ReplayConfig, promises: Sequence[Promise], disk: RecordingDisk, chance: random.Random
) -> None:
    """Open what lies there, check every promise, go on with it, and open it again."""
    as_it_lies(config, promises)
    play = Play(config, disk, chance, disk.tell, name=f"then{chance.randrange(10**6)}", hides=False)
    play.open()
    try:
        await check_promises(play.buffer, config, promises)
        phase = play.buffer.state.phase
        await play.begin("rft" if phase is None else phase.phase)
        await play.steps(1)
        await play.close()
    finally:
        await play.leave()
    if chance.random() < 0.5:
        as_it_lies(config, promises)


async def quietly(play: Coroutine[Any, Any, T]) -> T:
    """A process that is killed leaves tasks behind that nobody asks any more."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    return await play
