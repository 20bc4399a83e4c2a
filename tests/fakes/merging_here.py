"""A merge of the neighbour index without a process of its own, so that a disk may hear of what it does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from fakes.disks import Killed

from common.errors import ReplayError
from replay.disk import Disk
from replay.frames import Bytes
from replay.index.merging import merge


class MergingHere:
    """As replay.index.merging.Merging; the merge runs in the thread that waits for it.

    left: after so many calls to the disk the process has ended, and only it; None: when it is stopped.
    """

    def __init__(self, folder: Path, disk: Disk, left: int | None) -> None:
        self._folder = folder
        self._disk = _Ending(disk, left)

    def wait(self) -> None:
        try:
            merge(self._folder, self._disk)
        except (_Ended, Exception) as error:  # whatever it was, a process of its own would have ended with it
            raise ReplayError(f"the index was not merged: {error!r}") from error

    def stop(self) -> None:
        self._disk.left = 0


class Mergers:
    """Starts merges on `disk`; every third ends at one of its first calls, which `seed` draws."""

    def __init__(self, disk: Disk, seed: str) -> None:
        self._disk = disk
        self._chance = random.Random(seed)
        self.num_started = 0

    def __call__(self, folder: Path) -> MergingHere:
        self.num_started += 1
        left = self._chance.randrange(20) if self._chance.random() < 1 / 3 else None
        return MergingHere(folder, self._disk, left)


class _Ended(Killed):
    """The process of the merge, and no other."""


class _Ending(Disk):
    """Hands every call on, `left` of them."""

    def __init__(self, disk: Disk, left: int | None) -> None:
        self._disk = disk
        self.left = left

    def _handed(self) -> Disk:
        if self.left is not None:
            if self.left <= 0:
                raise _Ended
            self.left -= 1
        return self._disk

    def create(self, path: Path) -> int:
        return self._handed().create(path)

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        return self._handed().write(file, buffers)

    def sync(self, file: int) -> None:
        self._handed().sync(file)

    def close(self, file: int) -> None:
        self._disk.close(file)

    def rename(self, old: Path, new: Path) -> None:
        self._handed().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._handed().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._handed().sync_folder(path)
