"""SEG: the region of a thing, from a box around it or a point on it.

The mask is kept as a black and white picture of its source's size and comes back as mask_k with its box and its area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, GridPoint, PictureName, pixel_box, pixel_point
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Mask, Workspace
from common.geometry import pixels_to_grid
from common.types import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentArguments:
    image: PictureName
    box: GridBox | None = None
    point: GridPoint | None = None


class Segment:
    name: ClassVar[str] = "SEG"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Segment the thing in a box or at a point. Returns mask_k, its box and area."
    arguments: ClassVar[type] = SegmentArguments

    def plan(self, arguments: SegmentArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        source = workspace.picture(arguments.image).ref
        if (arguments.box is None) == (arguments.point is None):
            raise ToolError("bad_argument", "needs either box or point")
        options: dict[str, Any]
        if arguments.box is not None:
            footprint = pixel_box(arguments.box, source)
            options = {"box": footprint}
        else:
            assert arguments.point is not None
            x, y = pixel_point(arguments.point, source)
            footprint = (x, y, x + 1, y + 1)
            options = {"point": (x, y)}
        return Plan(
            job=Job(tool=self.name, pictures=(source,), options=options),
            source=source,
            footprint=footprint,
        )

    def run(self, job: Job, bench: Workbench) -> Result:
        box, point = job.options.get("box"), job.options.get("point")
        mask, score = bench.segmenter.segment(
            bench.pixels(job.pictures[0]),
            box=None if box is None else tuple(box),
            point=None if point is None else tuple(point),
        )
        values: dict[str, Any] = {"area": int(mask.sum()), "box": list(extent(mask))}
        if score is not None:
            values["score"] = round(score, 3)
        picture = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
        return Result(values=values, picture=bench.keep(picture))

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        assert result.picture is not None and plan.source is not None
        name, workspace = workspace.with_mask(Mask(ref=result.picture, source=plan.source))
        box = pixels_to_grid(tuple(result.values["box"]), plan.source.width, plan.source.height)
        return Seen(payload={**result.values, "mask": name, "box": box}, workspace=workspace)


def extent(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around a mask; (0, 0, 0, 0) around an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
