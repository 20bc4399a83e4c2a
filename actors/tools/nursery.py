"""Where workers come from.

Loading the tools takes seconds of a processor, so on a CPU one process loads them once and forks every worker; a
worker that was killed is replaced within milliseconds and at nobody's cost. Without `config.fork` each worker is a
process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec

from actors.tools.config import ToolsConfig
from actors.tools.errors import NoWorker
from actors.tools.frames import FrameSplitter, Reply, Setup, framed
from actors.tools.memory import private_bytes
from actors.tools.worker import MAX_MESSAGE_BYTES

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
COMMAND = (sys.executable, "-P", "-m", "actors.tools.worker")
Heard: TypeAlias = Callable[[list[Reply] | None], None]
_REPLIES = msgspec.json.Decoder(list[Reply])
OUTSIDE = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
"""A worker that ends by one of these, unless the pool sent it, was ended by someone else: not the call's fault."""


class Worker(asyncio.Protocol):
    """One process that executes calls in the order in which they are sent.

    held_bytes: memory it holds before its first call. overgrown: killed because it took too much memory.
    """

    def __init__(self, pid: int, *, kill: Callable[[], None], end: asyncio.Future[int | None]) -> None:
        self.pid = pid
        self.held_bytes = private_bytes(pid)
        self.overgrown = False
        self._kill = kill
        self._end = end
        self._transport: asyncio.Transport | None = None
        self._frames = FrameSplitter()
        self._heard: Heard | None = None

    def attend(self, heard: Heard | None) -> None:
        """Tell `heard` the replies to what is sent, frame by frame, and None, once, when no more will come."""
        self._heard = heard

    def send(self, jobs: list[bytes]) -> None:
        """Ask for jobs of one tool, each as JSON, after those that were sent before."""
        if self._transport is not None:
            self._transport.write(framed(b"[" + b",".join(jobs) + b"]"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.split(data):
                self._tell(_REPLIES.decode(body))
        except (ValueError, msgspec.DecodeError):
            self._tell(None)  # a worker out of its mind is as good as a dead one

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        if transport is not None and self._heard is not None:
            self._hear_out(transport.get_extra_info("socket").fileno())
        self._tell(None)

    def _hear_out(self, descriptor: int) -> None:
        """What it said before its end: a write that finds it gone has the loop drop what was not read yet."""
        with contextlib.suppress(OSError):  # nothing more to read, or a stream that was reset
            while self._heard is not None and (data := os.read(descriptor, MAX_MESSAGE_BYTES)):
                self.data_received(data)

    def _tell(self, replies: list[Reply] | None) -> None:
        heard = self._heard
        if replies is None:
            self._heard = None
        if heard is not None:
            heard(replies)

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""
        return self._transport is None or self._end.done()

    def kill(self) -> None:
        """At once; it is buried in its own time."""
        if self._transport is not None:
            self._transport.abort()
        self._kill()

    async def died_from_outside(self) -> bool:
        """Whether someone else ended it, or the process it came from. Waits for the news, a second at most."""
        await asyncio.wait((self._end,), timeout=1.0)
        if not self._end.done():
            return False
        status = self._end.result()
        return status is None or -status in OUTSIDE


class Nest:
    """A started process: loaded, and ready to be or to fork workers."""

    def __init__(self, process: Process, control: socket.socket, *, forks: bool) -> None:
        self._process = process
        self._control = control
        self._forks = forks
        self._births: deque[asyncio.Future[int]] = deque()
        self._ends: dict[int, asyncio.Future[int | None]] = {}
        self._listening = asyncio.create_task(self._listen())
        self.gone = False

    @classmethod
    async def start(cls, command: tuple[str, ...], setup: Setup) -> Nest:
        """Waits until it is loaded. Raises NoWorker, one line, when it does not start."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            env = {**os.environ, **ONE_THREAD}
            process = await asyncio.create_subprocess_exec(*command, stdin=theirs.fileno(), env=env)
        loaded = b""
        try:
            async with asyncio.timeout(setup.config.start_timeout_s):
                ours.send(msgspec.json.encode(setup))
                loaded = await asyncio.get_running_loop().sock_recv(ours, MAX_MESSAGE_BYTES)
        except (TimeoutError, ConnectionError):
            pass  # as when it ends without a word
        finally:
            if not loaded:
                ours.close()
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if not loaded:
            await process.wait()
            raise NoWorker("a tool worker did not start; its error output says why")
        return cls(process, ours, forks=setup.config.fork)

    async def worker(self) -> Worker:
        """A new worker. Raises NoWorker when this process has ended."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b'{"serve":true}'], [theirs.fileno()])
            born: asyncio.Future[int] = loop.create_future()
            self._births.append(born)
            pid = await born
            kill, end = (
                (partial(self._kill_child, pid), self._ends[pid])
                if self._forks
                else (self._kill_process, self._ends_with_us())
            )
            _, worker = await loop.create_connection(lambda: Worker(pid, kill=kill, end=end), sock=ours)
        except OSError:
            ours.close()
            raise NoWorker("the tools' process has ended") from None
        except asyncio.CancelledError:
            ours.close()  # the worker sees its stream end, and ends
            raise
        return worker

    async def close(self) -> None:
        """End this process and all its workers; waits until it is gone."""
        self.gone = True
        self._kill_process()
        await self._process.wait()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._control.close()

    def _kill_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _kill_child(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # our process has ended, and its children with it
            self._control.send(msgspec.json.encode({"kill": pid}))

    def _ends_with_us(self) -> asyncio.Future[int | None]:
        waiting: asyncio.Future[int | None] = asyncio.ensure_future(self._process.wait())
        return waiting

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while message := await loop.sock_recv(self._control, MAX_MESSAGE_BYTES):
                self._hear(msgspec.json.decode(message))
        self.gone = True
        for born in self._births:
            if not born.done():
                born.set_exception(ConnectionError("the tools' process has ended"))
        for end in self._ends.values():
            end.set_result(None)
        self._births.clear()
        self._ends.clear()
        self._control.close()

    def _hear(self, message: dict[str, Any]) -> None:
        if "born" in message:
            self._ends[message["born"]] = asyncio.get_running_loop().create_future()
            born = self._births.popleft()
            if not born.done():
                born.set_result(message["born"])
        else:
            self._ends.pop(message["ended"]).set_result(message["status"])


class Nursery:
    """Makes workers for one pool; `command` starts the process that they come from."""

    def __init__(self, config: ToolsConfig, store_root: Path, command: tuple[str, ...] = ()) -> None:
        self._command = command or COMMAND
        self._setup = Setup(config=config, store_root=str(store_root))
        self._nests: list[asyncio.Task[Nest]] = []

    async def worker(self) -> Worker:
        """A new worker, ready. Raises NoWorker when none can be had."""
        self._nests = [task for task in self._nests if not task.done() or _lives(task)]
        if not self._nests or not self._setup.config.fork:
            self._nests.append(asyncio.create_task(Nest.start(self._command, self._setup)))
        nest = await asyncio.shield(self._nests[-1])  # whoever gives up leaves it to the others
        return await nest.worker()

    async def close(self) -> None:
        """End every process; waits until they are gone."""
        for task in self._nests:
            task.cancel()
        await asyncio.gather(*self._nests, return_exceptions=True)
        await asyncio.gather(*(task.result().close() for task in self._nests if _lives(task)))
        self._nests.clear()


def _lives(task: asyncio.Task[Nest]) -> bool:
    return not task.cancelled() and task.exception() is None and not task.result().gone
