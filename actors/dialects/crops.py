"""What the foreign dialects share: a call between tags, and boxes that become a ZOOM on our grid."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from actors.dialects.port import Shown
from actors.dialogue import Unreadable, malformed, parse_call
from common.errors import ContractError
from common.geometry import GRID, Frame, convert
from common.types import ToolCall

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def last_call(text: str) -> ToolCall | Unreadable:
    """The last complete call of a turn, in the dialect's own names and arguments."""
    found = CALL.findall(text)
    return parse_call(found[-1]) if found else malformed("end the turn with one tool call or one answer")


def before(text: str, tag: str) -> str:
    """What was written before the last `tag`."""
    return text[: text.rfind(tag)].strip()


def frame_of(picture: Shown, boxes: str) -> Frame:
    """The frame called `boxes` for this picture."""
    if boxes == "share":
        return Frame.share()
    if boxes == "original":
        return Frame.original(picture.picture.width, picture.picture.height)
    return Frame.view(picture.view.width, picture.view.height)


def zoom(box: Any, picture: Shown | None, frame: Frame, *, missing: str, padding: float = 0.0) -> ToolCall:
    """ZOOM at `box` of `picture`, counted in `frame`, widened by `padding` of the picture's sides, within the picture.

    What is no box goes on as it was written, and a picture that is not there under the name `missing`.
    """
    name = missing if picture is None else picture.name
    if not is_box(box):
        return ToolCall(name="ZOOM", arguments={"image": name, "box": box})
    x0, y0, x1, y1 = convert(box, frame, Frame.grid())
    wider = padding * GRID
    edges = (x0 - wider, y0 - wider, x1 + wider, y1 + wider)
    return ToolCall(name="ZOOM", arguments={"image": name, "box": [min(max(0.0, edge), float(GRID)) for edge in edges]})


def is_box(value: Any) -> TypeGuard[list[float]]:
    """Whether a JSON value is four numbers that can be counted with."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in value)
    )


def box_to_write(call: ToolCall, frame: Frame, *, padding: float = 0.0) -> list[float]:
    """The box of a ZOOM in the dialect's frame. Raises ContractError for another call, or one with no such words."""
    box = call.arguments.get("box")
    if call.name != "ZOOM" or set(call.arguments) != {"image", "box"} or not is_box(box):
        raise ContractError(f"this dialect has no words for {call.name} with {', '.join(call.arguments) or 'nothing'}")
    x0, y0, x1, y1 = box
    narrower = padding * GRID
    return [*convert((x0 + narrower, y0 + narrower, x1 - narrower, y1 - narrower), Frame.grid(), frame)]


def named(shown: Sequence[Shown], name: Any) -> Shown:
    """The picture of that name. Raises ContractError."""
    found = next((picture for picture in shown if picture.name == name), None)
    if found is None:
        raise ContractError(f"{name} was not shown")
    return found


def whole(value: Any) -> int | None:
    """A JSON number as a whole one, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        return None
    return int(value)
