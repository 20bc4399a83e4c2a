"""Published conversations as plain values: what was asked about which media, what the model said, what is right.

Two families of files are read, as a JSON list, as JSON lines (one object a line) or as Parquet (a column a key):

    Pixel-Reasoner   {"message_list": [{"role": "user", "content": [{"type": "image", "image": "images/7.jpg"},
                     {"type": "video", "video": ["images/7_1.jpg", …]}, {"type": "text", "text": "…"}]}, …]}
    DeepEyes         {"prompt": [{"role": "user", "content": "<image>…"}, …], "images": [{"path": "7.jpg"}],
                     "reward_model": {"ground_truth": "…"}, "extra_info": {"question": "…", "answer": "…"}}

The list of messages may also be called messages or conversations, its entries {"from": "human", "value": "…"}, and
pictures may stand beside it under images or image, in Parquet also as {"bytes": …}. What the user's later messages
hold (crops, errors) is what a tool returned there and is not read. Keys that are null count as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from actors.tasks.datasets.files import parquet_rows
from actors.tasks.datasets.verl import TRUTHS, mapping, plain_question, truths
from common.errors import DataError

_MESSAGES = ("message_list", "messages", "conversations", "prompt")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_NAMES = ("id", "qid", "doc_id", "index")
_BESIDE = ("response", "images", "image", "videos", "video", "extra_info", "reward_model")
"""What a record holds beside its messages."""


class RecordError(Exception):
    """A record that is no such conversation. The message is a short name of the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A conversation. media: paths as written, or encoded pictures; video: they are one video's frames, or its file.
    said: the model's turns in order. truths: right answers, none where the record names none.
    """

    name: str
    question: str
    media: tuple[str | bytes, ...]
    video: bool
    said: tuple[str, ...]
    truths: tuple[str, ...]


def read_records(path: Path) -> Iterator[Record | RecordError]:
    """The records of a file in order; what is none costs itself only. Raises DataError, one line."""
    values = _rows(path) if path.suffix == ".parquet" else _values(_text(path))
    for number, value in enumerate(values, 1):
        try:
            yield value if isinstance(value, RecordError) else _record(value, f"{path.stem}-{number}")
        except RecordError as error:
            yield error


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file. Raises DataError, one line."""

    def wanted(names: list[str]) -> list[str]:
        if not set(_MESSAGES) & set(names):
            raise DataError(f"{path}: no column {' or '.join(_MESSAGES)}; it has {', '.join(names)}")
        return [name for name in (*_MESSAGES, *_NAMES, *_BESIDE, *TRUTHS) if name in names]

    return parquet_rows(path, wanted)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; give JSON, JSON lines or Parquet") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text


def find_media(path: str, folder: Path) -> Path | None:
    """The file below `folder` that a record's path means: the longest end of the path that is there. Published paths
    often begin with folders of the machine they were made on.
    """
    parts = [part for part in PurePosixPath(path.removeprefix("file://")).parts if part not in ("/", ".")]
    if ".." in parts:
        return None
    for start in range(len(parts)):
        found = folder.joinpath(*parts[start:])
        if found.is_file() and found.resolve().is_relative_to(folder.resolve()):
            return found
    return None


def _values(text: str) -> Iterator[Any]:
    """The entries of a JSON list, one JSON object, or JSON lines."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        for line in filter(str.strip, text.splitlines()):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield RecordError("broken_json")
        return
    yield from whole if isinstance(whole, list) else [whole]


def _record(value: Any, name: str) -> Record:
    if not isinstance(value, Mapping):
        raise RecordError("no_conversation")
    messages = next((value[key] for key in _MESSAGES if isinstance(value.get(key), list)), None)
    if messages is None:
        raise RecordError("no_conversation")
    turns = [_turn(message) for message in messages]
    asked = next((turn for turn in turns if turn.role == "user"), None)
    said = tuple(turn.text for turn in turns if turn.role == "assistant")
    extra = mapping(value.get("extra_info"))
    if isinstance(value.get("response"), str):
        said = (*said, value["response"])
    if asked is None or not said:
        raise RecordError("no_conversation")
    asked_apart = extra.get("question")
    question = asked_apart if isinstance(asked_apart, str) else asked.text
    beside = [path for key in ("images", "image", "videos", "video") for path in _paths(value.get(key))]
    media = asked.media or tuple(beside)
    if not media:
        raise RecordError("no_media")
    given = next((value[key] for key in _NAMES if isinstance(value.get(key), str | int)), name)
    return Record(
        name=str(given),
        question=plain_question(question),
        media=media if asked.media else media[: max(1, asked.text.count("<image>"))],
        video=asked.video or bool(not asked.media and _paths(value.get("videos") or value.get("video"))),
        said=said,
        truths=tuple(truths(value, extra, mapping(value.get("reward_model")))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    role: str
    text: str
    media: tuple[str | bytes, ...]
    video: bool


def _turn(message: Any) -> _Turn:
    if not isinstance(message, Mapping):
        raise RecordError("no_conversation")
    role = _ROLES.get(str(message.get("role") or message.get("from")), "")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if not role or not isinstance(content, str | list):
        raise RecordError("no_conversation")
    if isinstance(content, str):
        return _Turn(role=role, text=content, media=(), video=False)
    parts = [part for part in content if isinstance(part, Mapping)]
    text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    media = [path for part in parts for key in ("image", "video") for path in _paths(part.get(key))]
    return _Turn(role=role, text=text, media=tuple(media), video=any(_paths(part.get("video")) for part in parts))


def _paths(value: Any) -> list[str | bytes]:
    """Paths of a text or {"path": …}, encoded pictures of {"bytes": …}, or those of a list."""
    if isinstance(value, str | bytes):
        return [value] if value else []
    if isinstance(value, Mapping):
        return _paths(value.get("bytes") or value.get("path"))
    return [path for item in value for path in _paths(item)] if isinstance(value, list) else []
