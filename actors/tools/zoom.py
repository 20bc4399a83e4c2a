"""ZOOM: a closer look at a part of a picture.

The box is cut out of the picture at its full resolution and resampled, aspect kept, so that its longer side lies within
the configured bounds: a small region grows until it can be seen, a large one shrinks. The crop is a picture like any
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, PictureName, pixel_box
from actors.tools.config import ToolsConfig
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Picture, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoomArguments:
    image: PictureName
    box: GridBox


class Zoom:
    name: ClassVar[str] = "ZOOM"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Enlarge a box of a picture. Returns the crop as image_k."
    arguments: ClassVar[type] = ZoomArguments

    def plan(self, arguments: ZoomArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        picture = workspace.picture(arguments.image)
        source, box = picture.source, picture.at_source(pixel_box(arguments.box, picture.ref))
        options = {"box": box, "min_side": config.zoom_min_side, "max_side": config.zoom_max_side}
        job = Job(tool=self.name, pictures=(source,), options=options)
        return Plan(job=job, source=source, footprint=box)

    def run(self, job: Job, bench: Workbench) -> Result:
        x0, y0, x1, y1 = job.options["box"]
        crop = bench.pixels(job.pictures[0])[y0:y1, x0:x1]
        resampled = resample(crop, min_side=job.options["min_side"], max_side=job.options["max_side"])
        return Result(picture=bench.keep(resampled))

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        assert result.picture is not None and plan.source is not None and plan.footprint is not None
        crop = Picture(ref=result.picture, origin=(plan.source, plan.footprint))
        name, workspace = workspace.with_image(crop)
        return Seen(payload={"image": name}, workspace=workspace, image=result.picture)


def resample(pixels: NDArray[np.uint8], *, min_side: int, max_side: int) -> NDArray[np.uint8]:
    """`pixels` with the longer side in [min_side, max_side], aspect kept: cubic to enlarge, area means to shrink."""
    import cv2

    height, width = pixels.shape[:2]
    wanted = min(max(height, width, min_side), max_side)
    scale = wanted / max(height, width)
    if scale == 1:
        return np.ascontiguousarray(pixels)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resampled: NDArray[np.uint8] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    )
    return resampled
