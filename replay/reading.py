"""A log as somebody who only looks at it sees it: every record with its place, and what the hashes say.

Nothing is opened for writing and no lock is taken, so a live writer is not disturbed; its last records may be missing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import LogDamaged, RunFolderError
from replay.frames import ALIGN, SEAL, Bytes, SegmentHeader, body_of, unpack_frame
from replay.log import Loss, read_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record lies: the byte of its frame in a segment's file, and its number."""

    segment: str
    byte: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record. body: a view of the memory map."""

    place: Place
    kind: int
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
    """A log at one moment. losses: damage outside the torn tail."""

    folder: Path
    segments: tuple[SegmentInfo, ...]
    losses: tuple[Loss, ...]
    torn: TornTail | None
    next_sequence: int
    offsets: tuple[memoryview, ...]

    @property
    def num_bytes(self) -> int:
        return sum(segment.num_bytes for segment in self.segments)

    @property
    def all_sealed(self) -> bool:
        """Every writer of this log closed it; none was killed, and none is alive."""
        return all(segment.sealed for segment in self.segments)

    def entries(self, *, first: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """The whole records with numbers in [first, stop), oldest first. Raises LogDamaged where one changed since."""
        for segment, offsets in zip(self.segments, self.offsets, strict=True):
            begin = max(0, first - segment.first_sequence)
            end = len(offsets) if stop is None else min(len(offsets), stop - segment.first_sequence)
            if begin < end:
                yield from self._entries(segment, offsets, range(begin, end))

    def _entries(self, segment: SegmentInfo, offsets: memoryview, places: range) -> Iterator[Entry]:
        data = _mapped(self.folder / segment.name)
        for place in places:
            offset = offsets[place]
            if not offset:
                continue
            sequence = segment.first_sequence + place
            header = unpack_frame(data, offset)
            body = None if header is None else body_of(data, offset, header)
            if header is None or body is None:
                raise LogDamaged(f"{segment.name}: record {sequence} changed under our eyes")
            yield Entry(place=Place(segment=segment.name, byte=offset, sequence=sequence), kind=header.kind, body=body)


def read_log(folder: Path) -> Reading:
    """Walk every byte of the log in `folder`. Raises RunFolderError where there is none, or one of another format."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder} holds no log")
    contents = read_segments(folder)
    torn = None
    if contents.cut is not None:
        path, start = contents.cut
        torn = TornTail(segment=path.name, start=start, stop=start + contents.cut_bytes)
    segments = []
    for held in contents.segments:
        data = _mapped(held.path)
        size = torn.start if torn is not None and held.path.name == torn.segment else len(data)
        header = _header(data, held.path.name)
        segments.append(
            SegmentInfo(
                name=held.path.name,
                num_bytes=size,
                first_sequence=held.first_sequence,
                num_records=sum(map(bool, held.offsets)),
                sealed=_sealed(data, max(held.offsets, default=0)),
                index=None if header is None else header.index,
                epoch=None if header is None else header.epoch,
            )
        )
    return Reading(
        folder=folder,
        segments=tuple(segments),
        losses=contents.losses,
        torn=torn,
        next_sequence=contents.next_sequence,
        offsets=tuple(memoryview(held.offsets) for held in contents.segments),
    )


def _header(data: Bytes, name: str) -> SegmentHeader | None:
    try:
        return SegmentHeader.unpack(data, name=name)
    except LogDamaged:
        return None


def _sealed(data: Bytes, last: int) -> bool:
    """Whether the frame behind the one at `last` (0: behind the header) is a seal."""
    header = unpack_frame(data, last) if last else None
    end = last + header.size if header is not None else ALIGN
    seal = unpack_frame(data, end)
    return seal is not None and seal.kind == SEAL


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
