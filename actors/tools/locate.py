"""TEMP: when something is to be seen in a clip.

Every frame gets a score for the query, and the intervals are the runs of frames whose score lies in the upper half
of its range. The score of a picture is the best normalised correlation anywhere in the frame; of a colour word, the
share of pixels that have that colour; of "change", the mean difference to the frame before. A clip where the score
hardly varies has no interval: nothing there begins or ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, pixel_box
from actors.tools.colours import NAMES, name_indices
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Workspace
from actors.tools.zoom import resample
from common.types import MediaRef

NUM_INTERVALS = 3
SIDE = 256
"""Frames are compared with their longer side at most this long."""
MIN_PEAK = {"picture": 0.5, "colour": 2e-4, "change": 2 / 255}
"""The best score must reach this, or the query is nowhere in the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateArguments:
    query: Annotated[str, Meta(max_length=80, description="a colour word, image_k, frame_k, or change")]
    box: GridBox | None = None


class Locate:
    name: ClassVar[str] = "TEMP"
    version: ClassVar[int] = 1
    description: ClassVar[str] = (
        "Find when a colour, a picture or a change is seen in the clip. Returns intervals in s."
    )
    arguments: ClassVar[type] = LocateArguments

    def plan(self, arguments: LocateArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        clip = workspace.clip_or_refuse()
        if len(clip.frames) > config.max_frames:
            raise ToolError("limit_exceeded", f"at most {config.max_frames} frames")
        source = clip.frames[0]
        whole = (0, 0, source.width, source.height)
        box = whole if arguments.box is None else pixel_box(arguments.box, source)
        options: dict[str, Any] = {"times_s": clip.times_s, "box": box}
        pictures: tuple[MediaRef, ...] = clip.frames
        words = re.findall("[a-z]+", arguments.query.lower().replace("gray", "grey"))
        colour = next((name for name in NAMES if name in words), None)
        if colour is not None:
            options["colour"] = colour
        elif "change" in words or "changes" in words:
            options["change"] = True
        elif arguments.query.startswith(("image_", "frame_")):
            picture = workspace.picture(arguments.query)
            pattern, inside = picture.origin or (picture.ref, (0, 0, picture.ref.width, picture.ref.height))
            options["pattern"] = inside
            pictures = (*pictures, pattern)
        else:
            raise ToolError("unavailable", "name a colour, image_k, frame_k, or change")
        return Plan(job=Job(tool=self.name, pictures=pictures, options=options), source=source, footprint=box)

    def run(self, job: Job, bench: Workbench) -> Result:
        x0, y0, x1, y1 = job.options["box"]
        times = job.options["times_s"]
        frames = [bench.pixels(ref)[y0:y1, x0:x1] for ref in job.pictures[: len(times)]]
        if "colour" in job.options:
            kind, scores = "colour", colour_scores(frames, job.options["colour"])
        elif "change" in job.options:
            kind, scores = "change", change_scores(frames)
        else:
            px0, py0, px1, py1 = job.options["pattern"]
            pattern = bench.pixels(job.pictures[-1])[py0:py1, px0:px1]
            kind, scores = "picture", picture_scores(frames, pattern)
        return Result(values={"intervals": intervals(scores, times, min_peak=MIN_PEAK[kind])})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        return Seen(payload=result.values, workspace=workspace)


def colour_scores(frames: list[NDArray[np.uint8]], colour: str) -> list[float]:
    """The share of each frame's pixels that are called `colour`."""
    index = NAMES.index(colour)
    return [float((name_indices(resample(frame, min_side=1, max_side=SIDE)) == index).mean()) for frame in frames]


def change_scores(frames: list[NDArray[np.uint8]]) -> list[float]:
    """Mean absolute difference in [0, 1] to the frame before; 0 for the first."""
    small = [resample(frame, min_side=1, max_side=SIDE).astype(np.int16) for frame in frames]
    return [0.0, *(float(np.abs(after - before).mean()) / 255 for before, after in pairwise(small))]


def picture_scores(frames: list[NDArray[np.uint8]], pattern: NDArray[np.uint8]) -> list[float]:
    """The best normalised correlation of `pattern` anywhere in each frame, in [0, 1]."""
    import cv2

    height, width = frames[0].shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    inside = min(scale, width / pattern.shape[1], height / pattern.shape[0])
    size = max(4, int(pattern.shape[1] * inside)), max(4, int(pattern.shape[0] * inside))
    small = cv2.resize(pattern, size, interpolation=cv2.INTER_AREA)
    scores = []
    for frame in frames:
        shrunk = resample(frame, min_side=1, max_side=SIDE)
        if shrunk.shape[0] < small.shape[0] or shrunk.shape[1] < small.shape[1]:
            raise ToolError("bad_argument", "the picture is larger than the box")
        found = cv2.matchTemplate(shrunk, small, cv2.TM_CCOEFF_NORMED)
        scores.append(max(0.0, float(np.nan_to_num(found).max())))
    return scores


def intervals(scores: list[float], times_s: list[float], *, min_peak: float) -> list[dict[str, Any]]:
    """Runs of frames above the middle of the scores' range, strongest first, at most NUM_INTERVALS.

    An interval is half-open: it stops when the next frame begins. `frame` is its best frame. Empty when the best
    score is under `min_peak` or the worst exceeds 80 % of it.
    """
    low, high = min(scores), max(scores)
    if high < min_peak or low > 0.8 * high:
        return []
    step = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
    ends = [*times_s[1:], times_s[-1] + step]
    runs: list[list[int]] = []
    for index, score in enumerate(scores):
        if score <= (low + high) / 2:
            continue
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    found: list[dict[str, Any]] = []
    for run in runs:
        best = max(run, key=lambda index: scores[index])
        found.append(
            {
                "start_s": round(times_s[run[0]], 3),
                "stop_s": round(ends[run[-1]], 3),
                "frame": f"frame_{best + 1}",
                "score": round(scores[best], 4),
            }
        )
    return sorted(found, key=lambda interval: -interval["score"])[:NUM_INTERVALS]
