"""A media store that finds in others what it does not hold itself; it writes to its own folder only."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from common.media import FolderMediaStore, MediaSource


class LayeredMediaStore(FolderMediaStore):
    """behind: stores that are read and never written, asked in order."""

    def __init__(self, root: Path, behind: Sequence[MediaSource]) -> None:
        super().__init__(root)
        self._behind = tuple(behind)

    def __contains__(self, digest: str) -> bool:
        return super().__contains__(digest) or any(digest in store for store in self._behind)

    def get(self, digest: str) -> bytes:
        home = self._home(digest)
        return super().get(digest) if home is None else home.get(digest)

    def mapped(self, digest: str) -> mmap.mmap | memoryview | bytes:
        home = self._home(digest)
        return super().mapped(digest) if home is None else home.mapped(digest)

    def _home(self, digest: str) -> MediaSource | None:
        """The store behind that is to answer; None: this store itself."""
        if super().__contains__(digest):
            return None
        return next((store for store in self._behind if digest in store), None)
