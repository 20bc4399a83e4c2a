"""Which tokens hold arguments, and what a model that looks at nothing would lose on them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from fakes.learning import a_real_trace
from fakes.models import make_tiny_model

from common.chat import Chat
from common.media import FolderMediaStore
from common.types import Turn
from learner.arguments import Marginals, argument_slots, values
from learner.batch import row_of_trace


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return Chat.from_model(make_tiny_model(tmp_path_factory.mktemp("model")))


def found(text: str) -> list[str]:
    return [text[first:last] for (first, last), _ in values(text)]


def test_values_are_what_stands_between_keys_and_punctuation() -> None:
    call = '<tool_call>{"name":"TRK","arguments":{"box":[10,20,30,40],"clip":"clip_1","start":1.5}}</tool_call>'
    assert found(f"The box is at [1, 2]. {call}") == ["10", "20", "30", "40", "clip_1", "1.5"]
    spaced = (
        '<tool_call>\n{"name": "crop", "arguments": {"bbox_2d": [0.2, 0.3], "label": "a \\"b\\": c"}}\n</tool_call>'
    )
    assert found(spaced) == ["0.2", "0.3", 'a \\"b\\": c']
    assert found("<answer>493</answer>") == []


def test_a_slot_is_the_call_without_its_earlier_values() -> None:
    def slots(x: int, y: int) -> list[str]:
        return [slot for _, slot in values(f'<tool_call>{{"name":"P","arguments":{{"at":[{x},{y}]}}}}</tool_call>')]

    assert slots(1, 2) == slots(300, 400)
    assert slots(1, 2)[0] != slots(1, 2)[1]
    assert slots(1, 2)[0].endswith('"at":[')


def test_the_tokens_of_a_traces_arguments_are_found(chat: Chat, tmp_path: Path) -> None:
    trace = a_real_trace(chat, FolderMediaStore(tmp_path), 1)
    row = row_of_trace(trace, chat)
    spoken = chat.decode(row.ids[row.trained[row.slots != 0]].tolist())
    assert spoken == "image_1150200450600"
    everywhere = argument_slots(trace.turns, chat)
    assert np.flatnonzero(everywhere).tolist() == row.trained[row.slots != 0].tolist()


def test_a_turn_that_was_sampled_another_way_has_none(chat: Chat) -> None:
    text = '<tool_call>{"name":"ZOOM","arguments":{"image":"image_1","box":[1,2,3,4]}}</tool_call>'
    letters = tuple(token for letter in text for token in chat.encode(letter))
    assert chat.decode(letters) == text
    assert argument_slots([Turn(role="assistant", token_ids=chat.written(text))], chat).any()
    assert not argument_slots([Turn(role="assistant", token_ids=(*letters, chat.end_of_turn))], chat).any()


def test_the_entropy_is_that_of_each_slot_by_its_count() -> None:
    marginals = Marginals()
    assert marginals.entropy() is None
    # slot 5: a fair coin (log 2, four times); slot 7: always the same (0, twice); slot 0 is no slot
    marginals.add(np.array([5, 5, 5, 5, 7, 7, 0]), np.array([1, 2, 1, 2, 9, 9, 3]))
    assert marginals.entropy() == pytest.approx(4 / 6 * math.log(2))
