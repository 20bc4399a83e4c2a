"""Published conversations, made again with our tools: what is kept, how it is written, and why the rest is dropped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.chats import tiny_chat
from fakes.conversations import HALF, REMINDER, crop, looked, reasoned, zoomed
from fakes.toolbox import PlainViewer
from fakes.tools import Plates, plates
from fakes.traces import PlateReader, a_toolbox
from PIL import Image

from actors.tools.toolbox import Toolbox
from actors.traces.config import Emphasis
from actors.traces.imports import Imports, import_traces
from actors.traces.records import RecordError, find_media, read_records
from common.chat import VisionShape
from common.errors import DataError
from common.media import FolderMediaStore
from common.types import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    traces: tuple[Trace, ...]
    imports: Imports

    def __getattr__(self, name: str) -> Any:
        return getattr(self.imports, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    folder: Path
    store: FolderMediaStore
    toolbox: Toolbox
    scene: Plates

    async def load(self, records: Sequence[Any], form: Any = "pixel_reasoner", **options: Any) -> Loaded:
        path = self.folder / "records.json"
        path.write_text(json.dumps(list(records)))
        return await self.load_file(path, form, **options)

    async def load_file(self, path: Path, form: Any = "pixel_reasoner", **options: Any) -> Loaded:
        given: dict[str, Any] = {"emphasis": Emphasis(), "max_model_len": 5000} | options
        traces: list[Trace] = []
        imports = await import_traces(
            path,
            self.folder / "media",
            form,
            take=traces.extend,
            store=self.store,
            toolbox=self.toolbox,
            viewer=PlainViewer(),
            chat=tiny_chat(),
            **given,
        )
        assert imports.num_traces == len(traces)
        return Loaded(traces=tuple(traces), imports=imports)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    scene = plates(0)
    (tmp_path / "media" / "images").mkdir(parents=True)
    Image.fromarray(scene.pixels).save(tmp_path / "media" / "images" / "plates.png")
    for at in range(3):
        Image.fromarray(np.full((56, 56, 3), 60 * at, np.uint8)).save(tmp_path / "media" / f"f{at}.png")
    store = FolderMediaStore(tmp_path / "store")
    return Desk(folder=tmp_path, store=store, toolbox=a_toolbox(store, PlateReader(scene)), scene=scene)


def said_in(trace: Trace) -> list[str]:
    chat = tiny_chat()
    return [chat.decode(turn.token_ids) for turn in trace.turns if turn.role == "assistant"]


def calls_of(trace: Trace) -> list[dict[str, Any]]:
    texts = [text.split("<tool_call>")[1] for text in said_in(trace) if "<tool_call>" in text]
    return [json.loads(text.removesuffix("</tool_call>")) for text in texts]


# Pixel-Reasoner


async def test_a_crop_is_cut_again_and_written_in_our_form(desk: Desk) -> None:
    made = await desk.load([reasoned(crop(HALF), "It says \\boxed{764}", answer="\\boxed{764}", qid="q7")])
    (trace,) = made.traces
    assert (made.num_records, made.dropped, made.num_unchecked, made.num_masked) == (1, {}, 0, 0)
    assert said_in(trace) == [
        'I look closer.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[0,0,500,500]}}</tool_call>',
        "It says<answer>764</answer>",
    ]
    assert trace.query.query_id == "pixel_reasoner/q7" and trace.query.question == "Which code?"
    assert (trace.kind, trace.family, trace.level) == ("imported", "pixel_reasoner", 1)
    assert trace.boxes[0].box == (0.0, 0.0, 0.5, 0.5)  # a tenth wider on each side than they wrote
    (view,) = trace.turns[2].images
    assert view.digest.removeprefix("plain/") in desk.store  # the crop is ours, not the file they name


async def test_pixels_are_those_of_the_picture_as_they_saw_it(desk: Desk) -> None:
    shape = VisionShape(patch=14, merge=2, min_pixels=28 * 28, max_pixels=224 * 224)
    made = await desk.load([reasoned(crop([56, 56, 112, 112]), "\\boxed{7}")], shape=shape)
    assert calls_of(made.traces[0])[0]["arguments"]["box"] == [150, 150, 600, 600]
    made = await desk.load([reasoned(crop([56, 56, 112, 112]), "\\boxed{7}")], shape=shape, boxes="original")
    assert calls_of(made.traces[0])[0]["arguments"]["box"] == [25, 25, 350, 350]


async def test_a_crop_of_a_crop_names_our_second_picture(desk: Desk) -> None:
    made = await desk.load([reasoned(crop(HALF), crop([0.2, 0.2, 0.8, 0.8], target=2), "\\boxed{7}")])
    assert [call["arguments"]["image"] for call in calls_of(made.traces[0])] == ["image_1", "image_2"]
    assert made.num_unchecked == 1


async def test_selected_frames_are_as_many_calls(desk: Desk) -> None:
    call = {"name": "select_frames", "arguments": {"target_frames": [1, 3]}}
    video = {"type": "video", "video": ["f0.png", "f1.png", "f2.png"]}
    made = await desk.load(
        [reasoned(f"When?<tool_call>{json.dumps(call)}</tool_call>", "\\boxed{dark}", media=video, answer="dark")]
    )
    (trace,) = made.traces
    assert trace.query.clip is not None and len(trace.query.clip.frames) == 3
    assert [call["arguments"]["image"] for call in calls_of(trace)] == ["frame_1", "frame_3"]
    assert said_in(trace)[0].startswith("When?") and said_in(trace)[1].startswith("<tool_call>")


async def test_a_call_that_fails_here_is_shown_and_not_imitated(desk: Desk) -> None:
    made = await desk.load([reasoned(crop([0.9, 0.9, 0.5, 0.5]), crop(HALF), "\\boxed{7}")])
    (trace,) = made.traces
    assert made.num_masked == 1
    lengths = [len(turn.token_ids) for turn in trace.turns]
    assert not any(trace.weights[: sum(lengths[:3])]) and all(trace.weights[sum(lengths[:3]) : sum(lengths[:4])])
    assert '"error"' in tiny_chat().decode(trace.turns[2].token_ids)


# DeepEyes


async def test_a_deepeyes_conversation_is_checked_by_its_truth(desk: Desk) -> None:
    right = looked(
        zoomed([0, 0, 224, 224]), "<think>Now.</think><answer>764</answer>", reward_model={"ground_truth": "764"}
    )
    wrong = looked(zoomed([0, 0, 224, 224]), "<answer>765</answer>", extra_info={"answer": "764", "question": "Code?"})
    made = await desk.load([right, wrong], "deepeyes")
    (trace,) = made.traces
    assert made.dropped == {"wrong_answer": 1} and made.num_unchecked == 0
    assert said_in(trace) == [
        'Too small.<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[0,0,500,500]}}</tool_call>',
        "Now.<answer>764</answer>",
    ]
    assert trace.query.question == "Which code?"


async def test_lists_of_messages_by_other_names_are_read(desk: Desk) -> None:
    turns = [
        {"from": "system", "value": "Tools."},
        {"from": "human", "value": "<image>Which code?" + REMINDER},
        {"from": "gpt", "value": "<answer>764</answer>"},
    ]
    made = await desk.load([{"conversations": turns, "image": "images/plates.png"}], "deepeyes")
    assert said_in(made.traces[0]) == ["<answer>764</answer>"]


async def test_a_prompt_without_a_turn_of_the_model_is_no_trace(desk: Desk) -> None:
    made = await desk.load([{"prompt": [{"role": "user", "content": "<image>?"}], "images": ["images/plates.png"]}])
    assert made.dropped == {"no_conversation": 1} and made.traces == ()


# What is dropped


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "no_conversation"),
        ({"text": "no list"}, "no_conversation"),
        ({"message_list": [{"role": "judge", "content": "?"}]}, "no_conversation"),
        (reasoned("\\boxed{7}", media={"type": "text", "text": ""}), "no_media"),
        (reasoned("\\boxed{7}", media={"type": "image", "image": "images/none.png"}), "no_media"),
        (reasoned("\\boxed{7}", media={"type": "image", "image": "../records.json"}), "no_media"),
        (reasoned("I do not know."), "unreadable_turn"),
        (reasoned("\\boxed{7}", "\\boxed{8}"), "unreadable_turn"),
        (reasoned(crop(HALF)), "no_answer"),
        (reasoned("\\boxed{7}", answer="8"), "wrong_answer"),
        (reasoned(crop(HALF), crop(HALF), "\\boxed{7}"), "redundant_call"),
        (reasoned("It is 7." + crop(HALF), "\\boxed{7}"), "leaking_thought"),
        (reasoned("<|image_pad|>\\boxed{7}"), "placeholder"),
    ],
)
async def test_each_record_is_dropped_for_its_reason(desk: Desk, record: Any, reason: str) -> None:
    made = await desk.load([record, reasoned("\\boxed{7}")])
    assert made.dropped == {reason: 1} and len(made.traces) == 1 and made.num_records == 2


async def test_a_long_conversation_is_dropped_or_cut(desk: Desk) -> None:
    records = [reasoned(crop(HALF), "\\boxed{7}")]
    (whole,) = (await desk.load(records)).traces
    most = len(whole.weights) - 1
    assert (await desk.load(records, max_model_len=most)).dropped == {"too_long": 1}
    made = await desk.load(records, max_model_len=most, too_long="cut")
    assert made.num_cut == 1 and made.traces[0].turns == whole.turns[:2]
    assert (await desk.load(records, max_model_len=20, too_long="cut")).dropped == {"too_long": 1}


async def test_thoughts_may_be_left_out(desk: Desk) -> None:
    made = await desk.load([reasoned(crop(HALF), "It says \\boxed{7}")], thoughts="none")
    assert [text.split("<")[0] for text in said_in(made.traces[0])] == ["", ""]


async def test_every_call_can_be_checked_once_more(desk: Desk) -> None:
    made = await desk.load([reasoned(crop(HALF), "\\boxed{7}")], again=desk.toolbox.uncached())
    assert len(made.traces) == 1


# Files


async def test_json_lines_are_read_and_a_broken_line_costs_itself(desk: Desk) -> None:
    path = desk.folder / "records.jsonl"
    lines = [json.dumps(reasoned("\\boxed{7}", qid=at)) for at in range(2)]
    path.write_text(f"{lines[0]}\n{{broken\n\n{lines[1]}\n")
    made = await desk.load_file(path)
    assert made.dropped == {"broken_json": 1}
    assert [trace.query.query_id for trace in made.traces] == ["pixel_reasoner/0", "pixel_reasoner/1"]


@pytest.mark.parametrize(("data", "message"), [(None, "cannot be read"), (b"", "empty"), (b"\xff\xfe\x00", "UTF-8")])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "records.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        list(read_records(path))
    assert "\n" not in str(raised.value)


def test_a_record_without_a_name_has_that_of_its_place(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps([reasoned("\\boxed{7}"), 3, reasoned("\\boxed{8}", gt=["8", "eight"])]))
    first, second, third = read_records(path)
    assert not isinstance(first, RecordError) and not isinstance(third, RecordError)
    assert first.name == "set-1" and third.name == "set-3" and third.truths == ("8", "eight")
    assert isinstance(second, RecordError) and str(second) == "no_conversation"
    assert first.said == ("\\boxed{7}",) and first.question == "Which code?"


def test_media_are_found_by_the_longest_end_of_their_path(tmp_path: Path) -> None:
    (tmp_path / "media" / "a").mkdir(parents=True)
    for name in ("x.png", "a/x.png"):
        (tmp_path / "media" / name).write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    media = tmp_path / "media"
    assert find_media("a/x.png", media) == media / "a" / "x.png"
    assert find_media("/home/them/data/a/x.png", media) == media / "a" / "x.png"
    assert find_media("b/x.png", media) == media / "x.png"
    assert find_media("../secret.png", media) is None
    assert find_media("link.png", media) is None
    assert find_media(str(tmp_path / "secret.png"), media) is None
    assert find_media("", media) is None
