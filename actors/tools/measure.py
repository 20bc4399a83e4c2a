"""PROP: properties of a region, a box or a track.

Of a mask or a box: area in pixels, box and centroid on the grid, mean colour, the name of the dominant colour, and
for a mask the number of pieces and the orientation of its longer axis in degrees (0 is along x, 90 along y), from its
second moments. Of a track: where it begins and ends, the path's length in pixels, the mean speed in pixels a second,
and how much of the time it is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, MaskName, PictureName, TrackName, pixel_box
from actors.tools.colours import dominant
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.segment import extent
from actors.tools.workspace import Track, Workspace
from common.geometry import GRID, pixels_to_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureArguments:
    mask: MaskName | None = None
    track: TrackName | None = None
    image: PictureName | None = None
    box: GridBox | None = None


class Measure:
    name: ClassVar[str] = "PROP"
    version: ClassVar[int] = 1
    description: ClassVar[str] = "Measure a mask, a box of a picture, or a track: area, place, colour, speed."
    arguments: ClassVar[type] = MeasureArguments

    def plan(self, arguments: MeasureArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        given = [name for name in ("mask", "track", "image") if getattr(arguments, name) is not None]
        if len(given) != 1 or (arguments.box is not None and given != ["image"]):
            raise ToolError("bad_argument", "needs one of mask, track, or image with box")
        if arguments.mask is not None:
            mask = workspace.mask(arguments.mask)
            return Plan(job=Job(tool=self.name, pictures=(mask.source, mask.ref)), source=mask.source)
        if arguments.track is not None:
            options = {"track": _as_options(workspace.track(arguments.track))}
            source = workspace.clip_or_refuse().frames[0]
            return Plan(job=Job(tool=self.name, pictures=(source,), options=options), source=source)
        assert arguments.image is not None
        source = workspace.picture(arguments.image).ref
        whole = (0, 0, source.width, source.height)
        box = whole if arguments.box is None else pixel_box(arguments.box, source)
        return Plan(job=Job(tool=self.name, pictures=(source,), options={"box": box}), source=source, footprint=box)

    def run(self, job: Job, bench: Workbench) -> Result:
        if "track" in job.options:
            return Result(values=_of_track(job.options["track"], job.pictures[0].width, job.pictures[0].height))
        pixels = bench.pixels(job.pictures[0])
        if "box" in job.options:
            x0, y0, x1, y1 = job.options["box"]
            region = np.zeros(pixels.shape[:2], bool)
            region[y0:y1, x0:x1] = True
            return Result(values=_of_region(pixels, region))
        region = bench.pixels(job.pictures[1])[..., 0] > 127
        if not region.any():
            return Result(values={"area": 0})
        return Result(values={**_of_region(pixels, region), **_of_shape(region)})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        return Seen(payload=result.values, workspace=workspace)


def _of_region(pixels: NDArray[np.uint8], region: NDArray[np.bool_]) -> dict[str, Any]:
    """Area, box, centroid and colour of a region that is not empty."""
    height, width = region.shape
    rows, columns = np.nonzero(region)
    inside = pixels[rows, columns]
    return {
        "area": len(rows),
        "box": list(pixels_to_grid(extent(region), width, height)),
        "centroid": [round((columns.mean() + 0.5) * GRID / width), round((rows.mean() + 0.5) * GRID / height)],
        "mean_rgb": [round(float(value)) for value in inside.mean(axis=0)],
        "colour": dominant(inside),
    }


def _of_shape(region: NDArray[np.bool_]) -> dict[str, Any]:
    """Pieces, and the orientation θ = ½ atan2(2 μ₁₁, μ₂₀ − μ₀₂) in [0, 180) degrees, y pointing up."""
    import cv2

    rows, columns = np.nonzero(region)
    x, y = columns - columns.mean(), -(rows - rows.mean())
    angle = 0.5 * math.atan2(2 * float((x * y).mean()), float((x * x).mean() - (y * y).mean()))
    num_pieces = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[0] - 1
    return {"orientation": round(math.degrees(angle)) % 180, "pieces": int(num_pieces)}


def _as_options(track: Track) -> dict[str, Any]:
    return {
        "start": track.start,
        "boxes": [list(box) for box in track.boxes],
        "visible": list(track.visible),
        "times_s": list(track.times_s),
    }


def _of_track(track: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    boxes = np.array(track["boxes"], float)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    path = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
    lasting = track["times_s"][-1] - track["times_s"][0]

    def place(centre: NDArray[np.float64]) -> list[int]:
        return [round(float(centre[0]) * GRID / width), round(float(centre[1]) * GRID / height)]

    return {
        "start": place(centres[0]),
        "stop": place(centres[-1]),
        "path": round(path),
        "speed": round(path / lasting, 1) if lasting > 0 else 0.0,
        "seen": round(sum(track["visible"]) / len(track["visible"]), 2),
    }
