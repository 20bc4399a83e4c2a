"""DeepEyes (github.com/Visual-Agent/DeepEyes, arXiv:2505.14362), the form of its released models.

    <think>…</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": […], "label": "…"}}</tool_call>
    <think>…</think><answer>…</answer>

One tool, which always cuts from the question's picture, never from a crop; `label` says what is meant and changes
nothing. An answer counts before a call, and of several of a kind the last. A result is a user's message with the crop
between <tool_response> tags and a reminder of the form; a failure is a user's message without tags.

bbox_2d is in pixels. The model is shown the picture resized, and that is what its pixels count; the published code
cuts them out of the file, which is another place wherever the two sizes differ. So `boxes` is "auto" (the view's
pixels, converted), or "original" to do as the published code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from actors.dialects.crops import before, box_to_write, frame_of, last_call, named, zoom
from actors.dialects.port import Shown, hint_of, tool_list
from actors.dialogue import ANSWER_OPENS, CALL_CLOSES, CALL_OPENS, Utterance, answered, write_answer
from actors.tools.arguments import schema
from common.chat import Chat, plain
from common.errors import ContractError
from common.types import ExecutedCall, MediaRef, ToolCall, Turn

TOOL = "image_zoom_in_tool"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_REMINDER = (
    f"\nThink first, call **{TOOL}** if needed, then answer: "
    "<think>...</think> <tool_call>...</tool_call> (if needed) <answer>...</answer>"
)
_HOW = """# Tools
You may call functions to help with the question. Their signatures are within <tools></tools>:
{tools}

# How to call a tool
Return a JSON object with the function's name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoomInArguments:
    bbox_2d: Annotated[tuple[float, float, float, float], Meta(description="[x1, y1, x2, y2] of the region, in pixels")]
    label: Annotated[str, Meta(max_length=200, description="what is in the box")] = ""


class DeepEyes:
    """See Dialect."""

    def __init__(self, *, boxes: str = "auto") -> None:
        self._boxes = "view" if boxes == "auto" else boxes

    @property
    def answer_opens(self) -> str:
        return ANSWER_OPENS

    @property
    def call_opens(self) -> str:
        return CALL_OPENS

    def tools(self) -> Mapping[str, type]:
        return {TOOL: ZoomInArguments}

    def system(self, system: str) -> str:
        listed = schema(TOOL, "Zoom in on a region of the image by cropping it to a bounding box.", ZoomInArguments)
        return "\n\n".join(filter(None, (system, _HOW.format(tools=tool_list([listed])))))

    def read(self, text: str, shown: Sequence[Shown]) -> Utterance:
        answers = _ANSWER.findall(text)
        if answers and answers[-1].strip():
            return Utterance(thought=before(text, ANSWER_OPENS), action=answered(answers[-1]))
        call = last_call(text)
        if isinstance(call, ToolCall) and call.name == TOOL:
            call = self._zoom(call, shown)
        return Utterance(thought=before(text, CALL_OPENS) if CALL_OPENS in text else text.strip(), action=call)

    def _zoom(self, call: ToolCall, shown: Sequence[Shown]) -> ToolCall:
        picture = shown[0] if shown else None
        box = call.arguments.get("bbox_2d")
        if picture is None:
            return ToolCall(name="ZOOM", arguments={"image": "image_1", "box": box})
        return zoom(box, picture, frame_of(picture, self._boxes), missing="image_1")

    def write_call(self, call: ToolCall, thought: str, shown: Sequence[Shown]) -> str:
        picture = named(shown, call.arguments.get("image"))
        if picture != shown[0]:
            raise ContractError(f"DeepEyes cuts from the first picture only, not from {picture.name}")
        box = box_to_write(call, frame_of(picture, self._boxes))
        body = json.dumps({"name": TOOL, "arguments": {"bbox_2d": box}})
        return f"{thought}{CALL_OPENS}{body}{CALL_CLOSES}"

    def write_answer(self, answer: str, thought: str) -> str:
        return write_answer(answer, thought)

    def observe(self, chat: Chat, done: Sequence[ExecutedCall], shown: Sequence[Shown]) -> tuple[Turn, ...]:
        return tuple(chat.tool_turn(_pieces(each)) for each in done)


def _pieces(done: ExecutedCall) -> list[str | MediaRef]:
    if done.observation.view is None:
        return [f"Error: {plain(hint_of(done))}"]
    return ["<tool_response>", done.observation.view, f"{_REMINDER}</tool_response>"]
