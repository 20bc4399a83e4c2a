"""Processes on Ray: a cluster of this machine that listens on loopback only, or a running one that is attached to.

One Ray actor holds one object. Its calls are async and side by side, so waiting calls (a replay that waits for groups)
never block others. Ray's own retries are off: they are neither once nor ordered; who supervises decides what to start
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from cluster import watchdog
from cluster.host import Failure, Host
from cluster.placement import QUIET, free_port, rank_env
from cluster.runtime import Handle, Ranks, Ref, Resources, RuntimeConfig
from common.errors import ActorDied, ConfigError, ContractError

T = TypeVar("T")
R = TypeVar("R")

MAX_CALLS = 10_000
"""Calls that may wait in one process at once. Each costs a coroutine; Ray's default of 1,000 blocks silently beyond."""


@dataclass(frozen=True, slots=True)
class RayRef(Ref[R]):
    """A Ray object, with the name of the process that makes it."""

    source: str
    object: Any

    async def fetch(self) -> R:
        import ray

        try:
            value = await self.object
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise ActorDied(f"{self.source}: its process died ({_first_line(error)})") from None
        except ray.exceptions.RayTaskError as error:  # the method's own errors come as Failures
            raise ContractError(f"a value cannot cross to or from {self.source}: {error.cause}") from None
        if isinstance(value, Failure):
            raise value.error
        return cast("R", value)


@dataclass(frozen=True, slots=True)
class RayHandle(Handle[T]):
    """Reaches a Ray actor; may be passed to other processes."""

    name: str
    actor: Any

    def _send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref[Any]:
        try:
            return RayRef(self.name, self.actor.run.remote(method, args, kwargs))
        except TypeError as error:
            raise ContractError(f"an argument of {method} cannot cross to {self.name}: {error}") from error

    async def ended(self) -> str:
        try:
            await _fetch(self, self.actor.forever.remote())
        except ActorDied as error:
            return str(error)
        raise AssertionError("forever has ended")


class RayHost(Host):
    """The Host as a Ray actor."""

    def address(self) -> tuple[str, int]:
        """Where this process can be reached by its siblings: the node's address and a port that is free there."""
        import ray

        node = ray.util.get_node_ip_address()
        return node, free_port(node)

    async def forever(self) -> None:
        """Ends with the process."""
        await asyncio.Event().wait()


class RayRuntime:
    """Build it with `start`; use it on one event loop; `close` it."""

    def __init__(self, config: RuntimeConfig, folder: Path | None, keeper: subprocess.Popen[bytes] | None) -> None:
        self._config = config
        self._folder = folder
        self._keeper = keeper
        self._handles: list[RayHandle[Any]] = []

    @classmethod
    def start(cls, config: RuntimeConfig) -> RayRuntime:
        """Start a cluster of this machine, or attach to a running one. Takes about 3 s.

        Call it on the main thread: Ray's daemons live as long as the thread that started them. Raises ConfigError when
        there is no cluster at config.address.
        """
        os.environ.update(QUIET)
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # processes without a GPU keep their environment
        # A worker's children end with it. The spelling is Ray's.
        os.environ["RAY_process_group_cleanup_enabled"] = "1"  # noqa: SIM112
        # Ray's workers would yield to everything else on the machine, but here they are the work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        return cls._attach(config) if config.address else cls._start(config)

    @classmethod
    def _start(cls, config: RuntimeConfig) -> RayRuntime:
        folder = tempfile.mkdtemp(prefix="pixelis-")  # short: Ray's sockets live in it, and their paths hold 107 bytes
        os.environ[watchdog.MARK] = folder
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), folder]
        for last_attempt in (False, True):  # Ray gives its daemons 30 s, too few on a busy machine
            keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                _boot(config, folder)
                break
            except BaseException as error:
                _abandon(folder)
                keeper.wait()
                if last_attempt or not isinstance(error, Exception):  # an interrupt is no reason to try again
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
        return cls(config, Path(folder), keeper)

    @classmethod
    def _attach(cls, config: RuntimeConfig) -> RayRuntime:
        import ray

        try:
            if config.address != "auto":  # Ray itself tries for minutes
                host, _, port = config.address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            with _signals_kept():
                ray.init(
                    address=config.address,
                    logging_level=logging.ERROR,
                    log_to_driver=config.worker_logs,
                    configure_logging=False,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"runtime.address: no Ray cluster at {config.address!r} ({_first_line(error)}); "
                "start one with `ray start --head`, "
                'or set runtime.address="" for a cluster of this machine'
            ) from error
        return cls(config, None, None)

    async def spawn(
        self,
        name: str,
        factory: Callable[..., T],
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Handle[T]:
        handle: RayHandle[T] = self._place(name, resources or Resources())
        try:
            await self._build(handle, factory, args, {}, env or {})
        except BaseException:
            await self.kill(handle)
            raise
        return handle

    async def spawn_ranks(
        self,
        name: str,
        factory: Callable[..., T],
        num_ranks: int,
        *args: Any,
        resources: Resources | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ranks[T]:
        handles: list[RayHandle[T]] = [
            self._place(f"{name}-{rank}", resources or Resources()) for rank in range(num_ranks)
        ]
        address, port = await _fetch(handles[0], handles[0].actor.address.remote())
        ranks = Ranks(name, handles, self.kill)
        building = [
            self._build(
                handle,
                factory,
                args,
                {"rank": rank, "world_size": num_ranks},
                {**(env or {}), **rank_env(rank, num_ranks, address=address, port=port)},
            )
            for rank, handle in enumerate(handles)
        ]
        try:
            await asyncio.gather(*building)
        except BaseException:
            await ranks.end("a rank could not be built")
            raise
        return ranks

    def put(self, value: R) -> Ref[R]:
        import ray

        return RayRef("the driver", ray.put(value))

    async def get(self, ref: Ref[R]) -> R:
        return await ref.fetch()

    async def kill(self, handle: Handle[Any]) -> None:
        import ray

        assert isinstance(handle, RayHandle)
        with contextlib.suppress(ray.exceptions.ActorHandleNotFoundError):  # its cluster is gone, and it with it
            ray.kill(handle.actor, no_restart=True)

    async def close(self) -> None:
        import ray

        for handle in self._handles:
            ray.kill(handle.actor, no_restart=True)
        if self._folder is None:
            ray.shutdown()
            return
        remaining = watchdog.processes_of(str(self._folder)) - {os.getpid(), self._keeper_pid()}
        with _signals_kept():
            ray.shutdown()
        await asyncio.to_thread(self._end, remaining)

    def _keeper_pid(self) -> int:
        return self._keeper.pid if self._keeper else 0

    def _end(self, remaining: set[int]) -> None:
        """Wait for the cluster's processes to go, kill those that do not, and remove the folder."""
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in remaining):
            time.sleep(0.02)
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
        os.environ.pop(watchdog.MARK, None)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, name: str, resources: Resources) -> RayHandle[Any]:
        import ray

        actor = ray.remote(RayHost).options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            memory=resources.memory_bytes,
            resources=dict(resources.custom) or None,
            max_concurrency=MAX_CALLS,
            max_restarts=0,
            max_task_retries=0,
        )
        handle: RayHandle[Any] = RayHandle(name, actor.remote(name))
        self._handles.append(handle)
        return handle

    async def _build(
        self,
        handle: RayHandle[Any],
        factory: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        env: Mapping[str, str],
    ) -> None:
        await _fetch(handle, handle.actor.build.remote(factory, args, kwargs, dict(env)))


def _boot(config: RuntimeConfig, folder: str) -> None:
    """Start Ray's daemons, on loopback, with their files in `folder`."""
    import ray
    from ray._private import services
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # Ray reads its environment when it is imported, which may have been before

    # Ray replaces 127.0.0.1 by the machine's address and then binds every interface, unless its lookup
    # says otherwise.
    services.get_node_ip_address = ray.util.get_node_ip_address = _loopback
    with _signals_kept(), _same_imports():
        ray.init(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            object_store_memory=config.object_store_bytes,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=config.worker_logs,
            configure_logging=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )


def _abandon(folder: str) -> None:
    """End what a failed start has left, the watchdog included."""
    import ray

    ray.shutdown()
    watchdog.end_all(folder, within_s=4.0)


async def _fetch(handle: RayHandle[Any], ref: Any) -> Any:
    answer: RayRef[Any] = RayRef(handle.name, ref)
    return await answer.fetch()


def _loopback(address: str | None = None) -> str:
    return "127.0.0.1"


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray installs a handler of its own for SIGTERM; ours stays."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _same_imports() -> Iterator[None]:
    """Workers started meanwhile import from where this process imports."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if Path(path).is_dir())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
