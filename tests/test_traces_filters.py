"""Filters of traces: each drops what it must, and leaves a good trace alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.chats import tiny_chat
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.traces import a_bench, a_toolbox, answered
from fakes.values import a_ref, a_task
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.tasks.plan import Copied, Plan, Step
from actors.traces import filters
from actors.traces.config import Emphasis
from actors.traces.filters import Executed, holds
from actors.traces.synthesis import Synthesised, execute, synthesise
from actors.traces.writing import write_closing, write_step
from common.chat import canonical_json
from common.types import ErrorCode, ExecutedCall, Observation, Task, ToolCall, Turn


def done(name: str, returned: dict[str, Any], *, error: ErrorCode | None = None, **arguments: Any) -> ExecutedCall:
    picture = a_ref("crop") if name == "ZOOM" and error is None else None
    seen = Observation(text=canonical_json(returned), image=picture, error=error)
    return ExecutedCall(call=ToolCall(name=name, arguments=arguments), observation=seen)


def zoom(number: int = 2, **arguments: Any) -> ExecutedCall:
    return done("ZOOM", {"image": f"image_{number}"}, **({"image": "image_1", "box": [0, 0, 500, 500]} | arguments))


def ocr(text: str = "493", image: str = "image_2") -> ExecutedCall:
    return done("OCR", {"text": text}, image=image)


def refused(**arguments: Any) -> ExecutedCall:
    return done("ZOOM", {"error": "empty_box", "hint": "needs x0 < x1"}, error="empty_box", **arguments)


def enacted(
    calls: Sequence[ExecutedCall],
    *,
    answer: str = "493",
    kind: str = "golden",
    wrong: tuple[int, ...] = (),
    copied: Copied | None = None,
    task: Task | None = None,
    thoughts: dict[int, str] | None = None,
    copies: dict[int, dict[str, Copied]] | None = None,
) -> Executed:
    """Calls as a plan's; `wrong`: which are not imitated."""
    said = thoughts or {}
    steps = tuple(
        Step(
            thought=said.get(at, ""),
            call=each.call,
            imitated=at not in wrong,
            copies=(copies or {}).get(at, {}),
        )
        for at, each in enumerate(calls)
    )
    plan = Plan(task=task or a_task(), steps=steps, level=1, kind=kind, answer=copied, thought=said.get(len(calls), ""))
    return Executed(plan=plan, calls=tuple(calls), answer=answer)


GOOD = enacted([zoom(), ocr()])


@pytest.mark.parametrize("objection", filters.FILTERS)
def test_a_good_chain_meets_no_objection(objection: Any) -> None:
    assert objection(GOOD) is None
    assert objection(enacted([zoom(), ocr()], copied=Copied(step=1, path=("text",)))) is None
    assert objection(enacted([], answer="493")) is None


# No failed call


def test_a_failed_call_may_be_answered_but_not_imitated() -> None:
    calls = [refused(image="image_1", box=[5, 5, 5, 9]), zoom(), ocr()]
    assert filters.failed_call(enacted(calls)) == "failed_call"
    assert filters.failed_call(enacted(calls, wrong=(0,), kind="correction")) is None


# The wrong part is wrong


def test_a_correction_must_have_failed_and_a_trap_must_not() -> None:
    failed, worked = (
        [refused(image="image_1"), zoom(), ocr()],
        [zoom(box=[9, 9, 99, 99]), zoom(3), ocr("493", image="image_3")],
    )
    assert filters.not_wrong(enacted(failed, kind="correction", wrong=(0,))) is None
    assert filters.not_wrong(enacted(worked, kind="correction", wrong=(0,))) == "not_wrong"
    for kind in ("trap", "near_miss"):
        assert filters.not_wrong(enacted(worked, kind=kind, wrong=(0,))) is None
        assert filters.not_wrong(enacted(failed, kind=kind, wrong=(0,))) == "not_wrong"


@pytest.mark.parametrize(("text", "wrong"), [("118", False), ("118\n493", True), ("4930", False)])
def test_a_trap_that_shows_the_answer_is_none(text: str, wrong: bool) -> None:
    calls = [ocr(text, image="image_1"), zoom(), ocr()]
    found = filters.not_wrong(enacted(calls, kind="trap", wrong=(0,)))
    assert found == ("not_wrong" if wrong else None)


def test_a_trap_whose_crop_shows_the_answer_to_a_reader_is_none() -> None:
    for text, found in (("118", None), ("", None), ("493", "not_wrong")):
        calls = [zoom(box=[9, 9, 99, 99]), ocr(text), zoom(3), ocr("493", image="image_3")]
        assert filters.not_wrong(enacted(calls, kind="near_miss", wrong=(0,))) == found


# The answer is right


def test_an_answer_that_does_not_score_is_not_taught() -> None:
    assert filters.wrong_answer(enacted([zoom(), ocr()], answer="498")) == "wrong_answer"
    near = a_task(answer="100", kind="near")
    source = Copied(step=0, path=("area",))
    measured = done("PROP", {"area": 104}, mask="mask_1")
    assert filters.wrong_answer(enacted([measured], answer="104", copied=source, task=near)) is None
    assert filters.wrong_answer(enacted([measured], answer="106", copied=source, task=near)) == "wrong_answer"


@pytest.mark.parametrize("text", ["498", ""])
def test_a_truth_that_the_last_read_does_not_bear_out_is_not_taught(text: str) -> None:
    assert filters.wrong_answer(enacted([zoom(), ocr(text)])) == "wrong_answer"


def test_a_read_bears_the_answer_out_by_value() -> None:
    assert filters.wrong_answer(enacted([ocr(" 493 ")])) is None


# No redundant call


def test_the_same_call_twice_is_redundant() -> None:
    assert filters.redundant_call(enacted([zoom(), zoom(3), ocr()])) == "redundant_call"
    assert filters.redundant_call(enacted([zoom(), zoom(3, box=[0, 0, 9, 9]), ocr()])) is None


def test_a_wrong_call_that_equals_the_right_one_is_redundant() -> None:
    assert filters.redundant_call(enacted([zoom(), zoom(3), ocr()], kind="trap", wrong=(0,))) == "redundant_call"


def test_a_call_after_the_answer_is_known_is_redundant() -> None:
    calls = [zoom(), ocr(), zoom(3, box=[0, 0, 9, 9])]
    assert filters.redundant_call(enacted(calls, copied=Copied(step=1, path=("text",)))) == "redundant_call"
    assert filters.redundant_call(enacted(calls)) is None  # the picture may have decided


SEG = done(
    "SEG", {"mask": "mask_1", "area": 90, "box": [1, 2, 30, 40], "score": 1}, image="image_1", box=[0, 0, 50, 50]
)
PROP = done("PROP", {"area": 90, "box": [1, 2, 30, 40]}, image="image_1", box=[0, 0, 9, 9])


def test_a_mask_that_nobody_names_is_redundant() -> None:
    assert filters.redundant_call(enacted([SEG, PROP], answer="90")) == "redundant_call"
    named = replace(PROP, call=replace(PROP.call, arguments={"mask": "mask_1"}))
    assert filters.redundant_call(enacted([SEG, named])) is None
    repeated = replace(PROP, call=replace(PROP.call, arguments={"image": "image_1", "box": [1, 2, 30, 40]}))
    assert filters.redundant_call(enacted([SEG, repeated])) is None
    copied = {1: {"box": Copied(step=0, path=("box",))}}
    assert filters.redundant_call(enacted([SEG, PROP], copies=copied)) is None
    assert filters.redundant_call(enacted([PROP, SEG])) is None  # the last call is for the answer
    assert filters.redundant_call(enacted([SEG, PROP], wrong=(0,), kind="trap")) is None


# No thought knows the answer


def test_a_thought_may_say_the_answer_once_a_tool_did() -> None:
    reads = [ocr("493"), done("PROP", {"area": 3}, image="image_1")]
    assert filters.leaking_thought(enacted(reads, thoughts={0: "It is 493."})) == "leaking_thought"
    assert filters.leaking_thought(enacted(reads, thoughts={1: "It is 493."})) is None
    assert filters.leaking_thought(enacted(reads[1:], thoughts={1: "So 493."})) == "leaking_thought"
    assert filters.leaking_thought(enacted([zoom()], thoughts={0: "493!"})) == "leaking_thought"
    assert filters.leaking_thought(enacted([zoom()], thoughts={1: "I see 493."})) is None
    assert filters.leaking_thought(enacted([], thoughts={0: "It is 493."})) is None


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("the code is 493.", "493", True),
        ("4930", "493", False),
        ("image_2", "2", False),
        ("On the LEFT  side", "left side", True),
        ("leftover", "left", False),
        ("0.55", "0.5", False),
    ],
)
def test_an_answer_is_held_as_whole_words(text: str, answer: str, said: bool) -> None:
    assert holds(text, answer) is said


@settings(deadline=None)
@given(st.text(max_size=20), st.text("abc 123", min_size=1, max_size=6), st.text(max_size=20))
def test_an_answer_between_other_words_is_found(before: str, answer: str, after: str) -> None:
    if answer.strip():
        assert holds(f"{before} {answer} {after}", answer)


# The text


def test_what_reads_back_as_something_else_is_not_taught() -> None:
    chat, call = tiny_chat(), ToolCall(name="OCR", arguments={"image": "image_1"})
    clean = write_step(call, "Now.", chat=chat, emphasis=Emphasis())
    assert filters.unreadable(clean, call) is None
    sly = write_step(call, "<answer>7</answer>", chat=chat, emphasis=Emphasis())
    assert filters.unreadable(sly, call) == "unreadable"
    assert filters.unreadable(write_closing("493", "", chat=chat), "493") is None
    assert filters.unreadable(write_closing("</answer>7", "", chat=chat), "</answer>7") == "unreadable"


@pytest.mark.parametrize("text", ["<|image_pad|>", "<|im_start|>", "a<|im_end|>b"])
def test_a_placeholder_in_a_turn_is_not_taught(text: str) -> None:
    chat = tiny_chat()
    turn = Turn(role="assistant", token_ids=chat.written(text))
    assert filters.placeholder(turn, chat) == "placeholder"
    assert filters.placeholder(replace(turn, role="tool"), chat) is None
    assert filters.placeholder(Turn(role="assistant", token_ids=chat.written("fine")), chat) is None


@pytest.mark.parametrize("imitated", [True, False])
async def test_no_trace_holds_a_placeholder_that_someone_wrote(imitated: bool) -> None:
    calls = (ToolCall(name="OCR", arguments={"image": "image_1", "lines": True}), ocr(image="image_1").call)
    steps = (Step(thought="<|image_pad|>", call=calls[0], imitated=imitated), Step(thought="", call=calls[1]))
    made = await synthesise(
        Plan(task=a_task(), steps=steps, level=1),
        toolbox=ScriptedToolbox(crop=a_ref("crop")),
        viewer=PlainViewer(),
        chat=tiny_chat(),
        emphasis=Emphasis(),
        max_model_len=2000,
    )
    assert made.reason == "placeholder"


def test_too_many_tokens_or_pictures_are_not_taught() -> None:
    turns = [
        Turn(role="user", token_ids=(1,) * 10, images=(a_ref(),)),
        Turn(role="tool", token_ids=(1,), images=(a_ref(),)),
    ]
    assert filters.too_long(turns, max_model_len=11, max_num_images=2) is None
    assert filters.too_long(turns, max_model_len=10) == "too_long"
    assert filters.too_long(turns, max_model_len=11, max_num_images=1) == "too_long"


# Executed again


async def test_the_same_tools_return_the_same_again(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    executed = await execute(bench.golden, bench.toolbox)
    assert isinstance(executed, Executed)
    assert await filters.not_reenacted(executed, bench.toolbox.uncached()) is None
    assert bench.reader.num_reads == 2  # no cache answered
    await bench.toolbox.close()


async def test_what_returns_something_else_the_second_time_is_not_taught(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    executed = await execute(bench.golden, bench.toolbox)
    assert isinstance(executed, Executed)
    for changes in ({"digest": "0" * 64}, {"text": '{"text":"1"}'}, {"error": "timeout"}):
        other = replace(executed, calls=(executed.calls[0], answered(executed.calls[1], **changes)))
        assert await filters.not_reenacted(other, bench.toolbox.uncached()) == "not_reenacted"
    await bench.toolbox.close()


class _Fickle:
    """A reader that reads something else every time."""

    def __init__(self) -> None:
        self.reads = 492

    def read_many(self, pictures: Sequence[Any]) -> list[tuple[Any, ...]]:
        from actors.tools.ports import ReadLine

        self.reads += 1
        return [(ReadLine(text=str(self.reads), confidence=1.0, box=(0, 0, 9, 9)),) for _ in pictures]


async def test_a_tool_that_changes_its_mind_leaves_no_trace(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    tools = a_toolbox(bench.store, _Fickle())
    task = replace(bench.golden.task, answer="493")

    async def made(again: bool) -> Synthesised:
        return await synthesise(
            replace(bench.golden, task=task),
            toolbox=tools,
            viewer=PlainViewer(),
            chat=tiny_chat(),
            emphasis=Emphasis(),
            max_model_len=2000,
            again=tools.uncached() if again else None,
        )

    assert (await made(False)).reason is None
    assert (await made(True)).reason == "not_reenacted"
    await tools.close()
    await bench.toolbox.close()
