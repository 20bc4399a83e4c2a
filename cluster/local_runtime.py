"""All processes in one: for tests, for debugging and for machines where one process is enough.

Arguments and results still pass through pickle in memory. What Ray would not carry is refused here too, and an object
that two sides would share by accident is two objects.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from cluster.host import Failure, Host
from cluster.placement import free_port, rank_env
from cluster.runtime import Handle, Ranks, Ref, Resources
from common.errors import ActorDied, ContractError

T = TypeVar("T")
R = TypeVar("R")


class LocalRef(Ref[R]):
    """The packed outcome of a call."""

    def __init__(self, outcome: asyncio.Task[_Packed]) -> None:
        self._outcome = outcome

    async def fetch(self) -> R:
        value = (await asyncio.shield(self._outcome)).unpack()
        if isinstance(value, Failure):
            raise value.error
        return cast("R", value)


class LocalHandle(Handle[T]):
    """Reaches a host in this process. It dies when it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._host = Host(name)
        self._died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def build(
        self, factory: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], env: Mapping[str, str]
    ) -> None:
        args, kwargs = _Packed.of((args, kwargs)).unpack()
        failure = await self._host.build(factory, args, kwargs, env)
        if failure is not None:
            self.die("could not be built")
            raise failure.error

    def die(self, reason: str) -> None:
        if not self._died.done():
            self._died.set_result(reason)
            self._host.forget()

    async def ended(self) -> str:
        return await asyncio.shield(self._died)

    def _send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref[Any]:
        packed = _Packed.of((args, kwargs))
        return LocalRef(asyncio.get_running_loop().create_task(self._answer(method, packed)))

    async def _answer(self, method: str, packed: _Packed) -> _Packed:
        work: asyncio.Future[Any] | None = None
        if not self._died.done():
            args, kwargs = packed.unpack()
            work = asyncio.ensure_future(self._host.run(method, args, kwargs))
            await asyncio.wait([work, self._died], return_when=asyncio.FIRST_COMPLETED)
        if work is None or not work.done():
            if work is not None:
                work.cancel()
            return _Packed.of(Failure(ActorDied(f"{self.name}: its process died ({self._died.result()})")))
        try:
            return _Packed.of(work.result())
        except ContractError as error:
            return _Packed.of(Failure(error))


class LocalRuntime:
    """Every handle in this process. `env` changes this process's environment until `close`."""

    def __init__(self) -> None:
        self._handles: list[LocalHandle[Any]] = []
        self._ranks: list[Ranks[Any]] = []
        self._environment = dict(os.environ)

    async def spawn(
        self,
        name: str,
        factory: Callable[..., T],
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Handle[T]:
        return await self._spawn(name, factory, args, {}, env or {})

    async def spawn_ranks(
        self,
        name: str,
        factory: Callable[..., T],
        num_ranks: int,
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ranks[T]:
        port = free_port("127.0.0.1")
        handles = await asyncio.gather(
            *(
                self._spawn(
                    f"{name}-{rank}",
                    factory,
                    args,
                    {"rank": rank, "world_size": num_ranks},
                    {**(env or {}), **rank_env(rank, num_ranks, address="127.0.0.1", port=port)},
                )
                for rank in range(num_ranks)
            )
        )
        self._ranks.append(ranks := Ranks(name, handles, self.kill))
        return ranks

    def put(self, value: R) -> Ref[R]:
        packed = _Packed.of(value)

        async def kept() -> _Packed:
            return packed

        return LocalRef(asyncio.get_running_loop().create_task(kept()))

    async def get(self, ref: Ref[R]) -> R:
        return await ref.fetch()

    async def kill(self, handle: Handle[Any]) -> None:
        assert isinstance(handle, LocalHandle)
        handle.die("killed")

    async def close(self) -> None:
        for handle in self._handles:
            handle.die("the runtime was closed")
        await asyncio.gather(*(ranks.ended() for ranks in self._ranks))
        for key in os.environ.keys() - self._environment.keys():
            del os.environ[key]
        os.environ.update(self._environment)

    async def _spawn(
        self,
        name: str,
        factory: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        env: Mapping[str, str],
    ) -> LocalHandle[T]:
        handle: LocalHandle[T] = LocalHandle(name)
        self._handles.append(handle)
        await handle.build(factory, args, kwargs, env)
        return handle


class _Packed:
    """A pickled value. Handles and Refs in it stay what they are: they are names of things, not things."""

    def __init__(self, data: bytes, names: tuple[Any, ...]) -> None:
        self._data, self._names = data, names

    @classmethod
    def of(cls, value: Any) -> _Packed:
        """Raises ContractError when the value cannot leave its process."""
        buffer, names = io.BytesIO(), []

        class Pickler(pickle.Pickler):
            def persistent_id(self, item: Any) -> int | None:
                if not isinstance(item, (Ref, Handle)):
                    return None
                names.append(item)
                return len(names) - 1

        try:
            Pickler(buffer, protocol=5).dump(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ContractError(f"a value of type {type(value).__name__} cannot cross a process: {error}") from error
        return cls(buffer.getvalue(), tuple(names))

    def unpack(self) -> Any:
        names = self._names

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, index: int) -> Any:
                return names[index]

        return Unpickler(io.BytesIO(self._data)).load()
