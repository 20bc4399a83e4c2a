"""Reading a folder of segments: what is whole, what is torn, what is damaged.

A segment that a snapshot vouches for is looked at, not walked: its header, its last frame, and the chain of that frame.
Every other one is walked byte by byte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import LogDamaged
from replay.footer import footer_offsets, read_footer
from replay.frames import ALIGN, STAND_INS, TOMBSTONE, Bytes, Hole, Scan, SegmentHeader, body_of, scan, unpack_frame
from replay.maps import map_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One record. sequence: its number, from 0, without gaps unless the log is damaged."""

    kind: int
    sequence: int
    body: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Damage outside the torn tail: bytes [start, stop) of `segment`, records [first_sequence, stop_sequence).

    An empty range of records means that no record was lost (a damaged header, footer or seal). kinds: of the lost
    records whose headers could still be read.
    """

    segment: str
    start: int
    stop: int
    first_sequence: int
    stop_sequence: int
    kinds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment that nobody writes any more. Records [first_sequence, stop_sequence); some may be lost.

    num_bytes: of the file. last_frame: byte of its last whole frame, 0 when there is none; chain: of that frame.
    footer: byte of the footer's frame, 0 when it has none (not sealed, damaged, or of format 1).
    """

    name: str
    first_sequence: int
    stop_sequence: int
    num_bytes: int
    last_frame: int
    chain: int
    footer: int = 0
    created_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a folder holds. cut: the last segment and the size it must be cut to, when its tail is torn.

    num_trusted: of the first segments, taken from a snapshot and not walked.
    """

    segments: tuple[Segment, ...]
    losses: tuple[Loss, ...]
    cut: tuple[Path, int] | None
    cut_bytes: int
    next_sequence: int
    next_epoch: int
    next_index: int
    chain: int
    num_trusted: int = 0


def read_segments(
    folder: Path, *, trusted: Sequence[Segment] = (), known_losses: Sequence[Loss] = (), next_epoch: int = 0
) -> Contents:
    """Walk every byte of every segment after the `trusted` ones. Changes nothing, needs no lock.

    trusted, known_losses, next_epoch: from a snapshot that `why_not` found to match. Raises RunFolderError for a
    segment of another format.
    """
    paths = segment_paths(folder)
    segments, losses = list(trusted), list(known_losses)
    sequence = trusted[-1].stop_sequence if trusted else 0
    chain = trusted[-1].chain if trusted else 0
    damaged_headers = 0
    cut: tuple[Path, int] | None = None
    cut_bytes = 0
    for path in paths[len(trusted) :]:
        data = map_file(path)
        header = None
        try:
            header = SegmentHeader.unpack(data, name=str(path))
            next_epoch = max(next_epoch, header.epoch + 1)
        except LogDamaged:
            damaged_headers += 1
            losses.append(_loss(path, Hole(start=0, stop=ALIGN, first_sequence=sequence, stop_sequence=sequence)))
        if header is not None and (header.first_sequence, header.chain) != (sequence, chain):
            _gap(losses, path, sequence, max(header.first_sequence, sequence))
            sequence = max(header.first_sequence, sequence)
        found = scan(data, first_sequence=sequence, chain=None if header is None else header.chain)
        if path == paths[-1] and found.cut(len(data)) < len(data):
            cut = (path, found.cut(len(data)))
            cut_bytes = len(data) - cut[1]
            data = data[: cut[1]]
            found = scan(data, first_sequence=sequence, chain=None if header is None else header.chain)
        losses += [_loss(path, hole) for hole in found.holes]
        segments.append(_segment(path, data, header, sequence, found))
        sequence, chain = found.next_sequence, found.chain
    return Contents(
        segments=tuple(segments),
        losses=tuple(losses),
        cut=cut,
        cut_bytes=cut_bytes,
        next_sequence=sequence,
        next_epoch=next_epoch + damaged_headers,
        next_index=int(paths[-1].stem) + 1 if paths else 0,
        chain=chain,
        num_trusted=len(trusted),
    )


def why_not(folder: Path, segments: Sequence[Segment]) -> str:
    """Why the folder does not begin with these segments; "" when it does. Reads headers and last frames only."""
    paths = segment_paths(folder)[: len(segments)]
    if [path.name for path in paths] != [segment.name for segment in segments]:
        return "other segments lie before it"
    before = 0
    for path, segment in zip(paths, segments, strict=True):
        data = map_file(path)
        try:
            header = SegmentHeader.unpack(data, name=path.name)
        except LogDamaged as error:
            return str(error)
        if (len(data), header.first_sequence, header.chain) != (segment.num_bytes, segment.first_sequence, before):
            return f"{path.name} is another segment now"
        if segment.footer:
            footer = read_footer(data, header)
            if footer is None or (footer.start, footer.chain) != (segment.footer, segment.chain):
                return f"{path.name}: the footer does not match"
        elif segment.last_frame:
            frame = unpack_frame(data, segment.last_frame)
            if frame is None or frame.chain != segment.chain:
                return f"{path.name}: the last frame does not match"
        elif segment.chain != header.chain:
            return f"{path.name}: the chain does not match"
        before = segment.chain
    return ""


def read_frames(folder: Path, *, kinds: frozenset[int] = frozenset()) -> Iterator[Frame]:
    """Every whole record of a log that somebody else may be writing, oldest first; only those of `kinds` if any are
    given.
    """
    for segment in read_segments(folder).segments:
        yield from frames_of(folder, segment, kinds=kinds)


def frames_of(
    folder: Path,
    segment: Segment,
    *,
    first_sequence: int = 0,
    kinds: frozenset[int] = frozenset(),
    data: Bytes | None = None,
) -> Iterator[Frame]:
    """The records of one segment from `first_sequence` on, only those of `kinds` if any are given, checked. An erased
    one comes only when TOMBSTONE is among the kinds, without a body; a pruned one comes with its keys.

    data: the segment's bytes, where they are mapped already. Bodies are views of the memory map, nothing copied.
    Raises LogDamaged for one that no longer matches.
    """
    if segment.first_sequence == segment.stop_sequence:
        return
    data = map_file(folder / segment.name) if data is None else data
    places = enumerate(offsets_of(data, segment), segment.first_sequence)
    yield from frames_at(data, segment.name, (place for place in places if place[0] >= first_sequence), kinds)


def frames_at(
    data: Bytes, name: str, places: Iterable[tuple[int, int]], kinds: frozenset[int] = frozenset()
) -> Iterator[Frame]:
    """`frames_of`, where the number and the byte of every record are known; byte 0 where it is lost."""
    for sequence, offset in places:
        if not offset:
            continue
        header = unpack_frame(data, int(offset))
        if header is not None and (header.kind not in kinds if kinds else header.kind == TOMBSTONE):
            continue
        body = None if header is None else body_of(data, int(offset), header)
        if header is None or body is None or header.sequence != sequence:
            raise LogDamaged(f"{name}: record {sequence} does not match its hash")
        if header.kind in STAND_INS:
            body = body[:-ALIGN]
        yield Frame(kind=header.kind, sequence=sequence, body=body)


def offsets_of(data: Bytes, segment: Segment) -> Sequence[int]:
    """The byte of every record of the segment, 0 where it is lost: from its footer, or by walking it."""
    if segment.footer:
        if len(data) != segment.num_bytes:
            raise LogDamaged(f"{segment.name} was replaced while it was read")
        return array("Q", footer_offsets(data, segment.footer).astype("=u8").tobytes())
    try:
        chain = SegmentHeader.unpack(data, name=segment.name).chain
    except LogDamaged:
        chain = None
    found = scan(data[: segment.num_bytes], first_sequence=segment.first_sequence, chain=chain)
    offsets = array("Q", bytes(8 * (segment.stop_sequence - segment.first_sequence)))
    for offset, header in found.frames:
        offsets[header.sequence - segment.first_sequence] = offset
    return offsets


def segment_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.segment"))


def _segment(path: Path, data: Bytes, header: SegmentHeader | None, first_sequence: int, found: Scan) -> Segment:
    footer = None if header is None or found.holes else read_footer(data, header)
    return Segment(
        name=path.name,
        first_sequence=first_sequence,
        stop_sequence=found.next_sequence,
        num_bytes=len(data),
        last_frame=found.last_frame,
        chain=found.chain,
        footer=0 if footer is None else footer.start,
        created_ns=0 if header is None else header.created_ns,
    )


def _loss(path: Path, hole: Hole) -> Loss:
    return Loss(
        segment=path.name,
        start=hole.start,
        stop=hole.stop,
        first_sequence=hole.first_sequence,
        stop_sequence=hole.stop_sequence,
        kinds=hole.kinds,
    )


def _gap(losses: list[Loss], path: Path, first: int, stop: int) -> None:
    """Records [first, stop) are missing before `path`: a hole at the end of the segment before is widened to them."""
    last = losses[-1] if losses and losses[-1].stop_sequence == first and losses[-1].segment != path.name else None
    if last is not None:
        losses[-1] = replace(last, stop_sequence=stop)
    else:
        losses.append(Loss(segment=path.name, start=0, stop=0, first_sequence=first, stop_sequence=stop))
