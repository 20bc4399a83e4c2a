"""Our own form, Hermes' and Qwen's: a JSON object between tags, results between tags (actors/dialogue, common/chat)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.dialects.port import Shown, tool_list
from actors.dialogue import ANSWER_OPENS, CALL_OPENS, Utterance, read, write_answer, write_call
from actors.tools.catalogue import TOOLS, specs
from common.chat import Chat
from common.types import ExecutedCall, ToolCall, Turn

_HOW = """# Tools

You act on the pictures with tools, one call a turn. Their signatures:
{tools}

To call one, end the turn with a JSON object between tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>
To answer, end the turn with <answer>your answer</answer>."""


class Hermes:
    """See Dialect."""

    @property
    def answer_opens(self) -> str:
        return ANSWER_OPENS

    @property
    def call_opens(self) -> str:
        """Up to the tool's name, where every call is still the same: a tokenizer may have one token for all of it."""
        return f'{CALL_OPENS}{{"name":"'

    def tools(self) -> Mapping[str, type]:
        return {tool.name: tool.arguments for tool in TOOLS}

    def system(self, system: str) -> str:
        return "\n\n".join(filter(None, (system, _HOW.format(tools=tool_list(specs())))))

    def read(self, text: str, shown: Sequence[Shown]) -> Utterance:
        return read(text)

    def write_call(self, call: ToolCall, thought: str, shown: Sequence[Shown]) -> str:
        return write_call(call, thought)

    def write_answer(self, answer: str, thought: str) -> str:
        return write_answer(answer, thought)

    def observe(self, chat: Chat, done: Sequence[ExecutedCall], shown: Sequence[Shown]) -> tuple[Turn, ...]:
        return tuple(chat.observation(each.observation.text, each.observation.view) for each in done)
