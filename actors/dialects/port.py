"""What a dialect is: the words in which one family of models calls, answers and is told what came back.

The rest of the house knows one kind of call: our tools, boxes on the 0–1000 grid, references by name. A dialect
translates: a turn's text into such calls, and executed calls into turns. Whatever a model writes about a call that can
be read but not served (an unknown tool, a box of three numbers, a picture that is not there) is passed on as it is, so
that the toolbox refuses it with its own closed set of errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.dialogue import Utterance
from common.chat import Chat
from common.types import ExecutedCall, MediaRef, ToolCall, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture that the model was shown. name: what our calls name it (image_2, frame_17). view: as it was shown."""

    name: str
    picture: MediaRef
    view: MediaRef


class Dialect(Protocol):
    """One family of models. `shown`: every picture of the rollout so far, in order."""

    @property
    def answer_opens(self) -> str:
        """What opens an answer, for a turn that may only answer."""
        ...

    @property
    def call_opens(self) -> str:
        """What opens a call, for a turn that is to call."""
        ...

    def tools(self) -> Mapping[str, type]:
        """The tools by the dialect's names, each with its arguments' dataclass: for the grammar."""
        ...

    def system(self, system: str) -> str:
        """The system prompt with the list of the tools and how to call them."""
        ...

    def read(self, text: str, shown: Sequence[Shown]) -> Utterance:
        """The turn that `text` is, in our tools and on our grid. Total."""
        ...

    def write_call(self, call: ToolCall, thought: str, shown: Sequence[Shown]) -> str:
        """A turn that calls. Raises ContractError for a call that the dialect has no words for."""
        ...

    def write_answer(self, answer: str, thought: str) -> str:
        """A turn that answers."""
        ...

    def observe(self, chat: Chat, done: Sequence[ExecutedCall], shown: Sequence[Shown]) -> tuple[Turn, ...]:
        """What came back of one turn's calls: a turn each, which together are one message."""
        ...


def returned(done: ExecutedCall) -> Shown | None:
    """The picture that a call brought, as it was shown; None where there is none."""
    seen = done.observation
    if seen.image is None or seen.view is None:
        return None
    return Shown(name=str(json.loads(seen.text).get("image", "")), picture=seen.image, view=seen.view)


def hint_of(done: ExecutedCall) -> str:
    """Why a call failed, in a few words."""
    payload: dict[str, Any] = json.loads(done.observation.text)
    return f"{payload.get('error', '')}: {payload.get('hint', '')}"


def tool_list(specs: Sequence[Mapping[str, Any]]) -> str:
    """Signatures as Qwen's models read them: one JSON object a line."""
    lines = "\n".join(json.dumps({"type": "function", "function": dict(spec)}, ensure_ascii=False) for spec in specs)
    return f"<tools>\n{lines}\n</tools>"
