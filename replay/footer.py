"""The footer of a sealed segment: where its records lie, so that opening need not walk it.

The last two frames of a sealed segment are the footer and the seal. The seal is 64 bytes, so it is found from the
file's size; it carries the next sequence number, so the number of records and with it the place of the footer follow.
The footer's body is one entry a sequence number: the byte of the frame and its chain, two 64-bit numbers, (0, 0) for a
record that is not in the segment. The chain of the last entry, of the footer and of the seal must link. The footer of a
segment that was rewritten ends with the header of the footer before it (replay/tombstones).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replay.frames import (
    ALIGN,
    FOOTER,
    REWRITTEN_FOOTER,
    SEAL,
    Bytes,
    SegmentHeader,
    body_of,
    links,
    next_chain,
    unpack_frame,
)

ENTRY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """start: byte of the footer's frame. stop_sequence: of the number after the segment's last. chain: of the seal."""

    start: int
    stop_sequence: int
    chain: int


def pack_footer(entries: array[int]) -> bytes:
    """entries: offset, chain, offset, chain, …"""
    return np.frombuffer(entries, np.uint64).astype("<u8").tobytes() if entries else b""


def read_footer(data: Bytes, header: SegmentHeader) -> Footer | None:
    """The footer of a whole segment, checked; None when it is not sealed, not of this format, or damaged at its end."""
    place = len(data) - ALIGN
    seal = unpack_frame(data, place) if place >= ALIGN else None
    if seal is None or seal.kind != SEAL or seal.sequence < header.first_sequence:
        return None
    num_records = seal.sequence - header.first_sequence
    for kind, length in ((FOOTER, ENTRY_BYTES * num_records), (REWRITTEN_FOOTER, ENTRY_BYTES * num_records + ALIGN)):
        start = place - ALIGN - -(-length // ALIGN) * ALIGN
        footer = unpack_frame(data, start) if start >= ALIGN else None
        if footer is not None and (footer.kind, footer.length, footer.sequence) == (kind, length, seal.sequence):
            break
    else:
        return None
    body = body_of(data, start, footer)
    if body is None or seal.chain != next_chain(footer.chain, data[place:]):
        return None
    chains = np.frombuffer(body[: ENTRY_BYTES * num_records], "<u8")[1::2]
    before = int(chains[chains != 0][-1]) if chains.any() else header.chain
    if not links(before, data, start, footer):
        return None
    return Footer(start=start, stop_sequence=seal.sequence, chain=seal.chain)


def footer_offsets(data: Bytes, start: int) -> NDArray[np.uint64]:
    """The byte of every record, 0 where there is none, from the footer's frame at `start`."""
    header = unpack_frame(data, start)
    assert header is not None and header.kind in (FOOTER, REWRITTEN_FOOTER), start
    length = header.length - (ALIGN if header.kind == REWRITTEN_FOOTER else 0)
    return np.frombuffer(data[start + ALIGN : start + ALIGN + length], "<u8")[::2]


def offset_at(data: Bytes, start: int, place: int) -> int:
    """The byte of record number `place` of a segment whose footer's frame is at `start`; 0 when there is none."""
    entry = start + ALIGN + ENTRY_BYTES * place
    return int.from_bytes(data[entry : entry + 8], "little")
