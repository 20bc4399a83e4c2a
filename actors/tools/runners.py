"""Where jobs run: in worker processes with deadlines, or in this process.

A worker serves one job at a time. One that takes longer than the deadline is killed, one that dies is buried; either
costs its call an observation, and another takes its place. Nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

from actors.tools.config import ToolsConfig
from actors.tools.ports import Job, Workbench
from actors.tools.worker import Reply, Setup, answer
from common.errors import PixelisError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Runner(Protocol):
    """Runs jobs."""

    async def start(self) -> None:
        """Load what jobs need, so that the first call is as fast as the next."""
        ...

    async def run(self, job: Job) -> Reply:
        """Waits for a free worker, then for the result; never raises for what the job does."""
        ...

    async def close(self) -> None: ...


class InProcess:
    """Runs jobs on one thread of this process, without deadlines: for tests and for reenactment."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tools")

    async def start(self) -> None:
        """Nothing to load: the workbench arrived furnished."""

    async def run(self, job: Job) -> Reply:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: answer(job, self._bench, clock=time.thread_time))

    async def close(self) -> None:
        self._thread.shutdown(wait=False)


class WorkerPool:
    """`config.num_workers` worker processes, used from one event loop. They start with the first call or with
    `start`.
    """

    def __init__(self, config: ToolsConfig, store_root: Path, *, command: tuple[str, ...] = ()) -> None:
        self._config = config
        self._setup = msgspec.json.encode(Setup(config=config, store_root=str(store_root)))
        self._command = command or (sys.executable, "-P", "-m", "actors.tools.worker")
        self._idle: asyncio.Queue[Process | None] = asyncio.Queue()
        for _ in range(config.num_workers):
            self._idle.put_nowait(None)
        self._alive: set[Process] = set()

    async def start(self) -> None:
        """Start every worker and wait until all are ready. Raises PixelisError when one cannot start."""
        places = [await self._idle.get() for _ in range(self._config.num_workers)]
        try:
            places = list(await asyncio.gather(*(self._living(place) for place in places)))
        finally:
            for place in places:
                self._idle.put_nowait(place)

    async def run(self, job: Job) -> Reply:
        """Waits for an idle worker, then at most `deadline_s` for its reply."""
        worker = await self._idle.get()
        try:
            worker = await self._living(worker)
            async with asyncio.timeout(self._config.deadline_s):
                _send(worker, msgspec.json.encode(job))
                reply = msgspec.json.decode(await _receive(worker), type=Reply)
        except TimeoutError:
            await self._bury(worker)
            return Reply(error="timeout", hint="try a smaller box", cpu_s=self._config.deadline_s)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            await self._bury(worker)
            return Reply(error="tool_crashed", hint="try other arguments")
        except asyncio.CancelledError:
            await self._bury(worker)
            raise
        finally:
            self._idle.put_nowait(worker)
        return reply

    async def close(self) -> None:
        """End all workers."""
        for worker in list(self._alive):
            await self._bury(worker)

    async def _living(self, worker: Process | None) -> Process:
        """`worker` if it lives, else a new one, ready. Raises PixelisError when it cannot start."""
        if worker is not None and worker.returncode is None:
            return worker
        if worker is not None:
            self._alive.discard(worker)
        started = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env={**os.environ, **ONE_THREAD}
        )
        self._alive.add(started)
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                _send(started, self._setup)
                await _receive(started)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await self._bury(started)
            raise PixelisError("a tool worker did not start; its error output says why") from None
        return started

    async def _bury(self, worker: Process | None) -> None:
        """Kill a worker and wait until it is gone."""
        if worker is None:
            return
        self._alive.discard(worker)
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()


def _send(worker: Process, body: bytes) -> None:
    assert worker.stdin is not None
    worker.stdin.write(len(body).to_bytes(4, "little") + body)


async def _receive(worker: Process) -> bytes:
    assert worker.stdout is not None
    length = int.from_bytes(await worker.stdout.readexactly(4), "little")
    return await worker.stdout.readexactly(length)
