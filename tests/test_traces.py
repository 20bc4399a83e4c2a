"""Traces: what is imitated and how much, where a box is about to be written, and which plans are not taught."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.chats import tiny_chat
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.values import a_ref, a_task
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.plan import Plan, Step
from actors.traces import Emphasis, supports, synthesise
from common.chat import Chat
from common.schema import decode_traces, encode_traces
from common.types import ExecutedCall, Observation, ToolCall, Trace

SCAFFOLD = ('<tool_call>{"name":"', "ZOOM", '","arguments":{"image":"', "image_1", '","box":', "[250", ",300", ",450")
ZOOM = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]})
OCR = ToolCall(name="OCR", arguments={"image": "image_2"})


async def trace_of(chat: Chat, *, thought: str = "", texts: tuple[str, ...] = ("493",), **fields: Any) -> Trace | None:
    steps = fields.pop("steps", (Step(thought=thought, call=ZOOM), Step(thought="", call=OCR)))
    return await synthesise(
        Plan(task=a_task(), steps=steps, level=3),
        toolbox=ScriptedToolbox(crop=a_ref("crop"), texts=texts),
        viewer=PlainViewer(),
        chat=chat,
        emphasis=fields.pop("emphasis", Emphasis(w_op=3.0, w_arg=2.0)),
        max_model_len=fields.pop("max_model_len", 2000),
    )


def weighted(trace: Trace, chat: Chat, weight: float) -> str:
    """The text of the tokens with this weight."""
    ids = [token for turn in trace.turns for token in turn.token_ids]
    return "".join(chat.decode_all([token]) for token, w in zip(ids, trace.weights, strict=True) if w == weight)


async def test_names_and_argument_values_weigh_more_and_others_words_nothing() -> None:
    chat = tiny_chat()
    trace = await trace_of(chat, thought="I look.")
    assert trace is not None
    assert weighted(trace, chat, 3.0) == "ZOOMOCR"
    assert weighted(trace, chat, 2.0) == "image_1250300450400image_2"
    written = weighted(trace, chat, 1.0)
    assert written.startswith(
        'I look.<tool_call>{"name":"","arguments":{"image":"","box":[,,,]}}</tool_call><|im_end|>'
    )
    assert written.endswith("<answer>493</answer><|im_end|>")
    assert "tool_response" in weighted(trace, chat, 0.0)
    assert "tool_response" not in written


async def test_a_token_that_holds_part_of_a_value_takes_its_weight() -> None:
    chat = tiny_chat(scaffold=SCAFFOLD)
    trace = await trace_of(chat)
    assert trace is not None
    assert weighted(trace, chat, 2.0).startswith("image_1[250,300,450")
    assert weighted(trace, chat, 3.0) == "ZOOMOCR"


@pytest.mark.parametrize("scaffold", [(), SCAFFOLD])
async def test_the_box_is_due_at_the_token_before_its_first_digit(scaffold: tuple[str, ...]) -> None:
    chat = tiny_chat(scaffold=scaffold)
    trace = await trace_of(chat, thought="Look at 7.")
    assert trace is not None
    (target,) = trace.boxes
    assert target.box == (0.25, 0.3, 0.45, 0.4)
    ids = [token for turn in trace.turns for token in turn.token_ids]
    assert "2" in chat.decode_all([ids[target.position + 1]])
    assert chat.decode_all(ids[: target.position + 1]).endswith('"box":' if scaffold else '"box":[')
    assert trace.weights[target.position + 1] == 2.0


async def test_weights_follow_the_tokens_of_the_whole_turn() -> None:
    chat = tiny_chat(scaffold=SCAFFOLD)
    trace = await trace_of(chat)
    assert trace is not None
    text = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
    assert trace.turns[1].token_ids == chat.written(text)


async def test_only_what_the_policy_writes_is_imitated() -> None:
    chat = tiny_chat()
    trace = await trace_of(chat)
    assert trace is not None
    at = 0
    for turn in trace.turns:
        part = trace.weights[at : at + len(turn.token_ids)]
        assert all(w > 0 for w in part) if turn.role == "assistant" else not any(part)
        at += len(part)
    assert at == len(trace.weights)


async def test_a_plan_whose_read_is_wrong_or_empty_is_not_taught() -> None:
    assert await trace_of(tiny_chat(), texts=("498",)) is None
    assert await trace_of(tiny_chat(), texts=("",)) is None


async def test_a_plan_whose_call_fails_is_not_taught() -> None:
    wrong = ToolCall(name="ZOOM", arguments={"image": "image_7", "box": [0, 0, 1, 1]})
    assert await trace_of(tiny_chat(), steps=(Step(thought="", call=wrong), Step(thought="", call=OCR))) is None


async def test_a_plan_that_does_not_fit_is_not_taught() -> None:
    assert await trace_of(tiny_chat(), max_model_len=50) is None


async def test_a_plan_without_calls_is_its_answer() -> None:
    chat = tiny_chat()
    trace = await trace_of(chat, steps=())
    assert trace is not None
    assert weighted(trace, chat, 1.0) == "<answer>493</answer><|im_end|>"
    assert trace.boxes == ()


async def test_traces_survive_the_journey_between_processes() -> None:
    trace = await trace_of(tiny_chat())
    assert trace is not None
    assert decode_traces(encode_traces([trace])) == [trace]


def test_a_read_supports_the_answer_by_value() -> None:
    read = ExecutedCall(call=OCR, observation=Observation(text='{"text":" 493 "}'))
    assert supports([read], "493")
    assert not supports([read], "49")
    assert supports([], "left")


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=12) | st.integers() | st.booleans(), max_size=3))
@settings(max_examples=50, deadline=None)
async def test_every_token_has_one_of_the_three_weights_whatever_the_arguments(arguments: dict[str, Any]) -> None:
    steps = (Step(thought="x", call=ToolCall(name="OCR", arguments=arguments | {"image": "image_1"})),)
    trace = await trace_of(tiny_chat(), steps=steps)
    assert trace is not None
    assert set(trace.weights) <= {0.0, 1.0, 2.0, 3.0}
    assert len(trace.weights) == sum(len(turn.token_ids) for turn in trace.turns)


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="w_op"):
        Emphasis(w_op=0.0)
