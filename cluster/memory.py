"""Peak memory of a run: proportional set sizes of the driver and all its descendants, sampled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

EVERY_S = 2.0


@dataclass(slots=True)
class Peak:
    """peak_gib: the largest sum seen so far; a page that processes share counts once among them."""

    peak_gib: float = 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[Peak]:
    """Sample while the block runs."""
    peak = Peak()

    async def sample() -> None:
        while True:
            peak.peak_gib = max(peak.peak_gib, await asyncio.to_thread(_used_gib))
            await asyncio.sleep(EVERY_S)

    task = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _used_gib() -> float:
    import psutil

    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**30
