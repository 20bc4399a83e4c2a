"""A PNG that is not compressed: a row unfiltered, and alone in a stored deflate block (RFC 1951, 3.2.4).

Every program reads it, it is written some ten times as fast as a compressed one, and because all rows are as far apart,
its pixels are looked at where they lie, without a decoder or a copy. It is as large as the pixels.
"""

from __future__ import annotations

import mmap
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

MAX_WIDTH = 21_844
"""Pixels of a row that fit into one stored block (65,535 bytes)."""
HEAD = 5
"""Bytes before a stored block; the filter of its row, 0, follows."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZLIB = b"\x78\x01"


def stored_png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB, shape (height, width, 3), at most MAX_WIDTH wide. The bytes follow from the pixels alone, whatever zlib is
    installed.
    """
    height, width, _ = pixels.shape
    rows = np.empty((height, HEAD + 1 + 3 * width), np.uint8)
    rows[:, : HEAD + 1] = _heads(height, width)
    rows[:, HEAD + 1 :] = pixels.reshape(height, 3 * width)
    checksum = struct.pack(">I", zlib.adler32(rows[:, HEAD:].tobytes()))
    return SIGNATURE + _header(width, height) + _chunk(b"IDAT", ZLIB + rows.tobytes() + checksum) + _END


def stored_size(width: int, height: int) -> int:
    """Bytes of what `stored_png` makes."""
    return _FRONT + len(ZLIB) + height * (HEAD + 1 + 3 * width) + 4 + 4 + len(_END)


def stored_pixels(data: bytes | memoryview | mmap.mmap, width: int, height: int) -> NDArray[np.uint8] | None:
    """The pixels that `stored_png` wrote, shape (height, width, 3), read-only, where they lie in `data`; None where
    `data` has not its exact layout.

    The checksums are not computed: bytes are asked for by the hash of their content.
    """
    num_rows = height * (HEAD + 1 + 3 * width)
    front = SIGNATURE + _header(width, height) + struct.pack(">I", len(ZLIB) + num_rows + 4) + b"IDAT" + ZLIB
    if len(data) != len(front) + num_rows + 4 + 4 + len(_END) or data[: len(front)] != front:
        return None
    rows = np.frombuffer(data, np.uint8, count=num_rows, offset=len(front)).reshape(height, -1)
    if not np.array_equal(rows[:, : HEAD + 1], _heads(height, width)):
        return None
    return np.lib.stride_tricks.as_strided(
        rows[:, HEAD + 1 :], (height, width, 3), (rows.strides[0], 3, 1), writeable=False
    )


def _heads(height: int, width: int) -> NDArray[np.uint8]:
    """What stands before each row's pixels, shape (height, HEAD + 1)."""
    length = 1 + 3 * width
    heads = np.empty((height, HEAD + 1), np.uint8)
    heads[:] = np.frombuffer(struct.pack("<BHHB", 0, length, length ^ 0xFFFF, 0), np.uint8)
    heads[-1, 0] = 1  # the last block
    return heads


def _header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


_END = _chunk(b"IEND", b"")
_FRONT = len(SIGNATURE) + len(_header(1, 1)) + 8
"""Bytes before the data of the IDAT chunk: signature, header, and its length and name."""
