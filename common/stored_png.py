"""A PNG that is not compressed: rows unfiltered, deflate blocks stored (RFC 1951, 3.2.4).

Every program reads it, it is written some ten times as fast as a compressed one, and because its layout follows from
width and height alone, its pixels can be copied out of it without a decoder. It is as large as the pixels.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

BLOCK = 0xFFFF
"""Bytes of a stored block, at most."""
HEAD = 5
"""Bytes before a stored block."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZLIB = b"\x78\x01"


def stored_png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB, shape (height, width, 3). The bytes follow from the pixels alone, whatever zlib is installed."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    raw = rows.tobytes()
    parts = [ZLIB]
    for start in range(0, len(raw), BLOCK):
        part = raw[start : start + BLOCK]
        parts += [_head(len(part), last=start + len(part) == len(raw)), part]
    parts.append(struct.pack(">I", zlib.adler32(raw)))
    return SIGNATURE + _header(width, height) + _chunk(b"IDAT", b"".join(parts)) + _END


def stored_pixels(data: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    """The pixels that `stored_png` wrote, shape (height, width, 3); None where `data` has not its exact layout.

    A byte lies between two rows, so that every pixel is copied once. The checksums are not computed: bytes are asked
    for by the hash of their content.
    """
    num_raw = height * (1 + 3 * width)
    whole, before_end = divmod(num_raw - 1, BLOCK)  # the last block holds at least one byte
    num_blocks = num_raw + HEAD * (whole + 1)
    num_stream = len(ZLIB) + num_blocks + 4
    front = SIGNATURE + _header(width, height) + struct.pack(">I", num_stream) + b"IDAT" + ZLIB
    if len(data) != len(front) + num_blocks + 4 + 4 + len(_END) or not data.startswith(front):
        return None
    body = np.frombuffer(data, np.uint8, count=num_blocks, offset=len(front))
    blocks, last = np.split(body, [whole * (HEAD + BLOCK)])
    blocks = blocks.reshape(whole, HEAD + BLOCK)
    full = np.frombuffer(_head(BLOCK, last=False), np.uint8)
    if not (blocks[:, :HEAD] == full).all() or last[:HEAD].tobytes() != _head(before_end + 1, last=True):
        return None
    raw = np.empty(num_raw, np.uint8)
    raw[: whole * BLOCK].reshape(whole, BLOCK)[...] = blocks[:, HEAD:]
    raw[whole * BLOCK :] = last[HEAD:]
    rows = raw.reshape(height, 1 + 3 * width)
    if rows[:, 0].any():  # a filtered row
        return None
    return rows[:, 1:].reshape(height, width, 3)


def _header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _head(length: int, *, last: bool) -> bytes:
    return struct.pack("<BHH", last, length, length ^ BLOCK)


_END = _chunk(b"IEND", b"")
