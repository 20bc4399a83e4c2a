"""Which packs may hold a picture: of all that have an index at once, so a look takes as long whatever their number."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PREFIX_DIGITS = 16
"""Hexadecimal digits of a digest that are looked for; packs tell apart what shares them."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """prefixes: the first 8 bytes of every digest as a number, ascending. numbers: of the pack that holds each.
    12 bytes a picture.
    """

    prefixes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    numbers: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def with_packs(self, packs: Mapping[int, NDArray[np.uint64]]) -> Catalog:
        """And these, by number, each with its prefixes."""
        prefixes = np.concatenate([self.prefixes, *packs.values()])
        numbers = [np.full(len(found), number, np.int32) for number, found in packs.items()]
        order = np.argsort(prefixes, kind="stable")  # of runs that are sorted already
        return Catalog(prefixes[order], np.concatenate([self.numbers, *numbers])[order])

    def find(self, digest: str) -> set[int]:
        """The numbers of the packs that may hold it."""
        wanted, prefixes = int(digest[:PREFIX_DIGITS], 16), self.prefixes.data  # for one, NumPy's search takes longer
        start = stop = bisect_left(prefixes, wanted)
        while stop < len(prefixes) and prefixes[stop] == wanted:
            stop += 1
        return set(self.numbers[start:stop].tolist()) if start < stop else set()
