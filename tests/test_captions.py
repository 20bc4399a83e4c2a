"""Captions: what is asked of the view is answered as a task would have it, and a track's box is rounded as a plan's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from actors.tasks.captions import Captions
from actors.tasks.config import WorldConfig
from common.chat import Chat
from common.media import FolderMediaStore
from common.types import Trace

QUESTION = re.compile(r"user\n.*?(side of the|how many)", re.DOTALL)


def small(pixels: np.ndarray, frame: int | None) -> np.ndarray:
    step = len(pixels) // 64
    return np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step][:64, :64])


@pytest.fixture(scope="module")
def traces(chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    captions = Captions(WorldConfig(), chat, FolderMediaStore(tmp_path_factory.mktemp("views")), small)
    return [captions.trace(index, num_plates=(1, 4), mixed=True, level=1) for index in range(90)]


def test_a_question_is_answered_and_that_an_answer_comes_is_not_learned(traces: list[Trace], chat: Chat) -> None:
    asked = [trace for trace in traces if QUESTION.search(chat.decode_all(trace.turns[0].token_ids))]
    assert len(asked) > 4
    for trace in asked:
        said = trace.turns[1].token_ids
        found = re.fullmatch(r"<answer>(left|right|[1-4])</answer>", chat.decode(said))
        assert found, chat.decode(said)
        weights = trace.weights[-len(said) :]
        opening = len(chat.encode("<answer>"))
        assert set(weights[:opening]) == {0.0} and set(weights[opening:]) == {1.0}


def test_some_boxes_of_a_clip_are_written_as_a_track_begins(traces: list[Trace], chat: Chat) -> None:
    texts = [chat.decode(trace.turns[1].token_ids) for trace in traces]
    boxes = [
        list(map(int, found))
        for text in texts
        for found in re.findall(r'"frame_1","box":\[(\d+),(\d+),(\d+),(\d+)', text)
    ]
    assert len(boxes) > 2
    assert all(0 <= value <= 1000 and value % 50 == 0 for box in boxes for value in box)


def test_what_is_repeated_of_a_tool_is_in_what_it_returned(traces: list[Trace], chat: Chat) -> None:
    copied = [trace for trace in traces if trace.family == "caption_copy"]
    assert len(copied) > 8
    for trace in copied:
        seen, said = (chat.decode(turn.token_ids) for turn in trace.turns)
        values = re.findall(r"frame_\d+|\d+(?:\.\d+)?", said)
        assert values and all(value in seen for value in values)
