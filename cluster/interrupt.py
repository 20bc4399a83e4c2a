"""Running until done or interrupted: Ctrl-C and SIGTERM stop cleanly, and in any case soon.

The first signal cancels the running coroutine, whose `finally` blocks save and close. A second signal, or the
deadline, ends the process where it stands; the watchdog then ends what it started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

R = TypeVar("R")

DEADLINE_S = 9.0
"""From the first signal to the end of the process. A person waits ten seconds before trying something worse."""


class Interrupted(Exception):
    """A signal ended the work. `status` is the exit status by convention: 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def run_until_interrupted(work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`. Raises Interrupted when a signal ended it."""
    with asyncio.Runner() as runner:
        return runner.run(_guarded(work))


async def _guarded(work: Coroutine[Any, Any, R]) -> R:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)
        print("stopping; once more to stop at once", file=sys.stderr, flush=True)
        timer = threading.Timer(DEADLINE_S, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()
        loop.call_soon_threadsafe(task.cancel)

    # Python's own handlers: the loop's would wait while something blocks the loop (Ray's start, a large import).
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
