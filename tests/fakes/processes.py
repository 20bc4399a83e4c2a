"""Small objects to be placed in processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from typing import Any

from cluster.runtime import Handle
from common.errors import ConfigError


class Counter:
    """Counts, sleeps, fails and dies on request."""

    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.seen: list[Any] = []
        self.woken = asyncio.Event()

    def reset(self) -> None:
        self.value = 0
        self.woken.clear()

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def keep(self, items: list[int]) -> int:
        self.seen = items
        return len(items)

    def kept(self) -> list[Any]:
        return self.seen

    def total(self, amounts: Any) -> int:
        """Sum over nested lists, tuples and dicts of numbers."""
        if isinstance(amounts, dict):
            return self.total(list(amounts.values()))
        if isinstance(amounts, (list, tuple)):
            return sum(self.total(item) for item in amounts)
        return int(amounts)

    def slow_add(self, amount: int) -> int:
        before = self.value
        time.sleep(0.02)
        self.value = before + amount
        return self.value

    async def wait(self) -> str:
        await self.woken.wait()
        return "woken"

    async def wake(self) -> None:
        self.woken.set()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def fail(self) -> None:
        raise LookupError("nothing here")

    def misconfigured(self) -> None:
        raise ConfigError("learner.lr: must be above 0")

    def unpicklable(self) -> Any:
        return threading.Lock()

    def environment(self, key: str) -> str | None:
        return os.environ.get(key)

    def pid(self) -> int:
        return os.getpid()

    def start_child(self) -> int:
        """A process of its own that outlives its parent unless someone ends it."""
        code = "import time; time.sleep(600)"
        return subprocess.Popen([sys.executable, "-S", "-c", code]).pid

    async def ask(self, other: Handle[Counter], amount: int) -> int:
        return await other.call(Counter.add, amount)


class Unbuildable:
    def __init__(self) -> None:
        raise ConfigError("model.path: no such folder")


async def counter_on_the_loop(start: int) -> Counter:
    asyncio.get_running_loop()
    return Counter(start)


class Rank:
    """One rank of a collective program that adds over files: enough to see who was called with what."""

    def __init__(self, base: int, *, rank: int, world_size: int) -> None:
        self.base, self.rank, self.world_size = base, rank, world_size

    def describe(self) -> tuple[int, int, int]:
        return self.base, self.rank, self.world_size

    def add(self, amount: int) -> int:
        return self.base + self.rank + amount

    def rendezvous(self) -> tuple[str | None, str | None]:
        return os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")

    def pid(self) -> int:
        return os.getpid()

    async def fail_on(self, rank: int) -> None:
        """Rank `rank` fails, the others wait for it as in a collective."""
        if self.rank == rank:
            raise ValueError(f"rank {rank} is ill")
        await asyncio.sleep(600)

    async def die_on(self, rank: int) -> None:
        if self.rank == rank:
            os._exit(1)
        await asyncio.sleep(600)
