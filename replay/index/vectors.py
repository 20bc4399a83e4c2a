"""Vectors of length 1, their similarity, and the exact search that the index is measured against.

What FAISS does not check is checked here: NaN, wrong dimensions, vectors that are not of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError

NORM_TOLERANCE = 1e-3
"""A float32 vector normalised in float32 or bfloat16-rounded stays well within."""

_CHUNK = 8192
_CACHE_LINE = 64


def unit_vector(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """`vector` as float32 of shape (dimension,). Raises ContractError when it is not finite or not of length 1."""
    values = np.ascontiguousarray(vector, dtype=np.float32)
    if values.shape != (dimension,):
        raise ContractError(f"a vector of shape {values.shape}; the index holds vectors of shape ({dimension},)")
    norm = math.sqrt(values.dot(values))
    if abs(norm - 1) <= NORM_TOLERANCE:  # false for NaN
        return values
    if not np.isfinite(values).all():
        raise ContractError("a vector with a component that is not finite")
    raise ContractError(f"a vector of length {norm:.4f}; normalise it to 1")


def aligned(num_rows: int, dimension: int) -> NDArray[np.float32]:
    """Room for vectors, (num_rows, dimension), from the start of a cache line on: so FAISS goes through them up to a
    sixth faster.
    """
    raw = np.empty(4 * num_rows * dimension + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + 4 * num_rows * dimension].view(np.float32).reshape(num_rows, dimension)


def similarities(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inner products of the rows of `vectors`, (n, dimension), with `query`, in float64, (n,).

    Row by row, so that equal vectors have equal similarities wherever they lie.
    """
    return np.asarray(np.vecdot(vectors, query.astype(np.float64)))


def exact_nearest(
    vectors: NDArray[np.float32], sequences: NDArray[np.int64], query: NDArray[np.float32], k: int
) -> list[tuple[int, float]]:
    """The reference: (sequence, inner product) of the k most similar rows, best first, ties by sequence. float64."""
    chunks: Sequence[NDArray[np.float64]] = [
        similarities(vectors[start : start + _CHUNK], query) for start in range(0, len(vectors), _CHUNK)
    ]
    similarity = np.concatenate(chunks) if chunks else np.empty(0)
    order = np.lexsort((sequences, -similarity))[:k]
    return [(int(sequences[i]), float(similarity[i])) for i in order]
