"""What an assistant's turn says: text ↔ a thought, then one tool call or one answer.

    I look at the plate.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>
    <answer>493</answer>

Reading is total: any string becomes a turn, and what cannot be followed becomes an error with a hint that the agent
can act on. What a call holds can be written down again: every number is finite, every text is Unicode, no key comes
twice, and nothing nests deeper than `MAX_DEPTH`.

This is the form of the models that are trained here; other models' forms are in actors/dialects.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from common.types import ErrorCode, ToolCall

CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
ANSWER_OPENS, ANSWER_CLOSES = "<answer>", "</answer>"

_ACTION = re.compile(r"<tool_call>(?P<call>.*?)</tool_call>|<answer>(?P<answer>.*?)</answer>", re.DOTALL)
_MAX_ANSWER = 1000
"""Characters of an answer that are kept."""
MAX_DEPTH = 16
"""Arrays and objects inside each other in a call's arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A final answer, outer white space taken off; never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A turn that nobody can follow. hint: what to write instead."""

    code: ErrorCode
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Several calls in one turn, two or more; some dialects have a call that ours are several of."""

    calls: tuple[ToolCall, ...]


Action: TypeAlias = ToolCall | Calls | Answer | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One turn. thought: what was written before the action ("" for none)."""

    thought: str
    action: Action


def read(text: str) -> Utterance:
    """The turn that `text` is. The first complete call or answer counts, and it must be the last thing said."""
    found = _ACTION.search(text)
    if found is None:
        return Utterance(thought=text.strip(), action=malformed("end the turn with one tool call or one answer"))
    thought = text[: found.start()].strip()
    if text[found.end() :].strip():
        return Utterance(thought=thought, action=malformed("write nothing after the call or the answer"))
    if found["answer"] is not None:
        return Utterance(thought=thought, action=answered(found["answer"]))
    return Utterance(thought=thought, action=parse_call(found["call"]))


def answered(text: str) -> Answer | Unreadable:
    """The answer that a turn's words are, cut to what is kept."""
    answer = text.strip()[:_MAX_ANSWER].encode(errors="replace").decode()
    return Answer(text=answer) if answer else malformed("the answer is empty")


def parse_call(text: str) -> ToolCall | Unreadable:
    """The call that `text`, a JSON object with a name and arguments, is. Total."""
    try:
        value = strict_json(text)
    except (ValueError, RecursionError):
        return malformed("a call is one JSON object")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or set(value) - {"name", "arguments"}:
        return malformed('a call has the keys "name" and "arguments" only')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return malformed('"arguments" is a JSON object')
    if not _is_plain([value["name"], arguments], MAX_DEPTH):
        return malformed("arguments are plain: no broken characters, little nesting")
    return ToolCall(name=value["name"], arguments=arguments)


def strict_json(text: str) -> Any:
    """A JSON value with finite numbers and no key twice. Raises ValueError, RecursionError."""
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeats)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _is_plain(value: Any, depth: int) -> bool:
    """Whether all text in a JSON value is Unicode (no half of a surrogate pair) and it nests at most `depth` deep."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if not isinstance(value, list | dict):
        return True
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return depth > 0 and all(_is_plain(item, depth - 1) for item in inner)


def malformed(hint: str) -> Unreadable:
    """A turn in which nobody finds a call or an answer."""
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
