"""Traces: what is imitated and how much, what the heads should say where, and what is copied from observations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.chats import tiny_chat
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.traces import a_bench, a_clip_plan, a_toolbox
from fakes.values import a_clip, a_query, a_ref, a_task
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.plan import Copied, Plan, Step, Target
from actors.traces.config import Emphasis, TraceConfig, TraceMix
from actors.traces.cutting import cut
from actors.traces.synthesis import Synthesised, count_reasons, synthesise
from actors.traces.synthesiser import Synthesiser
from common.chat import Chat
from common.media import FolderMediaStore
from common.schema import decode_traces, encode_traces
from common.types import PointTarget, SpanTarget, ToolCall, Trace

SCAFFOLD = ('<tool_call>{"name":"', "ZOOM", '","arguments":{"image":"', "image_1", '","box":', "[250", ",300", ",450")
ZOOM = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [250, 300, 450, 400]})
OCR = ToolCall(name="OCR", arguments={"image": "image_2"})
STEPS = (Step(thought="", call=ZOOM), Step(thought="", call=OCR))


async def made_of(chat: Chat, *, texts: tuple[str, ...] = ("493",), **fields: Any) -> Synthesised:
    """What becomes of a plan over the scripted tools."""
    emphasis, longest = fields.pop("emphasis", Emphasis(w_op=3.0, w_arg=2.0)), fields.pop("max_model_len", 2000)
    return await synthesise(
        Plan(**({"task": a_task(), "steps": STEPS, "level": 3} | fields)),
        toolbox=ScriptedToolbox(crop=a_ref("crop"), texts=texts),
        viewer=PlainViewer(),
        chat=chat,
        emphasis=emphasis,
        max_model_len=longest,
    )


async def trace_of(chat: Chat, *, first_thought: str = "", **fields: Any) -> Trace:
    if first_thought:
        fields["steps"] = (Step(thought=first_thought, call=ZOOM), STEPS[1])
    made = await made_of(chat, **fields)
    assert made.trace is not None, made.reason
    return made.trace


def ids_of(trace: Trace) -> list[int]:
    return [token for turn in trace.turns for token in turn.token_ids]


def weighted(trace: Trace, chat: Chat, weight: float) -> str:
    """The text of the tokens with this weight."""
    pairs = zip(ids_of(trace), trace.weights, strict=True)
    return "".join(chat.decode_all([token]) for token, w in pairs if w == weight)


async def test_names_and_argument_values_weigh_more_and_others_words_nothing() -> None:
    chat = tiny_chat()
    trace = await trace_of(chat, first_thought="I look.")
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
    assert weighted(trace, chat, 2.0).startswith("image_1[250,300,450")
    assert weighted(trace, chat, 3.0) == "ZOOMOCR"


async def test_weights_follow_the_tokens_of_the_whole_turn() -> None:
    chat = tiny_chat(scaffold=SCAFFOLD)
    trace = await trace_of(chat)
    text = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[250,300,450,400]}}</tool_call>'
    assert trace.turns[1].token_ids == chat.written(text)


async def test_what_is_not_imitated_weighs_nothing_and_no_head_learns_its_box() -> None:
    chat = tiny_chat()
    wrong = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 100, 100]})
    read = ToolCall(name="OCR", arguments={"image": "image_3"})
    steps = (Step(thought="Here?", call=wrong, imitated=False), STEPS[0], Step(thought="", call=read))
    trace = await trace_of(chat, steps=steps, kind="trap")
    assert weighted(trace, chat, 2.0) == "image_1250300450400image_3"
    assert "Here?" in chat.decode_all(trace.turns[1].token_ids)
    assert not any(trace.weights[: len(trace.turns[0].token_ids) + len(trace.turns[1].token_ids)])
    assert [target.box for target in trace.boxes] == [(0.25, 0.3, 0.45, 0.4)]


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=12) | st.integers() | st.booleans(), max_size=3))
@settings(max_examples=50, deadline=None)
async def test_every_token_has_one_of_the_three_weights_whatever_the_arguments(arguments: dict[str, Any]) -> None:
    steps = (Step(thought="x", call=ToolCall(name="OCR", arguments=arguments | {"image": "image_1"})),)
    trace = await trace_of(tiny_chat(), steps=steps)
    assert set(trace.weights) <= {0.0, 1.0, 2.0, 3.0}
    assert len(trace.weights) == len(ids_of(trace))


# What heads should say


@pytest.mark.parametrize("scaffold", [(), SCAFFOLD])
async def test_the_box_is_due_at_the_token_before_its_first_digit(scaffold: tuple[str, ...]) -> None:
    chat = tiny_chat(scaffold=scaffold)
    trace = await trace_of(chat, first_thought='Look at 7 in "box":[1].')
    (target,) = trace.boxes
    assert target.box == (0.25, 0.3, 0.45, 0.4)
    ids = ids_of(trace)
    assert "2" in chat.decode_all([ids[target.position + 1]])
    assert chat.decode_all(ids[: target.position + 1]).endswith('"box":' if scaffold else '"box":[')
    assert trace.weights[target.position + 1] == 2.0


async def test_points_are_due_at_the_token_before_theirs() -> None:
    chat = tiny_chat()
    arguments = {"image": "image_1", "point": [50, 75], "points": [[100, 200], [300, 400]], "other_box": [0, 0, 9, 10]}
    trace = await trace_of(chat, steps=(Step(thought="", call=ToolCall(name="OCR", arguments=arguments)),))
    assert [target.point for target in trace.points] == [(0.05, 0.075), (0.1, 0.2), (0.3, 0.4)]
    assert [target.box for target in trace.boxes] == [(0.0, 0.0, 0.009, 0.01)]
    said = [chat.decode_all(ids_of(trace)[: target.position + 1]) for target in trace.points]
    assert [text.rsplit('"', 1)[-1] for text in said] == [":[", ":[[", ":[[100,200],["]


async def test_a_time_span_that_no_argument_holds_is_due_before_the_first_value() -> None:
    chat = tiny_chat()
    span = Target(kind="span", values=(0.25, 0.5))
    steps = (Step(thought="", call=ToolCall(name="OCR", arguments={"image": "image_1"}), targets=(span,)),)
    trace = await trace_of(chat, steps=steps)
    (target,) = trace.spans
    assert target.span == (0.25, 0.5)
    assert chat.decode_all(ids_of(trace)[: target.position + 1]).endswith('"image":"')


async def test_a_time_span_of_an_answer_is_due_before_its_first_digit() -> None:
    chat = tiny_chat()
    task = a_task(answer="from 2 to 4 s", kind="anls")
    trace = await trace_of(chat, task=task, steps=(), targets=(Target(kind="span", values=(0.5, 1.0)),))
    (target,) = trace.spans
    assert chat.decode_all(ids_of(trace)[: target.position + 1]).endswith("<answer>from ")
    word = await trace_of(chat, task=a_task(answer="red"), steps=(), targets=(Target(kind="point", values=(0, 1)),))
    assert chat.decode_all(ids_of(word)[: word.points[0].position + 1]).endswith("<answer>")


@pytest.mark.parametrize(("kind", "values"), [("box", (0, 1)), ("span", (0.0, 1.5)), ("point", (-0.1, 0.0))])
def test_impossible_targets_are_refused(kind: Any, values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=kind):
        Target(kind=kind, values=values)


# What is copied


async def test_the_answer_is_written_as_the_tool_returned_it() -> None:
    chat = tiny_chat()
    task = a_task(answer="100", kind="near")
    source = Copied(step=1, path=("text",))
    trace = await trace_of(chat, task=task, texts=(" 103 ",), answer=source)
    assert weighted(trace, chat, 1.0).endswith("<answer>103</answer><|im_end|>")
    assert (await made_of(chat, task=task, texts=("120",), answer=source)).reason == "wrong_answer"


async def test_what_no_tool_returned_cannot_be_copied() -> None:
    missing = (STEPS[0], Step(thought="", call=OCR, copies={"image": Copied(step=0, path=("mask",))}))
    assert (await made_of(tiny_chat(), steps=missing)).reason == "not_returned"
    deep = (STEPS[0], Step(thought="", call=OCR, copies={"image": Copied(step=0, path=("image", "frame", 0))}))
    assert (await made_of(tiny_chat(), steps=deep)).reason == "not_returned"
    failed = (Step(thought="", call=replace(ZOOM, arguments={"image": "image_9"})), missing[1])
    assert (await made_of(tiny_chat(), steps=failed)).reason == "failed_call"


async def test_a_call_acts_on_where_the_track_really_ended(tmp_path: Path) -> None:
    chat, store = tiny_chat(), FolderMediaStore(tmp_path)
    tools = a_toolbox(store)
    made = await synthesise(
        a_clip_plan(store),
        toolbox=tools,
        viewer=PlainViewer(),
        chat=chat,
        emphasis=Emphasis(),
        max_model_len=5000,
        again=tools.uncached(),
    )
    await tools.close()
    assert made.trace is not None, made.reason
    said = [chat.decode(turn.token_ids) for turn in made.trace.turns]
    box = json.loads(said[2].split("<tool_response>")[1].split("</tool_response>")[0])["boxes"]["frame_8"]
    assert json.loads(said[3][len("<tool_call>") : -len("</tool_call>")])["arguments"]["box"] == box
    assert made.trace.boxes[-1].box == tuple(value / 1000 for value in box)
    assert said[-1] == "<answer>red</answer>"


async def test_a_plan_without_calls_is_its_answer() -> None:
    chat = tiny_chat()
    trace = await trace_of(chat, steps=())
    assert weighted(trace, chat, 1.0) == "<answer>493</answer><|im_end|>"
    assert trace.boxes == ()


# Many plans


async def test_reasons_are_counted(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    golden, wrong = bench.golden, replace(bench.golden, task=replace(bench.golden.task, answer="nothing"))
    control = replace(golden, task=replace(golden.task, answer=bench.scene.colours[0]), steps=(), answer=None)
    config = TraceConfig(mix=TraceMix(golden=1, trap=0, correction=0, near_miss=0, negative=0), reenact=True)
    synthesiser = Synthesiser(
        toolbox=bench.toolbox,
        viewer=PlainViewer(),
        chat=tiny_chat(),
        emphasis=Emphasis(),
        config=config,
        max_model_len=2000,
        again=bench.toolbox.uncached(),
    )
    made = await synthesiser.trace([golden, wrong, control, wrong])
    await bench.toolbox.close()
    assert [one.reason for one in made] == [None, "wrong_answer", "left_out", "wrong_answer"]
    assert count_reasons(made) == {"wrong_answer": 2, "left_out": 1}
    assert bench.reader.num_reads == 2  # once for all plans, and once more for the one that is reenacted


def test_reenactment_without_a_toolbox_for_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache"):
        Synthesiser(
            toolbox=ScriptedToolbox(crop=a_ref("crop")),
            viewer=PlainViewer(),
            chat=tiny_chat(),
            emphasis=Emphasis(),
            config=TraceConfig(reenact=True),
            max_model_len=10,
        )


async def test_traces_survive_the_journey_between_processes() -> None:
    query = a_query(clip=a_clip(), images=())
    read = ToolCall(name="OCR", arguments={"image": "frame_1", "point": [100, 900]})
    steps = (Step(thought="", call=read, targets=(Target(kind="span", values=(0.0, 0.5)),)),)
    trace = await trace_of(tiny_chat(), task=replace(a_task(), query=query), steps=steps)
    assert trace.points and trace.spans
    assert decode_traces(encode_traces([trace])) == [trace]


# Too long


async def test_a_trace_that_fits_is_not_cut() -> None:
    trace = await trace_of(tiny_chat())
    assert cut(trace, len(trace.weights)) is trace


async def test_a_cut_leaves_whole_turns_and_ends_in_what_is_imitated() -> None:
    trace = await trace_of(tiny_chat())
    trace = replace(
        trace,
        points=(PointTarget(position=len(trace.weights) - 2, point=(0, 0)),),
        spans=(SpanTarget(position=trace.boxes[0].position, span=(0, 1)),),
    )
    lengths = [len(turn.token_ids) for turn in trace.turns]
    short = cut(trace, len(trace.weights) - 1)
    assert short is not None and short.turns == trace.turns[:4]
    assert short.weights == trace.weights[: sum(lengths[:4])]
    assert short.boxes == trace.boxes and short.spans == trace.spans and short.points == ()
    shorter = cut(trace, sum(lengths[:4]) - 1)
    assert shorter is not None and shorter.turns == trace.turns[:2]
    assert cut(trace, sum(lengths[:2]) - 1) is None


# Configuration


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="w_op"):
        Emphasis(w_op=0.0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"golden": 0.9}, "add up to 1"), ({"trap": -0.1, "golden": 1.0}, "trap"), ({"negative": 2.0}, "negative")],
)
def test_impossible_mixes_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TraceMix(**shares)


def test_unknown_thoughts_are_refused() -> None:
    with pytest.raises(ValueError, match="thoughts"):
        TraceConfig(thoughts="many")  # type: ignore[arg-type]
