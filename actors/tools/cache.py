"""Results by content: what was computed once for these pictures, arguments, tool and back end is never computed again.

In memory the most recent, within a number and bytes; on disk (where a folder is given) more of them: a small JSON file
a result, and the pictures in a media store of its own, so that they outlive a run's shared memory. A file appears whole
(written aside, then renamed), so several processes share a folder without a lock. A damaged or half-present entry is a
miss.

The disk's budget holds while running. Each process counts what it writes; before that exceeds SHARE of the budget it
looks at the whole folder, whoever wrote there, and removes what was used longest ago until, with what comes, FULL of
the budget is taken. Between two looks n processes write at most n · SHARE of it, so up to (1 − FULL) / SHARE = 8 of
them stay within the budget. A result larger than LARGEST of it is not kept.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.tools.ports import Result
from common.errors import MediaError
from common.media import FolderMediaStore
from common.types import MediaRef

SHARE, FULL, LARGEST = 1 / 64, 7 / 8, 1 / 4
MAX_PENDING = 256
"""Results that wait to be written; one more is not kept on disk."""

_log = logging.getLogger(__name__)


class ResultCache:
    """At most `num_entries` and `memory_bytes` in memory; in `folder` at most `max_bytes`.

    Used from one thread. Writing to disk happens on another; `close` waits for it.
    """

    def __init__(
        self,
        *,
        store: FolderMediaStore,
        num_entries: int,
        memory_bytes: int = 64 * 2**20,
        folder: Path | None = None,
        max_bytes: int = 0,
    ) -> None:
        self._store = store
        self._num_entries = num_entries
        self._memory_bytes = memory_bytes
        self._recent: OrderedDict[str, tuple[Result, int]] = OrderedDict()
        self._held_bytes = 0
        self._disk = None if folder is None else _Disk(folder, max_bytes)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._pending: set[Future[None]] = set()

    def get(self, key: str) -> Result | None:
        """The result, its pictures present in the live store, or None."""
        entry = self._recent.get(key)
        if entry is None:
            body = None if self._disk is None else self._disk.read(key)
            if body is None:
                return None
            with suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(body, type=Result), len(body)
        if entry is None or not all(self._fetched(ref) for ref in entry[0].media):
            return None
        self._remember(key, *entry)
        return entry[0]

    def put(self, key: str, result: Result) -> None:
        body = msgspec.json.encode(result)
        self._remember(key, result, len(body))
        if self._disk is None or len(self._pending) >= MAX_PENDING:
            return
        written = self._writer.submit(self._disk.write, key, body, result.media, self._store)
        self._pending.add(written)
        written.add_done_callback(self._written)

    def forgetful(self) -> Forgetful:
        """A cache over the same store that never remembers."""
        return Forgetful(store=self._store, num_entries=1)

    def flush(self) -> None:
        """Waits until what was put is on disk. Raises what writing raises (OSError where the disk is full, say)."""
        for written in list(self._pending):
            written.result()

    def close(self) -> None:
        """Waits until what was put is on disk."""
        self._writer.shutdown(wait=True)

    def _written(self, written: Future[None]) -> None:
        self._pending.discard(written)
        if not written.cancelled() and (error := written.exception()) is not None:
            _log.warning("a tool's result is not kept on disk: %s", error)

    @property
    def held_bytes(self) -> int:
        """Of the results in memory, as JSON."""
        return self._held_bytes

    def _fetched(self, ref: MediaRef) -> bool:
        """Whether the live store holds a picture, fetched from the kept ones where it does not."""
        if ref.digest in self._store:
            return True
        data = None if self._disk is None else self._disk.picture(ref.digest)
        return data is not None and self._store.put(data, kind=ref.kind, width=ref.width, height=ref.height) == ref

    def _remember(self, key: str, result: Result, num_bytes: int) -> None:
        self._forget(key)
        self._recent[key] = result, num_bytes
        self._held_bytes += num_bytes
        while len(self._recent) > self._num_entries or (
            self._held_bytes > self._memory_bytes and len(self._recent) > 1
        ):
            self._forget(next(iter(self._recent)))

    def _forget(self, key: str) -> None:
        entry = self._recent.pop(key, None)
        if entry is not None:
            self._held_bytes -= entry[1]


class Forgetful(ResultCache):
    """A cache that never remembers, so every call is executed."""

    def get(self, key: str) -> Result | None:
        return None

    def put(self, key: str, result: Result) -> None:
        pass


class _Disk:
    """The folder. Reading is safe beside writing; one thread writes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._media = FolderMediaStore(folder / "media")
        self._since_look = 0
        self._trim()

    def read(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            body = path.read_bytes()
            os.utime(path)  # used now
        except FileNotFoundError:
            return None
        return body

    def picture(self, digest: str) -> bytes | None:
        try:
            data = self._media.get(digest)
            os.utime(self._media.path(digest))
        except (MediaError, FileNotFoundError):
            return None
        return data

    def write(self, key: str, body: bytes, media: tuple[MediaRef, ...], source: FolderMediaStore) -> None:
        """Keep a result and its pictures; nothing when they are gone already or too large."""
        size = len(body) + sum(ref.num_bytes for ref in media)
        if size > LARGEST * self._max_bytes:
            return
        if self._since_look + size > SHARE * self._max_bytes:
            self._trim(room=size)
        self._since_look += size
        try:
            for ref in media:
                if ref.digest not in self._media:
                    self._media.put(source.get(ref.digest), kind=ref.kind, width=ref.width, height=ref.height)
        except MediaError:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".aside-")
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        Path(aside).rename(path)

    def _path(self, key: str) -> Path:
        return self._folder / "results" / key[:2] / f"{key}.json"

    def _trim(self, room: int = 0) -> None:
        """Remove what was used longest ago until results and pictures fit beside `room` more bytes."""
        self._since_look = 0
        files = []
        for path in self._folder.rglob("*"):
            with suppress(FileNotFoundError):  # another process removed it
                if path.is_file():
                    files.append((path.stat(), path))
        total = sum(stat.st_size for stat, _ in files) + room
        for stat, path in sorted(files, key=lambda item: item[0].st_mtime):
            if total <= FULL * self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
