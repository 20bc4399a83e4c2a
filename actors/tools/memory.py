"""How much memory a worker takes, and two fences around it.

A call may add `memory_mb` to its worker. Inside the worker, RLIMIT_DATA stops one huge request at once: the allocation
fails and the call is told so. (RLIMIT_AS would count what libraries reserve and never touch.) It stands at twice the
cap above what the worker holds when it is ready, so that address space which is only set aside passes. From outside,
the pool watches what is really touched and kills a worker that grows beyond the cap.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MIB = 2**20
HEADROOM = 2
"""The inner fence stands at this many caps."""
_FAILED = (
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "can't allocate memory",
    "bad_alloc",
)


def private_bytes(pid: int) -> int:
    """Anonymous memory of a process that is in RAM; 0 when it is gone. Takes some 20 µs."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def fence(cap_bytes: int) -> None:
    """Let this process allocate at most HEADROOM · `cap_bytes` more than it has, and leave no core file (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmData"].split()[0]) * 1024 + HEADROOM * cap_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def ran_out(error: BaseException) -> bool:
    """Whether a library says that it could not get memory: each has its own way to say so."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _FAILED)
