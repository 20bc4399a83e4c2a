"""Which experiences a search may find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Filterable(Protocol):
    """The columns of a part of the index that a filter looks at, one value a row."""

    @property
    def trusted(self) -> NDArray[np.uint8]: ...

    @property
    def versions(self) -> NDArray[np.int64]: ...

    def from_source(self, source: str, first: int) -> NDArray[np.bool_]:
        """Which rows from row `first` on are of this source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """None: any. source: who it came from. trusted: whether that source is trusted. min_version, max_version: bounds,
    inclusive, of the policy version that acted; an experience of no known version is within no bounds.
    """

    source: str | None = None
    trusted: bool | None = None
    min_version: int | None = None
    max_version: int | None = None

    def mask(self, columns: Filterable, first: int) -> NDArray[np.bool_]:
        """Which rows from row `first` on are wanted, (n − first,)."""
        versions = columns.versions[first:]
        mask = np.ones(len(versions), np.bool_)
        if self.source is not None:
            mask &= columns.from_source(self.source, first)
        if self.trusted is not None:
            mask &= columns.trusted[first:] == self.trusted
        if self.min_version is not None or self.max_version is not None:
            mask &= versions >= max(self.min_version or 0, 0)
        if self.max_version is not None:
            mask &= versions <= self.max_version
        return mask


ANYTHING = Wanted()
