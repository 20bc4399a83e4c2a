"""Experiences and vectors for the neighbour index."""

from __future__ import annotations

from typing import Any

import numpy as np

from replay.records import Experience


def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The rows scaled to length 1, float32."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def some_vectors(count: int, dimension: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Unit vectors of no structure, (count, dimension)."""
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def an_experience(vector: np.ndarray[Any, Any], **changes: Any) -> Experience:
    values: dict[str, Any] = {
        "query_id": "q",
        "family": "tiny_text",
        "chain": ("ZOOM",),
        "answer": "493",
        "confidence": 0.5,
        "encoder": "e",
        "vector": vector.astype("<f4").tobytes(),
    }
    return Experience(**(values | changes))
