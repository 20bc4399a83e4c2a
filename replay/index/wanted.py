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

    def from_source(self, source: str) -> NDArray[np.bool_]:
        """Which rows are of this source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """None: any. source: who it came from. trusted: whether that source is trusted. min_version, max_version: bounds,
    inclusive, of the policy version that acted; an experience of no known version is within no bounds.
    """

    source: str | None = None
    trusted: bool | None = None
    min_version: int | None = None
    max_version: int | None = None

    @property
    def anything(self) -> bool:
        return self == ANYTHING

    def mask(self, columns: Filterable) -> NDArray[np.bool_]:
        """Which rows are wanted, (n,)."""
        mask = np.ones(len(columns.versions), np.bool_)
        if self.source is not None:
            mask &= columns.from_source(self.source)
        if self.trusted is not None:
            mask &= columns.trusted == self.trusted
        if self.min_version is not None or self.max_version is not None:
            mask &= columns.versions >= max(self.min_version or 0, 0)
        if self.max_version is not None:
            mask &= columns.versions <= self.max_version
        return mask


ANYTHING = Wanted()
