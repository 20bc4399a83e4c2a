"""TEMP: when something is to be seen in a clip.

A query gives every frame a score (backends/scores), and the intervals are the runs of frames in the upper of the two
classes that the scores fall into. A colour word scores the share of pixels of that colour, a shape word the share
that such shapes take, image_k, frame_k and mask_k the best correlation anywhere in the frame, "change" the difference
of colours to the frame before; any other text needs an encoder. `box` restricts a query to a part of the frames,
`track` to the tracked thing. A clip whose scores are of one kind has no interval: nothing there begins or ends. With
`event`, the moments are read from a track (events.py) and need no pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from actors.tools.arguments import Grid, GridBox, TrackName, pixel_box
from actors.tools.backends.masks import extent
from actors.tools.backends.scores import (
    change_scores,
    colour_scores,
    likeness_scores,
    picture_scores,
    shape_scores,
    text_scores,
)
from actors.tools.backends.shapes import shape_named
from actors.tools.colours import NAMES
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.events import Event, find_moments
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Workspace
from common.geometry import GRID
from common.types import Box, Clip, MediaRef

NUM_INTERVALS = 3
MIN_PEAK = {"picture": 0.5, "colour": 2e-4, "shape": 2e-4, "text": 0.3, "likeness": 0.3}
"""The best score must reach this, or the query is nowhere in the clip."""
MIN_APART = 0.7
"""Share of the scores' variance that must lie between the two classes (Otsu's criterion): normal noise gives 0.64."""
MIN_RISE = 0.2
"""How much less than the upper class the lower one must score, as a share of the upper."""
MIN_CHANGE, NUM_DEVIATIONS = 0.004, 6.0
"""A change stands out from the clip's median by so much, and by so many of its deviations."""

GridLine = Annotated[
    tuple[Grid, Grid, Grid, Grid],
    Meta(description="[x0, y0, x1, y1] ends on the frames' 0-1000 grid", extra_json_schema={"coordinates": "grid"}),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateArguments:
    query: (
        Annotated[str, Meta(max_length=80, description="colour or shape words, image_k, frame_k, mask_k, or change")]
        | None
    ) = None
    box: GridBox | None = None
    track: TrackName | None = None
    event: Event | None = None
    line: GridLine | None = None


class Locate:
    name: ClassVar[str] = "TEMP"
    version: ClassVar[int] = 2
    description: ClassVar[str] = (
        "Find when a colour, a shape, a picture or a change is seen in the clip, or when a track appears, enters, "
        "leaves, stops, starts or crosses a line. Returns intervals in s."
    )
    arguments: ClassVar[type] = LocateArguments

    def plan(self, arguments: LocateArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        clip = workspace.clip_or_refuse()
        if len(clip.frames) > config.max_frames:
            raise ToolError("limit_exceeded", f"at most {config.max_frames} frames")
        if (arguments.event is None) == (arguments.query is None):
            raise ToolError("bad_argument", "needs either query, or track with event")
        if arguments.event is not None:
            return self._event(arguments, arguments.event, clip, workspace)
        if arguments.line is not None:
            raise ToolError("bad_argument", "line goes with event crosses")
        assert arguments.query is not None
        source = clip.frames[0]
        box = (0, 0, source.width, source.height) if arguments.box is None else pixel_box(arguments.box, source)
        options: dict[str, Any] = {"times_s": clip.times_s, "box": box}
        if arguments.track is not None:
            if arguments.box is not None:
                raise ToolError("bad_argument", "needs box or track, not both")
            options["boxes"] = _boxes_of(arguments.track, workspace, len(clip.frames))
        asked, pictures = _question(arguments.query, workspace)
        job = Job(tool=self.name, pictures=(*clip.frames, *pictures), options=options | asked)
        return Plan(job=job, source=source, footprint=box)

    def _event(self, arguments: LocateArguments, event: Event, clip: Clip, workspace: Workspace) -> Plan:
        if arguments.track is None or arguments.box is not None:
            raise ToolError("bad_argument", "an event needs a track and no box")
        if (arguments.line is not None) != (event == "crosses"):
            raise ToolError("bad_argument", "crosses needs a line, other events none")
        track, source = workspace.track(arguments.track), clip.frames[0]
        options: dict[str, Any] = {
            "event": event,
            "start": track.start,
            "boxes": track.boxes,
            "visible": track.visible,
            "times_s": clip.times_s,
        }
        if arguments.line is not None:
            if arguments.line[:2] == arguments.line[2:]:
                raise ToolError("empty_box", "a line needs two ends")
            sides = (source.width, source.height) * 2
            options["line"] = [value * side / GRID for value, side in zip(arguments.line, sides, strict=True)]
        return Plan(job=Job(tool=self.name, pictures=(source,), options=options), source=source)

    def run(self, job: Job, bench: Workbench) -> Result:
        times = list(job.options["times_s"])
        if "event" in job.options:
            found = _moments(job, times)
        else:
            found = _answer(job, bench, times)
        return Result(values={"intervals": found})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        return Seen(payload=result.values, workspace=workspace)


def _question(query: str, workspace: Workspace) -> tuple[dict[str, Any], tuple[MediaRef, ...]]:
    """What `query` asks for, as options of a job, and the pictures that it needs beside the frames."""
    if query.startswith("mask_"):
        mask = workspace.mask(query)
        return {"masked": True}, (mask.source, mask.ref)
    if query.startswith(("image_", "frame_")):
        picture = workspace.picture(query)
        return {"pattern": picture.frame}, (picture.source,)
    words = re.findall("[a-z]+", query.lower().replace("gray", "grey"))
    asked: dict[str, Any] = {
        "colours": [name for name in NAMES if name in words],
        "shapes": list(dict.fromkeys(shape for word in words if (shape := shape_named(word)) is not None)),
        "change": "change" in words or "changes" in words,
        "text": query,
    }
    return asked, ()


def _boxes_of(name: str, workspace: Workspace, num_frames: int) -> list[Box | None]:
    """The track's box in each frame of the clip, None where it is not seen."""
    track = workspace.track(name)
    boxes: list[Box | None] = [None] * num_frames
    for index, (box, seen) in enumerate(zip(track.boxes, track.visible, strict=True), track.start):
        if seen and box[0] < box[2] and box[1] < box[3]:
            boxes[index] = box
    return boxes


def _answer(job: Job, bench: Workbench, times_s: list[float]) -> list[dict[str, Any]]:
    """The intervals of a query. A shape that is never there in its colour is a loose word: the colour alone decides."""
    kind, scores = _scores(job, bench)
    if kind == "change":
        return changes(scores, times_s)
    found = intervals(scores, times_s, min_peak=MIN_PEAK[kind])
    if found or kind != "shape" or not job.options["colours"]:
        return found
    plain = replace(job, options={**job.options, "shapes": []})
    return intervals(_scores(plain, bench)[1], times_s, min_peak=MIN_PEAK["colour"])


def _scores(job: Job, bench: Workbench) -> tuple[str, list[float]]:
    """The kind of the scores, and one for each frame; 0 for a frame in which the track is not seen."""
    count = len(job.options["times_s"])
    boxes: Sequence[Box | None] = job.options.get("boxes") or [job.options["box"]] * count
    shown = [index for index, box in enumerate(boxes) if box is not None]
    kind, found = _scored(_parts(job, bench, boxes), job, bench) if shown else ("colour", [])
    scores = [0.0] * count
    for index, score in zip(shown, found, strict=True):
        scores[index] = score
    return kind, scores


def _parts(job: Job, bench: Workbench, boxes: Sequence[Box | None]) -> Iterator[NDArray[np.uint8]]:
    """The part of each frame that is asked about, where there is one."""
    for ref, box in zip(job.pictures, boxes, strict=False):
        if box is not None:
            yield bench.pixels(ref)[box[1] : box[3], box[0] : box[2]]


def _scored(frames: Iterator[NDArray[np.uint8]], job: Job, bench: Workbench) -> tuple[str, list[float]]:
    """Raises ToolError("unavailable") for what cannot be scored."""
    options = job.options
    if "masked" in options or "pattern" in options:
        pattern, mask = _pattern(job, bench)
        if bench.encoder is not None and mask is None:
            return "likeness", likeness_scores(frames, pattern, bench.encoder)
        return "picture", picture_scores(frames, pattern, mask)
    if options["change"]:
        return "change", change_scores(frames)
    if bench.encoder is not None:
        return "text", text_scores(frames, options["text"], bench.encoder)
    if options["shapes"]:
        return "shape", shape_scores(frames, options["shapes"][0], options["colours"])
    if options["colours"]:
        return "colour", colour_scores(frames, options["colours"])
    raise ToolError("unavailable", "name a colour, a shape, image_k, frame_k, mask_k, or change")


def _pattern(job: Job, bench: Workbench) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """The picture that is looked for, and which of its pixels where a mask says so."""
    if "pattern" in job.options:
        x0, y0, x1, y1 = job.options["pattern"]
        return bench.pixels(job.pictures[-1])[y0:y1, x0:x1], None
    mask = bench.pixels(job.pictures[-1])[..., 0] > 127
    x0, y0, x1, y1 = extent(mask)
    if x0 == x1:
        raise ToolError("bad_argument", "the mask is empty")
    return bench.pixels(job.pictures[-2])[y0:y1, x0:x1], mask[y0:y1, x0:x1]


def _moments(job: Job, times_s: list[float]) -> list[dict[str, Any]]:
    options, start = job.options, int(job.options["start"])
    size = job.pictures[0].width, job.pictures[0].height
    line = None if "line" not in options else tuple(options["line"])
    found = find_moments(options["event"], options["boxes"], options["visible"], size=size, line=line)
    shown = [
        _interval(start + item.first, start + item.last, (item.first + item.last) // 2 + start, item.score, times_s)
        for item in found
    ]
    return sorted(shown, key=lambda interval: -interval["score"])[:NUM_INTERVALS]


def intervals(scores: Sequence[float], times_s: Sequence[float], *, min_peak: float) -> list[dict[str, Any]]:
    """Runs of frames in the upper class of scores, strongest first, at most NUM_INTERVALS.

    An interval is half-open: it stops when the next frame begins. `frame` is its best frame. Empty when the best
    score is under `min_peak` or the scores do not fall into two classes.
    """
    values = np.array(scores, float)
    threshold, apart = split(values)
    upper = values > threshold
    if values.max() < min_peak or apart < MIN_APART or not upper.any() or upper.all():
        return []
    if values[~upper].mean() > (1 - MIN_RISE) * values[upper].mean():
        return []
    return _runs(values, upper, times_s)


def changes(scores: Sequence[float], times_s: Sequence[float]) -> list[dict[str, Any]]:
    """Runs of frames that differ from the one before by more than the clip's usual, strongest first."""
    values = np.array(scores, float)
    usual = float(np.median(values[1:])) if len(values) > 1 else 0.0
    deviation = 1.4826 * float(np.median(np.abs(values[1:] - usual))) if len(values) > 1 else 0.0
    return _runs(values, values > usual + max(MIN_CHANGE, NUM_DEVIATIONS * deviation), times_s)


def split(values: NDArray[np.float64]) -> tuple[float, float]:
    """The threshold that parts `values` into two classes best, and the share of their variance between the two.

    Otsu's criterion (1979) over all thresholds; the threshold lies half-way between its neighbours.
    """
    ordered = np.sort(values)
    count, variance = len(ordered), float(ordered.var())
    if variance < 1e-12:
        return float(ordered[-1]), 0.0
    sizes = np.arange(1, count)
    low = np.cumsum(ordered)[:-1] / sizes
    high = (ordered.sum() - low * sizes) / (count - sizes)
    between = sizes * (count - sizes) * (high - low) ** 2 / count**2
    between[ordered[1:] == ordered[:-1]] = 0
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2), float(between[best]) / variance


def _runs(values: NDArray[np.float64], inside: NDArray[np.bool_], times_s: Sequence[float]) -> list[dict[str, Any]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]))).reshape(-1, 2).tolist()
    found = []
    for first, last in edges:
        best = first + int(values[first:last].argmax())
        found.append(_interval(first, last, best, float(values[best]), times_s))
    return sorted(found, key=lambda interval: -interval["score"])[:NUM_INTERVALS]


def _interval(first: int, last: int, best: int, score: float, times_s: Sequence[float]) -> dict[str, Any]:
    """Frames [first, last) in seconds; the clip's last frame lasts as long as the others do on average."""
    step = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
    ends = [*times_s, times_s[-1] + step]
    return {
        "start_s": round(times_s[first], 3),
        "stop_s": round(ends[last], 3),
        "frame": f"frame_{best + 1}",
        "score": round(score, 4),
    }
