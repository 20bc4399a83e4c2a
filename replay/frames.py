"""The log's bytes: a segment is a 64-byte header and frames; a frame is a 64-byte header, a body and zero padding.

Everything starts at a multiple of 64 bytes, so Arrow bodies can be used where they lie in a memory map. All numbers are
little-endian. Every byte is covered: headers by their own hash, bodies by the header's, padding by being zero. A chain
mixes in the chain of the frame before, so frames cannot be dropped, swapped or spliced unseen. `num_durable` says how
many records were known to be durable when the frame was written: it tells a torn tail (nobody was promised it) from
damage (somebody was).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import xxhash

from common.columns import SCHEMA_VERSION
from common.errors import LogDamaged, RunFolderError
from common.schema import READABLE_SCHEMAS

FORMAT_VERSION = 2
"""Format 1 has no footers and no time in the segment's header; it is read for ever and never written."""
ALIGN = 64
SEAL = 0
"""Kind of the frame that ends a segment on purpose. It has no body and uses up no sequence number."""
FOOTER = 0xFFFF
"""Kind of the frame before the seal (replay/footer). It uses up no sequence number."""
REWRITTEN_FOOTER = 0xFFFD
"""Kind of the footer of a segment that was rewritten without some records; it stands in for the footer before."""
TOMBSTONE = 0xFFFE
"""Kind of the frame that stands in for a record that was erased; it has its sequence number."""
PRUNED = 0xFFFC
"""Kind of the frame that stands in for a rollout of which only the keys are kept; it has its sequence number."""
FIRST_RESERVED = PRUNED
MARKS = (SEAL, FOOTER, REWRITTEN_FOOTER)
STAND_INS = (PRUNED, TOMBSTONE, REWRITTEN_FOOTER)
"""Their bodies end with the 64-byte header of the frame that they stand in for, and their chain is its chain, so what
comes after still links and nobody can drop a record unseen.
"""

_SEGMENT_MAGIC = b"PXLSLOG\n"
_FRAME_MAGIC = b"PXFR"
_SEGMENT = struct.Struct("<8sIIQQQQQQ")
_FRAME = struct.Struct("<4sHHQQQ16sQQ")
assert _SEGMENT.size == _FRAME.size == ALIGN
_ZEROS = bytes(ALIGN)

Bytes: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """index: place in the log. epoch: number of the writer that made it. chain: of the frame before its first.

    created_ns: wall clock when it was begun, nanoseconds since 1970; 0 in format 1.
    """

    index: int
    epoch: int
    first_sequence: int
    chain: int
    created_ns: int = 0
    version: int = FORMAT_VERSION

    def pack(self) -> bytes:
        fields = (self.version, SCHEMA_VERSION, self.index, self.epoch, self.first_sequence, self.chain)
        head = _SEGMENT.pack(_SEGMENT_MAGIC, *fields, self.created_ns, 0)[:-8]
        return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")

    @classmethod
    def unpack(cls, data: Bytes, *, name: str) -> SegmentHeader:
        """Raises LogDamaged when the bytes are no header, RunFolderError when they are one of another version."""
        if len(data) < ALIGN:
            raise LogDamaged(f"{name}: shorter than its header")
        magic, version, schema, index, epoch, first, chain, created_ns, digest = _SEGMENT.unpack(data[:ALIGN])
        if magic != _SEGMENT_MAGIC or digest != xxhash.xxh3_64_intdigest(data[: ALIGN - 8]):
            raise LogDamaged(f"{name}: the segment's header does not match its hash")
        if not 1 <= version <= FORMAT_VERSION or schema not in READABLE_SCHEMAS:
            raise RunFolderError(
                f"{name}: written in log format {version}, schema {schema}; this version reads formats 1 to "
                f"{FORMAT_VERSION}, schemas {READABLE_SCHEMAS[0]} to {SCHEMA_VERSION}: use the version that wrote it, "
                "or another run folder"
            )
        return cls(index=index, epoch=epoch, first_sequence=first, chain=chain, created_ns=created_ns, version=version)


class FrameHeader(NamedTuple):
    """kind: what the body is (replay/records). num_durable: records below this number are on the disk for certain.

    chain: xxh3-64 over the chain before and this header's first 48 bytes. A tuple, because a walk makes one for every
    frame and a dataclass takes four times as long.
    """

    kind: int
    sequence: int
    num_durable: int
    length: int
    body_hash: bytes
    chain: int

    @property
    def size(self) -> int:
        """Bytes of the whole frame, padding included."""
        return ALIGN + -(-self.length // ALIGN) * ALIGN


def frame_size(body: Bytes) -> int:
    """Bytes of a frame around `body`."""
    return ALIGN + -(-len(body) // ALIGN) * ALIGN


def pack_frame(kind: int, sequence: int, num_durable: int, body: Bytes, chain: int) -> tuple[bytes, bytes, int]:
    """(header, padding, new chain) of a frame around `body`."""
    digest = xxhash.xxh3_128_digest(body)
    head = _FRAME.pack(_FRAME_MAGIC, kind, 0, sequence, num_durable, len(body), digest, 0, 0)[:48]
    chain = next_chain(chain, head)
    head += chain.to_bytes(8, "little")
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little"), bytes(-len(body) % ALIGN), chain


def pack_stand_in(kind: int, body: Bytes, original: Bytes) -> bytes:
    """The whole frame that takes the place of the one with the header `original`."""
    header = unpack_frame(original, 0)
    assert header is not None and kind in STAND_INS
    whole = bytes(body) + bytes(original)
    digest = xxhash.xxh3_128_digest(whole)
    fields = (header.sequence, header.num_durable, len(whole), digest, header.chain)
    head = _FRAME.pack(_FRAME_MAGIC, kind, 0, *fields, 0)[:-8]
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little") + whole + bytes(-len(whole) % ALIGN)


def original_of(data: Bytes, offset: int, header: FrameHeader) -> Bytes:
    """The 64 bytes of the header that counts in the chain: the frame's own, or the one that it stands in for."""
    start = offset + header.length if header.kind in STAND_INS else offset
    return data[start : start + ALIGN]


def links(chain: int, data: Bytes, offset: int, header: FrameHeader) -> bool:
    """Whether the frame at `offset` follows one with this chain."""
    if header.kind not in STAND_INS:
        return header.chain == next_chain(chain, data[offset : offset + 48])
    original = original_of(data, offset, header)
    held = unpack_frame(original, 0)
    same = held is not None and (held.sequence, held.chain) == (header.sequence, header.chain)
    return same and header.chain == next_chain(chain, original)


def next_chain(chain: int, head: Bytes) -> int:
    return xxhash.xxh3_64_intdigest(chain.to_bytes(8, "little") + head[:48])


def unpack_frame(data: Bytes, offset: int) -> FrameHeader | None:
    """The frame header at `offset`, or None when those bytes are none (too few, or not matching their hash)."""
    if offset + ALIGN > len(data):
        return None
    magic, kind, zero, sequence, num_durable, length, body_hash, chain, digest = _FRAME.unpack_from(data, offset)
    if magic != _FRAME_MAGIC or zero or digest != xxhash.xxh3_64_intdigest(data[offset : offset + ALIGN - 8]):
        return None
    return FrameHeader(kind, sequence, num_durable, length, body_hash, chain)


def body_of(data: Bytes, offset: int, header: FrameHeader) -> Bytes | None:
    """The body of the frame at `offset`, or None when it or its padding does not match."""
    start, stop = offset + ALIGN, offset + header.size
    body = data[start : start + header.length]
    padding = data[start + header.length : stop]
    if stop > len(data) or padding != _ZEROS[: len(padding)] or xxhash.xxh3_128_digest(body) != header.body_hash:
        return None
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Bytes [start, stop) of a segment that hold no whole frame. kinds: of those whose headers could still be read."""

    start: int
    stop: int
    first_sequence: int
    stop_sequence: int
    kinds: tuple[int, ...] = ()


@dataclass(slots=True)
class Scan:
    """What a walk over one segment found: whole records with their offsets, and holes between and after them.

    last_frame: offset of the last whole frame of any kind; 0 when there is none.
    """

    frames: list[tuple[int, FrameHeader]] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    last_frame: int = 0
    next_sequence: int = 0
    chain: int = 0
    num_durable: int = 0
    sealed: bool = False

    def cut(self, size: int) -> int:
        """Where the log's last segment, `size` bytes long, must be cut: the first hole that nobody was promised."""
        return next((hole.start for hole in self.holes if hole.first_sequence >= self.num_durable), size)


def scan(data: Bytes, *, first_sequence: int, chain: int | None) -> Scan:
    """Walk a whole segment, checking every byte. `chain` is None when the segment's header is damaged."""
    found, offset, known = Scan(next_sequence=first_sequence, chain=chain or 0), ALIGN, chain is not None
    while offset < len(data):
        offset = _take_whole(data, offset, found) if known else offset
        if offset == len(data):
            break
        header = unpack_frame(data, offset)
        if header is None or header.sequence < found.next_sequence or found.sealed:
            stop = _next_frame(data, offset + ALIGN, found)
            _note(found, offset, stop, found.next_sequence)
            known, offset = False, stop
            continue
        must_link = known and header.sequence == found.next_sequence
        linked = not must_link or links(found.chain, data, offset, header)
        if linked and body_of(data, offset, header) is not None:
            if header.sequence > found.next_sequence:
                _note(found, offset, offset, header.sequence)
            _take(found, offset, header)
            known, offset = True, offset + header.size
            continue
        kinds = () if header.kind in MARKS else (header.kind,)
        stop = min(offset + header.size, len(data))
        _note(found, offset, stop, header.sequence + len(kinds), kinds)
        known, offset = False, stop
    return found


def _take_whole(data: Bytes, offset: int, found: Scan) -> int:
    """Take records from `offset` on as long as each is whole, links, and has the next number. Returns where that ends.

    The same checks as in `scan`, which looks again at whatever ends it, but several times as fast.
    """
    unpack, short_hash, long_hash = _FRAME.unpack_from, xxhash.xxh3_64_intdigest, xxhash.xxh3_128_digest
    frames, expected, before, size = found.frames, found.next_sequence, found.chain, len(data)
    start = offset
    while offset + ALIGN <= size and not found.sealed:
        magic, kind, zero, sequence, num_durable, length, body_hash, chain, digest = unpack(data, offset)
        head = data[offset : offset + ALIGN - 8]
        stop = offset + ALIGN + length
        end = stop + -length % ALIGN
        if (
            (magic, sequence, zero) != (_FRAME_MAGIC, expected, 0)
            or kind in MARKS
            or kind in STAND_INS
            or end > size
            or digest != short_hash(head)
            or chain != short_hash(before.to_bytes(8, "little") + head[:48])
            or long_hash(data[offset + ALIGN : stop]) != body_hash
            or data[stop:end] != _ZEROS[: end - stop]
        ):
            break
        frames.append((offset, FrameHeader(kind, sequence, num_durable, length, body_hash, chain)))
        found.num_durable = max(found.num_durable, num_durable)
        start, offset, before, expected = offset, end, chain, expected + 1
    if expected > found.next_sequence:
        found.last_frame, found.chain, found.next_sequence = start, before, expected
    return offset


def _take(found: Scan, offset: int, header: FrameHeader) -> None:
    found.chain = header.chain
    found.num_durable = max(found.num_durable, header.num_durable)
    found.last_frame = offset
    if header.kind in MARKS:
        found.sealed = header.kind == SEAL
        found.next_sequence = header.sequence
    else:
        found.frames.append((offset, header))
        found.next_sequence = header.sequence + 1


def _note(found: Scan, start: int, stop: int, stop_sequence: int, kinds: tuple[int, ...] = ()) -> None:
    """Add a hole; one that touches the hole before it is joined to it."""
    first = found.next_sequence
    if found.holes and found.holes[-1].stop == start:
        last = found.holes.pop()
        start, first, kinds = last.start, last.first_sequence, last.kinds + kinds
    found.holes.append(
        Hole(start=start, stop=stop, first_sequence=first, stop_sequence=max(stop_sequence, first), kinds=kinds)
    )
    found.next_sequence = max(stop_sequence, found.next_sequence)


def _next_frame(data: Bytes, start: int, found: Scan) -> int:
    """Offset of the next frame header at or after `start` that belongs after what was found, or the end."""
    for offset in range(start, len(data) - ALIGN + 1, ALIGN):
        if data[offset : offset + 4] == _FRAME_MAGIC:
            header = unpack_frame(data, offset)
            if header is not None and header.sequence >= found.next_sequence and not found.sealed:
                return offset
    return len(data)


def read_frame(data: Bytes, offset: int) -> tuple[FrameHeader, Bytes]:
    """The checked frame at `offset`. Raises LogDamaged."""
    header = unpack_frame(data, offset)
    body = None if header is None else body_of(data, offset, header)
    if header is None or body is None:
        raise LogDamaged(f"the frame at byte {offset} does not match its hash")
    return header, body
