"""The neighbour index: which past experiences look like this query."""

from replay.index.index import NeighbourIndex
from replay.index.vectors import exact_nearest, unit_vector
from replay.index.wanted import Wanted

__all__ = ["NeighbourIndex", "Wanted", "exact_nearest", "unit_vector"]
