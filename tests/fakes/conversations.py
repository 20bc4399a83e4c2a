"""Conversations as Pixel-Reasoner and DeepEyes publish them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

GUIDE = "\n\nGuidelines: Understand the given visual information. Use `crop_image`.\nAnswer in \\boxed{}."
REMINDER = "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format: <think>...</think>"


def crop(box: Sequence[float], target: int = 1) -> str:
    call = {"name": "crop_image", "arguments": {"bbox_2d": list(box), "target_image": target}}
    return f"I look closer.\n<tool_call>\n{json.dumps(call)}\n</tool_call>"


def asked(*parts: dict[str, Any], question: str = "Which code?") -> dict[str, Any]:
    return {"role": "user", "content": [*parts, {"type": "text", "text": question + GUIDE}]}


def spoken(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text, "image": None}]}


def heard() -> dict[str, Any]:
    picture = {"type": "image", "image": "images/a_crop_of_theirs.jpg"}
    return {"role": "user", "content": [{"type": "text", "text": "Here is the cropped image"}, picture]}


PICTURE = {"type": "image", "image": "images/plates.png", "text": None, "video": None}
HALF = [0.1, 0.1, 0.4, 0.4]


def reasoned(*said: str, media: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A Pixel-Reasoner record: every turn but the last is answered by what their tool returned."""
    turns = [message for text in said[:-1] for message in (spoken(text), heard())]
    opening = [{"role": "system", "content": "You have tools."}, asked(media or PICTURE)]
    return {"message_list": [*opening, *turns, spoken(said[-1])]} | fields


def zoomed(box: Sequence[float]) -> str:
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": list(box), "label": "plate"}}
    return f"<think>Too small.</think><tool_call>{json.dumps(call)}</tool_call>"


def looked(*said: str, **fields: Any) -> dict[str, Any]:
    """A DeepEyes record."""
    turns = [
        {"role": "user", "content": "<image>Which code?" + REMINDER},
        *(
            message
            for text in said[:-1]
            for message in ({"role": "assistant", "content": text}, {"role": "user", "content": "<image>"})
        ),
        {"role": "assistant", "content": said[-1]},
    ]
    return {"prompt": turns, "images": [{"path": "/their/machine/images/plates.png", "bytes": None}]} | fields
