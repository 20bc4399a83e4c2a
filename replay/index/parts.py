"""The two parts of the index: `Main`, immutable between merges, and `Delta`, what came since.

A row that is retired (its query was remembered again, or it is one too many) stays where it is and is not found any
more: nothing is ever removed from a FAISS index. A search tells FAISS which rows it may find.

`top` is exact over the rows that FAISS looks at: it asks for a few rows more than it needs, computes their similarities
again in float64, and asks for more while one that was left out could still belong to the best. So a flat part gives
what the reference gives, bit for bit, and a similarity does not depend on the part that an entry lies in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.index.columns import Growing, Saved
from replay.index.library import faiss
from replay.index.rows import Alive, Chosen
from replay.index.vectors import aligned, similarities
from replay.index.wanted import ANYTHING, Wanted

_SPARE = 8
"""Rows that a search asks for beyond those it needs."""
_MAX_ASKED = 4096
"""Rows that a search asks for at most, unless it needs more: so many entries may be equally similar and still be told
apart by their sequence numbers."""

MAX_FILTERS = 16
"""Whose rows a part keeps; a bit a row each."""

_SLACK = 2.0**-23
"""Twice what a term of an inner product of unit vectors can be off by in float32."""

Found = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
"""Rows, most similar first; their similarities as FAISS has them; their vectors."""


class Part:
    """What both parts have in common. columns: of the entries, in the order of the rows; room: for so many.

    For each of the filters that were asked for last, the rows that pass it are kept, and brought up to date by what
    came and what was retired since.
    """

    columns: Growing | Saved

    def __init__(self, room: int, num_rows: int) -> None:
        self.num_rows = num_rows
        self._alive = Alive(room)
        self._chosen: dict[Wanted, Chosen] = {}

    def __len__(self) -> int:
        return self.num_rows

    @property
    def num_alive(self) -> int:
        return self.num_rows - self._alive.num_retired

    def rows_alive(self) -> NDArray[np.int64]:
        return np.flatnonzero(self._alive.mask(0, len(self)))

    def rows_retired(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self._alive.mask(0, len(self)))

    def alive_row_of(self, query_id: str) -> int | None:
        row = self.columns.row_of(query_id)
        return row if row is not None and row in self._alive else None

    def first_alive(self) -> int:
        """The lowest row that may be found; there is one."""
        return self._alive.first()

    def retire(self, row: int) -> None:
        """It is not found any more."""
        self._alive.retire(row)
        for chosen in self._chosen.values():
            chosen.retire(row)

    def top(self, query: NDArray[np.float32], count: int, wanted: Wanted) -> list[tuple[float, int]]:
        """(similarity, row) of the `count` wanted rows most similar to `query`, ties by row; fewer if there are fewer.

        query: of length 1, (dimension,).
        """
        selector, available = self._select(wanted)
        count = min(count, available)
        if not count:
            return []
        asked, effort = min(count + _SPARE, available), 1
        while True:
            rows, rough, vectors = self._search(query, asked, selector, effort)
            if len(rows) < count and self._can_widen(effort):
                effort *= 4
                continue
            ranked = sorted(zip((-similarities(vectors, query)).tolist(), rows.tolist(), strict=True))[:count]
            if len(rows) < asked or asked >= available or asked >= max(count + _SPARE, _MAX_ASKED):
                break
            if -ranked[-1][0] > rough.item(-1) + query.size * _SLACK:
                break
            asked = min(4 * asked, available)
        return [(-value, row) for value, row in ranked]

    def _select(self, wanted: Wanted) -> tuple[Any, int]:
        """FAISS's selector of the rows that may be found, None for all; and how many they are."""
        if wanted == ANYTHING:
            return self._alive.selector, self.num_alive
        chosen = self._chosen.pop(wanted, None)
        if chosen is None:
            chosen = Chosen(self._alive.room)
            if len(self._chosen) == MAX_FILTERS:
                del self._chosen[next(iter(self._chosen))]
        self._chosen[wanted] = chosen  # the last one, which is dropped last
        if chosen.num_seen < len(self):
            first = chosen.first_unseen
            chosen.see(wanted.mask(self.columns, first) & self._alive.mask(first, len(self)))
        return chosen.selector, chosen.num_rows

    def _search(self, query: NDArray[np.float32], asked: int, selector: Any, effort: int) -> Found:
        raise NotImplementedError

    def _can_widen(self, effort: int) -> bool:
        """Whether a search may find more rows with more effort."""
        return False


class Main(Part):
    """A FAISS index that is memory-mapped, its ids the rows of `columns`. num_probes: lists of an IVF index that a
    search looks into; more of them while too few rows are found.
    """

    def __init__(self, index: Any, columns: Saved, *, num_probes: int) -> None:
        self.index = index
        self.columns = columns
        super().__init__(len(columns), len(columns))
        self._num_lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
        self._num_probes = num_probes
        if self._num_lists:
            index.make_direct_map()
        self._usual = faiss.SearchParametersIVF(nprobe=num_probes) if self._num_lists else None

    def _search(self, query: NDArray[np.float32], asked: int, selector: Any, effort: int) -> Found:
        rough, rows = self.index.search(query[None], asked, params=self._parameters(selector, effort))
        num_found = asked if rows.item(-1) >= 0 else int(np.count_nonzero(rows >= 0))
        found = rows[0, :num_found]
        return found, rough[0, :num_found], self.index.reconstruct_batch(found)

    def _parameters(self, selector: Any, effort: int) -> Any:
        if selector is None and effort == 1:
            return self._usual
        if self._num_lists:
            return faiss.SearchParametersIVF(sel=selector, nprobe=min(effort * self._num_probes, self._num_lists))
        return faiss.SearchParameters(sel=selector)

    def _can_widen(self, effort: int) -> bool:
        return effort * self._num_probes < self._num_lists


class Delta(Part):
    """Entries in memory, searched one after another by FAISS where they lie. room: for so many from the start."""

    columns: Growing

    def __init__(self, dimension: int, room: int) -> None:
        self._dimension = dimension
        self._room = room
        self._vectors = aligned(room, dimension)
        self._pointer = faiss.swig_ptr(self._vectors)
        self.columns = Growing(room)
        super().__init__(room, 0)

    @classmethod
    def read(cls, vectors: NDArray[np.float32], columns: Saved, room: int) -> Delta:
        """A saved one, to go on from."""
        new = cls(vectors.shape[1], max(room, len(vectors)))
        new._room = room
        new._vectors[: len(vectors)] = vectors
        new.columns = Growing.read(columns, len(new._vectors))
        new.num_rows = len(columns)
        return new

    @property
    def full(self) -> bool:
        return self.num_rows == len(self._vectors)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors[rows]

    def append(self, vector: NDArray[np.float32], experience: Any, sequence: int) -> None:
        """vector: of length 1. Only while it is not full."""
        self._vectors[self.num_rows] = vector
        self.columns.append(experience, sequence)
        self.num_rows += 1

    def after(self, sequence: int) -> Delta:
        """A new one with the rows after record `sequence` that are alive, and room for as many again."""
        rows = self.rows_alive()
        rows = rows[self.columns.sequences[rows] > sequence]
        new = Delta(self._dimension, max(self._room, 2 * len(rows)))
        new._room = self._room
        self._vectors.take(rows, axis=0, out=new._vectors[: len(rows)], mode="clip")  # another mode makes a copy first
        new.columns = self.columns.taken(rows, len(new._vectors))
        new.num_rows = len(rows)
        return new

    def _search(self, query: NDArray[np.float32], asked: int, selector: Any, effort: int) -> Found:
        rough, rows = np.empty(asked, np.float32), np.empty(asked, np.int64)
        pointer, results = faiss.swig_ptr(query), (faiss.swig_ptr(rough), faiss.swig_ptr(rows))
        faiss.knn_inner_product(pointer, self._pointer, self._dimension, 1, len(self), asked, *results, selector)
        return rows, rough, self._vectors.take(rows, axis=0)
