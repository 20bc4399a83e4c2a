"""The footer of a sealed segment: where its records lie, so that opening need not walk it.

The last two frames of a sealed segment are the footer and the seal. The seal is 64 bytes, so it is found from the
file's size; it carries the next sequence number, so the number of records and with it the place of the footer follow.
The footer's body is one entry a sequence number: the byte of the frame and its chain, two 64-bit numbers, (0, 0) for a
record that is not in the segment. The chain of the last entry, of the footer and of the seal must link.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replay.frames import ALIGN, FOOTER, SEAL, Bytes, SegmentHeader, body_of, next_chain, unpack_frame

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
    length = ENTRY_BYTES * (seal.sequence - header.first_sequence)
    start = place - ALIGN - -(-length // ALIGN) * ALIGN
    footer = unpack_frame(data, start) if start >= ALIGN else None
    if footer is None or (footer.kind, footer.length, footer.sequence) != (FOOTER, length, seal.sequence):
        return None
    body = body_of(data, start, footer)
    if body is None or seal.chain != next_chain(footer.chain, data[place:]):
        return None
    chains = np.frombuffer(body, "<u8")[1::2]
    before = int(chains[chains != 0][-1]) if chains.any() else header.chain
    if footer.chain != next_chain(before, data[start : start + ALIGN]):
        return None
    return Footer(start=start, stop_sequence=seal.sequence, chain=seal.chain)


def footer_offsets(data: Bytes, start: int) -> NDArray[np.uint64]:
    """The byte of every record, 0 where there is none, from the footer's frame at `start`."""
    header = unpack_frame(data, start)
    assert header is not None and header.kind == FOOTER, start
    return np.frombuffer(data[start + ALIGN : start + ALIGN + header.length], "<u8")[::2]


def read_offset(file: int, start: int, place: int) -> int:
    """The byte of record number `place` of a segment whose footer's frame is at `start`; 0 when there is none."""
    return int.from_bytes(os.pread(file, 8, start + ALIGN + ENTRY_BYTES * place), "little")
