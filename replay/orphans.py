"""Removing files, and pictures that no rollout refers to any more. Whoever holds the log's lock may."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from common.schema import rollout_keys
from replay.disk import Disk, write_whole
from replay.log import Log
from replay.packs import Pack, leave_out
from replay.records import Kind

REMOVING = "removing"
"""A file beside the packs while pictures are being removed. One that is found says that a process was killed before it
was done: what no rollout refers to is then looked for among all pictures.
"""


def remove(paths: Iterable[Path], disk: Disk) -> None:
    """Remove these files, durably."""
    paths = tuple(paths)
    for path in paths:
        disk.unlink(path)
    for folder in sorted({path.parent for path in paths}):
        disk.sync_folder(folder)


def begin_removal(folder: Path, disk: Disk) -> None:
    write_whole(disk, folder / REMOVING, b"")


def end_removal(folder: Path, disk: Disk) -> None:
    remove([folder / REMOVING], disk)


def is_unfinished(folder: Path) -> bool:
    return (folder / REMOVING).exists()


def unreferred(log: Log, digests: Iterable[str], gone: Set[int] = frozenset()) -> set[str]:
    """Those of the pictures that no rollout of the log refers to, the records `gone` left aside."""
    left = set(digests)
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT})) if left else ():
        if frame.sequence not in gone:
            left.difference_update(ref.digest for ref in rollout_keys(frame.body)[0].media)
    return left


def remove_media(folder: Path, log: Log, digests: Iterable[str], gone: Set[int], disk: Disk) -> int:
    """Remove those of the pictures in `folder`, which nobody writes, that no rollout of the log refers to, the records
    `gone` left aside. Returns how many they were.
    """
    doomed = unreferred(log, digests, gone) if folder.is_dir() else set[str]()
    leave_out_of(sorted(folder.glob("[0-9]*.pack")), doomed, disk)
    remove([path for digest in sorted(doomed) if (path := folder / digest[:2] / digest).is_file()], disk)
    return len(doomed)


def leave_out_of(packs: Iterable[Path], doomed: Set[str], disk: Disk) -> None:
    """Rewrite those of the packs that hold one of these pictures."""
    for path in packs:
        if not doomed.isdisjoint(Pack(path).entries()):
            leave_out(path, doomed, disk)
