"""Questions with answers as VeRL keeps them, which is how DeepEyes' sets are published: a row opens a conversation.

    prompt        [{"role": "system", …}, {"role": "user", "content": "<image>What does the sign say? …"}]
    images        [{"bytes": …, "path": …}], or paths
    reward_model  {"ground_truth": "No parking", …}
    extra_info    {"question": "…", "answer": "…", "split": "train", …}
    data_source   where the row comes from, which becomes its family

What the prompt says of its own tools, after the question, is not part of the question.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

COLUMNS = ("prompt", "images", "reward_model", "extra_info", "data_source")
TRUTHS = ("answer", "solution", "ground_truth", "gt")
"""Keys under which published records name what is right."""
_PLACEHOLDER = re.compile(r"<image>|<video>")
_HOW_TO = re.compile(
    r"\s*(?:Guidelines: Understand the given visual information|Think first, call \*\*image_zoom_in_tool).*", re.DOTALL
)


def is_verl(names: Collection[str]) -> bool:
    """Whether rows with these keys are of this form."""
    return "prompt" in names and ("reward_model" in names or "extra_info" in names)


def row_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """The row in our form. What is missing stays missing, for the form's own check to name it."""
    extra, source = mapping(values.get("extra_info")), values.get("data_source")
    row = {
        "media": values.get("images"),
        "question": _question(values.get("prompt"), extra),
        "answer": next(truths(mapping(values.get("reward_model")), extra), None),
        "family": source if isinstance(source, str) else None,
        "split": extra["split"] if isinstance(extra.get("split"), str) else None,
    }
    return {key: value for key, value in row.items() if value is not None}


def _question(prompt: Any, extra: Mapping[str, Any]) -> str | None:
    """What was asked, by itself where the row has it so, else as the conversation opens."""
    if isinstance(extra.get("question"), str):
        return plain_question(extra["question"])
    messages = [mapping(message) for message in prompt] if isinstance(prompt, list) else []
    asked = next((message.get("content") for message in messages if message.get("role") == "user"), None)
    return plain_question(asked) if isinstance(asked, str) else None


def plain_question(text: str) -> str:
    """A published question without the places of its pictures and without the words about tools after it.

    >>> plain_question("<image>Which code? Think first, call **image_zoom_in_tool** if needed, then answer.")
    'Which code?'
    """
    return _HOW_TO.sub("", _PLACEHOLDER.sub("", text), count=1).strip()


def truths(*sources: Mapping[str, Any]) -> Iterator[str]:
    """The right answers that `sources` name, in their order."""
    for source in sources:
        for key in TRUTHS:
            found = source.get(key)
            for item in found if isinstance(found, list) else [found]:
                if isinstance(item, str | int | float) and not isinstance(item, bool) and str(item).strip():
                    yield _unboxed(str(item).strip())


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is one, else nothing."""
    return value if isinstance(value, Mapping) else {}


def _unboxed(text: str) -> str:
    r"""What \boxed{} holds, or the text."""
    found = re.fullmatch(r"\\boxed\{(.*)\}", text, re.DOTALL)
    return found[1] if found else text
