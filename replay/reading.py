"""A log as somebody who only looks at it sees it: every record with its place, and what the hashes say.

Nothing is opened for writing and no lock is taken, so a live writer is not disturbed; its last records may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import LogDamaged, RunFolderError
from replay.frames import ALIGN, SEAL, STAND_INS, TOMBSTONE, Bytes, SegmentHeader, body_of, original_of, unpack_frame
from replay.maps import map_file
from replay.records import Kind
from replay.segments import Loss, Segment, offsets_of, read_segments

KIND_NAMES: Mapping[int, str] = {int(kind): kind.name.lower() for kind in Kind} | {TOMBSTONE: "tombstone"}
"""What people call the frames that have a number of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record lies: the byte of its frame in a segment's file, and its number."""

    segment: str
    byte: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record. body: a view of the memory map; the keys of a pruned rollout, nothing of an erased record.

    was: the kind of the record that came here; `kind` itself, but for a tombstone and a pruned rollout.
    """

    place: Place
    kind: int
    was: int
    body: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """A segment's file. num_bytes: those that hold whole frames, and holes between them. sealed: ended on purpose.

    index, epoch: of its header; None where that is damaged.
    """

    name: str
    num_bytes: int
    first_sequence: int
    num_records: int
    sealed: bool
    index: int | None
    epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """Bytes [start, stop) of the last segment, which nobody was promised and a next writer cuts."""

    segment: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A log at one moment. losses: damage outside the torn tail. held: the segments as opening knows them."""

    folder: Path
    segments: tuple[SegmentInfo, ...]
    losses: tuple[Loss, ...]
    torn: TornTail | None
    next_sequence: int
    held: tuple[Segment, ...]

    @property
    def num_bytes(self) -> int:
        return sum(segment.num_bytes for segment in self.segments)

    @property
    def as_it_was(self) -> bool:
        """No segment was rewritten since."""
        return all((self.folder / one.name).stat().st_size == one.num_bytes for one in self.held if one.footer)

    def entries(
        self, *, first: int = 0, stop: int | None = None, kinds: frozenset[int] = frozenset()
    ) -> Iterator[Entry]:
        """The whole records with numbers in [first, stop), only those of `kinds` if any are given, oldest first.

        Tombstones are among them. Raises LogDamaged where one changed since.
        """
        for segment in self.held:
            end = segment.stop_sequence if stop is None else min(segment.stop_sequence, stop)
            numbers = range(max(first, segment.first_sequence), end)
            if numbers:
                yield from self._entries(segment, numbers, kinds)

    def _entries(self, segment: Segment, numbers: range, kinds: frozenset[int]) -> Iterator[Entry]:
        data = map_file(self.folder / segment.name)
        offsets = _offsets(data, segment)
        for sequence in numbers:
            offset = offsets[sequence - segment.first_sequence]
            if not offset:
                continue
            header = unpack_frame(data, offset)
            if header is not None and kinds and header.kind not in kinds:
                continue
            body = None if header is None else body_of(data, offset, header)
            original = None if header is None else unpack_frame(original_of(data, offset, header), 0)
            if header is None or body is None or original is None:
                raise LogDamaged(f"{segment.name}: record {sequence} changed under our eyes")
            yield Entry(
                place=Place(segment=segment.name, byte=offset, sequence=sequence),
                kind=header.kind,
                was=original.kind,
                body=body[:-ALIGN] if header.kind in STAND_INS else body,
            )


def read_log(folder: Path) -> Reading:
    """Walk every byte of the log in `folder`. Raises RunFolderError where there is none, or one of another format."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder} holds no log")
    contents = read_segments(folder)
    torn = None
    if contents.cut is not None:
        path, start = contents.cut
        torn = TornTail(segment=path.name, start=start, stop=start + contents.cut_bytes)
    return Reading(
        folder=folder,
        segments=tuple(_info(folder, held) for held in contents.segments),
        losses=contents.losses,
        torn=torn,
        next_sequence=contents.next_sequence,
        held=contents.segments,
    )


def kind_name(kind: int) -> str:
    """A record's kind as people write it; its number where this version knows none."""
    return KIND_NAMES.get(kind, str(kind))


def _info(folder: Path, held: Segment) -> SegmentInfo:
    data = map_file(folder / held.name)
    header = _header(data, held.name)
    last = unpack_frame(data, held.last_frame) if held.last_frame else None
    return SegmentInfo(
        name=held.name,
        num_bytes=held.num_bytes,
        first_sequence=held.first_sequence,
        num_records=sum(map(bool, _offsets(data, held))),
        sealed=bool(held.footer) or (last is not None and last.kind == SEAL),
        index=None if header is None else header.index,
        epoch=None if header is None else header.epoch,
    )


def _offsets(data: Bytes, held: Segment) -> Sequence[int]:
    """As `offsets_of`; a segment that a live writer has pruned since is walked."""
    if held.footer and len(data) != held.num_bytes:
        held = replace(held, num_bytes=len(data), footer=0)
    return offsets_of(data, held)


def _header(data: Bytes, name: str) -> SegmentHeader | None:
    try:
        return SegmentHeader.unpack(data, name=name)
    except LogDamaged:
        return None
