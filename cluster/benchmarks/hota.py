"""HOTA: how well things are found and kept apart over time, in one number.

Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking" (IJCV 2021, arXiv:2009.07736). For a
localisation threshold α a true and a reported thing of one frame match where their similarity is at least α, one to
one. Each match c, a true positive, has an association score over the whole clip,
A(c) = TPA / (TPA + FNA + FPA), from the frames in which its true and its reported track match, and those in which only
one of them is. Then DetA_α = TP / (TP + FN + FP), AssA_α = mean of A(c) over the matches, HOTA_α = √(DetA_α · AssA_α),
and HOTA is the mean over α = 0.05, 0.10, …, 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import iou
from common.types import Box

ALPHAS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_ROUNDING = 1e-9
"""What a similarity may fall short of α, as the paper's own code has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hota:
    """Means over the thresholds, each in [0, 1]."""

    hota: float
    detection: float
    association: float


def hota(truth: Sequence[dict[int, Box]], found: Sequence[dict[int, Box]]) -> Hota:
    """HOTA of boxes: per frame, the boxes of the things that are there, by the number of their track.

    Nothing to find and nothing found counts 1.
    """
    if len(truth) != len(found):
        raise ValueError(f"truth and found must have as many frames, got {len(truth)} and {len(found)}")
    rows = {name: row for row, name in enumerate(sorted({name for frame in truth for name in frame}))}
    columns = {name: column for column, name in enumerate(sorted({name for frame in found for name in frame}))}
    if not rows or not columns:
        both = float(not rows and not columns)
        return Hota(hota=both, detection=both, association=both)
    similar = np.zeros((len(truth), len(rows), len(columns)))
    for index, (here, there) in enumerate(zip(truth, found, strict=True)):
        for name, box in here.items():
            for other, box_found in there.items():
                similar[index, rows[name], columns[other]] = iou(box, box_found)
    frames_of_rows = np.array([sum(name in frame for frame in truth) for name in rows], float)
    frames_of_columns = np.array([sum(name in frame for frame in found) for name in columns], float)
    scores = np.array([_at(alpha, similar, frames_of_rows, frames_of_columns) for alpha in ALPHAS]).mean(axis=0)
    return Hota(hota=float(scores[0]), detection=float(scores[1]), association=float(scores[2]))


def _at(
    alpha: float,
    similar: NDArray[np.float64],
    frames_of_rows: NDArray[np.float64],
    frames_of_columns: NDArray[np.float64],
) -> tuple[float, float, float]:
    """(HOTA_α, DetA_α, AssA_α). similar: (frame, true track, found track), 0 where either is not there."""
    from scipy.optimize import linear_sum_assignment

    allowed = similar >= alpha - _ROUNDING
    # Which pairs of tracks go together as wholes decides between matches of one frame, as in the paper's section 5.1.
    together = _jaccard(_soft_counts(similar), frames_of_rows, frames_of_columns)
    matches = np.zeros(similar.shape[1:])
    for here, may in zip(similar, allowed, strict=True):
        row, column = linear_sum_assignment(together * here, maximize=True)
        kept = may[row, column]
        matches[row[kept], column[kept]] += 1
    true_positives = matches.sum()
    union = frames_of_rows.sum() + frames_of_columns.sum() - true_positives
    detection = true_positives / union
    association = float((matches * _jaccard(matches, frames_of_rows, frames_of_columns)).sum() / max(1, true_positives))
    return float(np.sqrt(detection * association)), float(detection), association


def _soft_counts(similar: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frames that two tracks share, each counted by how far the two boxes belong to one another."""
    rivals = similar.sum(axis=2, keepdims=True) + similar.sum(axis=1, keepdims=True) - similar
    shares: NDArray[np.float64] = np.divide(similar, rivals, out=np.zeros_like(similar), where=rivals > 0)
    return np.asarray(shares.sum(axis=0))


def _jaccard(
    counts: NDArray[np.float64], frames_of_rows: NDArray[np.float64], frames_of_columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """counts / (rows + columns − counts), per pair of tracks."""
    result: NDArray[np.float64] = counts / np.maximum(1, frames_of_rows[:, None] + frames_of_columns - counts)
    return result
