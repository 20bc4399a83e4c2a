"""What an assistant's turn says: text ↔ a thought, then one tool call or one answer.

    I look at the plate.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>
    <answer>493</answer>

Reading is total: any string becomes a turn, and what cannot be followed becomes an error with a hint that the agent
can act on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.types import ErrorCode, ToolCall

CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
ANSWER_OPENS, ANSWER_CLOSES = "<answer>", "</answer>"

_ACTION = re.compile(r"<tool_call>(?P<call>.*?)</tool_call>|<answer>(?P<answer>.*?)</answer>", re.DOTALL)
_MAX_ANSWER = 1000
"""Characters of an answer that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A final answer, outer white space taken off; never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A turn that nobody can follow. hint: what to write instead."""

    code: ErrorCode
    hint: str


Action: TypeAlias = ToolCall | Answer | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One turn. thought: what was written before the action ("" for none)."""

    thought: str
    action: Action


def read(text: str) -> Utterance:
    """The turn that `text` is. The first complete call or answer counts, and it must be the last thing said."""
    found = _ACTION.search(text)
    if found is None:
        return Utterance(thought=text.strip(), action=_malformed("end the turn with one tool call or one answer"))
    thought = text[: found.start()].strip()
    if text[found.end() :].strip():
        return Utterance(thought=thought, action=_malformed("write nothing after the call or the answer"))
    if found["answer"] is not None:
        answer = found["answer"].strip()[:_MAX_ANSWER]
        action: Action = Answer(text=answer) if answer else _malformed("the answer is empty")
        return Utterance(thought=thought, action=action)
    return Utterance(thought=thought, action=_call(found["call"]))


def _call(text: str) -> ToolCall | Unreadable:
    try:
        value: Any = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return _malformed("a call is one JSON object")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or set(value) - {"name", "arguments"}:
        return _malformed('a call has the keys "name" and "arguments" only')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return _malformed('"arguments" is a JSON object')
    return ToolCall(name=value["name"], arguments=arguments)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _malformed(hint: str) -> Unreadable:
    return Unreadable(code="malformed_call", hint=hint)


def write_call(call: ToolCall, thought: str = "") -> str:
    """The text of a turn that calls a tool; arguments keep their order, and `<` is escaped so that no text closes the
    call.
    """
    body = json.dumps(
        {"name": call.name, "arguments": call.arguments}, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return f"{thought}{CALL_OPENS}{body.replace('<', _ESCAPED)}{CALL_CLOSES}"


def write_answer(answer: str, thought: str = "") -> str:
    """The text of a turn that answers. `read` gives the answer back when it has no tags and no outer white space."""
    return f"{thought}{ANSWER_OPENS}{answer}{ANSWER_CLOSES}"


_ESCAPED = "\\u003c"
