"""Experiences and vectors for the neighbour index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replay.index import Wanted, exact_nearest
from replay.index.wanted import ANYTHING
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


@dataclass
class Model:
    """The index in a few lines: every experience that there was."""

    max_entries: int
    held: dict[int, Experience] = field(default_factory=dict)

    def entries(self) -> dict[int, Experience]:
        latest = {experience.query_id: sequence for sequence, experience in self.held.items()}
        return {sequence: self.held[sequence] for sequence in sorted(latest.values())[-self.max_entries :]}

    def nearest(self, query: Any, k: int, exclude: str = "", wanted: Wanted = ANYTHING) -> list[tuple[int, float]]:
        def is_wanted(experience: Experience) -> bool:
            version = experience.version
            bounds = (wanted.min_version, wanted.max_version)
            return (
                experience.query_id != exclude
                and wanted.source in (None, experience.source)
                and wanted.trusted in (None, experience.trusted)
                and (bounds == (None, None) or version is not None)
                and (version is None or bounds[0] is None or version >= bounds[0])
                and (version is None or bounds[1] is None or version <= bounds[1])
            )

        found = {sequence: held for sequence, held in self.entries().items() if is_wanted(held)}
        vectors = np.array([np.frombuffer(held.vector, "<f4") for held in found.values()], np.float32)
        return exact_nearest(vectors.reshape(-1, len(query)), np.array(list(found), np.int64), query, k)
