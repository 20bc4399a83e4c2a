"""What keeps an executed plan from being taught: one function a reason, each None where there is nothing to object to.

They look at what the tools really returned. A trace that passes answers rightly by what it observed, imitates only
calls that worked and were needed, and does not know the answer before a tool said it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from actors.agent import Toolbox
from actors.dialogue import Answer, read
from actors.tasks.plan import Plan
from actors.traces.writing import Written
from common.chat import Chat, canonical_json
from common.scoring import normalise, score
from common.types import ExecutedCall, ToolCall, Turn

Reason: TypeAlias = Literal[
    "left_out",
    "not_returned",
    "failed_call",
    "not_wrong",
    "wrong_answer",
    "redundant_call",
    "leaking_thought",
    "unreadable",
    "placeholder",
    "too_long",
    "not_reenacted",
]
"""Why a plan gave no trace. left_out: the mix has no place for it. not_returned: a call needs what none returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """A plan with what its calls returned, one a step, and the answer that they bear out."""

    plan: Plan
    calls: tuple[ExecutedCall, ...]
    answer: str

    @property
    def imitated(self) -> tuple[ExecutedCall, ...]:
        """The calls that the policy should write itself."""
        return tuple(done for step, done in zip(self.plan.steps, self.calls, strict=True) if step.imitated)


def failed_call(executed: Executed) -> Reason | None:
    """A call that is imitated ended in an error."""
    return "failed_call" if any(done.observation.error for done in executed.imitated) else None


def not_wrong(executed: Executed) -> Reason | None:
    """The wrong part is not wrong as its kind says: a correction's call worked, a trap's or a near miss's failed,
    or showed the answer, itself or to whoever read its crop.
    """
    for at, (step, done) in enumerate(zip(executed.plan.steps, executed.calls, strict=True)):
        if step.imitated or executed.plan.kind not in ("trap", "correction", "near_miss"):
            continue
        if (executed.plan.kind == "correction") != (done.observation.error is not None):
            return "not_wrong"
        crop = values_of(done).get("image")
        reads = [later for later in executed.calls[at + 1 :] if crop and later.call.arguments.get("image") == crop]
        if done.observation.error is None and any(holds(_spoken(it), executed.answer) for it in (done, *reads)):
            return "not_wrong"
    return None


def wrong_answer(executed: Executed) -> Reason | None:
    """The answer does not score 1, or the last call read a text that does not."""
    task, calls = executed.plan.task, executed.calls
    if score(executed.answer, task) < 1:
        return "wrong_answer"
    if executed.plan.answer is not None or not calls or calls[-1].call.name != "OCR":
        return None
    found = values_of(calls[-1]).get("text", "")
    return None if score(str(found), task) == 1 else "wrong_answer"


def redundant_call(executed: Executed) -> Reason | None:
    """A call was made twice, came after the one that the answer is copied from, or found what nobody used.

    A text or a picture that came back may have decided where to look next, which no trace shows; a mask or a track is
    of use to a call that names it or repeats its numbers, or to the answer.
    """
    calls, source = executed.calls, executed.plan.answer
    written = [_canonical(done.call) for done in calls]
    if len(set(written)) < len(written):
        return "redundant_call"
    last = len(calls) - 1 if source is None else source.step
    for at, (step, done) in enumerate(zip(executed.plan.steps, calls, strict=True)):
        if not step.imitated or at == last:
            continue
        unused = not any(_took(executed, later, at) for later in range(at + 1, len(calls)))
        if at > last or (done.call.name in ("SEG", "TRK") and unused):
            return "redundant_call"
    return None


def leaking_thought(executed: Executed) -> Reason | None:
    """A thought says the answer before a tool did: before an observation held it, or showed a picture that may."""
    plan, seen = executed.plan, ""
    for step, done in zip(plan.steps, executed.calls, strict=True):
        if holds(step.thought, executed.answer) and not holds(seen, executed.answer):
            return "leaking_thought"
        if done.observation.image is not None:
            return None
        seen += f"\n{_spoken(done)}"
    told = not executed.calls or holds(seen, executed.answer)
    return None if told or not holds(plan.thought, executed.answer) else "leaking_thought"


FILTERS: tuple[Callable[[Executed], Reason | None], ...] = (
    failed_call,
    not_wrong,
    wrong_answer,
    redundant_call,
    leaking_thought,
)
"""In the order in which they are asked; the first objection counts."""


def unreadable(written: Written, said: ToolCall | str) -> Reason | None:
    """The turn does not read back as the call or the answer that it was written from."""
    action = read(written.text).action
    if isinstance(said, str):
        return None if action == Answer(text=said) else "unreadable"
    same = isinstance(action, ToolCall) and _canonical(action) == _canonical(said)
    return None if same else "unreadable"


def placeholder(turn: Turn, chat: Chat) -> Reason | None:
    """An assistant's turn holds a token that only the chat format may write, or more than its own end."""
    forbidden = {*chat.banned, chat.end_of_turn}
    return "placeholder" if turn.role == "assistant" and forbidden & set(turn.token_ids[:-1]) else None


def too_long(turns: Sequence[Turn], *, max_model_len: float, max_num_images: int | None = None) -> Reason | None:
    """The trace has more tokens or pictures than a rollout may have."""
    if sum(len(turn.token_ids) for turn in turns) > max_model_len:
        return "too_long"
    many = max_num_images is not None and sum(len(turn.images) for turn in turns) > max_num_images
    return "too_long" if many else None


async def not_reenacted(executed: Executed, toolbox: Toolbox) -> Reason | None:
    """The calls, executed again by `toolbox` from a fresh workspace, return something else (by digest). Waits for them.

    Give a toolbox without a cache, or the same results come back.
    """
    workspace = toolbox.open(executed.plan.task.query)
    for done in executed.calls:
        again, workspace = await toolbox.execute(done.call, workspace)
        seen, now = done.observation, again.observation
        if (now.digest, now.error, now.text) != (seen.digest, seen.error, seen.text):
            return "not_reenacted"
    return None


def holds(text: str, answer: str) -> bool:
    """Whether `text` says `answer`, as whole words."""
    wanted = normalise(answer)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", normalise(text)) is not None


def values_of(done: ExecutedCall) -> dict[str, Any]:
    """An observation's JSON."""
    values: dict[str, Any] = json.loads(done.observation.text)
    return values


def _canonical(call: ToolCall) -> str:
    return canonical_json([call.name, call.arguments])


def _spoken(done: ExecutedCall) -> str:
    """All texts and numbers of an observation, unescaped, a line each."""
    return "\n".join(map(str, _leaves(values_of(done))))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _took(executed: Executed, later: int, earlier: int) -> bool:
    """Whether a call took something from an earlier one: a copy, the name of what it returned, or a value."""
    if any(source.step == earlier for source in executed.plan.steps[later].copies.values()):
        return True
    found = executed.calls[earlier]
    if found.observation.error is not None:
        return False
    given = executed.calls[later].call.arguments
    returned = values_of(found)
    names = {leaf for leaf in _leaves(returned) if isinstance(leaf, str)}
    if names & {leaf for leaf in _leaves(given) if isinstance(leaf, str)}:
        return True
    lists = [item for item in _lists(returned) if item]
    return any(item in lists for item in _lists(given) if item)


def _lists(value: Any) -> list[list[Any]]:
    """Every list of numbers in a JSON value."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in _lists(item)]
    if isinstance(value, list | tuple):
        return [list(value), *(found for item in value for found in _lists(item))]
    return []
