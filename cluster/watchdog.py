"""Ends what a killed driver leaves behind.

A process killed with SIGKILL cleans nothing up. Ray's daemons die with it, but what their workers started may live on.
This small program is started beside the driver, waits for it to be gone, and ends every process that belongs to the
same cluster: those that carry its mark in their environment, name its folder on their command line or have a file in
it open, and all their descendants. It is run by path and imports the standard library alone, so it costs 10 MB and no
start-up time.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "PIXELIS_CLUSTER"
"""The environment variable that every process of a cluster carries."""


def wait_for_end(pid: int) -> None:
    """Wait until process `pid`, our parent, is gone."""
    while os.getppid() == pid:
        time.sleep(0.1)


def processes_of(folder: str) -> set[int]:
    """Processes of the cluster in `folder` and their descendants, this one and its parent excepted."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    here = {os.getpid(), os.getppid()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if int(entry.name) not in here and _belongs(entry, folder):
                found.add(int(entry.name))
        except (OSError, ValueError, IndexError):  # it ended meanwhile, or is another user's
            continue
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return found - here


def _belongs(process: Path, folder: str) -> bool:
    """Whether a process carries the mark, names the folder, or has a file in it open.

    Ray's workers and agents write their title over command line and environment, but their output goes to the folder.
    """
    if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
        return True
    if folder.encode() in (process / "cmdline").read_bytes():
        return True
    return any(_target(file).startswith(f"{folder}/") for file in (process / "fd").iterdir())


def _target(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        return ""


def end_all(folder: str, *, within_s: float) -> None:
    """Kill until none is left, or the time is over."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        remaining = processes_of(folder)
        if not remaining:
            return
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.05)


if __name__ == "__main__":
    wait_for_end(int(sys.argv[1]))
    end_all(sys.argv[2], within_s=4.0)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
