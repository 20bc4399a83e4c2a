"""Reaching an object that lives in another process, wherever that is.

A plain class is built in a process of its own and reached by a `Handle`: `await handle.call(T.method, *args)` waits
for the value, `handle.send(T.method, *args)` returns a `Ref` at once. A `Ref` is accepted as an argument of another
call, also inside lists, tuples and dicts, and is resolved in the process that receives it: the caller never touches
the value.

Two implementations behave alike, so a program cannot tell them apart: `LocalRuntime` (one process; everything that
crosses a handle is copied through pickle in memory, so sharing by accident shows) and `RayRuntime` (one process a
handle).
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, Literal, Protocol, TypeVar, cast, overload

from common.errors import ActorDied

T = TypeVar("T")
R = TypeVar("R")

AGREE_S = 5.0
"""How long the other ranks may go on after one of them failed: a rank that waits for it in a collective never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a process reserves. num_cpus are logical and may exceed the cores. custom: names defined by the cluster."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise ValueError(f"num_cpus and num_gpus must not be negative, got {self.num_cpus} and {self.num_gpus}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Where processes live.

    kind: "ray" (one process a handle) or "local" (all in one). address: "" starts a cluster of this machine alone, on
    loopback; "auto" or "host:port" attaches to a running one. num_cpus, num_gpus: logical, for a cluster of our own
    (None: as found). object_store_bytes: shared memory for values between processes. num_threads: of each computing
    process. worker_logs: show what worker processes print.
    """

    kind: Literal["ray", "local"] = "ray"
    address: str = ""
    num_cpus: int = 16
    num_gpus: int | None = None
    object_store_bytes: int = 256 * 2**20
    num_threads: int = 1
    worker_logs: bool = False

    def __post_init__(self) -> None:
        if self.num_cpus < 1 or self.num_threads < 1:
            raise ValueError(f"num_cpus and num_threads must be at least 1, got {self.num_cpus} and {self.num_threads}")
        if self.object_store_bytes < 80 * 2**20:
            raise ValueError(f"object_store_bytes must be at least 83886080 (80 MiB), got {self.object_store_bytes}")
        if self.address not in ("", "auto") and not re.fullmatch(r".+:\d+", self.address):
            raise ValueError(
                f'address must be "" (a cluster of this machine), "auto" or "host:port", got {self.address!r}'
            )

    @property
    def loopback(self) -> bool:
        """Whether everything runs on this machine and listens on 127.0.0.1 only."""
        return self.kind == "local" or not self.address


class Ref(ABC, Generic[R]):
    """The result of a call, present or to come, kept where it was made."""

    @abstractmethod
    async def fetch(self) -> R:
        """Wait for the value and copy it here. Raises what the call raised, or ActorDied when its process died."""


class Handle(ABC, Generic[T]):
    """Reaches one object in its process. May itself be an argument of a call, so that processes reach one another.

    Async methods of the object run side by side on its process's event loop; other methods run one at a time on one
    thread. Calls that are under way together begin in any order: whoever needs an order awaits one before making the
    next. Whoever stops waiting for a call does not stop the call.
    """

    name: str

    @overload
    def send(
        self, method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], *args: Any, **kwargs: Any
    ) -> Ref[R]: ...

    @overload
    def send(self, method: Callable[Concatenate[T, ...], R], *args: Any, **kwargs: Any) -> Ref[R]: ...

    def send(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Ref[Any]:
        """Begin the call and return where its result will be."""
        return self._send(method.__name__, args, kwargs)

    @overload
    async def call(
        self, method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], *args: Any, **kwargs: Any
    ) -> R: ...

    @overload
    async def call(self, method: Callable[Concatenate[T, ...], R], *args: Any, **kwargs: Any) -> R: ...

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call and wait for the value. Raises what the method raised, or ActorDied when the process died meanwhile."""
        return await self._send(method.__name__, args, kwargs).fetch()

    @abstractmethod
    def _send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref[Any]: ...

    @abstractmethod
    async def ended(self) -> str:
        """Wait until the process has ended, whoever ended it. Returns the reason."""


class Runtime(Protocol):
    """Starts processes and ends them."""

    async def spawn(
        self,
        name: str,
        factory: Callable[..., T],
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Handle[T]:
        """Build `factory(*args)` in a new process; waits until it is built. Raises what the factory raises.

        factory: a class or a module-level function; an async one runs on the process's event loop. args may hold Refs.
        env: variables set before the factory is imported or run.
        """
        ...

    async def spawn_ranks(
        self,
        name: str,
        factory: Callable[..., T],
        num_ranks: int,
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ranks[T]:
        """Build `factory(*args, rank=rank, world_size=num_ranks)` once a rank, each in a process of its own.

        All see RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: a free port where rank 0 lives, on loopback
        in a local cluster.
        """
        ...

    def put(self, value: R) -> Ref[R]:
        """Keep a value once, to be handed to many calls."""
        ...

    async def get(self, ref: Ref[R]) -> R:
        """Wait for what `ref` refers to and copy it here."""
        ...

    async def kill(self, handle: Handle[Any]) -> None:
        """End a process at once. Its pending calls raise ActorDied; killing it again does nothing."""
        ...

    async def close(self) -> None:
        """End every process that this runtime started; returns when they are gone."""
        ...


@dataclass(frozen=True, slots=True)
class Shards(Generic[R]):
    """An argument of `Ranks.call_all` of which rank i receives item i."""

    values: Sequence[R | Ref[R]]


class Ranks(Generic[T]):
    """The ranks of one collective program. They live together: when one dies, all are ended."""

    def __init__(self, name: str, handles: Sequence[Handle[T]], kill: Callable[[Handle[T]], Awaitable[None]]) -> None:
        self.name = name
        self.handles = tuple(handles)
        self._kill = kill
        self._reason = ""
        self._watch = asyncio.get_running_loop().create_task(self._end_together())

    def __len__(self) -> int:
        return len(self.handles)

    @overload
    def send_all(self, method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], *args: Any) -> list[Ref[R]]: ...

    @overload
    def send_all(self, method: Callable[Concatenate[T, ...], R], *args: Any) -> list[Ref[R]]: ...

    def send_all(self, method: Callable[..., Any], *args: Any) -> list[Ref[Any]]:
        """Begin the call on every rank. A `Shards` argument is dealt out, any other goes to all."""
        for argument in args:
            if isinstance(argument, Shards) and len(argument.values) != len(self.handles):
                raise ValueError(f"{len(argument.values)} shards for the {len(self.handles)} ranks of {self.name}")
        return [
            handle.send(method, *(arg.values[rank] if isinstance(arg, Shards) else arg for arg in args))
            for rank, handle in enumerate(self.handles)
        ]

    @overload
    async def call_all(self, method: Callable[Concatenate[T, ...], Coroutine[Any, Any, R]], *args: Any) -> list[R]: ...

    @overload
    async def call_all(self, method: Callable[Concatenate[T, ...], R], *args: Any) -> list[R]: ...

    async def call_all(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        """Call every rank and wait for all; results in the order of ranks.

        Raises what the lowest failing rank raised. When the others do not end soon after (they wait for it in a
        collective), or when a rank died, all ranks are ended.
        """
        tasks = [asyncio.ensure_future(ref.fetch()) for ref in self.send_all(method, *args)]
        try:
            _, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if running:
                _, running = await asyncio.wait(running, timeout=AGREE_S)
            if running:
                await self.end("one rank failed while others waited for it")
                await asyncio.wait(running)
        finally:
            for task in tasks:
                task.cancel()
        errors = [error for task in tasks if (error := task.exception()) is not None]
        if any(isinstance(error, ActorDied) for error in errors):
            await self.end(str(next(error for error in errors if isinstance(error, ActorDied))))
        for error in sorted(errors, key=lambda error: isinstance(error, ActorDied)):  # a cause before its consequences
            raise (
                error
                if not isinstance(error, ActorDied)
                else ActorDied(f"{self.name}: {self._reason}; all its ranks were ended")
            )
        return [task.result() for task in tasks]

    async def ended(self) -> str:
        """Wait until the ranks have ended. Returns the reason."""
        await asyncio.wait([self._watch])
        return self._reason

    async def end(self, reason: str = "ended") -> None:
        """End every rank."""
        self._reason = self._reason or reason
        await asyncio.gather(*(self._kill(handle) for handle in self.handles))

    async def _end_together(self) -> None:
        watches = [asyncio.ensure_future(handle.ended()) for handle in self.handles]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            rank = next(rank for rank, watch in enumerate(watches) if watch in done)
            await self.end(f"rank {rank} died ({watches[rank].result()})")
        finally:
            for watch in watches:
                watch.cancel()


async def resolve(value: R) -> R:
    """`value` with every Ref replaced by what it refers to; looks into lists, tuples and dicts, nowhere else."""
    refs = list(dict.fromkeys(_refs_in(value)))
    if not refs:
        return value
    values = await asyncio.gather(*(ref.fetch() for ref in refs))
    return cast("R", _replaced(value, dict(zip(refs, values, strict=True))))


def _refs_in(value: Any) -> list[Ref[Any]]:
    if isinstance(value, Ref):
        return [value]
    if type(value) in (list, tuple):
        return [ref for item in value for ref in _refs_in(item)]
    if type(value) is dict:
        return [ref for item in value.values() for ref in _refs_in(item)]
    return []


def _replaced(value: Any, values: Mapping[Ref[Any], Any]) -> Any:
    if isinstance(value, Ref):
        return values[value]
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, values) for item in value)
    if type(value) is dict:
        return {key: _replaced(item, values) for key, item in value.items()}
    return value
