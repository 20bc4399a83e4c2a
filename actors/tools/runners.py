"""Where jobs run: in worker processes (pool.py) or in this process."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from actors.tools.frames import Reply
from actors.tools.ports import Job, Workbench
from actors.tools.worker import answer


class Runner(Protocol):
    """Runs jobs."""

    async def start(self) -> None:
        """Load what jobs need, so that the first call is as fast as the next."""
        ...

    async def run(self, job: Job) -> Reply:
        """Waits for the result; never raises for what the job does."""
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
