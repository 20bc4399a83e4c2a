"""An assistant's turn written down: its tokens, what each weighs, and where the auxiliary heads have to know.

Tokens weigh 1 where the policy would have written them and 0 where it should not; tool names weigh `w_op` and the
values of arguments `w_arg`, because those few tokens decide what happens. Each turn is tokenised once, whole; weights
find their tokens by character offsets. A token that is partly a value weighs as the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from actors.dialogue import ANSWER_OPENS, CALL_OPENS, write_answer, write_call
from actors.tasks.plan import Target
from actors.traces.config import Emphasis
from common.chat import Chat
from common.geometry import GRID
from common.types import BoxTarget, PointTarget, SpanTarget, ToolCall

Span: TypeAlias = tuple[int, int]
"""Characters [first, last) of a turn's text."""

_NAME, _ARGUMENTS = '{"name":"', '","arguments":{'
_SCALAR = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>:)?|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_BOXES, _POINTS, _POINT_LISTS = ("box", "other_box"), ("point",), ("points",)
"""Arguments that say where a thing is; `negative`, a `polygon` or a `line` do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A turn. weights: one a token. targets: what a head should say after the token at the index, −1 for the token
    before the turn.
    """

    text: str
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    targets: tuple[tuple[int, Target], ...] = ()


def write_step(
    call: ToolCall,
    thought: str,
    *,
    chat: Chat,
    emphasis: Emphasis,
    imitated: bool = True,
    targets: Sequence[Target] = (),
) -> Written:
    """The turn that calls. What is not imitated weighs nothing and has no targets."""
    text = write_call(call, thought)
    offsets = chat.offsets(text)
    ids = chat.written(text)
    if not imitated:
        return Written(text=text, token_ids=ids, weights=(0.0,) * len(ids))
    weights = [1.0] * len(offsets)
    arguments_at = _arguments_at(text, call, thought)
    for (start, stop), weight in _emphasised(text, call, arguments_at, emphasis):
        for at, (first, last) in enumerate(offsets):
            if first < stop and last > start:
                weights[at] = weight
    found = [(_token(offsets, digit) - 1, target) for digit, target in _argument_targets(text, call, arguments_at)]
    value_at = _first_value(text, arguments_at)
    found += [(_token(offsets, value_at) - 1, target) for target in targets]
    return Written(text=text, token_ids=ids, weights=(*weights, 1.0), targets=tuple(found))


def write_closing(answer: str, thought: str, *, chat: Chat, targets: Sequence[Target] = ()) -> Written:
    """The turn that answers. Its targets are due before the answer's first digit, or its first character."""
    text = write_answer(answer, thought)
    ids = chat.written(text)
    begins = len(thought) + len(ANSWER_OPENS)
    digit = _NUMBER.search(text, begins, begins + len(answer))
    at = _token(chat.offsets(text), begins if digit is None else digit.start()) - 1
    return Written(
        text=text, token_ids=ids, weights=(1.0,) * len(ids), targets=tuple((at, target) for target in targets)
    )


def placed(
    targets: Sequence[tuple[int, Target]],
) -> tuple[tuple[BoxTarget, ...], tuple[PointTarget, ...], tuple[SpanTarget, ...]]:
    """Targets at positions of the whole trace, by kind, in order of position."""
    boxes: list[BoxTarget] = []
    points: list[PointTarget] = []
    spans: list[SpanTarget] = []
    for position, target in sorted(targets, key=lambda item: item[0]):
        if target.kind == "box":
            x0, y0, x1, y1 = target.values
            boxes.append(BoxTarget(position=position, box=(x0, y0, x1, y1)))
            continue
        first, second = target.values
        if target.kind == "point":
            points.append(PointTarget(position=position, point=(first, second)))
        else:
            spans.append(SpanTarget(position=position, span=(first, second)))
    return tuple(boxes), tuple(points), tuple(spans)


def _arguments_at(text: str, call: ToolCall, thought: str) -> int:
    """Where the arguments' object begins, after its brace."""
    name_at = len(thought) + len(CALL_OPENS)
    return text.index(_ARGUMENTS, name_at) + len(_ARGUMENTS)


def _emphasised(text: str, call: ToolCall, arguments_at: int, emphasis: Emphasis) -> Iterator[tuple[Span, float]]:
    """Characters of the arguments' values (keys and punctuation are no choice) and of the tool's name, with weights.
    The name comes last: a token that holds the end of it and more weighs as the name.
    """
    for value in _SCALAR.finditer(text, arguments_at):
        if value["key"] is None:
            yield value.span("text" if value["text"] is not None else 0), emphasis.w_arg
    name_end = arguments_at - len(_ARGUMENTS)
    yield (name_end - len(call.name), name_end), emphasis.w_op


def _argument_targets(text: str, call: ToolCall, arguments_at: int) -> Iterator[tuple[int, Target]]:
    """The first digit of every box and point among the arguments, with what it says, in the order of the text."""
    for key, value in call.arguments.items():
        key_at = text.find(f'"{key}":', arguments_at)
        if key in _BOXES and _are_numbers(value, 4):
            yield next(_NUMBER.finditer(text, key_at)).start(), Target(kind="box", values=_relative(value))
        elif key in _POINTS and _are_numbers(value, 2):
            yield next(_NUMBER.finditer(text, key_at)).start(), Target(kind="point", values=_relative(value))
        elif key in _POINT_LISTS and isinstance(value, list | tuple) and all(_are_numbers(point, 2) for point in value):
            numbers = _NUMBER.finditer(text, key_at)
            for point, number in zip(value, list(numbers)[::2], strict=False):
                yield number.start(), Target(kind="point", values=_relative(point))


def _first_value(text: str, arguments_at: int) -> int:
    """Where the first value among the arguments is written; where there is none, the end of the object."""
    for value in _SCALAR.finditer(text, arguments_at):
        if value["key"] is None:
            return value.start("text") if value["text"] is not None else value.start()
    return arguments_at


def _token(offsets: Sequence[Span], character: int) -> int:
    """The index of the token that holds a character."""
    return next(at for at, (first, last) in enumerate(offsets) if first <= character < last)


def _are_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= GRID for v in value)
    )


def _relative(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / GRID for value in values)
