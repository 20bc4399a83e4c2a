"""Rewriting a segment with something else in the place of some of its records.

Everything stays where it was in the order of the log: the sequence numbers, the chain, the segment's name. A stand-in
holds the record's header and nothing of its body, so the chain still links and an audit still counts it: a tombstone
for what was erased, its keys for a rollout that was pruned. The file is written aside and replaces the old one at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import LogDamaged
from replay.disk import Disk, write_aside
from replay.footer import pack_footer
from replay.frames import (
    ALIGN,
    FOOTER,
    FORMAT_VERSION,
    MARKS,
    REWRITTEN_FOOTER,
    SEAL,
    TOMBSTONE,
    Bytes,
    SegmentHeader,
    original_of,
    pack_stand_in,
    scan,
    unpack_frame,
)
from replay.maps import map_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What a segment's file is to hold, in pieces. num_replaced: records; last_frame, footer: as of a Segment."""

    pieces: tuple[Bytes, ...]
    num_bytes: int
    num_replaced: int
    last_frame: int
    footer: int


def replace_records(path: Path, stand_ins: Mapping[int, tuple[int, bytes]], disk: Disk) -> int:
    """Put a frame of this kind with this body in the place of each record of the segment at `path` that is asked for by
    its sequence number. A tombstone is not replaced again. Returns how many records were.

    Damaged bytes are left as they lie. Raises OSError as the disk does; the old segment lies there then.
    """
    found = rewritten(path, stand_ins)
    if found.num_replaced:
        disk.rename(write_aside(disk, path, found.pieces), path)
        disk.sync_folder(path.parent)
    return found.num_replaced


def rewritten(path: Path, stand_ins: Mapping[int, tuple[int, bytes]]) -> Rewritten:
    """The segment as `replace_records` leaves it; most pieces are views of a map of the old file."""
    data = map_file(path)
    try:
        header: SegmentHeader | None = SegmentHeader.unpack(data, name=path.name)
    except LogDamaged:
        header = None
    first, chain = (0, None) if header is None else (header.first_sequence, header.chain)
    found = scan(data, first_sequence=first, chain=chain)
    holes = {hole.start: hole.stop for hole in found.holes if hole.stop > hole.start}
    head = data[:ALIGN] if header is None else replace(header, version=FORMAT_VERSION).pack()
    pieces: list[Bytes] = [head]
    size, num_replaced, last_frame, footer = ALIGN, 0, 0, 0
    entries = array("Q")
    offset = ALIGN
    while offset < len(data):
        frame = None if offset in holes else unpack_frame(data, offset)
        stop = holes[offset] if frame is None else offset + frame.size
        piece: Bytes = data[offset:stop]
        if frame is not None:
            last_frame = size
        if frame is not None and frame.kind not in MARKS:
            if frame.sequence in stand_ins and frame.kind != TOMBSTONE:
                kind, body = stand_ins[frame.sequence]
                piece = pack_stand_in(kind, body, original_of(data, offset, frame))
                num_replaced += 1
            entries.extend((0, 0) * (frame.sequence - first - len(entries) // 2))
            entries.extend((size, frame.chain))
        elif frame is not None and frame.kind != SEAL:
            assert frame.kind in (FOOTER, REWRITTEN_FOOTER)
            entries.extend((0, 0) * (frame.sequence - first - len(entries) // 2))
            piece = pack_stand_in(REWRITTEN_FOOTER, pack_footer(entries), original_of(data, offset, frame))
            footer = 0 if found.holes else size
        pieces.append(piece)
        size += len(piece)
        offset = stop
    return Rewritten(
        pieces=tuple(pieces), num_bytes=size, num_replaced=num_replaced, last_frame=last_frame, footer=footer
    )
