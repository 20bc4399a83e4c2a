"""Every change that the replay makes to its files goes through one object, so that tests can put a disk in its place
that fails, tears, reorders, or keeps a list of what was done.

A name is durable when its folder was synced, content when its file was. Reading needs no seam.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import DiskFull, ReplayError
from replay.frames import Bytes


class SyncFailed(OSError):
    """What the disk holds is unknown: the kernel may have dropped what it could not write."""


class Disk:
    """The system calls that durability rests on. Each raises OSError as its call does."""

    def create(self, path: Path) -> int:
        """A new or emptied file, opened to append; its descriptor."""
        return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND, 0o644)

    def open(self, path: Path) -> int:
        """A file that is there, to be cut or synced; its descriptor."""
        return os.open(path, os.O_RDWR)

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
        """The folder, durable with its name, and those above it.

        One that is there may have been made by a process that was killed before it could sync the name; whoever made
        it had synced those above before.
        """
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


def write_whole(disk: Disk, path: Path, data: Bytes, *, sync: bool = True) -> None:
    """A file that appears whole, or replaces another at once; durable with its name unless `sync` is false.

    Raises OSError as the disk does, SyncFailed where it was a sync; what lay there before lies there then, unless it
    was the sync of the folder.
    """
    disk.close(begin_file(disk, path, data, sync=sync))


def begin_file(disk: Disk, path: Path, data: Bytes, *, sync: bool = True) -> int:
    """As `write_whole`, and the file stays open to append to; its descriptor."""
    aside = path.with_name(f".aside-{path.name}")
    with contextlib.ExitStack() as stack:
        stack.callback(_forget, disk, aside)
        file = disk.create(aside)
        stack.callback(disk.close, file)
        write_all(disk, file, [data])
        if sync:
            with syncing():
                disk.sync(file)
        disk.rename(aside, path)
        if sync:
            with syncing():
                disk.sync_folder(path.parent)
        stack.pop_all()
    return file


def _forget(disk: Disk, aside: Path) -> None:
    """What could not be finished takes no room; the next opening looks for it again."""
    with contextlib.suppress(OSError):
        disk.unlink(aside)


@contextlib.contextmanager
def syncing() -> Iterator[None]:
    """Raises SyncFailed where what it holds raises OSError."""
    try:
        yield
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror) from error


def refusal(where: Path, what: str, error: OSError) -> ReplayError:
    """What to raise where the disk refused: DiskFull where room helps, ReplayError otherwise."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, SyncFailed)
    return (DiskFull if full else ReplayError)(f"{where}: {what} ({error.strerror})")
