"""Short thoughts before calls and answers, several for each tool and role, chosen by seed.

A thought says what the call is for and never what it will find: one that holds the answer is not chosen. A small model
pays for every token, so they are a few words, and switched off they cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import Formatter

from actors.tasks.plan import Plan, Step
from actors.traces.config import Thoughts
from actors.traces.filters import holds
from common.seeds import stream

CALLS: dict[str, tuple[str, ...]] = {
    "ZOOM": (
        "I look closer.",
        "Too small to see here.",
        "I enlarge this part.",
        "I look closer at {about}.",
        "{about} is too small here.",
        "I need {about} larger.",
    ),
    "OCR": ("I read it.", "Now I read.", "What does it say?", "I read {image}.", "I read {about}."),
    "SEG": ("I need its outline.", "I cut it out.", "I outline it.", "I outline {about}.", "Where does {about} end?"),
    "TRK": ("I follow it.", "Where does it go?", "I track it.", "I follow {about}.", "Where does {about} go?"),
    "TEMP": (
        "When is it?",
        "I find the moment.",
        "I look for when.",
        "When do I see {query}?",
        "When is {about} seen?",
    ),
    "PROP": ("I measure it.", "Now I measure.", "I measure {mask}.", "I measure {track}.", "I measure {about}."),
}
"""Before a call. A slot is the call's own argument, or what the step is about; without it the thought is no choice."""

REPAIRS: dict[str, tuple[str, ...]] = {
    "trap": ("That is not it.", "Wrong one. I look again.", "Not what was asked."),
    "near_miss": ("A part is missing.", "The box misses some of it.", "Not all of it is there."),
    "correction": ("The call was wrong.", "An error. I fix the call.", "I correct that."),
}
"""Before the call that puts a wrong one right."""

CLOSING = ("Now I know.", "That is it.", "I have it.")
AT_ONCE = ("I can see it.", "No tool is needed.", "I see that from here.")
"""Before an answer: after tools, and without."""


def with_thoughts(plan: Plan, style: Thoughts, *, seed: int) -> Plan:
    """The plan with the thoughts of a style; see TraceConfig. A function of (plan, style, seed)."""
    if style == "plan":
        return plan
    if style == "none":
        return replace(plan, steps=tuple(replace(step, thought="") for step in plan.steps), thought="")
    random = stream(seed, "thoughts", plan.task.query.query_id, plan.kind)
    steps: list[Step] = []
    for at, step in enumerate(plan.steps):
        repairs = at > 0 and step.imitated and not plan.steps[at - 1].imitated
        choices = REPAIRS.get(plan.kind, ()) if repairs else CALLS.get(step.call.name, ())
        own = _choose(choices, step, plan.task.answer, float(random.random()))
        steps.append(replace(step, thought=step.thought or own))
    last = _choose(CLOSING if plan.steps else AT_ONCE, None, plan.task.answer, float(random.random()))
    return replace(plan, steps=tuple(steps), thought=plan.thought or last)


def _choose(templates: Sequence[str], step: Step | None, answer: str, share: float) -> str:
    """One of the templates whose slots can be filled and that do not hold the answer; "" where there is none."""
    slots = {} if step is None else _slots(step)
    fitting = [text for text in templates if _fields(text) <= slots.keys()]
    filled = [_capital(text.format(**slots)) for text in fitting]
    honest = [text for text in filled if not holds(text, answer)]
    return honest[int(share * len(honest))] if honest else ""


def _slots(step: Step) -> dict[str, str]:
    named = ("image", "mask", "track", "query")
    known = {name: value for name, value in step.call.arguments.items() if name not in step.copies}
    slots = {name: value for name, value in known.items() if name in named and isinstance(value, str)}
    if step.about:
        slots["about"] = step.about
    return slots


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
