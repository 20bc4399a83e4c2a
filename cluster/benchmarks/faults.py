"""Tools that fail on demand, for measurements and tests: `python -m cluster.benchmarks.faults` is a worker of them.

A job's option `fault` says what goes wrong before the tool does its work: it hangs, spins, takes long, raises, leaves,
touches memory that is not there, or takes all there is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Tool, Workbench
from actors.tools.worker import main
from actors.tools.workspace import Workspace

MIB = 2**20
COMMAND = (sys.executable, "-P", "-m", "cluster.benchmarks.faults")
"""Starts a worker of these tools."""


def hang(seconds: float) -> None:
    time.sleep(600)


def spin(seconds: float) -> None:
    """A hang that keeps a processor busy."""
    while True:
        pass


def slow(seconds: float) -> None:
    """Busy for `seconds` of processor time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fail(seconds: float) -> None:
    raise RuntimeError("a library fails")


def refuse(seconds: float) -> None:
    raise ToolError("bad_argument", "not like this")


def leave(seconds: float) -> None:
    os._exit(3)


def crash(seconds: float) -> None:
    """A segmentation fault."""
    ctypes.string_at(0)


def grow(seconds: float) -> None:
    """Takes memory and touches it, bit by bit, without end."""
    taken = []
    while True:
        taken.append(bytearray(b"\1") * (8 * MIB))


def reserve(seconds: float) -> None:
    """Asks for more memory at once than any machine has."""
    bytearray(2**46)


FAULTS: dict[str, Callable[[float], None]] = {
    fault.__name__: fault for fault in (hang, spin, slow, sleep, fail, refuse, leave, crash, grow, reserve)
}


class Faulty:
    """A tool that does `inner`'s work, or nothing, after what its job's `fault` says."""

    version: ClassVar[int] = 1
    description: ClassVar[str] = "Fails on demand."
    arguments: ClassVar[type] = dict

    def __init__(self, name: str, inner: Tool | None = None) -> None:
        self.name = name
        self._inner = inner

    def plan(self, arguments: Any, workspace: Workspace, config: ToolsConfig) -> Plan:
        raise NotImplementedError

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        raise NotImplementedError

    def run(self, job: Job, bench: Workbench) -> Result:
        options = dict(job.options)
        fault, seconds = options.pop("fault", None), options.pop("seconds", 0.0)
        if fault is not None:
            FAULTS[fault](seconds)
        if self._inner is None:
            return Result(values={"pid": os.getpid()})
        return self._inner.run(replace(job, options=options), bench)


def faulty(job: Job, fault: str, seconds: float = 0.0) -> Job:
    """`job` with a fault."""
    return replace(job, options={**job.options, "fault": fault, "seconds": seconds})


def _named(name: str) -> Any:
    from actors.tools.catalogue import tool_named

    return Faulty(name, tool_named(name))


if __name__ == "__main__":
    main(find=_named)
