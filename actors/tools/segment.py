"""SEG: the region of a thing, from a box around it, points on it and points that are not on it.

The mask is kept as a black and white picture of its source's size and comes back as mask_k with its box, its area in
pixels and the back end's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, GridPoint, PictureName, pixel_box, pixel_point
from actors.tools.backends.masks import extent
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Prompt, Region, Result, Seen, Workbench
from actors.tools.workspace import Mask, Workspace
from common.geometry import pixels_to_grid
from common.types import Box, MediaRef

GridPoints = Annotated[tuple[GridPoint, ...], Meta(max_length=16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentArguments:
    image: PictureName | None = None
    box: GridBox | None = None
    point: GridPoint | None = None
    points: GridPoints = ()
    negative: GridPoints = ()


class Segment:
    name: ClassVar[str] = "SEG"
    version: ClassVar[int] = 2
    description: ClassVar[str] = (
        "Segment the thing in a box or at points, without what is at negative points. Returns mask_k, its box and area."
    )
    arguments: ClassVar[type] = SegmentArguments

    def plan(self, arguments: SegmentArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        first = "frame_1" if workspace.clip and not workspace.images else "image_1"
        source = workspace.picture(arguments.image or first).ref
        points = arguments.points if arguments.point is None else (arguments.point, *arguments.points)
        options = prompt_options(arguments.box, points, arguments.negative, source)
        job = Job(tool=self.name, pictures=(source,), options=options)
        return Plan(job=job, source=source, footprint=footprint(options))

    def run(self, job: Job, bench: Workbench) -> Result:
        return _kept(bench.segmenter.segment(bench.pixels(job.pictures[0]), prompt_of(job.options)), bench)

    def run_many(self, jobs: Sequence[Job], bench: Workbench) -> list[Result]:
        """`run` of each, segmented together."""
        pictures = [bench.pixels(job.pictures[0]) for job in jobs]
        regions = bench.segmenter.segment_many(pictures, [prompt_of(job.options) for job in jobs])
        return [_kept(region, bench) for region in regions]

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        assert result.picture is not None and plan.source is not None
        name, workspace = workspace.with_mask(Mask(ref=result.picture, source=plan.source))
        width, height = plan.source.width, plan.source.height
        box = pixels_to_grid(tuple(result.values["box"]), width, height, step=config.grid_step)
        return Seen(payload={**result.values, "mask": name, "box": box}, workspace=workspace)


def _kept(found: Region, bench: Workbench) -> Result:
    values = {"area": int(found.mask.sum()), "box": list(extent(found.mask)), "score": round(found.score, 3)}
    return Result(values=values, picture=bench.keep(black_and_white(found.mask)))


def prompt_options(
    box: tuple[float, float, float, float] | None,
    points: tuple[tuple[float, float], ...],
    negative: tuple[tuple[float, float], ...],
    source: MediaRef,
) -> dict[str, Any]:
    """A prompt on the grid of `source` as a job's options, in pixels. Raises ToolError for one that marks nothing."""
    if box is None and not points:
        raise ToolError("bad_argument", "needs box, or a point on the thing")
    options: dict[str, Any] = {}
    if box is not None:
        options["box"] = pixel_box(box, source)
    for name, given in (("points", points), ("negative", negative)):
        if given:
            options[name] = tuple(pixel_point(point, source) for point in given)
    return options


def prompt_of(options: dict[str, Any]) -> Prompt:
    """The prompt that a job's options hold."""
    box = options.get("box")
    return Prompt(
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        points=tuple((x, y) for x, y in options.get("points", ())),
        negative=tuple((x, y) for x, y in options.get("negative", ())),
    )


def footprint(options: dict[str, Any]) -> Box:
    """The box of a prompt, or the smallest around its points on the thing."""
    if "box" in options:
        x0, y0, x1, y1 = options["box"]
        return x0, y0, x1, y1
    across, down = zip(*options["points"], strict=True)
    return min(across), min(down), max(across) + 1, max(down) + 1


def black_and_white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask as a picture, (height, width, 3)."""
    return np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
