r"""Pixel-Reasoner (github.com/TIGER-AI-Lab/Pixel-Reasoner, arXiv:2505.15966), the form of its released models.

    … <tool_call>{"name": "crop_image", "arguments": {"bbox_2d": [0.2, 0.3, 0.5, 0.6], "target_image": 1}}</tool_call>
    … <tool_call>{"name": "select_frames", "arguments": {"target_frames": [3, 4]}}</tool_call>
    … \boxed{answer}

A turn that ends in a call calls; any other answers with its last \boxed{}. `crop_image` is also written
crop_image_normalized and zoom_in. target_image counts from 1: the question's pictures, then the crops; of a video first
its frames, and once something came back, what came back (from 2, the video being 1). Every crop is a tenth of the
picture's sides wider on each side than its box. select_frames brings up to eight frames, counted from 1 among those
shown, in one message; ours are as many calls of ZOOM.

bbox_2d has no stated frame: the schema asks for shares of the sides, and the published code takes values for shares
when all four are below 1 and for pixels otherwise. Then a box up to the very edge, such as [0.5, 0.5, 1, 1], becomes a
box of one pixel. `boxes` settles it: "auto" takes shares where no value exceeds 1 (a box of one pixel is never meant)
and else the pixels of the picture as it was shown; "share", "view" and "original" take that always. The published code
takes pixels of the file for the question's pictures, which the model never sees: "original" does as it does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from actors.dialects.crops import before, box_to_write, frame_of, is_box, last_call, named, whole, zoom
from actors.dialects.port import Shown, hint_of, tool_list
from actors.dialogue import (
    CALL_CLOSES,
    CALL_OPENS,
    Action,
    Answer,
    Calls,
    Unreadable,
    Utterance,
    answered,
    malformed,
)
from actors.tools.arguments import schema
from common.chat import Chat, plain
from common.geometry import GRID
from common.types import ExecutedCall, MediaRef, ToolCall, Turn

CROPS = ("crop_image", "crop_image_normalized", "zoom_in")
FRAMES = "select_frames"
PADDING = 0.1
"""Of the picture's width and height, on each side of a box (crop_image_normalized)."""
MAX_FRAMES = 8
_BOXED = "\\boxed{"
_HOW = """# Tools

You may call functions to look closer. Their signatures are within <tools></tools>:
{tools}

For each call, return a JSON object with the function's name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

Put the final answer within \\boxed{{}}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropArguments:
    bbox_2d: Annotated[tuple[float, float, float, float], Meta(description="[x1, y1, x2, y2], each within [0.0, 1.0]")]
    target_image: Annotated[int, Meta(ge=1, description="which image, from 1")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameArguments:
    target_frames: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(min_length=1, max_length=MAX_FRAMES, description="numbers of the frames to look at, from 1"),
    ]


class PixelReasoner:
    """See Dialect."""

    def __init__(self, *, boxes: str = "auto") -> None:
        self._boxes = boxes

    @property
    def answer_opens(self) -> str:
        return _BOXED

    @property
    def call_opens(self) -> str:
        return CALL_OPENS

    def tools(self) -> Mapping[str, type]:
        return {**dict.fromkeys(CROPS, CropArguments), FRAMES: FrameArguments}

    def system(self, system: str) -> str:
        listed = [
            schema(CROPS[0], "Zoom in on a bounding box of an image.", CropArguments),
            schema(FRAMES, "Select frames of a video.", FrameArguments),
        ]
        return "\n\n".join(filter(None, (system, _HOW.format(tools=tool_list(listed)))))

    def read(self, text: str, shown: Sequence[Shown]) -> Utterance:
        if not text.rstrip().endswith(CALL_CLOSES):
            return _closing(text)
        call = last_call(text)
        return Utterance(
            thought=before(text, CALL_OPENS),
            action=call if isinstance(call, Unreadable) else self._translated(call, shown),
        )

    def _translated(self, call: ToolCall, shown: Sequence[Shown]) -> Action:
        if call.name == FRAMES:
            return _selected(call.arguments.get("target_frames"), shown)
        if call.name not in CROPS:
            return call
        number = whole(call.arguments.get("target_image", 1))
        picture = None if number is None else _target(number, shown)
        box = call.arguments.get("bbox_2d")
        if picture is None:
            return ToolCall(name="ZOOM", arguments={"image": f"image_{number}", "box": box})
        return zoom(box, picture, frame_of(picture, self._frame(box)), missing="", padding=PADDING)

    def _frame(self, box: Any) -> str:
        if self._boxes != "auto":
            return self._boxes
        return "share" if is_box(box) and max(box) <= 1 else "view"

    def write_call(self, call: ToolCall, thought: str, shown: Sequence[Shown]) -> str:
        """Boxes as shares of the sides under "auto". A crop that is narrower than its margins has no words."""
        picture = named(shown, call.arguments.get("image"))
        frame = frame_of(picture, "share" if self._boxes == "auto" else self._boxes)
        arguments = {"bbox_2d": box_to_write(call, frame, padding=PADDING), "target_image": _number(picture, shown)}
        return f"{thought}{CALL_OPENS}{json.dumps({'name': CROPS[0], 'arguments': arguments})}{CALL_CLOSES}"

    def write_answer(self, answer: str, thought: str) -> str:
        return f"{thought}{_BOXED}{answer}}}"

    def observe(self, chat: Chat, done: Sequence[ExecutedCall], shown: Sequence[Shown]) -> tuple[Turn, ...]:
        last = len(done) - 1
        first = 1 + len(_returned(shown))
        return tuple(
            chat.tool_turn(_pieces(each, at, len(done), first), opens=at == 0, closes=at == last)
            for at, each in enumerate(done)
        )


def _closing(text: str) -> Utterance:
    r"""A turn without a call: its last \boxed{}."""
    start = text.rfind(_BOXED)
    if start < 0:
        hint = "end the turn with one tool call or the answer in \\boxed{}"
        return Utterance(thought=text.strip(), action=malformed(hint))
    inside, depth = "", 1
    for character in text[start + len(_BOXED) :]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            action: Answer | Unreadable = answered(inside)
            break
        inside += character
    else:
        action = malformed("the answer's brace is open")
    return Utterance(thought=text[:start].strip(), action=action)


def _selected(wanted: Any, shown: Sequence[Shown]) -> Action:
    """select_frames as ZOOMs of whole frames."""
    numbers = [whole(item) for item in wanted] if isinstance(wanted, list) else []
    if not numbers or None in numbers:
        return Unreadable(code="bad_argument", hint="target_frames is a list of whole numbers")
    if len(numbers) > MAX_FRAMES:
        return Unreadable(code="limit_exceeded", hint=f"select at most {MAX_FRAMES} frames")
    frames = [picture.name for picture in shown if picture.name.startswith("frame_")]
    names = [frames[n - 1] if n is not None and 0 < n <= len(frames) else f"frame_{n}" for n in numbers]
    calls = tuple(ToolCall(name="ZOOM", arguments={"image": name, "box": [0, 0, GRID, GRID]}) for name in names)
    return calls[0] if len(calls) == 1 else Calls(calls=calls)


def _of_clip(shown: Sequence[Shown]) -> bool:
    return any(picture.name.startswith("frame_") for picture in shown)


def _returned(shown: Sequence[Shown]) -> list[Shown]:
    """What came back of a clip; of pictures everything is counted alike."""
    return [picture for picture in shown if not picture.name.startswith("frame_")] if _of_clip(shown) else []


def _targets(shown: Sequence[Shown]) -> list[Shown | None]:
    """What target_image 1, 2, … are."""
    back = _returned(shown)
    return [None, *back] if back else list(shown)


def _target(number: int, shown: Sequence[Shown]) -> Shown | None:
    targets = _targets(shown)
    return targets[number - 1] if 0 < number <= len(targets) else None


def _number(picture: Shown, shown: Sequence[Shown]) -> int:
    """The target_image of a picture. Raises ContractError when it can no longer be named."""
    targets = _targets(shown)
    named([target for target in targets if target is not None], picture.name)
    return targets.index(picture) + 1


def _pieces(done: ExecutedCall, at: int, count: int, first: int) -> list[str | MediaRef]:
    view = done.observation.view
    if view is None:
        return [f"\nExecution error:\n{plain(hint_of(done))}\n"]
    size = f"{view.width}x{view.height}"
    if not _is_whole(done):
        return [f"\nHere is the cropped image (Image Size: {size}):", view]
    head = f"\nHere are the selected frames (Frame Size: {size}, Numbered {first} to {first + count - 1}):"
    return [head, view] if at == 0 else [view]


def _is_whole(done: ExecutedCall) -> bool:
    """Whether a call was one of select_frames."""
    arguments = done.call.arguments
    return str(arguments.get("image")).startswith("frame_") and arguments.get("box") == [0, 0, GRID, GRID]
