"""TRK: where a thing of one frame is in the frames after it.

The thing is marked by a mask of that frame, a box around it, or points. It comes back as track_k: a box a frame,
whether it is seen there, and, where the back end makes them, masks. The model reads a few of the boxes, evenly spread
and always with the last, and the frames in which the thing is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from actors.tools.arguments import FrameName, GridBox, GridPoint, MaskName
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Prompt, Result, Seen, Workbench
from actors.tools.segment import GridPoints, black_and_white, footprint, prompt_of, prompt_options
from actors.tools.workspace import Track, Workspace
from common.geometry import pixels_to_grid
from common.types import Clip, MediaRef

NUM_SHOWN = 5
"""Boxes that the model reads: start, end and three between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowArguments:
    box: GridBox | None = None
    mask: MaskName | None = None
    point: GridPoint | None = None
    points: GridPoints = ()
    negative: GridPoints = ()
    frame: FrameName | None = None
    stop: FrameName | None = None


class Follow:
    name: ClassVar[str] = "TRK"
    version: ClassVar[int] = 2
    description: ClassVar[str] = (
        "Track a mask, or what is in a box or at points of a frame, until frame stop. Returns track_k and boxes."
    )
    arguments: ClassVar[type] = FollowArguments

    def plan(self, arguments: FollowArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        clip = workspace.clip_or_refuse()
        start = _start(arguments, workspace, clip)
        stop = len(clip.frames) if arguments.stop is None else workspace.frame(arguments.stop) + 1
        if stop <= start:
            raise ToolError("bad_argument", "stop lies before frame")
        if stop - start > config.max_frames:
            raise ToolError("limit_exceeded", f"at most {config.max_frames} frames")
        frames = clip.frames[start:stop]
        source = frames[0]
        if any((ref.width, ref.height) != (source.width, source.height) for ref in frames):
            raise ToolError("bad_media", "the frames differ in size")
        options: dict[str, Any] = {"start": start, "times_s": clip.times_s[start:stop]}
        points = arguments.points if arguments.point is None else (arguments.point, *arguments.points)
        if arguments.mask is None:
            prompt = prompt_options(arguments.box, points, arguments.negative, source)
            job = Job(tool=self.name, pictures=frames, options={**options, **prompt})
            return Plan(job=job, source=source, footprint=footprint(prompt))
        if arguments.box is not None or points or arguments.negative:
            raise ToolError("bad_argument", "needs either mask, or box and points")
        mask = workspace.mask(arguments.mask)
        job = Job(tool=self.name, pictures=(*frames, mask.ref), options={**options, "mask": True})
        return Plan(job=job, source=source)

    def run(self, job: Job, bench: Workbench) -> Result:
        seeded = "mask" in job.options
        frames = _Decoded(job.pictures[:-1] if seeded else job.pictures, bench)
        seed = Prompt(mask=bench.pixels(job.pictures[-1])[..., 0] > 127) if seeded else prompt_of(job.options)
        if seed.mask is not None and not seed.mask.any():
            raise ToolError("bad_argument", "the mask is empty")
        boxes: list[list[int]] = []
        visible: list[bool] = []
        masks: list[MediaRef | None] = []
        for sighting in bench.tracker.track(frames, seed):
            boxes.append(list(sighting.box))
            visible.append(sighting.visible)
            masks.append(None if sighting.mask is None else bench.keep(black_and_white(sighting.mask)))
        pictures = tuple(masks) if any(ref is not None for ref in masks) else ()
        return Result(values={"boxes": boxes, "visible": visible}, pictures=pictures)

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        options = plan.job.options
        track = Track(
            start=options["start"],
            boxes=tuple((box[0], box[1], box[2], box[3]) for box in result.values["boxes"]),
            visible=tuple(result.values["visible"]),
            times_s=tuple(options["times_s"]),
            masks=result.pictures,
        )
        name, workspace = workspace.with_track(track)
        last = len(track.boxes) - 1
        shown = sorted({round(last * index / (NUM_SHOWN - 1)) for index in range(NUM_SHOWN)})
        boxes = {
            f"frame_{track.start + index + 1}": pixels_to_grid(
                track.boxes[index], picture.width, picture.height, step=config.grid_step
            )
            for index in shown
            for picture in [plan.job.pictures[index]]
        }
        payload: dict[str, Any] = {"track": name, "boxes": boxes}
        hidden = [track.start + index + 1 for index, seen in enumerate(track.visible) if not seen]
        if hidden:
            payload["hidden"] = _runs(hidden)
        return Seen(payload=payload, workspace=workspace)


class _Decoded:
    """Frames that are decoded when asked for; none is kept."""

    def __init__(self, refs: tuple[MediaRef, ...], bench: Workbench) -> None:
        self._refs = refs
        self._bench = bench

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return self._bench.pixels(self._refs[index])


def _start(arguments: FollowArguments, workspace: Workspace, clip: Clip) -> int:
    """The index of the frame in which the thing is marked: the one named, else the mask's own, else the first."""
    if arguments.mask is None:
        return 0 if arguments.frame is None else workspace.frame(arguments.frame)
    source = workspace.mask(arguments.mask).source
    if arguments.frame is not None:
        start = workspace.frame(arguments.frame)
        if clip.frames[start] != source:
            raise ToolError("bad_argument", f"{arguments.mask} is not of {arguments.frame}")
        return start
    if source not in clip.frames:
        raise ToolError("bad_argument", f"{arguments.mask} is not of a frame")
    return clip.frames.index(source)


def _runs(numbers: list[int]) -> list[str]:
    """Ascending frame numbers as runs: [3, 4, 5, 9] → ["frame_3-5", "frame_9"]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"frame_{run[0]}" if len(run) == 1 else f"frame_{run[0]}-{run[-1]}" for run in runs]
