"""Text to actions: any string becomes a turn, and what was written reads back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.dialogue import Answer, Unreadable, read, write_answer, write_call
from common.types import ToolCall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_a_thought_and_a_call_are_told_apart() -> None:
    text = (
        'I look closer.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
    )
    said = read(text)
    assert said.thought == "I look closer."
    assert said.action == ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]})


def test_an_answer_loses_its_outer_white_space_only() -> None:
    assert read("<answer> 4 93\n</answer>").action == Answer(text="4 93")


def test_a_call_without_arguments_has_none() -> None:
    assert read('<tool_call>{"name":"OCR"}</tool_call>').action == ToolCall(name="OCR", arguments={})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "<answer></answer>",
        "<answer>  </answer>",
        "<tool_call>{}</tool_call>",
        "<tool_call>not json</tool_call>",
        '<tool_call>["ZOOM"]</tool_call>',
        '<tool_call>{"name":3,"arguments":{}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":[1]}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{},"more":1}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"x":NaN}}</tool_call>',
        '<tool_call>{"name":"OCR"}</tool_call> and more',
        '<tool_call>{"name":"OCR"}</tool_call><answer>1</answer>',
        '<tool_call>{"name":"OCR"}',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_what_cannot_be_followed_is_a_malformed_call_with_a_hint(text: str) -> None:
    action = read(text).action
    assert isinstance(action, Unreadable)
    assert action.code == "malformed_call"
    assert action.hint


@given(
    st.text() | st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "<answer>", "</answer>", "{", '"name"', "x"]))
)
def test_reading_is_total(said: str | list[str]) -> None:
    text = said if isinstance(said, str) else "".join(said)
    assert isinstance(read(text).action, ToolCall | Answer | Unreadable)


@given(
    st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20),
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=6), JSON, max_size=4),
)
def test_a_written_call_reads_back_whatever_its_arguments_hold(
    thought: str, name: str, arguments: dict[str, object]
) -> None:
    arguments = json.loads(json.dumps(arguments))
    call = ToolCall(name=name, arguments=arguments)
    said = read(write_call(call, thought))
    assert said.action == call
    assert said.thought == thought.strip()


def test_arguments_keep_their_order() -> None:
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]})
    assert write_call(call) == (
        '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
    )


@given(st.text(st.characters(exclude_characters="<"), min_size=1, max_size=40).filter(str.strip))
def test_a_written_answer_reads_back(answer: str) -> None:
    assert read(write_answer(answer)).action == Answer(text=answer.strip())
