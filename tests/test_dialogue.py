"""Text to actions: any string becomes a turn, and what was written reads back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dialogue import Answer, Unreadable, read, write_answer, write_call
from common.chat import canonical_json
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
        '<tool_call>{"name":"ZOOM","name":"OCR"}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","image":"image_2"}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"x":1e999}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"x":-1e999}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"x":' + "9" * 5000 + "}}</tool_call>",
        '<tool_call>{"name":"ZOOM","arguments":{"x":"\\ud800"}}</tool_call>',
        '<tool_call>{"name":"\\udfff","arguments":{}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"\\ud800":1}}</tool_call>',
        '<tool_call>{"name":"ZOOM","arguments":{"x":' + "[" * 17 + "]" * 17 + "}}</tool_call>",
    ],
)
def test_what_cannot_be_followed_is_a_malformed_call_with_a_hint(text: str) -> None:
    action = read(text).action
    assert isinstance(action, Unreadable)
    assert action.code == "malformed_call"
    assert action.hint


PIECES = st.one_of(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<answer>", "</answer>", "{", "}", "[", "]", ":", ",", '"name"', '"arguments"']
    ),
    st.sampled_from(
        ["1e400", "-1e400", "NaN", "Infinity", "9" * 4400, "-0", "0.1e-500", "\\ud83d", "\\u0000", "\ud800"]
    ),
    st.text(max_size=6),
    JSON.map(json.dumps),
    st.tuples(st.text(max_size=4), st.floats() | JSON).map(
        lambda pair: (
            f'<tool_call>{{"name":{json.dumps(pair[0])},"arguments":{{"x":{json.dumps(pair[1])}}}}}</tool_call>'
        )
    ),
    st.integers(0, 40).map(lambda depth: f'{{"name":"ZOOM","arguments":{{"x":{"[" * depth}{"]" * depth}}}}}'),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join) | st.text(st.characters(), max_size=40))
def test_any_string_becomes_a_call_an_answer_or_a_named_error_that_can_be_written_down(text: str) -> None:
    action = read(text).action
    assert isinstance(action, ToolCall | Answer | Unreadable)
    if isinstance(action, Unreadable):
        assert action.code == "malformed_call" and action.hint
    elif isinstance(action, Answer):
        assert len(action.text.encode()) > 0 and len(action.text) <= 1000
    else:
        written = canonical_json([action.name, action.arguments])  # as it goes into the log
        assert json.loads(written.encode()) == [action.name, action.arguments]
        assert read(write_call(action)).action == action


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


@given(
    st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
)
def test_a_written_answer_reads_back(answer: str) -> None:
    assert read(write_answer(answer)).action == Answer(text=answer.strip())
