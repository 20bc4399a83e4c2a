"""PROP: properties of a region, a box or a track, and how two of them lie to each other.

Of a mask or a box: area and size in pixels, how much of its extent it fills, box and centroid on the grid, mean
colour, and the dominant colour by name (`colour`) and value (`rgb`, the mean of the pixels of that name); for a mask
also the number of pieces and the orientation of its longer axis in degrees (0 is along x, 90 along y), from its
second moments. Of a track: where it begins and ends, the path's length in pixels, the mean speed in pixels a second,
the direction from begin to end, and how much of the time it is seen. With `other`: distance, gap, overlap and
relation of the two (relations.py); a track stands for its box in one frame. `what` asks for one of them alone, which
keeps the observation short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actors.tools.arguments import FrameName, GridBox, MaskName, PictureName, TrackName, pixel_box, reference
from actors.tools.backends.masks import box_mask, extent
from actors.tools.colours import NAMES, tally
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, Result, Seen, Workbench
from actors.tools.relations import Bitmap, centroid, relate
from actors.tools.workspace import Track, Workspace
from common.geometry import GRID, pixels_to_grid
from common.types import Box, MediaRef

OtherName: TypeAlias = Annotated[str, reference("mask", "track", "image", "frame", what=" to compare with")]
Property: TypeAlias = Literal[
    "area", "box", "centroid", "colour", "fill", "mean_rgb", "orientation", "pieces", "rgb", "size",
    "degrees", "direction", "path", "seen", "speed", "start", "stop",
    "distance", "distance_grid", "gap", "gap_grid", "iou", "relation",
]  # fmt: skip
"""Of a region, of a track, and of two things."""
HEADINGS = ("right", "up right", "up", "up left", "left", "down left", "down", "down right")
"""The eight directions, 45 degrees apart, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureArguments:
    mask: MaskName | None = None
    track: TrackName | None = None
    image: PictureName | None = None
    box: GridBox | None = None
    other: OtherName | None = None
    other_box: GridBox | None = None
    frame: FrameName | None = None
    what: Property | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One of two things to compare. source: the picture it lies in. mask: a black and white picture; else `box`."""

    source: MediaRef
    mask: MediaRef | None = None
    box: Box | None = None


class Measure:
    name: ClassVar[str] = "PROP"
    version: ClassVar[int] = 3
    description: ClassVar[str] = (
        "Measure a mask, a box of a picture, or a track: area, place, colour, speed; or compare it with other."
    )
    arguments: ClassVar[type] = MeasureArguments

    def plan(self, arguments: MeasureArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        plan = self._whole(arguments, workspace)
        if arguments.what is None:
            return plan
        return replace(plan, job=replace(plan.job, options={**plan.job.options, "what": arguments.what}))

    def _whole(self, arguments: MeasureArguments, workspace: Workspace) -> Plan:
        """The measurement of everything."""
        given = [name for name in ("mask", "track", "image") if getattr(arguments, name) is not None]
        if len(given) != 1 or (arguments.box is not None and given != ["image"]):
            raise ToolError("bad_argument", "needs one of mask, track, or image with box")
        if arguments.other is not None:
            return self._comparison(arguments, workspace)
        if arguments.other_box is not None or arguments.frame is not None:
            raise ToolError("bad_argument", "other_box and frame go with other")
        if arguments.mask is not None:
            mask = workspace.mask(arguments.mask)
            return Plan(job=Job(tool=self.name, pictures=(mask.source, mask.ref)), source=mask.source)
        if arguments.track is not None:
            options = {"track": _as_options(workspace.track(arguments.track))}
            source = workspace.clip_or_refuse().frames[0]
            return Plan(job=Job(tool=self.name, pictures=(source,), options=options), source=source)
        assert arguments.image is not None
        source = workspace.picture(arguments.image).ref
        box = _box_or_all(arguments.box, source)
        return Plan(job=Job(tool=self.name, pictures=(source,), options={"box": box}), source=source, footprint=box)

    def _comparison(self, arguments: MeasureArguments, workspace: Workspace) -> Plan:
        assert arguments.other is not None
        name = arguments.mask or arguments.track or arguments.image
        assert name is not None
        frame = _frame_of_tracks(name, arguments.other, arguments.frame, workspace)
        first = _part(name, arguments.box, frame, workspace)
        second = _part(arguments.other, arguments.other_box, frame, workspace)
        if first.source != second.source:
            raise ToolError("bad_argument", "the two must lie in one picture")
        pictures = [first.source]
        options: dict[str, Any] = {}
        for key, part in (("first", first), ("second", second)):
            options[key] = part.box if part.mask is None else None
            if part.mask is not None:
                pictures.append(part.mask)
        return Plan(job=Job(tool=self.name, pictures=tuple(pictures), options=options), source=first.source)

    def run(self, job: Job, bench: Workbench) -> Result:
        values = _measured(job, bench)
        what = job.options.get("what")
        if what is None:
            return Result(values=values)
        if what not in values:
            raise ToolError("bad_argument", f"what must be one of {', '.join(sorted(values))}")
        return Result(values={what: values[what]})

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        return Seen(payload=result.values, workspace=workspace)


def _measured(job: Job, bench: Workbench) -> dict[str, Any]:
    if "first" in job.options:
        return _compared(job, bench)
    if "track" in job.options:
        return _of_track(job.options["track"], job.pictures[0].width, job.pictures[0].height)
    pixels = bench.pixels(job.pictures[0])
    if "box" in job.options:
        return _of_region(pixels, box_mask(pixels.shape, job.options["box"]))
    region = _mask_region(bench.pixels(job.pictures[1]))
    return {**_of_region(pixels, region), **_of_shape(region)} if region.any() else {"area": 0}


def _box_or_all(box: tuple[float, float, float, float] | None, source: MediaRef) -> Box:
    return (0, 0, source.width, source.height) if box is None else pixel_box(box, source)


def _frame_of_tracks(first: str, second: str, frame: str | None, workspace: Workspace) -> int | None:
    """The 0-based frame in which tracks are compared: `frame`, or the last that both are seen in."""
    tracks = [workspace.track(name) for name in (first, second) if name.startswith("track_")]
    if frame is not None:
        if not tracks:
            raise ToolError("bad_argument", "frame goes with a track")
        return workspace.frame(frame)
    if not tracks:
        return None
    seen = [{track.start + at for at, visible in enumerate(track.visible) if visible} for track in tracks]
    for name in (first, second):
        if name.startswith(("frame_", "mask_")):
            seen.append(_frames_showing(name, workspace))
    common = set.intersection(*seen)
    if not common:
        raise ToolError("bad_argument", "no frame shows both")
    return max(common)


def _frames_showing(name: str, workspace: Workspace) -> set[int]:
    source = workspace.mask(name).source if name.startswith("mask_") else workspace.picture(name).ref
    return {at for at, ref in enumerate(workspace.clip_or_refuse().frames) if ref == source}


def _part(name: str, box: tuple[float, float, float, float] | None, frame: int | None, workspace: Workspace) -> _Part:
    """What `name` stands for in a comparison. Raises ToolError."""
    if box is not None and name.startswith(("mask_", "track_")):
        raise ToolError("bad_argument", "a box goes with image_k or frame_k")
    if name.startswith("mask_"):
        return _Part(source=workspace.mask(name).source, mask=workspace.mask(name).ref)
    if name.startswith("track_"):
        assert frame is not None
        track = workspace.track(name)
        if not track.start <= frame < track.start + len(track.boxes):
            raise ToolError("bad_argument", f"{name} does not reach frame_{frame + 1}")
        at = frame - track.start
        mask = track.masks[at] if track.masks else None
        return _Part(source=workspace.clip_or_refuse().frames[frame], mask=mask, box=track.boxes[at])
    picture = workspace.picture(name)
    return _Part(source=picture.source, box=picture.at_source(_box_or_all(box, picture.ref)))


def _compared(job: Job, bench: Workbench) -> dict[str, Any]:
    source, masks = job.pictures[0], iter(job.pictures[1:])
    boxes = [job.options[key] for key in ("first", "second")]
    regions = [
        _mask_region(bench.pixels(next(masks))) if box is None else box_mask((source.height, source.width), box)
        for box in boxes
    ]
    if not (regions[0].any() and regions[1].any()):
        raise ToolError("bad_argument", "one of the two is empty")
    return relate(regions[0], regions[1])


def _mask_region(pixels: NDArray[np.uint8]) -> Bitmap:
    region: Bitmap = pixels[..., 0] > 127
    return region


def _of_region(pixels: NDArray[np.uint8], region: Bitmap) -> dict[str, Any]:
    """Area, size, fill, box, centroid and colours of a region that is not empty."""
    height, width = region.shape
    x0, y0, x1, y1 = extent(region)
    counts, sums = tally(pixels[y0:y1, x0:x1][region[y0:y1, x0:x1]])
    area, dominant = int(counts.sum()), int(counts.argmax())
    x, y = centroid(region)
    return {
        "area": area,
        "size": [x1 - x0, y1 - y0],
        "fill": round(area / ((x1 - x0) * (y1 - y0)), 3),
        "box": list(pixels_to_grid((x0, y0, x1, y1), width, height)),
        "centroid": [round((x + 0.5) * GRID / width), round((y + 0.5) * GRID / height)],
        "mean_rgb": [round(float(value) / area) for value in sums.sum(axis=0)],
        "colour": NAMES[dominant],
        "rgb": [round(float(value) / int(counts[dominant])) for value in sums[dominant]],
    }


def _of_shape(region: Bitmap) -> dict[str, Any]:
    """Pieces, and the orientation θ = ½ atan2(2 μ₁₁, μ₂₀ − μ₀₂) in [0, 180) degrees, y pointing up."""
    import cv2

    marks = region.astype(np.uint8)
    moments = cv2.moments(marks, binaryImage=True)
    angle = 0.5 * math.atan2(-2 * moments["mu11"], moments["mu20"] - moments["mu02"])
    num_pieces = cv2.connectedComponents(marks, connectivity=8)[0] - 1
    return {"orientation": round(math.degrees(angle)) % 180, "pieces": int(num_pieces)}


def _as_options(track: Track) -> dict[str, Any]:
    return {
        "start": track.start,
        "boxes": [list(box) for box in track.boxes],
        "visible": list(track.visible),
        "times_s": list(track.times_s),
    }


def _of_track(track: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Over the frames in which it is seen (over all where it is seen in fewer than two)."""
    seen = np.array(track["visible"], bool)
    kept = seen if seen.sum() > 1 else np.ones_like(seen)
    boxes, times = np.array(track["boxes"], float)[kept], np.array(track["times_s"], float)[kept]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    path = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
    lasting = float(times[-1] - times[0])
    measured = {
        "start": [round(float(value) * GRID / side) for value, side in zip(centres[0], (width, height), strict=True)],
        "stop": [round(float(value) * GRID / side) for value, side in zip(centres[-1], (width, height), strict=True)],
        "path": round(path),
        "speed": round(path / lasting, 1) if lasting > 0 else 0.0,
        "seen": round(float(seen.mean()), 2),
    }
    return {**measured, **_heading(*(centres[-1] - centres[0]))}


def _heading(dx: float, dy: float) -> dict[str, Any]:
    """The direction in words and degrees (0 right, 90 up); "still" under a pixel, where there is none."""
    if math.hypot(dx, dy) < 1:
        return {"direction": "still"}
    degrees = math.degrees(math.atan2(-dy, dx)) % 360
    return {"direction": HEADINGS[round(degrees / 45) % 8], "degrees": round(degrees) % 360}
