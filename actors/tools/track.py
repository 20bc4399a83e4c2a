"""TRK: where a thing of one frame is in the frames after it.

It comes back as track_k: a box a frame and whether the thing is seen there. The model reads a few of the boxes, evenly
spread and always with the last, and the frames in which the thing is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from actors.tools.arguments import FrameName, GridBox, pixel_box
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Track, Workspace
from common.geometry import pixels_to_grid

NUM_SHOWN = 5
"""Boxes that the model reads: start, end and three between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowArguments:
    box: GridBox
    frame: FrameName = "frame_1"
    stop: FrameName | None = None


class Follow:
    name: ClassVar[str] = "TRK"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Track what is in a box of a frame until frame stop. Returns track_k and boxes."
    arguments: ClassVar[type] = FollowArguments

    def plan(self, arguments: FollowArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        clip = workspace.clip_or_refuse()
        start = workspace.frame(arguments.frame)
        stop = len(clip.frames) if arguments.stop is None else workspace.frame(arguments.stop) + 1
        if stop <= start:
            raise ToolError("bad_argument", "stop lies before frame")
        if stop - start > config.max_frames:
            raise ToolError("limit_exceeded", f"at most {config.max_frames} frames")
        source = clip.frames[start]
        box = pixel_box(arguments.box, source)
        options = {"box": box, "start": start, "times_s": clip.times_s[start:stop]}
        job = Job(tool=self.name, pictures=clip.frames[start:stop], options=options)
        return Plan(job=job, source=source, footprint=box)

    def run(self, job: Job, bench: Workbench) -> Result:
        frames = (bench.pixels(ref) for ref in job.pictures)
        found = bench.tracker.track(frames, tuple(job.options["box"]))
        return Result(values={"boxes": [list(box) for box, _ in found], "visible": [seen for _, seen in found]})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        options = plan.job.options
        track = Track(
            start=options["start"],
            boxes=tuple((box[0], box[1], box[2], box[3]) for box in result.values["boxes"]),
            visible=tuple(result.values["visible"]),
            times_s=tuple(options["times_s"]),
        )
        name, workspace = workspace.with_track(track)
        last = len(track.boxes) - 1
        shown = sorted({round(last * index / (NUM_SHOWN - 1)) for index in range(NUM_SHOWN)})
        boxes = {
            f"frame_{track.start + index + 1}": pixels_to_grid(track.boxes[index], picture.width, picture.height)
            for index in shown
            for picture in [plan.job.pictures[index]]
        }
        payload: dict[str, Any] = {"track": name, "boxes": boxes}
        hidden = [track.start + index + 1 for index, seen in enumerate(track.visible) if not seen]
        if hidden:
            payload["hidden"] = _runs(hidden)
        return Seen(payload=payload, workspace=workspace)


def _runs(numbers: list[int]) -> list[str]:
    """Ascending frame numbers as runs: [3, 4, 5, 9] → ["frame_3-5", "frame_9"]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"frame_{run[0]}" if len(run) == 1 else f"frame_{run[0]}-{run[-1]}" for run in runs]
