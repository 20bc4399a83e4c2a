"""The grammar of a call against xgrammar's own matcher: every call that can be written is accepted, what is accepted
can be read, and only what it shaped is left out of training.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.models import make_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dialects.choose import dialect_of
from actors.dialects.config import DIALECTS, DialectConfig
from actors.dialogue import CALL_CLOSES, CALL_OPENS, parse_call, read, write_call
from actors.grammar import Shaped, call_grammar, turn_grammar
from actors.tools.catalogue import TOOLS, parse_arguments
from common.chat import Chat
from common.types import ToolCall

KINDS = {tool.name: tool.arguments for tool in TOOLS}


@cache
def matcher(name: str = "hermes") -> Any:
    import xgrammar

    grammar = call_grammar(dialect_of(DialectConfig(name=name)).tools())
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([])).compile_grammar(grammar)


def accepts(body: str, name: str = "hermes") -> bool:
    """Whether xgrammar takes `body` as a whole call."""
    import xgrammar

    found = xgrammar.GrammarMatcher(matcher(name), terminate_without_stop_token=True)
    return bool(found.accept_string(body)) and bool(found.is_completed())


# Every JSON value of a schema


def values(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values that a schema of arguments describes."""
    if "$ref" in schema:
        return values(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in schema:
        return st.one_of([values(option, definitions) for option in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    least, most = schema.get("minimum", -1e6), schema.get("maximum", 1e6)
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(int(least), int(most))
        case "number":
            return st.integers(math.ceil(least), math.floor(most)) | st.floats(least, most)
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"].rstrip("$") + r"\Z")
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=schema.get("maxLength", 9))
        case "array" if "prefixItems" in schema:
            return st.tuples(*(values(item, definitions) for item in schema["prefixItems"])).map(list)
        case "array":
            item = values(schema["items"], definitions)
            return st.lists(item, min_size=schema.get("minItems", 0), max_size=min(4, schema.get("maxItems", 4)))
    required = {key: values(schema["properties"][key], definitions) for key in schema["required"]}
    optional = {k: values(v, definitions) for k, v in schema["properties"].items() if k not in required}
    return st.fixed_dictionaries(required, optional=optional).flatmap(
        lambda found: st.permutations(sorted(found)).map(lambda keys: {key: found[key] for key in keys})
    )


def arguments_of(kind: type) -> st.SearchStrategy[Any]:
    schema = msgspec.json.schema(kind)
    return values(schema, schema["$defs"])


calls = st.sampled_from(sorted(KINDS)).flatmap(
    lambda name: arguments_of(KINDS[name]).map(lambda arguments: ToolCall(name=name, arguments=arguments))
)


def body_of(text: str) -> str:
    return text.removeprefix(CALL_OPENS).removesuffix(CALL_CLOSES)


@settings(max_examples=200, deadline=None)
@given(calls)
def test_every_valid_call_is_checked_accepted_and_read_back(call: ToolCall) -> None:
    parse_arguments(call)
    written = write_call(call)
    assert accepts(body_of(written))
    assert read(written).action == call


@settings(max_examples=200, deadline=None)
@given(calls, st.data())
def test_what_a_spoilt_call_is_accepted_as_can_be_read_and_has_its_tools_keys(
    call: ToolCall, data: st.DataObject
) -> None:
    body = body_of(write_call(call))
    at = data.draw(st.integers(0, len(body)))
    spoilt = body[:at] + data.draw(st.sampled_from(["", *'{}[]",:0 eE-+.ab\\<\n', '"box":', "null"])) + body[at + 1 :]
    if accepts(spoilt):
        said = parse_call(spoilt)
        assert isinstance(said, ToolCall)
        schema = msgspec.json.schema(KINDS[said.name])["$defs"][KINDS[said.name].__name__]
        assert set(schema["required"]) <= set(said.arguments) <= set(schema["properties"])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '{"name":"ZOOM"}',
        '{"name":"ZOOM","arguments":{}}',
        '{"name":"JUMP","arguments":{"image":"image_1"}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,4,5]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,"4"]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,NaN]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[01,2,3,4]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,4],"box":[1,2,3,4]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,4],"colour":"red"}}',
        '{"name":"ZOOM","arguments":{"image":"mask_1","box":[1,2,3,4]}}',
        '{"name":"ZOOM","arguments":{"image":"image_0","box":[1,2,3,4]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,100e875]}}',
        '{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,99999999999999999999]}}',
        '{"name":"OCR","arguments":{"image":"image_1"}}{',
        '{"name":"OCR","arguments":{"image":"image_1"}',
        '{"name":"TEMP","arguments":{"query":"</tool_call>"}}',
    ],
)
def test_malformed_calls_are_not_accepted(body: str) -> None:
    assert not accepts(body)


def test_spaces_and_newlines_where_other_models_put_them_are_accepted() -> None:
    assert accepts('\n{"name": "ZOOM", "arguments": {"image": "image_1", "box": [0, 0, 1000, 1000]}}\n')
    assert accepts('{"name":"ZOOM","arguments":{"box":[0,-0.0,1e3,1.5E+2],"image":"frame_12"}}')


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "hermes"])
def test_foreign_dialects_have_a_grammar_of_their_own(name: str) -> None:
    tool = {"pixel_reasoner": "crop_image", "deepeyes": "image_zoom_in_tool"}[name]
    more = {"target_image": 1} if name == "pixel_reasoner" else {"label": "the plate"}
    assert accepts(json.dumps({"name": tool, "arguments": {"bbox_2d": [0.1, 0.2, 0.3, 0.4], **more}}), name)
    assert not accepts(json.dumps({"name": "ZOOM", "arguments": {"image": "image_1", "box": [0, 0, 1, 1]}}), name)
    assert not accepts(json.dumps({"name": tool, "arguments": {"bbox_2d": [0.1, 0.2, 0.3], **more}}), name)


# Which tokens it shaped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shaped(folder: Path) -> Shaped:
    chat = Chat.from_model(folder)
    num_ids = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    return Shaped(turn_grammar(KINDS), folder, num_ids=num_ids, never=chat.banned, stop=chat.end_of_turn)


def pieces(shaped: Shaped, chat: Chat, text: str) -> list[tuple[str, bool]]:
    """The turn's text cut where being shaped changes."""
    ids = chat.written(text)
    found = shaped.ranges(ids)
    marks = [any(start <= at < stop for start, stop in found) for at in range(len(ids))]
    cut: list[tuple[list[int], bool]] = []
    for token, mark in zip(ids, marks, strict=True):
        if cut and cut[-1][1] == mark:
            cut[-1][0].append(token)
        else:
            cut.append(([token], mark))
    return [(chat.decode_all(tokens), mark) for tokens, mark in cut]


def test_words_and_answers_are_free_and_a_call_is_shaped(folder: Path, shaped: Shaped) -> None:
    chat = Chat.from_model(folder)
    assert pieces(shaped, chat, "I look closer. It is <b>.<answer>493</answer>") == [
        ("I look closer. It is <b>.<answer>493</answer><|im_end|>", False)
    ]
    thought, call = "I look closer.", write_call(ToolCall(name="OCR", arguments={"image": "image_2"}))
    (free, was_free), (bound, was_bound) = pieces(shaped, chat, thought + call)
    assert (was_free, was_bound) == (False, True)
    assert thought in free and free + bound == thought + call + "<|im_end|>"
    assert bound.endswith('"arguments":{"image":"image_2"}}</tool_call><|im_end|>')


def test_from_a_token_that_the_grammar_refuses_everything_counts_as_shaped(folder: Path, shaped: Shaped) -> None:
    chat = Chat.from_model(folder)
    ids = chat.written('x<tool_call>{"name":"JUMP"}</tool_call><answer>1</answer>')
    found = shaped.ranges(ids)
    assert len(found) == 1 and found[0][1] == len(ids) and found[0][0] > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 511), max_size=30))
def test_ranges_are_ascending_apart_and_within_the_turn(shaped: Shaped, ids: list[int]) -> None:
    edges = [edge for span in shaped.ranges(ids) for edge in span]
    assert edges == sorted(set(edges)) and all(0 <= edge <= len(ids) for edge in edges)
