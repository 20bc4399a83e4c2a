"""What a loss of power or a kill leaves of a replay keeps every promise; a disk that does not sync is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.recording_disk import RecordingDisk
from fakes.scratch import scratch
from soak.crash_images import IMAGES, NUM_IN_CI, NUM_ROUNDS, check_images, run_round

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


def test_an_acknowledgement_before_the_sync_is_found_out() -> None:
    with scratch() as folder, pytest.raises(AssertionError, match=r"round 0, image \d"):
        check_images(0, folder / "round", durability=Durability(mode="os"))
