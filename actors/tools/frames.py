"""Frames between the pool and a worker: four bytes of length, little-endian, then JSON. One frame asks, one answers.

A request is a list of jobs of one tool; its answer is as many replies in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from actors.tools.config import ToolsConfig
from actors.tools.ports import Result
from common.types import ErrorCode

HEAD_BYTES = 4
MAX_FRAME_BYTES = 64 * 2**20
"""A longer frame is noise: its sender is out of its mind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The first thing a worker reads. store_root: the media store's folder."""

    config: ToolsConfig
    store_root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A result, or the error of a call. cpu_s: processor seconds spent.

    worn: the worker has run out of memory and should be replaced.
    """

    result: Result | None = None
    error: ErrorCode | None = None
    hint: str = ""
    cpu_s: float = 0.0
    worn: bool = False


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(HEAD_BYTES, "little") + body


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body, or None at the end of the stream."""
    head = stream.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    return stream.read(int.from_bytes(head, "little"))


class FrameSplitter:
    """Cuts what comes from a stream, in pieces of any size, into the bodies of frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def split(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes. Raises ValueError when what comes is no frame."""
        self._rest += data
        while len(self._rest) >= HEAD_BYTES:
            stop = HEAD_BYTES + int.from_bytes(self._rest[:HEAD_BYTES], "little")
            if stop > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {stop} bytes")
            if len(self._rest) < stop:
                return
            body = bytes(self._rest[HEAD_BYTES:stop])
            del self._rest[:stop]
            yield body
