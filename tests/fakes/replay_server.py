"""A replay that other processes use over a socket: one request a line, with a body of bytes, and one answer a line.

For tests that kill processes. A client that hangs up gives its call up. A client whose server is gone asks the next
one until it is answered, so calls are made again that had been made already.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from common.errors import ContractError, Stopped
from common.media import content_digest
from common.types import Consensus
from replay.buffer import ReplayBuffer
from replay.state import default_name

WAIT_S = 0.002
"""Between two tries to reach a server."""


async def serve(buffer: ReplayBuffer, address: str, phase: dict[str, Any]) -> None:
    """Answer clients at `address` (of a Unix socket) until SIGTERM, then close the buffer.

    phase: what `ReplayBuffer.begin` is called with, besides step and version.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    calls = _Calls(buffer, phase)
    server = await loop.create_unix_server(lambda: _Connection(calls), address)
    await stopped.wait()
    server.close()
    await buffer.close()


class _Calls:
    """What clients may ask for. Each gives something that JSON can hold."""

    def __init__(self, buffer: ReplayBuffer, phase: dict[str, Any]) -> None:
        self._buffer = buffer
        self._phase = phase

    async def start(self, *, step: int, version: int, orphans: bool) -> None:
        """The learner starts at its checkpoint. orphans: so does everybody else."""
        if orphans or self._buffer.state.phase is None:
            await self._buffer.begin(**self._phase, step=step, version=version)
        else:
            await self._buffer.rewind(step, version=version, orphans=False)

    async def admit(self, *, group_id: str) -> dict[str, Any]:
        while self._buffer.state.phase is None:
            await asyncio.sleep(WAIT_S)
        number = await self._buffer.admit(group_id)
        state = self._buffer.state
        return {"group": group_id or default_name(self._phase["phase"], number), "version": max(state.versions)}

    async def add(self, body: bytes) -> bool:
        return await self._buffer.add(body)

    async def settle(self, *, consensus: dict[str, Any]) -> None:
        await self._buffer.settle(msgspec.convert(consensus, Consensus))

    async def abandon(self, *, group_id: str) -> None:
        await self._buffer.abandon(group_id, "its producer was killed")

    async def sample(self, *, step: int) -> dict[str, Any]:
        draw = await self._buffer.sample(step)
        assert draw.step == step
        return {"ids": draw.rollout_ids, "digest": content_digest(draw.rollouts)}

    async def advance(self, *, step: int, version: int) -> None:
        await self._buffer.advance(step, version)

    async def release(self, *, step: int) -> None:
        await self._buffer.release(self._phase["phase"], step)

    async def remember(self, *, vector: list[float], query_id: str) -> int:
        unit = np.array(vector, np.float32)
        more: dict[str, Any] = {"family": "tiny_text", "chain": ("ZOOM",), "answer": "493", "confidence": 0.5}
        return await self._buffer.remember(unit / np.linalg.norm(unit), query_id=query_id, **more)


class _Connection(asyncio.Protocol):
    """One client, which waits for an answer before it asks again."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, newline, rest = self._received.partition(b"\n")
        if not newline:
            return
        request = json.loads(head)
        if len(rest) == request["num_bytes"]:
            self._received.clear()
            body = (bytes(rest),) if request["num_bytes"] else ()
            call = getattr(self._calls, request["call"])
            self._task = asyncio.ensure_future(self._answer(call, *body, **request["arguments"]))

    async def _answer(self, call: Callable[..., Any], *body: bytes, **arguments: Any) -> None:
        try:
            answer = {"answer": await call(*body, **arguments)}
        except (ContractError, Stopped) as error:
            answer = {"error": type(error).__name__, "why": str(error)}
        except Exception:  # noqa: BLE001  Whatever else it is ends the process, and with it the test.
            traceback.print_exc()
            os._exit(1)
        self._transport.write(json.dumps(answer).encode() + b"\n")


class Client:
    """Calls the replay at `address`, whichever process serves it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def call(self, name: str, body: bytes = b"", **arguments: Any) -> Any:
        """The answer, once there is one. Raises ContractError when the replay does."""
        head = json.dumps({"call": name, "num_bytes": len(body), "arguments": arguments}).encode()
        while True:
            answer = self._try(head + b"\n" + body)
            if answer is None or answer.get("error") == "Stopped":
                time.sleep(WAIT_S)
            elif "error" in answer:
                raise ContractError(answer["why"])
            else:
                return answer["answer"]

    def _try(self, request: bytes) -> dict[str, Any] | None:
        """None when nobody answers."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.connect(self._address)
            self._socket.sendall(request)
            line = b""
            while not line.endswith(b"\n"):
                piece = self._socket.recv(1 << 16)
                if not piece:
                    raise ConnectionResetError
                line += piece
            answer: dict[str, Any] = json.loads(line)
            return answer
        except OSError:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            return None
