"""What stands inside a process behind a handle: builds the object, runs its methods, and packs failures for the way
back.

A failure crosses as a value, the exception itself with its traceback as a note, so the caller catches the class that
was raised and a UserError stays one line.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.runtime import resolve
from common.errors import UserError


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way to the caller."""

    error: Exception

    @classmethod
    def of(cls, error: Exception, where: str) -> Failure:
        """`error` as it can cross: one that pickle cannot carry becomes a RuntimeError with the same text."""
        trace = "".join(traceback.format_exception(error))
        try:
            carried: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes, in memory
        except Exception:  # noqa: BLE001 - whatever a foreign class raises when pickled
            carried = RuntimeError(f"{type(error).__name__}: {error}")
        if not isinstance(error, UserError):
            carried.add_note(f"raised in {where}:\n{trace}")
        return cls(carried)


class Host:
    """One object and the thread that its sync methods share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._object: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def build(
        self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], env: Mapping[str, str]
    ) -> Failure | None:
        os.environ.update(env)
        outcome = await self._run(factory, args, kwargs)
        if isinstance(outcome, Failure):
            return outcome
        self._object = outcome
        return None

    async def run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The method's value, or a Failure."""
        return await self._run(getattr(self._object, method), args, kwargs)

    def forget(self) -> None:
        """Drop the object; a method that still runs on the thread finishes unheard."""
        self._object = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            args, kwargs = await resolve((args, kwargs))
            if inspect.iscoroutinefunction(function):
                return await function(*args, **kwargs)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: every failure goes back to the caller
            return Failure.of(error, self.name)
