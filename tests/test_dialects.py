"""Other models' forms: what they write becomes our calls on our grid, and what came back is told in their words."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from fakes.chats import tiny_chat
from fakes.generator import ScriptedGenerator
from fakes.toolbox import PlainViewer, ScriptedToolbox
from fakes.values import a_clip, a_query, a_ref
from hypothesis import given
from hypothesis import strategies as st

from actors.agent import Agent, Episode
from actors.config import ActorConfig
from actors.dialects.choose import dialect_of
from actors.dialects.config import DIALECTS, DialectConfig
from actors.dialects.deepeyes import DeepEyes
from actors.dialects.pixel_reasoner import PixelReasoner
from actors.dialects.port import Dialect, Shown
from actors.dialogue import Answer, Calls, Unreadable
from actors.tools.arguments import pixel_box
from common.errors import ContractError
from common.geometry import iou
from common.types import Query, Sampling, ToolCall

FILE = a_ref("file", width=4000, height=2000)
VIEW = a_ref("view", kind="view", width=1000, height=500)
SHOWN = (
    Shown(name="image_1", picture=FILE, view=VIEW),
    Shown(
        name="image_2",
        picture=a_ref("crop", width=400, height=400),
        view=a_ref("seen", kind="view", width=200, height=200),
    ),
)
FRAMES = tuple(Shown(name=f"frame_{i}", picture=FILE, view=VIEW) for i in (1, 4, 7))


def crop(box: object, target: object = 1, name: str = "crop_image") -> str:
    body = {"name": name, "arguments": {"bbox_2d": box, "target_image": target}}
    return f"I look.<tool_call>{json.dumps(body)}</tool_call>"


def zoom_in(box: object) -> str:
    body = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box, "label": "plate"}}
    return f"<think>small</think><tool_call>\n{json.dumps(body)}\n</tool_call>"


def zoomed(dialect: Dialect, text: str, shown: Sequence[Shown] = SHOWN) -> ToolCall:
    action = dialect.read(text, shown).action
    assert isinstance(action, ToolCall) and action.name == "ZOOM", action
    return action


# Which place is meant


def test_deepeyes_counts_in_pixels_as_shown_and_the_cut_is_in_the_files_own() -> None:
    call = zoomed(DeepEyes(), zoom_in([250, 100, 500, 200]))
    assert call.arguments["box"] == [250, 200, 500, 400]
    assert pixel_box(tuple(call.arguments["box"]), FILE) == (1000, 400, 2000, 800)


def test_a_box_of_the_resized_picture_applied_to_the_file_is_another_place() -> None:
    """The published programs cut [250, 100, 500, 200] out of the file as it stands."""
    text = zoom_in([250, 100, 500, 200])
    right, published = zoomed(DeepEyes(), text), zoomed(DeepEyes(boxes="original"), text)
    ours, theirs = (pixel_box(tuple(call.arguments["box"]), FILE) for call in (right, published))
    assert theirs == (250, 100, 500, 200)
    assert iou(ours, theirs) == 0


@pytest.mark.parametrize(
    ("boxes", "box", "expected"),
    [
        ("auto", [0.25, 0.2, 0.5, 0.4], (1000, 400, 2000, 800)),
        ("auto", [250, 100, 500, 200], (1000, 400, 2000, 800)),
        ("auto", [0.5, 0.5, 1.0, 1.0], (2000, 1000, 4000, 2000)),
        ("share", [0.25, 0.2, 0.5, 0.4], (1000, 400, 2000, 800)),
        ("view", [250, 100, 500, 200], (1000, 400, 2000, 800)),
        ("original", [1000, 400, 2000, 800], (1000, 400, 2000, 800)),
    ],
)
def test_pixel_reasoners_boxes_in_every_frame_are_widened_by_a_tenth(
    boxes: str, box: list[float], expected: tuple[int, int, int, int]
) -> None:
    found = pixel_box(tuple(zoomed(PixelReasoner(boxes=boxes), crop(box)).arguments["box"]), FILE)
    x0, y0, x1, y1 = expected
    assert found == (max(0, x0 - 400), max(0, y0 - 200), min(4000, x1 + 400), min(2000, y1 + 200))


def test_deepeyes_always_cuts_from_the_first_picture() -> None:
    assert zoomed(DeepEyes(), zoom_in([0, 0, 10, 10])).arguments["image"] == "image_1"


@pytest.mark.parametrize("name", ["crop_image", "crop_image_normalized", "zoom_in"])
def test_pixel_reasoners_target_counts_pictures_and_crops_from_one(name: str) -> None:
    call = zoomed(PixelReasoner(), crop([0.2, 0.2, 0.8, 0.8], 2, name))
    assert call.arguments["image"] == "image_2"


def test_of_a_video_the_target_is_a_frame_until_something_came_back() -> None:
    dialect, back = PixelReasoner(), Shown(name="image_1", picture=FILE, view=VIEW)
    assert zoomed(dialect, crop([0.2] * 2 + [0.8] * 2, 2), FRAMES).arguments["image"] == "frame_4"
    assert zoomed(dialect, crop([0.2] * 2 + [0.8] * 2, 2), (*FRAMES, back)).arguments["image"] == "image_1"
    assert zoomed(dialect, crop([0.2] * 2 + [0.8] * 2, 1), (*FRAMES, back)).arguments["image"] == "image_1"


def test_selected_frames_are_zooms_of_whole_frames() -> None:
    text = '<tool_call>{"name":"select_frames","arguments":{"target_frames":[1,3]}}</tool_call>'
    action = PixelReasoner().read(text, FRAMES).action
    assert isinstance(action, Calls)
    assert [call.arguments for call in action.calls] == [
        {"image": "frame_1", "box": [0, 0, 1000, 1000]},
        {"image": "frame_7", "box": [0, 0, 1000, 1000]},
    ]
    assert zoomed(PixelReasoner(), text.replace("[1,3]", "[2]"), FRAMES).arguments["image"] == "frame_4"
    many = PixelReasoner().read(text.replace("[1,3]", "[1,1,1,1,1,1,1,1,1]"), FRAMES).action
    assert isinstance(many, Unreadable) and many.code == "limit_exceeded"


# Answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{493}", "493"),
        ("first \\boxed{1}, no: \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{ A }", "A"),
    ],
)
def test_pixel_reasoner_answers_with_its_last_box(text: str, answer: str) -> None:
    assert PixelReasoner().read(text, SHOWN).action == Answer(text=answer)


def test_deepeyes_answers_before_it_calls() -> None:
    said = DeepEyes().read(zoom_in([0, 0, 9, 9]) + "<answer>B</answer>", SHOWN)
    assert said.action == Answer(text="B")
    assert DeepEyes().read("<think>a</think><answer>1</answer><answer>2</answer>", SHOWN).action == Answer(text="2")


# Totality, and the way back


@given(
    st.sampled_from(DIALECTS),
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "<answer>", "</answer>", "\\boxed{", "}", "{", "\ud800"])
        | st.text(max_size=5)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ).map(lambda value: crop(value, value))
        | st.lists(st.floats(-10, 2000), min_size=4, max_size=4).map(zoom_in)
        | st.integers(-3, 12).map(lambda number: crop([0.1, 0.1, 0.5, 0.5], number)),
        max_size=6,
    ).map("".join),
    st.sampled_from([(), SHOWN, FRAMES]),
)
def test_any_string_is_a_call_an_answer_or_a_named_error(name: str, text: str, shown: tuple[Shown, ...]) -> None:
    action = dialect_of(DialectConfig(name=name)).read(text, shown).action
    assert isinstance(action, ToolCall | Calls | Answer | Unreadable)
    if isinstance(action, Unreadable):
        assert action.hint and action.code in ("malformed_call", "bad_argument", "limit_exceeded")


places = st.tuples(st.floats(0, 690), st.floats(0, 690), st.floats(210, 300), st.floats(210, 300))


@given(st.sampled_from(["auto", "share", "view", "original"]), places, st.sampled_from(["deepeyes", "pixel_reasoner"]))
def test_a_written_call_reads_back_to_the_same_place(boxes: str, place: tuple[float, ...], name: str) -> None:
    x, y, width, height = place
    dialect = dialect_of(DialectConfig(name=name, boxes=boxes))
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [x, y, x + width, y + height]})
    said = dialect.read(dialect.write_call(call, "I look.", SHOWN), SHOWN)
    assert said.thought == "I look."
    assert isinstance(said.action, ToolCall) and said.action.arguments["image"] == "image_1"
    assert said.action.arguments["box"] == pytest.approx(call.arguments["box"], abs=1e-6)


@given(st.sampled_from(DIALECTS), st.text("abc 123,.", min_size=1).filter(str.strip))
def test_a_written_answer_reads_back(name: str, answer: str) -> None:
    dialect = dialect_of(DialectConfig(name=name))
    assert dialect.read(dialect.write_answer(answer, "so "), SHOWN).action == Answer(text=answer.strip())


def test_a_call_without_words_in_the_dialect_is_refused_by_name() -> None:
    with pytest.raises(ContractError, match="no words for SEG"):
        DeepEyes().write_call(ToolCall(name="SEG", arguments={"image": "image_1"}), "", SHOWN)
    with pytest.raises(ContractError, match="first picture only"):
        DeepEyes().write_call(ToolCall(name="ZOOM", arguments={"image": "image_2", "box": [0, 0, 9, 9]}), "", SHOWN)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_system_prompt_lists_the_dialects_tools(name: str) -> None:
    dialect = dialect_of(DialectConfig(name=name))
    prompt = dialect.system("You are careful.")
    assert prompt.startswith("You are careful.\n\n# Tools")
    listed = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    names = [json.loads(line)["function"]["name"] for line in listed]
    assert names and set(names) <= set(dialect.tools())


@pytest.mark.parametrize(("name", "boxes"), [("klingon", "auto"), ("hermes", "view"), ("deepeyes", "inches")])
def test_impossible_dialects_are_refused(name: str, boxes: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of|is for foreign dialects"):
        DialectConfig(name=name, boxes=boxes)


# In the agent's loop


async def play(name: str, script: list[str], query: Query | None = None) -> Episode:
    chat = tiny_chat()
    agent = Agent(
        generator=ScriptedGenerator(chat, script),
        toolbox=ScriptedToolbox(crop=a_ref("crop")),
        chat=chat,
        viewer=PlainViewer(),
        config=ActorConfig(max_model_len=4096),
        dialect=dialect_of(DialectConfig(name=name)),
    )
    episode = await agent.roll_out(query or a_query(), Sampling(max_tokens=400))
    chat.check(episode.turns)
    assert len(episode.calls) == sum(turn.role == "tool" for turn in episode.turns)
    return episode


def told(episode: Episode) -> str:
    """What came back, in tokens' text; a picture is <>."""
    chat = tiny_chat()
    ids = [token for turn in episode.turns if turn.role == "tool" for token in turn.token_ids]
    text = chat.decode_all(ids).replace("<|image_pad|>", "")
    return text.replace("<|vision_start|><|vision_end|>", "<>")


async def test_deepeyes_is_shown_a_crop_between_tags_and_an_error_without() -> None:
    episode = await play("deepeyes", [zoom_in([0, 0, 32, 32]), "<answer>B</answer>"])
    assert episode.answer == "B" and [done.call.name for done in episode.calls] == ["ZOOM"]
    assert told(episode).startswith("\n<|im_start|>user\n<tool_response><>\nThink first")
    assert told(episode).endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    refused = await play("deepeyes", ["nothing", "<answer>B</answer>"])
    assert told(refused).startswith("\n<|im_start|>user\nError: malformed_call: ")


async def test_pixel_reasoner_is_told_sizes_and_gets_frames_in_one_message() -> None:
    episode = await play("pixel_reasoner", [crop([0.1, 0.1, 0.4, 0.4]), "so \\boxed{7}"])
    assert episode.answer == "7"
    assert told(episode) == (
        "\n<|im_start|>user\n\nHere is the cropped image (Image Size: 64x64):<><|im_end|>\n<|im_start|>assistant\n"
    )
    select = '<tool_call>{"name":"select_frames","arguments":{"target_frames":[1,2]}}</tool_call>'
    clip = await play("pixel_reasoner", [select, "\\boxed{2}"], a_query(clip=a_clip(4), images=()))
    assert [done.call.arguments["image"] for done in clip.calls] == ["frame_1", "frame_3"]
    assert told(clip) == (
        "\n<|im_start|>user\n\nHere are the selected frames (Frame Size: 64x64, Numbered 1 to 2):<><>"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
