"""Rewriting a segment without some of its records.

Everything stays where it was in the order of the log: the sequence numbers, the chain, the segment's name. In the place
of a record stands a tombstone, 128 bytes that hold the record's header and nothing of its body, so the chain still
links, an audit still counts it, and nobody reads it. The file is written aside and replaces the old one at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

from common.errors import LogDamaged
from replay.disk import Disk, write_whole
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
from replay.segments import map_file


def bury(path: Path, sequences: Set[int], disk: Disk) -> int:
    """Put tombstones in the place of these records of the segment at `path`. Returns how many were there to bury.

    Damaged bytes are left as they lie. Raises OSError as the disk does; the old segment lies there then.
    """
    data = map_file(path)
    whole, num_buried = _without(data, sequences, path.name)
    if num_buried:
        write_whole(disk, path, whole)
    return num_buried


def _without(data: Bytes, sequences: Set[int], name: str) -> tuple[bytes, int]:
    try:
        header: SegmentHeader | None = SegmentHeader.unpack(data, name=name)
    except LogDamaged:
        header = None
    first, chain = (0, None) if header is None else (header.first_sequence, header.chain)
    found = scan(data, first_sequence=first, chain=chain)
    holes = {hole.start: hole.stop for hole in found.holes if hole.stop > hole.start}
    head = bytes(data[:ALIGN]) if header is None else replace(header, version=FORMAT_VERSION).pack()
    pieces, size, num_buried = [head], ALIGN, 0
    entries = array("Q")
    offset = ALIGN
    while offset < len(data):
        frame = None if offset in holes else unpack_frame(data, offset)
        stop = holes[offset] if frame is None else offset + frame.size
        piece = bytes(data[offset:stop])
        if frame is not None and frame.kind not in MARKS:
            if frame.sequence in sequences and frame.kind != TOMBSTONE:
                piece = pack_stand_in(TOMBSTONE, b"", data[offset : offset + ALIGN])
                num_buried += 1
            entries.extend((0, 0) * (frame.sequence - first - len(entries) // 2))
            entries.extend((size, frame.chain))
        elif frame is not None and frame.kind != SEAL:
            assert frame.kind in (FOOTER, REWRITTEN_FOOTER)
            entries.extend((0, 0) * (frame.sequence - first - len(entries) // 2))
            piece = pack_stand_in(REWRITTEN_FOOTER, pack_footer(entries), original_of(data, offset, frame))
        pieces.append(piece)
        size += len(piece)
        offset = stop
    return b"".join(pieces), num_buried
