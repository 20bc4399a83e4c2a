"""Memory maps of the files that were read last, so that a record is used where it lies."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from replay.frames import Bytes
from replay.segments import map_file

NUM_MAPS = 16


class Maps:
    """Of the last NUM_MAPS files of a folder that were read. For many threads; a view once handed out stays good."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: OrderedDict[str, tuple[int, Bytes]] = OrderedDict()

    def of(self, name: str) -> Bytes:
        """The file as it is now: one that was replaced, cut or has grown is mapped again. Raises FileNotFoundError."""
        path = self._folder / name
        status = path.stat()
        inode, data = self._held.get(name, (0, b""))
        if (inode, len(data)) != (status.st_ino, status.st_size):
            data = map_file(path)
            self._held[name] = (status.st_ino, data)
            if len(self._held) > NUM_MAPS:
                self._held.popitem(last=False)
        return data
