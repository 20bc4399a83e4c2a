"""A disk that passes every call on and keeps a list of what was done, in the order in which it took effect.

A sync makes durable what was done before it began; writes that come while it runs are listed before its end and not
covered. `tell` puts what somebody was told into the list, so that a loss of power can be placed before or after it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fakes.disks import Killed

from replay.disk import Disk
from replay.frames import Bytes


@dataclass(frozen=True, slots=True)
class Create:
    """file: a number that the file keeps under whatever name."""

    path: str
    file: int


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """began: length of the list when it began."""

    file: int
    began: int


@dataclass(frozen=True, slots=True)
class Rename:
    old: str
    new: str
    file: int


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str


@dataclass(frozen=True, slots=True)
class MakeFolder:
    path: str


@dataclass(frozen=True, slots=True)
class SyncFolder:
    path: str
    began: int


@dataclass(frozen=True, slots=True)
class Told:
    """A promise (fakes/promises) that somebody was given."""

    what: Any


Op: TypeAlias = Create | Write | Truncate | Sync | Rename | Unlink | MakeFolder | SyncFolder | Told


class RecordingDisk(Disk):
    """Of everything under `root`, whose content when this is made counts as durable (`before`: path → bytes, None for
    a folder). Paths in the list are relative to `root`.

    calls_left: after so many more calls every further one raises Killed, as if the process had ended; None for ever.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls_left: int | None = None
        self.ops: list[Op] = []
        self.before = {
            str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
            for path in sorted(root.rglob("*"))
        }
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}
        self._names = {name: number for number, name in enumerate(self.before)}
        self._next = len(self._names)

    def tell(self, what: Any) -> None:
        with self._lock:
            self.ops.append(Told(what))

    def _call(self, name: str) -> None:
        """Called at the start of every call that is listed."""
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed

    def create(self, path: Path) -> int:
        with self._lock:
            self._call("create")
            file = super().create(path)
            name = self._name(path)
            if name in self._names:
                self.ops.append(Truncate(self._names[name], 0))
            else:
                self._names[name] = self._next
                self.ops.append(Create(name, self._next))
                self._next += 1
            self._open[file] = self._names[name]
            return file

    def open(self, path: Path) -> int:
        with self._lock:
            file = super().open(path)
            self._open[file] = self._names[self._name(path)]
            return file

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        with self._lock:
            self._call("write")
            offset = os.fstat(file).st_size
            written = super().write(file, buffers)
            self.ops.append(Write(self._open[file], offset, b"".join(buffers)[:written]))
            return written

    def sync(self, file: int) -> None:
        with self._lock:
            self._call("sync")
            began, number = len(self.ops), self._open[file]
        super().sync(file)
        with self._lock:
            self.ops.append(Sync(number, began))

    def truncate(self, file: int, size: int) -> None:
        with self._lock:
            self._call("truncate")
            super().truncate(file, size)
            self.ops.append(Truncate(self._open[file], size))

    def close(self, file: int) -> None:
        with self._lock:
            self._open.pop(file, None)
            super().close(file)

    def rename(self, old: Path, new: Path) -> None:
        with self._lock:
            self._call("rename")
            super().rename(old, new)
            file = self._names[self._name(new)] = self._names.pop(self._name(old))
            self.ops.append(Rename(self._name(old), self._name(new), file))

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._call("unlink")
            super().unlink(path)
            if self._names.pop(self._name(path), None) is not None:
                self.ops.append(Unlink(self._name(path)))

    def make_folder(self, path: Path) -> None:
        if path == self.root:
            return
        if not path.is_dir():
            self.make_folder(path.parent)
            with self._lock:
                self._call("make_folder")
                path.mkdir()
                self.ops.append(MakeFolder(self._name(path)))
        self.sync_folder(path.parent)

    def sync_folder(self, path: Path) -> None:
        with self._lock:
            self._call("sync_folder")
            began = len(self.ops)
        super().sync_folder(path)
        with self._lock:
            self.ops.append(SyncFolder(self._name(path), began))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))
