"""Frames between the pool and a worker: four bytes of length, little-endian, then JSON. One frame asks, one answers.

A request is a list of jobs of one tool; its answer is as many replies in the same order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import BinaryIO

from actors.tools.config import ToolsConfig
from actors.tools.ports import Result
from common.types import ErrorCode

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
    return len(body).to_bytes(4, "little") + body


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(int.from_bytes(head, "little"))


async def receive_frame(reader: asyncio.StreamReader) -> bytes:
    """Waits for the next frame. Raises ConnectionError when the stream ends or what comes is no frame."""
    try:
        length = int.from_bytes(await reader.readexactly(4), "little")
        if length > MAX_FRAME_BYTES:
            raise ConnectionError(f"a frame of {length} bytes")
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise ConnectionError("the stream ended") from None
