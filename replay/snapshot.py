"""Snapshots: the fold of the log at the end of a segment, so that opening folds only what came after.

A snapshot proves nothing: it is used only where its own hash holds, its segments lie in the folder as it says, and the
chain of each is the one that it was taken at; otherwise the next older one is tried, and then the whole log is folded.
The two newest are kept.

    log/00000007.snapshot    what is known before segment 7 begins
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from replay.disk import Disk, write_whole
from replay.segments import Loss, Segment, why_not

SNAPSHOT_FORMAT = 1
NUM_KEPT = 2

_MAGIC = b"PXLSSNP\n"
_HEADER = struct.Struct("<8sIIQQ24xQ")
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """An end of the log: the segments so far, the next record, and what opening found lost before it."""

    next_index: int
    next_sequence: int
    next_epoch: int
    chain: int
    segments: tuple[Segment, ...]
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """fold: the version of the fold that made `state` (replay/state); another fold has no use for it."""

    position: Position
    fold: int
    state: bytes

    @property
    def name(self) -> str:
        return f"{self.position.next_index:08d}.snapshot"

    def pack(self) -> bytes:
        log = msgspec.json.encode(self.position)
        head = _HEADER.pack(_MAGIC, SNAPSHOT_FORMAT, self.fold, len(log), len(self.state), 0)[:-8]
        whole = head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little") + log + self.state
        return whole + xxhash.xxh3_128_digest(whole)

    @classmethod
    def unpack(cls, data: bytes) -> Snapshot:
        """Raises ValueError, which says why, for anything that is not a whole snapshot of this format."""
        whole, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
        if len(whole) < _HEADER.size or xxhash.xxh3_128_digest(whole) != digest:
            raise ValueError("it does not match its hash")
        magic, version, fold, log_bytes, state_bytes, _ = _HEADER.unpack(whole[: _HEADER.size])
        if (magic, version) != (_MAGIC, SNAPSHOT_FORMAT):
            raise ValueError(f"it is of format {version}, not {SNAPSHOT_FORMAT}")
        if len(whole) != _HEADER.size + log_bytes + state_bytes:
            raise ValueError("its lengths do not add up")
        log, state = whole[_HEADER.size : _HEADER.size + log_bytes], whole[_HEADER.size + log_bytes :]
        return cls(position=msgspec.json.decode(log, type=Position), fold=fold, state=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The newest snapshot that holds, if any, and why each newer one was left aside."""

    snapshot: Snapshot | None = None
    refused: tuple[str, ...] = ()


def find_snapshot(folder: Path, *, fold: int) -> Trust:
    """The newest snapshot of this fold that agrees with the log in `folder`."""
    refused = []
    for path in _newest_first(folder):
        try:
            snapshot = Snapshot.unpack(path.read_bytes())
        except ValueError as error:
            refused.append(f"{path.name}: {error}")
            continue
        why = why_not(folder, snapshot.position.segments) if snapshot.fold == fold else f"made by fold {snapshot.fold}"
        if not why:
            return Trust(snapshot=snapshot, refused=tuple(refused))
        refused.append(f"{path.name}: {why}")
    return Trust(refused=tuple(refused))


def write_snapshot(folder: Path, snapshot: Snapshot, disk: Disk) -> None:
    """Write it whole; then all but the newest two go. Raises OSError as the disk does."""
    write_whole(disk, folder / snapshot.name, snapshot.pack())
    for old in list(_newest_first(folder))[NUM_KEPT:]:
        disk.unlink(old)


def _newest_first(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("[0-9]*.snapshot"), reverse=True))
