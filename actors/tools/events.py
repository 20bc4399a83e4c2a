"""When a tracked thing does something, read from its boxes.

appears     its first frame, where it comes up inside the picture
disappears  the first frame without it, where it goes inside the picture
enters      from the first frame that shows some of it, at the border, to the first that shows it whole
leaves      from the first frame in which the border cuts it to the first without it
stops       it stands still after having moved: from the first frame at its place to the first elsewhere
starts      the first frame elsewhere, after a rest
crosses     from the first frame in which a line cuts it to the first in which it is wholly on the other side

Moments are half-open: frames [first, last).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.types import Box

Event: TypeAlias = Literal["appears", "disappears", "enters", "leaves", "stops", "starts", "crosses"]
Line: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 of its ends, in pixels."""

BORDER = 1
"""Pixels; a box this near to the border is cut by it: trackers are a pixel off."""
STILL = 0.25
"""Steps under this share of the track's quick ones (their 80th hundredth) are no motion, nor are those under
`STILL_PIXELS`.
"""
STILL_PIXELS = 0.5
NUM_STILL = 2
"""Steps that a rest or a motion lasts at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Frames [first, last) in which something happens. score: how clearly, in [0, 1]."""

    first: int
    last: int
    score: float


def find_moments(
    event: Event,
    boxes: Sequence[Box],
    visible: Sequence[bool],
    *,
    size: tuple[int, int],
    line: Line | None = None,
) -> list[Moment]:
    """The moments of `event` in a track: a box and whether it is seen, one a frame. size: width, height of the frames.

    `line` is needed for "crosses" only.
    """
    seen = np.array(visible, bool)
    places = np.array(boxes, float).reshape(-1, 4)
    frames = np.flatnonzero(seen)
    if not len(frames):
        return []
    at_border = seen & _touching(places, size)
    if event in ("appears", "disappears"):
        return _comings(seen, at_border, going=event == "disappears")
    if event == "enters":
        return _entries(seen, at_border)
    if event == "leaves":
        count = len(seen)
        backward = _entries(seen[::-1], at_border[::-1])
        return [Moment(first=count - item.last, last=count - item.first, score=item.score) for item in backward[::-1]]
    if event == "crosses":
        assert line is not None
        return _crossings(places, frames, line)
    return _rests((places[frames, :2] + places[frames, 2:]) / 2, frames, len(seen), starting=event == "starts")


def _touching(places: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    low = places[:, :2].min(axis=1) <= BORDER
    touching: NDArray[np.bool_] = low | (places[:, 2] >= size[0] - BORDER) | (places[:, 3] >= size[1] - BORDER)
    return touching


def _comings(seen: NDArray[np.bool_], at_border: NDArray[np.bool_], *, going: bool) -> list[Moment]:
    """The first frame that shows the thing, or the first after the last: inside the picture and inside the clip."""
    shown = np.flatnonzero(seen)
    frame = int(shown[-1]) + 1 if going else int(shown[0])
    if not 0 < frame < len(seen) or at_border[shown[-1] if going else frame]:
        return []
    return [Moment(first=frame, last=frame + 1, score=1.0)]


def _entries(seen: NDArray[np.bool_], at_border: NDArray[np.bool_]) -> list[Moment]:
    """Runs of frames at the border that begin with the thing's appearing and end with its being wholly inside."""
    found = []
    for first in np.flatnonzero(at_border & ~np.concatenate([[True], seen[:-1]])):
        last = int(first)
        while last < len(seen) and at_border[last]:
            last += 1
        if last < len(seen) and seen[last]:  # else it never came in
            found.append(Moment(first=int(first), last=last, score=1.0))
    return found


def _rests(centres: NDArray[np.float64], frames: NDArray[np.intp], num_frames: int, *, starting: bool) -> list[Moment]:
    """Rests that follow a motion, or where a motion follows a rest. centres: in `frames`."""
    if len(frames) < 2 * NUM_STILL + 1:
        return []
    steps = np.linalg.norm(np.diff(_median_of_three(centres), axis=0), axis=1) / np.diff(frames)
    still = steps < max(STILL_PIXELS, STILL * float(np.percentile(steps, 80)))
    found = []
    for before, run in pairwise(_runs(still)):
        if still[run[0]] == starting or min(run[1] - run[0], before[1] - before[0]) < NUM_STILL:
            continue
        slow, fast = sorted(float(np.median(steps[start:stop])) for start, stop in (run, before))
        if starting:
            first = int(frames[run[0] + 1])
            last = first + 1
        else:
            first = int(frames[run[0]])
            last = int(frames[run[1] + 1]) if run[1] < len(steps) else num_frames
        found.append(Moment(first=first, last=last, score=round(1 - slow / fast, 3)))
    return found


def _crossings(places: NDArray[np.float64], frames: NDArray[np.intp], line: Line) -> list[Moment]:
    """Where a box passes from one side of a line to the other, and its centre between the line's ends.

    score: the sine of the angle between the centre's way and the line.
    """
    start, along = np.array(line[:2]), np.array(line[2:]) - np.array(line[:2])
    corners = places[frames][:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - start
    sides = along[0] * corners[..., 1] - along[1] * corners[..., 0]
    side = np.where((sides >= 0).all(axis=1), 1, np.where((sides <= 0).all(axis=1), -1, 0))
    centres = corners.mean(axis=1)
    found = []
    last: int | None = None
    for index in np.flatnonzero(side):
        if last is not None and side[index] != side[last]:
            step = centres[index] - centres[last]
            share = float(sides[last].mean() / (sides[last].mean() - sides[index].mean()))
            place = float((centres[last] + share * step) @ along)
            if 0 <= place <= float(along @ along):
                sine = abs(along[0] * step[1] - along[1] * step[0]) / (np.linalg.norm(along) * np.linalg.norm(step))
                # A thing that is never cut has jumped: between its last frame here and its first there.
                first = int(frames[last + 1]) if index > last + 1 else int(frames[last])
                found.append(Moment(first=first, last=int(frames[index]), score=round(float(sine), 3)))
        last = int(index)
    return found


def _runs(values: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of the stretches in which `values` stays the same."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True))


def _median_of_three(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value replaced by the median of it and its neighbours, axis by axis; a tracker's odd jump goes away."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    median: NDArray[np.float64] = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    return median
