"""Coherence of adjacent steps.

The cosine of two steps' embeddings is too high where a step repeats the one before and too low where the chain
jumps. So the score is a band around what good chains do, not "higher is better", and a repeated call earns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Cosines around `centre` score 1, falling to 0 at a distance of `width`. neutral: the score of 0 or 1 steps."""

    centre: float
    width: float
    neutral: float = 0.5


def adjacent_cosines(steps: Vectors) -> NDArray[np.float64]:
    """c_t = cos(LN(e_t), LN(e_{t+1})), (step, feature) → (step − 1,); a zero vector has cosine 0 with everything.

    The layer norm takes out the offset that all hidden states share and that pushes raw cosines to 1.
    """
    unit = unit_norm(steps.astype(np.float64))
    return np.asarray((unit[:-1] * unit[1:]).sum(axis=1))


def unit_norm(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred over features and scaled to length 1; zero stays zero."""
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12))


def band_score(cosines: NDArray[np.float64], band: Band) -> NDArray[np.float64]:
    """max(0, 1 − |c − centre| / width), in [0, 1]."""
    return np.asarray(np.clip(1 - np.abs(cosines - band.centre) / band.width, 0.0, 1.0))


def coherence(steps: Vectors, repeats: Sequence[bool], band: Band) -> float:
    """Mean band score over adjacent steps; a pair whose later step repeats an earlier call scores 0.

    steps: (step, feature). repeats: one a step. Returns `band.neutral` for fewer than two steps.
    """
    if len(steps) < 2:
        return band.neutral
    scores = band_score(adjacent_cosines(steps), band)
    return float(np.where(np.asarray(repeats[1:], bool), 0.0, scores).mean())


def fit_band(cosines: NDArray[np.float64], *, fallback: Band) -> Band:
    """The median, and the larger of 0.05 and twice the distance to the farther decile; `fallback` for fewer than 8
    cosines."""
    if len(cosines) < 8:
        return fallback
    low, centre, high = (float(q) for q in np.quantile(cosines, (0.1, 0.5, 0.9)))
    width = max(0.05, 2 * max(high - centre, centre - low))
    return Band(centre=centre, width=width, neutral=fallback.neutral)
