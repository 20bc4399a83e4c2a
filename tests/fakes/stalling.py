"""An event loop that raises where another would wait for ever, so a test that hangs fails instead, at once."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import Future
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from selectors import DefaultSelector, SelectorKey
from typing import Any, TypeVar

R = TypeVar("R")


class Stalled(AssertionError):
    """A call waits, and nothing is under way that could let it go on."""


class _Selector(DefaultSelector):
    """num_working: calls that a thread has not ended."""

    num_working = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """A loop gives no timeout when no callback and no timer is due; then only threads can wake it."""
        if timeout is None and not self.num_working:
            raise Stalled
        return super().select(timeout)


class StallingLoop(asyncio.SelectorEventLoop):
    """For calls that are woken by each other, by timers and by threads that were given work with `run_in_executor`."""

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., R], *args: Any
    ) -> Future[R]:
        future = super().run_in_executor(executor, func, *args)
        self._waiting.num_working += 1
        future.add_done_callback(self._ended)
        return future

    def run(self, call: Coroutine[Any, Any, R]) -> R:
        """What the call returns. Raises Stalled where it never would."""
        task = self.create_task(call)
        try:
            return self.run_until_complete(task)
        except Stalled:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.run_until_complete(task)
            raise Stalled(f"{call!r} waits for what can never come") from None

    def _ended(self, _: Future[Any]) -> None:
        self._waiting.num_working -= 1
