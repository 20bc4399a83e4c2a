"""Thoughts: short, varied, chosen by seed, and never ahead of the tools."""

from __future__ import annotations

from dataclasses import replace
from string import Formatter

import pytest
from fakes.values import a_task
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.plan import Copied, Plan, Step
from actors.tools.catalogue import TOOLS
from actors.traces.filters import holds
from actors.traces.thoughts import AT_ONCE, CALLS, CLOSING, REPAIRS, with_thoughts
from actors.traces.variants import VARIANTS
from common.types import ToolCall

ARGUMENTS = {
    "ZOOM": {"image": "image_1", "box": [0, 0, 500, 500]},
    "OCR": {"image": "image_2"},
    "SEG": {"box": [0, 0, 500, 500]},
    "TRK": {"frame": "frame_1", "box": [0, 0, 500, 500]},
    "TEMP": {"query": "red"},
    "PROP": {"mask": "mask_1"},
}
WORDS = sorted(
    {
        word
        for texts in (*CALLS.values(), *REPAIRS.values(), CLOSING, AT_ONCE)
        for text in texts
        for word in text.split()
    }
)
answers = st.sampled_from(["left", "red", "1", "493", "it", "now", "part", "closer", "the red plate", *WORDS])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(st.sampled_from(sorted(ARGUMENTS)), max_size=4))
    about = draw(st.sampled_from(["", "the red plate", "the plate on the left"]))
    steps = tuple(
        Step(thought="", call=ToolCall(name=name, arguments=dict(ARGUMENTS[name])), about=about) for name in names
    )
    query_id = draw(st.text(max_size=3))
    plan = Plan(task=a_task(query_id, answer=draw(answers)), steps=steps, level=1)
    kind = draw(st.sampled_from(["golden", *sorted(VARIANTS)]))
    if not steps or kind == "golden":
        return replace(plan, kind="golden" if steps else "negative")
    import numpy as np

    return VARIANTS[kind](plan, np.random.default_rng(draw(st.integers(0, 99)))) or plan


@settings(deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_no_thought_holds_the_answer(plan: Plan, seed: int) -> None:
    thoughtful = with_thoughts(plan, "varied", seed=seed)
    for thought in (*(step.thought for step in thoughtful.steps), thoughtful.thought):
        assert not holds(thought, plan.task.answer)


@settings(deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_thoughts_change_nothing_else_and_a_seed_gives_the_same_again(plan: Plan, seed: int) -> None:
    thoughtful = with_thoughts(plan, "varied", seed=seed)
    assert with_thoughts(plan, "varied", seed=seed) == thoughtful
    assert with_thoughts(thoughtful, "none", seed=seed) == plan


def test_switched_off_they_are_empty_and_left_alone_they_stay() -> None:
    step = Step(thought="Hm.", call=ToolCall(name="OCR", arguments={"image": "image_1"}))
    plan = Plan(task=a_task(), steps=(step,), level=1, thought="So.")
    silent = with_thoughts(plan, "none", seed=0)
    assert (silent.steps[0].thought, silent.thought) == ("", "")
    assert with_thoughts(plan, "plan", seed=0) is plan
    varied = with_thoughts(plan, "varied", seed=0)
    assert (varied.steps[0].thought, varied.thought) == ("Hm.", "So.")


def test_many_seeds_give_many_thoughts() -> None:
    step = Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_2"}), about="the sign")
    plan = Plan(task=a_task(), steps=(step,), level=1)
    thoughts = {with_thoughts(plan, "varied", seed=seed).steps[0].thought for seed in range(100)}
    assert thoughts == {"I read it.", "Now I read.", "What does it say?", "I read image_2.", "I read the sign."}


def test_a_thought_names_only_what_the_call_does() -> None:
    step = Step(
        thought="",
        call=ToolCall(name="OCR", arguments={"image": ""}),
        copies={"image": Copied(step=0, path=("frame",))},
    )
    plan = Plan(task=a_task(), steps=(step,), level=1)
    thoughts = {with_thoughts(plan, "varied", seed=seed).steps[0].thought for seed in range(50)}
    assert thoughts == {"I read it.", "Now I read.", "What does it say?"}


@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_what_puts_a_wrong_call_right_says_so(kind: str) -> None:
    import numpy as np

    step = Step(thought="", call=ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 400, 400]}))
    varied = VARIANTS[kind](Plan(task=a_task(), steps=(step,), level=1), np.random.default_rng(0))
    assert varied is not None
    thoughtful = with_thoughts(varied, "varied", seed=3)
    assert thoughtful.steps[0].thought in {text.format(about="") for text in CALLS["ZOOM"]}
    assert thoughtful.steps[1].thought in REPAIRS[kind]
    assert thoughtful.thought in CLOSING


def test_every_tool_has_thoughts_and_every_slot_can_be_filled() -> None:
    assert set(CALLS) == {tool.name for tool in TOOLS}
    known = {"image", "mask", "track", "query", "about"}
    for texts in CALLS.values():
        slots = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in texts]
        assert any(not found for found in slots) and all(found <= known for found in slots)
    for text in (*CLOSING, *AT_ONCE, *(text for texts in REPAIRS.values() for text in texts)):
        assert "{" not in text
