"""From a plan to a trace: its calls executed by the real tools, and the whole written down as the policy should say it.

A plan knows the right calls from the scene's truth. Executing it gives true observations (their errors included), so
imitation never sees a result that no tool returned; what a call or the answer copies, it copies from these. A plan
whose observations do not bear out the answer is dropped, and the reason is named (actors/traces/filters.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.agent import Toolbox, Viewer
from actors.tasks.plan import Plan, Target
from actors.traces import filters
from actors.traces.config import Emphasis
from actors.traces.filters import Executed, Reason
from actors.traces.writing import Written, placed, write_closing, write_step
from common.chat import Chat, canonical_json
from common.types import ExecutedCall, Trace, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesised:
    """What became of a plan: a trace, or the reason why there is none."""

    trace: Trace | None = None
    reason: Reason | None = None


async def synthesise(
    plan: Plan,
    *,
    toolbox: Toolbox,
    viewer: Viewer,
    chat: Chat,
    emphasis: Emphasis,
    max_model_len: int,
    max_num_images: int | None = None,
    again: Toolbox | None = None,
) -> Synthesised:
    """Execute a plan and write it down. Waits for its calls.

    max_model_len, max_num_images: tokens and pictures at most. again: a toolbox without a cache that executes the calls
    a second time; None: they are not.
    """
    executed = await execute(plan, toolbox)
    if not isinstance(executed, Executed):
        return Synthesised(reason=executed)
    return await accept(
        executed,
        viewer=viewer,
        chat=chat,
        emphasis=emphasis,
        max_model_len=max_model_len,
        max_num_images=max_num_images,
        again=again,
    )


async def accept(
    executed: Executed,
    *,
    viewer: Viewer,
    chat: Chat,
    emphasis: Emphasis,
    max_model_len: float,
    max_num_images: int | None = None,
    again: Toolbox | None = None,
) -> Synthesised:
    """Ask every filter, then write down; see `synthesise`."""
    for objection in filters.FILTERS:
        reason = objection(executed)
        if reason is not None:
            return Synthesised(reason=reason)
    if again is not None and await filters.not_reenacted(executed, again):
        return Synthesised(reason="not_reenacted")
    return await write(
        executed,
        viewer=viewer,
        chat=chat,
        emphasis=emphasis,
        max_model_len=max_model_len,
        max_num_images=max_num_images,
    )


async def execute(plan: Plan, toolbox: Toolbox) -> Executed | Reason:
    """A plan's calls, executed in order, what they copy filled in. Waits for them."""
    workspace = toolbox.open(plan.task.query)
    calls: list[ExecutedCall] = []
    observations: list[dict[str, Any]] = []
    try:
        for step in plan.steps:
            done, workspace = await toolbox.execute(step.filled(observations), workspace)
            calls.append(done)
            observations.append(filters.values_of(done))
        answer = plan.task.answer if plan.answer is None else _as_text(plan.answer.of(observations))
    except LookupError:
        failed = any(done.observation.error and step.imitated for step, done in zip(plan.steps, calls, strict=False))
        return "failed_call" if failed else "not_returned"
    return Executed(plan=plan, calls=tuple(calls), answer=answer)


async def write(
    executed: Executed,
    *,
    viewer: Viewer,
    chat: Chat,
    emphasis: Emphasis,
    max_model_len: float,
    max_num_images: int | None = None,
) -> Synthesised:
    """An executed plan as a trace. Waits for the views."""
    plan, query = executed.plan, executed.plan.task.query
    script = _Script(chat.question(query, await viewer.of_query(query)))
    for step, done in zip(plan.steps, executed.calls, strict=True):
        written = write_step(
            done.call, step.thought, chat=chat, emphasis=emphasis, imitated=step.imitated, targets=step.targets
        )
        if filters.unreadable(written, done.call):
            return Synthesised(reason="unreadable")
        script.say(written)
        image = done.observation.image
        script.hear(chat.observation(done.observation.text, None if image is None else await viewer.view(image)))
    closing = write_closing(executed.answer, plan.thought, chat=chat, targets=plan.targets)
    if filters.unreadable(closing, executed.answer):
        return Synthesised(reason="unreadable")
    script.say(closing)
    if any(filters.placeholder(turn, chat) for turn in script.turns):
        return Synthesised(reason="placeholder")
    if filters.too_long(script.turns, max_model_len=max_model_len, max_num_images=max_num_images):
        return Synthesised(reason="too_long")
    boxes, points, spans = placed(script.targets)
    trace = Trace(
        trace_id=f"{query.query_id}/{plan.kind}",
        family=plan.task.family,
        level=plan.level,
        kind=plan.kind,
        query=query,
        turns=tuple(script.turns),
        weights=tuple(script.weights),
        boxes=boxes,
        points=points,
        spans=spans,
    )
    return Synthesised(trace=trace)


def count_reasons(made: Sequence[Synthesised]) -> dict[Reason, int]:
    """How many plans gave no trace, by reason, the most frequent first."""
    reasons = [one.reason for one in made if one.reason is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))}


class _Script:
    """A trace under way: turns, a weight a token, and targets at positions of the whole."""

    def __init__(self, opening: Turn) -> None:
        self.turns = [opening]
        self.weights = [0.0] * len(opening.token_ids)
        self.targets: list[tuple[int, Target]] = []

    def say(self, written: Written) -> None:
        self.targets += [(len(self.weights) + at, target) for at, target in written.targets]
        self.turns.append(Turn(role="assistant", token_ids=written.token_ids))
        self.weights += written.weights

    def hear(self, turn: Turn) -> None:
        self.turns.append(turn)
        self.weights += [0.0] * len(turn.token_ids)


def _as_text(value: Any) -> str:
    """A value of an observation, as the model read it there."""
    return value.strip() if isinstance(value, str) else canonical_json(value)
