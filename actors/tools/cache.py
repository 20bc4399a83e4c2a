"""Results by content: what was computed once for these pictures, arguments, tool and back end is never computed again.

In memory the most recent, on disk (where a folder is given) all of them: a small JSON file a result, and the
pictures in a media store of its own, so that they outlive a run's shared memory. A file appears whole (written aside,
then renamed), so several processes share a folder without a lock. A damaged or half-present entry is a miss.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from pathlib import Path

import msgspec

from actors.tools.ports import Result
from common.errors import MediaError
from common.media import FolderMediaStore


class ResultCache:
    """At most `num_entries` in memory; in `folder` at most `max_bytes` when opened."""

    def __init__(
        self, *, store: FolderMediaStore, num_entries: int, folder: Path | None = None, max_bytes: int = 0
    ) -> None:
        self._store = store
        self._num_entries = num_entries
        self._recent: OrderedDict[str, Result] = OrderedDict()
        self._folder = folder
        self._kept: FolderMediaStore | None = None
        if folder is not None:
            self._kept = FolderMediaStore(folder / "media")
            _trim(folder, max_bytes)

    def get(self, key: str) -> Result | None:
        """The result, its picture present in the live store, or None."""
        result = self._recent.get(key)
        if result is None:
            result = self._from_disk(key)
        if result is None or not self._present(result):
            return None
        self._remember(key, result)
        return result

    def put(self, key: str, result: Result) -> None:
        self._remember(key, result)
        if self._folder is None or self._kept is None:
            return
        if result.picture is not None and result.picture.digest not in self._kept:
            ref = result.picture
            self._kept.put(self._store.get(ref.digest), kind=ref.kind, width=ref.width, height=ref.height)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".aside-")
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(result))
        Path(aside).rename(path)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / "results" / key[:2] / f"{key}.json"

    def _from_disk(self, key: str) -> Result | None:
        if self._folder is None:
            return None
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Result)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _present(self, result: Result) -> bool:
        """Whether the live store holds the picture, fetched from the kept ones where it does not."""
        ref = result.picture
        if ref is None or ref.digest in self._store:
            return True
        if self._kept is None:
            return False
        try:
            data = self._kept.get(ref.digest)
        except MediaError:
            return False
        return self._store.put(data, kind=ref.kind, width=ref.width, height=ref.height) == ref

    def _remember(self, key: str, result: Result) -> None:
        self._recent[key] = result
        self._recent.move_to_end(key)
        while len(self._recent) > self._num_entries:
            self._recent.popitem(last=False)


def _trim(folder: Path, max_bytes: int) -> None:
    """Remove the entries written longest ago until results and pictures fit into `max_bytes`."""
    files = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    total = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda item: item[0].st_mtime):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size
