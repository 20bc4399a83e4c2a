"""Children that die with their parent.

The engine starts a process of its own. Should its parent be killed outright, nobody is left to stop it, so the kernel
must: PR_SET_PDEATHSIG delivers SIGKILL when the parent's thread ends. It has to be set before the child runs any code
that could hang or take long (importing the engine takes tens of seconds), so spawned interpreters are started through
a small launcher that sets it and then becomes the interpreter; the setting survives exec.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path

_LAUNCHER = """#!/bin/sh
exec {python} -I -S -c 'import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != {parent}: os._exit(1)
os.execv(sys.argv[1], sys.argv[1:])' {python} "$@"
"""


@contextmanager
def children_die_with_us() -> Iterator[None]:
    """Processes that `multiprocessing` spawns inside the block are killed when the calling thread ends (Linux only).

    The calling thread must live as long as the process: the main thread, or that of the event loop.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    python = os.fsdecode(spawn.get_executable())
    with tempfile.TemporaryDirectory(prefix="pixelis-") as folder:
        launcher = Path(folder) / "python"
        launcher.write_text(_LAUNCHER.format(python=shlex.quote(python), parent=os.getpid()))
        launcher.chmod(0o700)
        multiprocessing.set_executable(str(launcher))
        try:
            yield
        finally:
            multiprocessing.set_executable(python)
