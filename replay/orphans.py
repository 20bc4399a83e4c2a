"""Removing files, and pictures that no rollout refers to any more. Whoever holds the log's lock may."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from common.schema import rollout_keys
from replay.disk import Disk
from replay.log import Log
from replay.packs import Pack, leave_out
from replay.records import Kind


def remove(paths: Iterable[Path], disk: Disk) -> None:
    """Remove these files, durably."""
    paths = tuple(paths)
    for path in paths:
        disk.unlink(path)
    for folder in sorted({path.parent for path in paths}):
        disk.sync_folder(folder)


def remove_media(folder: Path, log: Log, digests: Iterable[str], gone: Set[int], disk: Disk) -> int:
    """Remove those of the pictures in `folder` that no rollout of the log refers to, the records `gone` left aside.
    Returns how many they were.
    """
    doomed = set(digests)
    if not doomed or not folder.is_dir():
        return 0
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT})):
        if frame.sequence not in gone:
            doomed.difference_update(ref.digest for ref in rollout_keys(bytes(frame.body))[0].media)
    for path in sorted(folder.glob("[0-9]*.pack")):
        if not doomed.isdisjoint(Pack(path).entries()):
            leave_out(path, doomed, disk)
    remove([path for digest in sorted(doomed) if (path := folder / digest[:2] / digest).is_file()], disk)
    return len(doomed)
