"""What a loss of power or a kill leaves of a replay keeps every promise; a disk that does not sync is found out."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from fakes.crash_images import Image
from fakes.crash_workload import Play, a_config
from fakes.recording_disk import RecordingDisk
from fakes.scratch import scratch
from soak.crash_images import IMAGES, NUM_IN_CI, NUM_ROUNDS, check_images, run_round

from replay.audit.audit import audit_replay
from replay.config import Durability


@pytest.mark.parametrize("number", range(NUM_IN_CI))
def test_every_image_keeps_every_promise(number: int) -> None:
    assert NUM_ROUNDS * IMAGES >= 5000 and NUM_IN_CI * IMAGES >= 200
    with scratch() as folder:
        counts = run_round(number, folder / "round")
    assert counts["images"] == IMAGES and counts["calls"] > 50 and counts["crashed_twice"] == IMAGES / 5


class NamesLost(RecordingDisk):
    """No folder is ever synced."""

    def sync_folder(self, path: Path) -> None:
        self._name(path)


class NothingSynced(RecordingDisk):
    """Whoever waits for a sync is told that it is done before it is."""

    def sync(self, file: int) -> None:
        assert file >= 0


@pytest.mark.parametrize("disk_type", [NamesLost, NothingSynced])
def test_a_disk_that_forgets_to_sync_is_found_out(disk_type: type[RecordingDisk]) -> None:
    with scratch() as folder, pytest.raises(AssertionError, match=r"round 0, image \d"):
        check_images(0, folder / "round", disk_type=disk_type)


class MergesUnsynced(RecordingDisk):
    """What a merge of the neighbour index makes is not synced."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._unsynced = set[int]()

    def create(self, path: Path) -> int:
        file = super().create(path)
        if "main-" in path.name:
            self._unsynced.add(file)
        return file

    def sync(self, file: int) -> None:
        if file not in self._unsynced:
            super().sync(file)

    def close(self, file: int) -> None:
        self._unsynced.discard(file)
        super().close(file)


@pytest.mark.parametrize(("disk_type", "least", "most"), [(RecordingDisk, 0, 0), (MergesUnsynced, 5, 20)])
def test_images_hold_what_a_merge_wrote(disk_type: type[RecordingDisk], least: int, most: int) -> None:
    """After a clean stop the index is whole when the power goes; of 20 images some tell where it is not."""
    chance, found = random.Random(0), 0
    with scratch() as folder:
        (folder / "disk").mkdir()
        disk = disk_type(folder / "disk")
        config = a_config(disk.root, folder / "live", chance)
        play = Play(config, disk, chance, disk.tell, name="first")
        asyncio.run(_merge_and_close(play))
        for number in range(20):
            root = folder / str(number)
            Image(disk.before, disk.ops).powerless(root, chance)
            audit = audit_replay(root / config.folder.relative_to(disk.root))
            assert {violation.rule for violation in audit.violations} <= {"index"}
            found += not audit.clean
    assert least <= found <= most


async def _merge_and_close(play: Play) -> None:
    play.open()
    for _ in range(12):
        await play.remember()
        await play.merged()
    await play.close()
    assert play.mergers.num_started > 2


def test_an_acknowledgement_before_the_sync_is_found_out() -> None:
    with scratch() as folder, pytest.raises(AssertionError, match=r"round 0, image \d"):
        check_images(0, folder / "round", durability=Durability(mode="os"))
