"""The arguments of a call: JSON in, a checked value out.

A tool describes its arguments once, as a dataclass whose field types carry their bounds, the frame that coordinates
are counted in and the kinds of thing that a reference may name. The same description yields the JSON schema in the
prompt, the grammar that a turn can be sampled under (actors/grammar.py), the page for people (reference.py) and the
check of a call, so they cannot disagree. The check is total: any JSON value yields the arguments or a `ToolError` of
the closed set.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from actors.tools.errors import ToolError
from common.geometry import GRID, grid_to_pixels
from common.types import Box, MediaRef

Kind: TypeAlias = Literal["image", "frame", "mask", "track"]
"""What a reference may name; workspace.py says what each stands for."""


def reference(*kinds: Kind, what: str = "") -> Meta:
    """A name such as mask_2 of one of `kinds`. The schema and the grammar hold the form, the workspace what exists."""
    names = ", ".join(f"{kind}_k" for kind in kinds[:-1])
    listed = f"{names} or {kinds[-1]}_k" if names else f"{kinds[-1]}_k"
    pattern = f"^({'|'.join(kinds)})_[1-9][0-9]{{0,5}}$"
    return Meta(max_length=16, description=listed + what, extra_json_schema={"pattern": pattern})


_ON_GRID = {"coordinates": "grid"}
"""The frame (common/geometry) that a box or a point is counted in."""

Grid: TypeAlias = Annotated[float, Meta(ge=0, le=GRID)]
GridBox: TypeAlias = Annotated[
    tuple[Grid, Grid, Grid, Grid],
    Meta(description="[x0, y0, x1, y1] on the picture's 0-1000 grid", extra_json_schema=_ON_GRID),
]
GridPoint: TypeAlias = Annotated[
    tuple[Grid, Grid], Meta(description="[x, y] on the picture's 0-1000 grid", extra_json_schema=_ON_GRID)
]
PictureName: TypeAlias = Annotated[str, reference("image", "frame")]
FrameName: TypeAlias = Annotated[str, reference("frame")]
MaskName: TypeAlias = Annotated[str, reference("mask")]
TrackName: TypeAlias = Annotated[str, reference("track")]

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
    entry = {"name": name, "description": description, "parameters": {**kept, "additionalProperties": False}}
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(entry))  # a default of () is [] in JSON
    return values


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
