"""A disk on which the process that uses it is killed: before, in the middle of, or after one chosen call."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from replay.disk import Disk
from replay.frames import Bytes

When = Literal["before", "half", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoint:
    """The `nth` call (from 1) of this kind about this place. half: of a write, half the bytes are written; of every
    other call, the same as before.
    """

    call: str
    place: str
    nth: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.call} of {self.place}"


def place_of(path: Path) -> str:
    """What a file of a replay is. Files written aside are new or replace one."""
    folder, name = path.parent.name, path.name
    aside = name.startswith(".aside-")
    kind = {"log": "segment", "media": "pack"}.get(folder, folder)
    kind = {".snapshot": "snapshot", ".index": "pack index", ".json": "note of what goes"}.get(path.suffix, kind)
    if folder == "index":
        return "neighbours"
    if not aside or kind not in ("segment", "pack"):
        return kind
    return f"rewritten {kind}" if path.suffix else f"new {kind}"


class FatalDisk(Disk):
    """Kills its own process at the failpoint, and leaves a line in the file `noted` that says so.

    failpoint: None kills never.
    """

    def __init__(self, failpoint: Failpoint | None, noted: Path) -> None:
        self._failpoint = failpoint
        self._noted = noted
        self._left = 0 if failpoint is None else failpoint.nth
        self._lock = threading.Lock()
        self._places: dict[int, str] = {}

    def create(self, path: Path) -> int:
        with _Call(self, "create", place_of(path)):
            file = super().create(path)
        self._places[file] = place_of(path)
        return file

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        with _Call(self, "write", self._places.get(file, "segment")) as call:
            if call.when == "half":
                whole = b"".join(buffers)
                super().write(file, [whole[: len(whole) // 2]])
                call.die()
            return super().write(file, buffers)

    def sync(self, file: int) -> None:
        with _Call(self, "sync", self._places.get(file, "left behind")):
            super().sync(file)

    def truncate(self, file: int, size: int) -> None:
        with _Call(self, "truncate", self._places.get(file, "segment")):
            super().truncate(file, size)

    def close(self, file: int) -> None:
        self._places.pop(file, None)
        super().close(file)

    def rename(self, old: Path, new: Path) -> None:
        with _Call(self, "rename", place_of(old)):
            super().rename(old, new)
        for file, place in list(self._places.items()):
            if place == place_of(old):
                self._places[file] = place_of(new)

    def unlink(self, path: Path) -> None:
        with _Call(self, "unlink", place_of(path)):
            super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        with _Call(self, "sync_folder", f"{path.name} folder"):
            super().sync_folder(path)

    def reach(self, call: str, place: str) -> When | None:
        """Count one call; when the process is to be killed around it, if at all."""
        point = self._failpoint
        if point is None or (call, place) != (point.call, point.place):
            return None
        with self._lock:
            self._left -= 1
            return point.when if self._left == 0 else None

    def die(self) -> NoReturn:
        file = os.open(self._noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, f"{self._failpoint}\n".encode())
        self.drop()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process went on")

    def drop(self) -> None:
        """Lose what is lost with the process: nothing."""


class _Call:
    """One call to the disk. when: of the kill, where it is this call's turn."""

    def __init__(self, disk: FatalDisk, call: str, place: str) -> None:
        self._disk, self._call, self._place = disk, call, place
        self.when: When | None = None

    def __enter__(self) -> _Call:
        self.when = self._disk.reach(self._call, self._place)
        if self.when == "before" or (self.when == "half" and self._call != "write"):
            self.die()
        return self

    def __exit__(self, *failure: object) -> None:
        if self.when == "after":
            self.die()

    def die(self) -> NoReturn:
        self._disk.die()
