"""Durable media: the pictures that kept rollouts refer to, by content, beside the log.

The live store is in shared memory and forgets; a rollout is acknowledged only when its views and images lie here. The
same content is copied once. What the live store has forgotten is put back when a draw needs it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from common.errors import ContractError, MediaError
from common.media import FolderMediaStore, content_digest
from common.types import MediaRef
from replay.disk import Disk, write_all


class DurableMedia:
    """A folder laid out as a FolderMediaStore, so any reader of those reads it. Safe for many threads of one process.

    sync: False skips every fsync (durability "os").
    """

    def __init__(self, folder: Path, *, live: FolderMediaStore, sync: bool = True, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        self.store = FolderMediaStore(folder)
        self._live = live
        self._sync = sync
        self._lock = threading.Lock()
        self._number = 0
        for prefix in range(256):
            (folder / f"{prefix:02x}").mkdir(exist_ok=True)
        for aside in folder.glob("??/.*"):
            self._disk.unlink(aside)
        self._kept: set[str] = set()
        self._sync_folders([folder])

    def keep(self, refs: Iterable[MediaRef]) -> int:
        """Copy what is not here yet and make it durable. Returns the bytes copied.

        Raises ContractError when the live store does not hold a picture, or holds other bytes under its name.
        """
        missing = {ref.digest: ref for ref in refs if ref.digest not in self._kept}
        asides: dict[str, Path] = {}
        num_bytes = 0
        for digest in missing:
            if digest in self.store:
                continue  # whole, from a process before this one; only its name may not be durable yet
            data = self._fetch(digest)
            asides[digest] = self._write_aside(digest, data)
            num_bytes += len(data)
        for aside in asides.values() if self._sync else ():
            self._sync_content(aside)
        for digest, aside in asides.items():
            self._disk.rename(aside, self.store.path(digest))
        self._sync_folders({self.store.path(digest).parent for digest in missing})
        self._kept.update(missing)
        return num_bytes

    def restore(self, refs: Iterable[MediaRef]) -> None:
        """Put back into the live store what it no longer holds. Raises MediaError when it is not here either."""
        for ref in refs:
            if ref.digest not in self._live:
                self._live.put(self.store.get(ref.digest), kind=ref.kind, width=ref.width, height=ref.height)

    def _fetch(self, digest: str) -> bytes:
        try:
            data = self._live.get(digest)
        except MediaError as error:
            raise ContractError(f"a rollout refers to media that this node does not hold: {error}") from error
        if content_digest(data) != digest:
            raise ContractError(f"the live store holds other bytes under {digest[:12]}…")
        return data

    def _write_aside(self, digest: str, data: bytes) -> Path:
        with self._lock:
            self._number += 1
            number = self._number
        aside = self.store.path(digest).parent / f".aside-{number}"
        file = self._disk.create(aside)
        try:
            write_all(self._disk, file, [data])
        finally:
            self._disk.close(file)
        return aside

    def _sync_content(self, path: Path) -> None:
        """After all were written: the disk has had time to begin."""
        file = os.open(path, os.O_RDONLY)
        try:
            self._disk.sync(file)
        finally:
            self._disk.close(file)

    def _sync_folders(self, folders: Iterable[Path]) -> None:
        for folder in folders if self._sync else ():
            self._disk.sync_folder(folder)
