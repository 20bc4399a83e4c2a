"""Every change that the replay makes to its files goes through one object, so that tests can put a disk in its place
that fails, tears, reorders, or keeps a list of what was done.

A name is durable when its folder was synced, content when its file was. Reading needs no seam.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from replay.frames import Bytes

PIECES_AT_ONCE = 256
"""That one system call may write; Linux takes 1024."""


class Disk:
    """The system calls that durability rests on. Each raises OSError as its call does."""

    def create(self, path: Path) -> int:
        """A new or emptied file, opened to append; its descriptor."""
        return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND, 0o644)

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        """The number of bytes written, maybe fewer than there are."""
        return os.writev(file, buffers)

    def sync(self, file: int) -> None:
        """Content and size, not times."""
        os.fdatasync(file)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, old: Path, new: Path) -> None:
        """Within one folder; `new` is replaced at once."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """The folder, durable with its name, and those above it."""
        if not path.is_dir():
            if path.parent != path:
                self.make_folder(path.parent)
            path.mkdir(exist_ok=True)
            self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        """The names in a folder."""
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def write_all(disk: Disk, file: int, buffers: Sequence[Bytes]) -> None:
    """Write every byte, however few the disk takes at once."""
    size = sum(map(len, buffers))
    written = disk.write(file, buffers)
    while written < size:
        rest = memoryview(b"".join(buffers))[written:]
        written += disk.write(file, [rest])


def write_aside(disk: Disk, path: Path, pieces: Iterable[Bytes], *, sync: bool = True) -> Path:
    """A file with these pieces beside `path`, whose name it is to get. Where the disk refuses, nothing is left."""
    aside = path.with_name(f".aside-{path.name}")
    file = disk.create(aside)
    try:
        rest = iter(pieces)
        while some := list(islice(rest, PIECES_AT_ONCE)):
            write_all(disk, file, some)
        if sync:
            disk.sync(file)
    except OSError:
        with suppress(OSError):  # the first failure is the one to tell
            disk.unlink(aside)
        raise
    finally:
        disk.close(file)
    return aside


def write_whole(disk: Disk, path: Path, data: Bytes, *, sync: bool = True) -> None:
    """A file that appears whole, or replaces another at once; durable with its name unless `sync` is false."""
    disk.rename(write_aside(disk, path, [data], sync=sync), path)
    if sync:
        disk.sync_folder(path.parent)
