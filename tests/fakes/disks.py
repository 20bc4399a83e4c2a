"""Disks on which a process ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replay.disk import Disk
from replay.frames import Bytes


class Killed(Exception):
    """The process ended here."""


class KillingDisk(Disk):
    """Takes `left` calls; after that nothing reaches the disk."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _call(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def create(self, path: Path) -> int:
        self._call()
        return super().create(path)

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        self._call()
        return super().write(file, buffers)

    def sync(self, file: int) -> None:
        self._call()

    def truncate(self, file: int, size: int) -> None:
        self._call()
        super().truncate(file, size)

    def rename(self, old: Path, new: Path) -> None:
        self._call()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._call()
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._call()
