"""Which rows of a part a search may find: sets of rows, a bit a row, as FAISS takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.index.library import faiss


class _Bits:
    """room: rows that there may be. full: whether they are in the set."""

    def __init__(self, room: int, *, full: bool) -> None:
        self.room = room
        self._bits = np.full(-(-room // 8), 255 if full else 0, np.uint8)
        self._selector = faiss.IDSelectorBitmap(self._bits)

    def __contains__(self, row: int) -> bool:
        return bool(self._bits.item(row >> 3) >> (row & 7) & 1)

    def _drop(self, row: int) -> None:
        self._bits[row >> 3] &= ~np.uint8(1 << (row & 7))


class Alive(_Bits):
    """Those that are not retired."""

    def __init__(self, room: int) -> None:
        super().__init__(room, full=True)
        self._first = 0
        self.num_retired = 0

    def retire(self, row: int) -> None:
        if row in self:
            self._drop(row)
            self.num_retired += 1

    def mask(self, first: int, stop: int) -> NDArray[np.bool_]:
        """Of rows `first`, a multiple of 8, to `stop`."""
        bits = self._bits[first // 8 :]
        return np.unpackbits(bits, count=stop - first, bitorder="little").astype(np.bool_)

    def first(self) -> int:
        """The lowest one; there is one."""
        while self._first not in self:
            self._first += 1
        return self._first

    @property
    def selector(self) -> Any:
        """For FAISS; None while no row is retired."""
        return self._selector if self.num_retired else None


class Chosen(_Bits):
    """Those that pass a filter and are not retired. num_seen: rows, from the first on, that were looked at; num_rows:
    of them, those in the set.
    """

    def __init__(self, room: int) -> None:
        super().__init__(room, full=False)
        self.num_seen = 0
        self.num_rows = 0

    @property
    def first_unseen(self) -> int:
        """Rounded down to a multiple of 8."""
        return self.num_seen & ~7

    def see(self, mask: NDArray[np.bool_]) -> None:
        """Look at the rows from `first_unseen` on: those that pass, (n,)."""
        first = self.first_unseen
        self.num_rows += int(np.count_nonzero(mask[self.num_seen - first :]))
        self.num_seen = first + len(mask)
        self._bits[first // 8 : -(-self.num_seen // 8)] = np.packbits(mask, bitorder="little")

    def retire(self, row: int) -> None:
        if row < self.num_seen and row in self:
            self._drop(row)
            self.num_rows -= 1

    @property
    def selector(self) -> Any:
        """For FAISS."""
        return self._selector
