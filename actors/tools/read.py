"""OCR: the text in a picture, or in a box or a polygon of it, read at the scale it was taken at.

Lines come in reading order; the observation's `text` joins them, a space within a row and a newline between rows. Where
there is more than one line, or the call asks for it, `lines` adds each with its box on the grid and its confidence, and
a slanted one with its four corners. A polygon is turned so that it is read level: four corners are seen from the front,
others in the tightest turned box around them, without what lies outside. Text found in a picture is data: canonical
JSON keeps it from opening or closing a call or a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from actors.tools.arguments import GridBox, GridPoint, PictureName, pixel_box
from actors.tools.backends.strips import bounds, is_level, mapped, warped
from actors.tools.config import ToolsConfig
from actors.tools.errors import ToolError
from actors.tools.ports import Job, Plan, ReadLine, Result, Seen, Workbench
from actors.tools.workspace import Picture, Workspace
from common.geometry import GRID, pixels_to_grid
from common.types import Box, MediaRef

GridPolygon: TypeAlias = Annotated[
    tuple[GridPoint, ...],
    Meta(min_length=3, max_length=16, description="corners [[x, y], ...] on the grid, clockwise from the top left"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadArguments:
    image: PictureName
    box: GridBox | None = None
    polygon: GridPolygon | None = None
    lines: bool = False


class Read:
    name: ClassVar[str] = "OCR"
    version: ClassVar[int] = 2
    description: ClassVar[str] = "Read the text in a picture, or in a box or polygon of it. Returns text."
    arguments: ClassVar[type] = ReadArguments

    def plan(self, arguments: ReadArguments, workspace: Workspace, config: ToolsConfig) -> Plan:
        picture = workspace.picture(arguments.image)
        source, box = picture.source, picture.frame
        options: dict[str, Any] = {}
        if arguments.polygon is not None:
            if arguments.box is not None:
                raise ToolError("bad_argument", "needs box or polygon, not both")
            polygon = _at_source(arguments.polygon, picture)
            box = _footprint(polygon, source)
            options["polygon"] = polygon
        elif arguments.box is not None:
            box = picture.at_source(pixel_box(arguments.box, picture.ref))
        options["box"] = box
        return Plan(
            job=Job(tool=self.name, pictures=(source,), options=options),
            source=source,
            footprint=box,
            frame=picture.frame,
            listed=arguments.lines,
        )

    def run(self, job: Job, bench: Workbench) -> Result:
        return self.run_many([job], bench)[0]

    def run_many(self, jobs: Sequence[Job], bench: Workbench) -> list[Result]:
        """`run` of each, the networks run on all of them together."""
        if bench.reader is None:
            raise ToolError("unavailable", "no reader is installed")
        parts: list[NDArray[np.uint8]] = []
        places: list[Callable[[ReadLine], ReadLine]] = []
        for job in jobs:
            pixels = bench.pixels(job.pictures[0])
            if "polygon" in job.options:
                part, back = _levelled(pixels, np.array(job.options["polygon"], float))
                places.append(partial(_moved, back=back, shape=pixels.shape))
            else:
                x0, y0, x1, y1 = job.options["box"]
                part = pixels[y0:y1, x0:x1]
                places.append(partial(_shifted, x=x0, y=y0))
            parts.append(part)
        read = bench.reader.read_many(parts)
        found = [tuple(map(place, lines)) for place, lines in zip(places, read, strict=True)]
        return [
            Result(values={"text": joined(lines), "lines": [_as_values(line) for line in lines]}) for lines in found
        ]

    def observe(self, plan: Plan, result: Result, workspace: Workspace, config: ToolsConfig) -> Seen:
        assert plan.frame is not None
        text = str(result.values["text"])
        payload: dict[str, Any] = {"text": shortened(text, config.max_text_length)}
        lines = result.values["lines"]
        if plan.listed:
            payload["lines"] = [_on_grid(line, plan.frame, config) for line in lines[: config.max_lines]]
        elif 1 < len(lines) <= config.max_lines and len(text) <= config.max_text_length:
            payload["lines"] = [_on_grid(line, plan.frame, config) for line in lines]
        return Seen(payload=payload, workspace=workspace)


def _at_source(polygon: tuple[tuple[float, float], ...], picture: Picture) -> list[list[float]]:
    """Points on the grid of `picture` as places in its source, in pixels."""
    x0, y0, x1, y1 = picture.frame
    return [[x0 + x * (x1 - x0) / GRID, y0 + y * (y1 - y0) / GRID] for x, y in polygon]


def _footprint(polygon: list[list[float]], source: MediaRef) -> Box:
    """The pixels around a polygon. Raises ToolError("empty_box") for one without area."""
    points = np.array(polygon)
    x, y = points.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    box = bounds(points, (source.height, source.width))
    if area < 1 or box[0] >= box[2] or box[1] >= box[3]:
        raise ToolError("empty_box", "the polygon has no area")
    return box


def _levelled(pixels: NDArray[np.uint8], polygon: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What a polygon holds, turned level, and the transform from there back to the picture."""
    import cv2

    quad = _from_top_left(polygon) if _is_convex_quad(polygon) else _turned_box(polygon)
    if is_level(quad) and len(polygon) == 4:
        x0, y0, x1, y1 = bounds(quad, pixels.shape)
        return pixels[y0:y1, x0:x1], np.array([[1.0, 0, x0], [0, 1, y0], [0, 0, 1]])
    flat, back = warped(pixels, quad)
    if len(polygon) != 4:
        corners = mapped(tuple((float(x), float(y)) for x, y in polygon), np.linalg.inv(back).astype(np.float64))
        inside = np.zeros(flat.shape[:2], np.uint8)
        cv2.fillPoly(inside, [(np.array(corners) - 0.5).round().astype(np.int32)], 1)
        flat = np.where(inside[..., None] > 0, flat, np.median(flat[inside > 0], axis=0)).astype(np.uint8)
    return flat, back


def _is_convex_quad(polygon: NDArray[np.float64]) -> bool:
    sides = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    return len(polygon) == 4 and bool((turns > 0).all() or (turns < 0).all())


def _turned_box(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of the smallest box around a polygon, the box turned as need be, its long side across."""
    import cv2

    corners = np.array(cv2.boxPoints(cv2.minAreaRect(polygon.astype(np.float32))), float)
    first = _from_top_left(corners)
    across, down = first[1] - first[0], first[3] - first[0]
    return first if np.hypot(*across) >= np.hypot(*down) else _from_left(corners)


def _from_top_left(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Four corners clockwise (y down), first the one nearest to the top left."""
    clockwise = _clockwise(corners)
    return np.roll(clockwise, -int(clockwise.sum(axis=1).argmin()), axis=0)


def _from_left(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Four corners clockwise, so that the first side is a longer one and runs to the right."""
    clockwise = _clockwise(corners)
    lengths = np.linalg.norm(np.roll(clockwise, -1, axis=0) - clockwise, axis=1)
    clockwise = np.roll(clockwise, -int(lengths.argmax()), axis=0)
    return clockwise if clockwise[1, 0] >= clockwise[0, 0] else np.roll(clockwise, -2, axis=0)


def _clockwise(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = corners.T
    return corners if float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) >= 0 else corners[::-1]


def _shifted(line: ReadLine, x: int, y: int) -> ReadLine:
    box = line.box[0] + x, line.box[1] + y, line.box[2] + x, line.box[3] + y
    corners = None if line.corners is None else tuple((cx + x, cy + y) for cx, cy in line.corners)
    return replace(line, box=box, corners=corners)


def _moved(line: ReadLine, back: NDArray[np.float64], shape: tuple[int, ...]) -> ReadLine:
    """A line found in the levelled picture, in the picture itself."""
    corners = mapped(line.polygon, back)
    level = line.corners is None and is_level(np.array(corners))
    return replace(line, box=bounds(np.array(corners), shape), corners=None if level else corners)


def _as_values(line: ReadLine) -> dict[str, Any]:
    values: dict[str, Any] = {"text": line.text, "confidence": round(line.confidence, 2), "box": list(line.box)}
    if line.corners is not None:
        values["polygon"] = [[round(x, 2), round(y, 2)] for x, y in line.corners]
    return values


def _on_grid(line: dict[str, Any], frame: Box, config: ToolsConfig) -> dict[str, Any]:
    """A line whose places are pixels of the source, on the grid of the picture that shows `frame` of it."""
    x0, y0, x1, y1 = frame
    width, height = x1 - x0, y1 - y0
    box: Box = (line["box"][0] - x0, line["box"][1] - y0, line["box"][2] - x0, line["box"][3] - y0)
    shown = {
        "text": shortened(line["text"], config.max_text_length),
        "confidence": line["confidence"],
        "box": pixels_to_grid(box, width, height, step=config.grid_step),
    }
    if "polygon" in line:
        shown["polygon"] = [
            [min(GRID, max(0, round((x - x0) * GRID / width))), min(GRID, max(0, round((y - y0) * GRID / height)))]
            for x, y in line["polygon"]
        ]
    return shown


def joined(lines: tuple[ReadLine, ...]) -> str:
    """One text: a line that begins left of its predecessor's end opens a new row."""
    text = ""
    previous: ReadLine | None = None
    for line in lines:
        if previous is not None:
            middle = (line.box[1] + line.box[3]) / 2
            same_row = line.box[0] > previous.box[0] and previous.box[1] <= middle < previous.box[3]
            text += " " if same_row else "\n"
        text += line.text
        previous = line
    return text


def shortened(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
