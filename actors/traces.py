"""Traces: plans, executed by the real tools and written down as the policy should have said them.

A plan knows the right calls from the scene's truth. Executing it gives true observations (their errors included), so
imitation never sees a result that no tool returned, and a plan whose last read does not give the answer is dropped
instead of taught.

Tokens weigh 1 where the policy would have written them and 0 elsewhere; tool names weigh `w_op` and arguments
`w_arg`, because those few tokens decide what happens. Each turn is tokenised once, whole; weights find their tokens
by character offsets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from actors.agent import Toolbox, Viewer
from actors.dialogue import write_answer, write_call
from actors.tasks.plan import Plan
from common.chat import Chat
from common.geometry import GRID
from common.scoring import exact
from common.types import BoxTarget, ExecutedCall, ToolCall, Trace, Turn

Span = tuple[int, int]

_NAME, _ARGUMENTS, _BOX = '{"name":"', '","arguments":{', '"box":['
_SCALAR = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<key>:)?|-?\d+(?:\.\d+)?|true|false|null')


@dataclass(frozen=True, slots=True, kw_only=True)
class Emphasis:
    """Weights of imitated tokens: of tool names, of arguments."""

    w_op: float = 2.0
    w_arg: float = 2.0

    def __post_init__(self) -> None:
        if self.w_op <= 0 or self.w_arg <= 0:
            raise ValueError(f"w_op and w_arg must be positive, got {self.w_op} and {self.w_arg}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """An assistant's turn with its weights and the places, in it, where a box is about to be written."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    box_at: int | None


async def synthesise(
    plan: Plan, *, toolbox: Toolbox, viewer: Viewer, chat: Chat, emphasis: Emphasis, max_model_len: int
) -> Trace | None:
    """Execute a plan and write it down. None when the observations do not support the answer, or it is too long."""
    query = plan.task.query
    views = await viewer.of_query(query)
    turns: list[Turn] = [chat.question(query, views)]
    weights: list[float] = [0.0] * len(turns[0].token_ids)
    boxes: list[BoxTarget] = []
    calls: list[ExecutedCall] = []
    workspace = toolbox.open(query)
    for step in plan.steps:
        done, workspace = await toolbox.execute(step.call, workspace)
        calls.append(done)
        image = done.observation.image
        observation = chat.observation(done.observation.text, None if image is None else await viewer.view(image))
        written = _write_step(step.call, step.thought, chat, emphasis)
        if written.box_at is not None:
            boxes.append(BoxTarget(position=len(weights) + written.box_at, box=_relative(step.call)))
        turns += [Turn(role="assistant", token_ids=written.token_ids), observation]
        weights += [*written.weights, *[0.0] * len(observation.token_ids)]
    closing = chat.written(write_answer(plan.task.answer))
    turns.append(Turn(role="assistant", token_ids=closing))
    weights += [1.0] * len(closing)
    if not supports(calls, plan.task.answer) or len(weights) > max_model_len:
        return None
    return Trace(
        trace_id=f"{query.query_id}/{plan.kind}",
        family=plan.task.family,
        level=plan.level,
        kind=plan.kind,
        query=query,
        turns=tuple(turns),
        weights=tuple(weights),
        boxes=tuple(boxes),
    )


def supports(calls: list[ExecutedCall], answer: str) -> bool:
    """Whether the executed chain bears the answer out: no call failed, and where the last one read text, it read the
    answer.
    """
    if any(done.observation.error is not None for done in calls):
        return False
    if not calls or calls[-1].call.name != "OCR":
        return True
    found = json.loads(calls[-1].observation.text).get("text", "")
    return exact(found, answer) == 1.0


def _write_step(call: ToolCall, thought: str, chat: Chat, emphasis: Emphasis) -> _Written:
    text = write_call(call, thought)
    offsets = chat.offsets(text)
    weights = [1.0] * len(offsets)
    for (start, stop), weight in _spans(text, call, thought, emphasis):
        for at, (first, last) in enumerate(offsets):
            if first < stop and last > start:
                weights[at] = weight
    return _Written(token_ids=chat.written(text), weights=(*weights, 1.0), box_at=_before_box(text, offsets))


def _spans(text: str, call: ToolCall, thought: str, emphasis: Emphasis) -> Iterator[tuple[Span, float]]:
    """Characters of the arguments' values (keys and punctuation are no choice) and of the tool's name, with weights."""
    name_at = text.index(_NAME, len(thought)) + len(_NAME)
    name_end = name_at + len(call.name)
    for value in _SCALAR.finditer(text, name_end + len(_ARGUMENTS)):
        if value["key"] is None:
            group = "text" if value["text"] is not None else 0
            yield value.span(group), emphasis.w_arg
    yield (name_at, name_end), emphasis.w_op


def _before_box(text: str, offsets: list[Span]) -> int | None:
    """The token before the one that holds the box's first digit: there the policy has to know where."""
    found = text.rfind(_BOX)
    if found < 0:
        return None
    digit = found + len(_BOX)
    return next(at for at, (first, last) in enumerate(offsets) if first <= digit < last) - 1


def _relative(call: ToolCall) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (value / GRID for value in call.arguments["box"])
    return x0, y0, x1, y1
