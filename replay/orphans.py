"""Removing files, and pictures that no rollout refers to any more. Whoever holds the log's lock may.

Records go before their pictures, so that a rollout is never without; `media/unneeded.json` names the pictures that are
to go, for the next opening where this one is killed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

import msgspec

from common.schema import rollout_keys
from replay.disk import Disk, write_whole
from replay.log import Log
from replay.packs import PackedMedia, leave_out_of
from replay.records import Kind


def remove(paths: Iterable[Path], disk: Disk) -> None:
    """Remove these files, durably."""
    paths = tuple(paths)
    for path in paths:
        disk.unlink(path)
    for folder in sorted({path.parent for path in paths}):
        disk.sync_folder(folder)


def unneeded(log: Log, digests: Iterable[str], gone: Set[int] = frozenset()) -> set[str]:
    """Those of the pictures that no rollout of the log refers to, the records `gone` left aside."""
    doomed = set(digests)
    for frame in log.frames(kinds=frozenset({Kind.ROLLOUT})) if doomed else ():
        if frame.sequence not in gone:
            doomed.difference_update(ref.digest for ref in rollout_keys(bytes(frame.body))[0].media)
    return doomed


def remove_media(folder: Path, doomed: Set[str], disk: Disk) -> None:
    """Leave these pictures out of the packs in `folder`, and what a killed process had not finished. What it had done
    becomes durable too: a pack that it replaced does not come back once somebody relies on it.
    """
    if not folder.is_dir():
        return
    for place in {folder, *(folder / digest[:2] for digest in doomed if (folder / digest[:2]).is_dir())}:
        disk.sync_folder(place)
    leave_out_of(PackedMedia(folder), doomed, disk)
    singles = (folder / digest[:2] / digest for digest in sorted(doomed))
    remove([*folder.glob(".aside-*"), *(path for path in singles if path.is_file())], disk)


def announce(folder: Path, doomed: Set[str], disk: Disk) -> None:
    """Say durably that these pictures in `folder` are to go once no record needs them."""
    if doomed:
        write_whole(disk, _note(folder), msgspec.json.encode(sorted(doomed)))


def announced(folder: Path) -> frozenset[str]:
    """The pictures that are to go."""
    try:
        return frozenset(msgspec.json.decode(_note(folder).read_bytes(), type=list[str]))
    except FileNotFoundError:
        return frozenset()


def finish(folder: Path, log: Log, disk: Disk) -> None:
    """Remove the announced pictures that no rollout of the log refers to, if any are announced."""
    doomed = announced(folder)
    if doomed:
        remove_announced(folder, unneeded(log, doomed), disk)


def remove_announced(folder: Path, doomed: Set[str], disk: Disk) -> None:
    """Remove these pictures; then nothing is announced any more."""
    if doomed:
        remove_media(folder, doomed, disk)
    remove([_note(folder)], disk)


def _note(folder: Path) -> Path:
    return folder / "unneeded.json"
