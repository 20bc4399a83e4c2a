"""Rollouts that come are looked at in a process of its own: whether they keep every law, and whether their pictures are
what they say. Neither needs the state of the replay, and both would hold up its event loop.

    asked       u32 count · count × u32 length · the bodies
    answered    one byte when it is loaded; then, for each batch, u32 length · MessagePack: of each an Inspected, or why
                it is refused

The process ends with the socket that is its standard input, so it does not outlive whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import cast

import msgspec

from common.errors import ContractError, ReplayError
from common.media import FolderMediaStore
from replay.inspecting import Inspected, InspectorEnded, inspect_all
from replay.programs import start_program
from replay.proving import Proofs, Proven

_READY = b"\x01"
_BUFFER_BYTES = 1 << 20
_U32 = struct.Struct("<I")
_ANSWERS = msgspec.msgpack.Decoder(list[Inspected | str])


class Inspector:
    """The process, on one event loop. It is started when it is first needed, and again after it ended.

    live: the node's store, whose pictures are looked at; None where rollouts refer to nothing that must be kept.
    """

    def __init__(self, live: Path | None) -> None:
        self._live = live
        self._starting: asyncio.Task[_Link] | None = None

    def start(self) -> None:
        """Let it load meanwhile."""
        if self._starting is None or (self._starting.done() and not _is_up(self._starting)):
            self._starting = asyncio.get_running_loop().create_task(_Link.opened(self._live))

    async def inspect(self, bodies: Sequence[bytes]) -> list[Inspected | ContractError]:
        """As `inspect_all`, with proofs. Raises InspectorEnded, or ReplayError when it cannot be started."""
        self.start()
        assert self._starting is not None
        link = await asyncio.shield(self._starting)
        found = _ANSWERS.decode(await link.ask(bodies))
        return [ContractError(one) if isinstance(one, str) else one for one in found]

    async def close(self) -> None:
        if self._starting is not None:
            with contextlib.suppress(ReplayError):
                await (await self._starting).close()


class _Link:
    """A process that is loaded, and those that wait for its answers, which come in the order of the questions."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._waiting = deque[asyncio.Future[bytes]]()
        self.is_up = True
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def opened(cls, live: Path | None) -> _Link:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = start_program(__name__, str(live or ""), stdin=theirs.fileno())
        except OSError as error:
            ours.close()
            raise ReplayError(f"the process that looks at rollouts cannot be started: {error.strerror}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        if await reader.read(1) != _READY:
            writer.close()
            await asyncio.to_thread(process.wait)
            raise ReplayError("the process that looks at rollouts did not start; its error output says why")
        return cls(process, reader, writer)

    async def ask(self, bodies: Sequence[bytes]) -> bytes:
        if not self.is_up:
            raise InspectorEnded
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._writer.write(b"".join((struct.pack(f"<{1 + len(bodies)}I", len(bodies), *map(len, bodies)), *bodies)))
        return await answer

    async def close(self) -> None:
        self._writer.close()
        await self._reading

    async def _read(self) -> None:
        try:
            while True:
                [size] = _U32.unpack(await self._reader.readexactly(_U32.size))
                data = await self._reader.readexactly(size)
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._writer.close()
        finally:
            self.is_up = False
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(InspectorEnded())
        await asyncio.to_thread(self._process.wait)  # it ends when it finds nobody there


def _is_up(starting: asyncio.Task[_Link]) -> bool:
    return not starting.cancelled() and starting.exception() is None and starting.result().is_up


def main(live: str) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for whoever asks; then this ends too
    proofs = Proofs(FolderMediaStore(Path(live))) if live else None
    with socket.socket(fileno=0) as ours, ours.makefile("rb", buffering=_BUFFER_BYTES) as lines:
        questions = cast(BufferedReader, lines)
        ours.sendall(_READY)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while bodies := _asked(questions):
                answer = msgspec.msgpack.encode(_answers(bodies, proofs))
                ours.sendall(_U32.pack(len(answer)) + answer)


def _asked(questions: BufferedReader) -> list[bytes]:
    """The next batch; none when nobody asks any more."""
    head = questions.read(_U32.size)
    if len(head) < _U32.size:
        return []
    [count] = _U32.unpack(head)
    sizes = struct.unpack(f"<{count}I", questions.read(_U32.size * count))
    bodies = [questions.read(size) for size in sizes]
    return bodies if sum(map(len, bodies)) == sum(sizes) else []


def _answers(bodies: Sequence[bytes], proofs: Proofs | None) -> list[Inspected | str]:
    found = inspect_all(bodies)
    if proofs is None:
        return [str(one) if isinstance(one, ContractError) else one for one in found]
    proven = iter(proofs.of_all((one.keys.media, one.cuts) for one in found if isinstance(one, Inspected)))
    return [str(one) if isinstance(one, ContractError) else _with(one, next(proven)) for one in found]


def _with(one: Inspected, proven: Proven) -> Inspected:
    return replace(one, cuts=proven.cuts, proven=frozenset(proven.whole))
