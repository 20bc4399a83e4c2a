"""The arguments of a call: JSON in, a checked value out.

A tool describes its arguments once, as a dataclass whose field types carry their bounds. The same description yields
the JSON schema in the prompt and the check of a call, so they cannot disagree. The check is total: any JSON value
yields the arguments or a `ToolError` of the closed set.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from actors.tools.errors import ToolError
from common.geometry import GRID, grid_to_pixels
from common.types import Box, MediaRef

Grid: TypeAlias = Annotated[float, Meta(ge=0, le=GRID)]
GridBox: TypeAlias = Annotated[
    tuple[Grid, Grid, Grid, Grid], Meta(description="[x0, y0, x1, y1] on the picture's 0-1000 grid")
]
GridPoint: TypeAlias = Annotated[tuple[Grid, Grid], Meta(description="[x, y] on the picture's 0-1000 grid")]
PictureName: TypeAlias = Annotated[str, Meta(max_length=16, description="image_k or frame_k")]
FrameName: TypeAlias = Annotated[str, Meta(max_length=16, description="frame_k")]
MaskName: TypeAlias = Annotated[str, Meta(max_length=16, description="mask_k")]
TrackName: TypeAlias = Annotated[str, Meta(max_length=16, description="track_k")]

A = TypeVar("A")


def parse(arguments: Any, kind: type[A]) -> A:
    """`arguments`, a JSON value, as the dataclass `kind`. Raises ToolError("bad_argument")."""
    if not isinstance(arguments, dict):
        raise ToolError("bad_argument", "arguments must be an object")
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [key for key in arguments if key not in names]
    if unknown:
        raise ToolError("bad_argument", f"takes {', '.join(names)}")
    try:
        value = msgspec.convert(arguments, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise ToolError("bad_argument", str(error).replace("`", "").replace("$.", "")[:120]) from None
    return value


def schema(name: str, description: str, kind: type) -> dict[str, Any]:
    """One entry of the prompt's tool list: name, description and JSON schema of the parameters."""
    parameters = msgspec.json.schema(kind)["$defs"][kind.__name__]
    kept = {key: value for key, value in parameters.items() if key in ("type", "properties", "required")}
    return {"name": name, "description": description, "parameters": {**kept, "additionalProperties": False}}


def pixel_box(box: tuple[float, float, float, float], picture: MediaRef) -> Box:
    """A box on the grid as half-open pixels of `picture`. Raises ToolError("empty_box") for a swapped or empty one."""
    pixels = grid_to_pixels(box, picture.width, picture.height)
    if not (box[0] < box[2] and box[1] < box[3]) or pixels[0] >= pixels[2] or pixels[1] >= pixels[3]:
        raise ToolError("empty_box", "needs x0 < x1 and y0 < y1")
    return pixels


def pixel_point(point: tuple[float, float], picture: MediaRef) -> tuple[int, int]:
    """A point on the grid as a pixel of `picture`."""
    x, y = (int(value * side / GRID) for value, side in zip(point, (picture.width, picture.height), strict=True))
    return min(x, picture.width - 1), min(y, picture.height - 1)
