"""ZOOM: a closer look at a part of a picture.

The box is cut out of the picture at its full resolution and resampled, aspect kept, so that its longer side lies within
the configured bounds: a small region grows until it can be seen, a large one shrinks. With `factor` it is resampled by
that factor instead (pixels of the crop for one of the source), up to a configured side. The crop is a picture like any
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, PictureName, pixel_box
from actors.tools.config import ToolsConfig
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.workspace import Picture, Workspace

MIN_SIDE = 28
"""Pixels; no factor makes the longer side of a crop smaller: vision encoders see patches of about this side."""

HALVED = 4
"""Pictures that shrink by this or more are halved first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoomArguments:
    image: PictureName
    box: GridBox
    factor: Annotated[float, Meta(ge=0.1, le=32, description="magnification, instead of the usual size")] | None = None


class Zoom:
    name: ClassVar[str] = "ZOOM"
    version: ClassVar[int] = 2
    description: ClassVar[str] = "Enlarge a box of a picture. Returns the crop as image_k."
    arguments: ClassVar[type] = ZoomArguments

    def plan(self, arguments: ZoomArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        picture = workspace.picture(arguments.image)
        source, box = picture.source, picture.at_source(pixel_box(arguments.box, picture.ref))
        options: dict[str, Any] = {"box": box, "min_side": config.zoom_min_side, "max_side": config.zoom_max_side}
        if arguments.factor is not None:
            side = round(max(box[2] - box[0], box[3] - box[1]) * arguments.factor)
            options["min_side"] = options["max_side"] = min(max(MIN_SIDE, side), config.zoom_factor_side)
        job = Job(tool=self.name, pictures=(source,), options=options)
        return Plan(job=job, source=source, footprint=box)

    def run(self, job: Job, bench: Workbench) -> Result:
        x0, y0, x1, y1 = job.options["box"]
        crop = bench.pixels(job.pictures[0])[y0:y1, x0:x1]
        resampled = resample(crop, min_side=job.options["min_side"], max_side=job.options["max_side"])
        return Result(picture=bench.keep(resampled, compress=False))

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
    while min(pixels.shape[0] // size[1], pixels.shape[1] // size[0]) >= HALVED:
        # A mean of means is nearly the mean, and halving even sides is fast. An odd side loses its last row or column.
        half_height, half_width = pixels.shape[0] // 2, pixels.shape[1] // 2
        even = pixels[: 2 * half_height, : 2 * half_width]
        pixels = cv2.resize(even, (half_width, half_height), interpolation=cv2.INTER_AREA)
    resampled: NDArray[np.uint8] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    )
    return resampled
