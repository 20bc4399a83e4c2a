"""Processes that cost milliseconds: a server that has imported what they need forks them on request.

A child runs one function, `module:name`, with keyword arguments that JSON can hold, in the folder given; what it prints
is kept in a file. It ends with the server, and the server with whoever started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


class ForkServer:
    """modules: imported once, before the first fork."""

    def __init__(self, modules: list[str]) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._ended: dict[int, int] = {}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "fakes.forking", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads | {"PYTHONPATH": path},
        )

    def start(self, target: str, *, output: Path, **arguments: Any) -> Child:
        """Run `target` in a new process. output: the file for what it prints."""
        pid = self._ask(start=target, output=str(output), arguments=arguments)
        self._ended.pop(pid, None)  # numbers are used again, of processes that nobody asked about too
        return Child(self, pid, output)

    def status(self, pid: int) -> int | None:
        """The exit status of a child, −9 for one that was killed; None while it runs. Told once."""
        if pid not in self._ended:
            self._ended |= dict(self._ask(ended=True))
        return self._ended.pop(pid, None)

    def _ask(self, **request: Any) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class Child:
    def __init__(self, server: ForkServer, pid: int, output: Path) -> None:
        self._server = server
        self.pid = pid
        self.output = output
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """Its exit status, −9 when it was killed; None while it runs."""
        if self._status is None:
            self._status = self._server.status(self.pid)
        return self._status

    def kill(self) -> None:
        """As kill -9 does."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if self.status is None:
            os.kill(self.pid, number)


@functools.cache
def fork_server(*modules: str) -> ForkServer:
    """One for this process."""
    return ForkServer(list(modules))


def _serve() -> None:
    """Answer requests until whoever asks is gone."""
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_fork(request) if "start" in request else list(_ended())), flush=True)


def _ended() -> Iterator[tuple[int, int]]:
    """Children that ended since this was asked last, with their exit statuses."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _fork(request: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for old, new in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(old, new)
        module, _, name = request["start"].partition(":")
        getattr(importlib.import_module(module), name)(**request["arguments"])
        status = 0
    except BaseException:  # noqa: BLE001  A child must never go on as a second server.
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for needed in sys.argv[1:]:
        importlib.import_module(needed)
    _serve()
