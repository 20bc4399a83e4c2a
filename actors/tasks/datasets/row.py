"""The one form of a data set's task: media, a question, what is right, and how that is judged.

    media      a picture, a list of pictures, or a video: paths below the media folder, or encoded bytes
    question   text
    answer     text, a number, true or false, or a list of them of which each is right
    kind       exact, choice, numeric, near or anls; where it is left out, the answer's form decides (`kind_of`)
    options    of a multiple choice: texts; the answer is one of them or its letter
    id         unique in the set; where it is left out, the set's name and the row's number
    family, split, chain      what the row exercises, the part it belongs to, the planner's chain of tools
    times_s, shown            where `media` are the frames of one clip: their seconds, and which the model sees

Whatever else a row holds is ignored. A row that breaks the form costs itself only: a `Broken` says where and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, cast

from common.scoring import normalise

Kind: TypeAlias = Literal["exact", "choice", "numeric", "near", "anls"]

KINDS: tuple[Kind, ...] = ("exact", "choice", "numeric", "near", "anls")
SYNONYMS: Mapping[str, Kind] = {"ocr": "anls", "count": "exact", "statement": "choice"}
"""What public sets call theirs: text to read, a whole number, a statement that is true or false."""
_YES_NO = ("yes", "no", "true", "false")
_MAX_OPTIONS = 26


class RowError(Exception):
    """What is wrong with a row, in words that say what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A row that was left out. number: its line in the file, or its number in the set, from 1."""

    source: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.number}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A task whose media nobody has opened yet.

    media: paths as written, below the media folder, or encoded pictures. answers: the first is written by imitation,
    all are right. times_s: one a medium where they are the frames of a clip, else empty; shown: indices of these.
    """

    row_id: str
    media: tuple[str | bytes, ...]
    question: str
    answers: tuple[str, ...]
    kind: Kind
    family: str
    split: str
    chain: tuple[str, ...] = ()
    times_s: tuple[float, ...] = ()
    shown: tuple[int, ...] = ()
    number: int = 0


def row_of(values: Mapping[str, Any], *, name: str, number: int) -> Row:
    """The row. name: of the set, which the family and the identifier fall back to. Raises RowError."""
    for key in ("media", "question", "answer"):
        if values.get(key) is None:
            raise RowError(f"no {key!r}; it has {', '.join(map(str, values)) or 'nothing'}")
    question = _text(values, "question")
    if not question:
        raise RowError("the question is empty")
    options = _texts(values, "options")
    answers = tuple(_answer(item) for item in _listed(values["answer"]))
    if not answers:
        raise RowError("the list of answers is empty")
    kind = _kind(values.get("kind"), answers, options)
    if options:
        question, answers = with_options(question, answers, options)
    media = _media(values["media"])
    times_s, shown = _times(values, len(media))
    return Row(
        row_id=_text(values, "id") or f"{name}-{number}",
        media=media,
        question=question,
        answers=answers,
        kind=kind,
        family=_text(values, "family") or name,
        split=_text(values, "split") or "data",
        chain=_texts(values, "chain"),
        times_s=times_s,
        shown=shown,
        number=number,
    )


def kind_of(answers: Sequence[str], *, has_options: bool = False) -> Kind:
    """How answers of this form are judged where nobody says.

    choice: options are given, or yes, no, true, false. numeric: a number with a decimal point. exact: a whole number or
    a single word. anls: anything longer. Of several answers the most lenient form counts.

    >>> kind_of(["7"]), kind_of(["3.5"]), kind_of(["yes"]), kind_of(["New York", "NYC"])
    ('exact', 'numeric', 'choice', 'anls')
    """
    if has_options:
        return "choice"
    forms = {_form(answer) for answer in answers}
    if len(forms) == 1:
        return forms.pop()
    return "exact" if forms <= {"exact", "choice"} else "anls"


def _form(answer: str) -> Kind:
    if normalise(answer) in _YES_NO:
        return "choice"
    if _number(answer) is not None:
        return "numeric" if "." in answer else "exact"
    return "exact" if len(answer.split()) == 1 else "anls"


def with_options(question: str, answers: tuple[str, ...], options: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The question with its options written below it, lettered, and the answers as texts and letters. Raises RowError.

    An option's own text comes before letters: of the options "B" and "A", the answer "A" is the second.
    """
    letters = [chr(ord("A") + at) for at in range(len(options))]
    if len(options) > _MAX_OPTIONS:
        raise RowError(f"{len(options)} options; at most {_MAX_OPTIONS} can be lettered")
    texts = [normalise(option) for option in options]
    if len(set(texts)) < len(texts):
        raise RowError("two options are the same")
    right: list[str] = []
    for answer in answers:
        said = normalise(answer)
        if said in texts:
            at = texts.index(said)
        elif said.upper() in letters:
            at = letters.index(said.upper())
        else:
            raise RowError(f"the answer {answer!r} is none of the options and not the letter of one")
        right += [options[at], *([] if normalise(letters[at]) in texts else [letters[at]])]
    written = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    return f"{question}\n{written}", tuple(dict.fromkeys(right))


def _kind(said: Any, answers: Sequence[str], options: Sequence[str]) -> Kind:
    if said is None or said == "":
        return kind_of(answers, has_options=bool(options))
    kind = SYNONYMS.get(said, said) if isinstance(said, str) else said
    if kind not in KINDS:
        raise RowError(f"kind is {said!r}; it must be one of {', '.join((*KINDS, *SYNONYMS))}, or left out")
    if kind in ("numeric", "near"):
        for answer in answers:
            if _number(answer) is None:
                raise RowError(f"the answer {answer!r} is no number, so its kind cannot be {kind}")
    return cast("Kind", kind)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _answer(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise RowError(f"an answer is {value!r}; it must be a text or a number")


def _media(value: Any) -> tuple[str | bytes, ...]:
    items = _listed(value)
    if not items:
        raise RowError("the list of media is empty")
    return tuple(_medium(item) for item in items)


def _medium(item: Any) -> str | bytes:
    """A path or bytes; also {"bytes": …, "path": …}, the form in which Parquet files of the Hugging Face Hub hold
    pictures.
    """
    if isinstance(item, Mapping) and {"bytes", "path"} <= set(item):
        item = item["bytes"] if item["bytes"] is not None else item["path"]
    if isinstance(item, bytes) and item:
        return item
    if isinstance(item, Path):
        item = str(item)
    if isinstance(item, str) and item.strip():
        return item
    raise RowError(f"media holds {type(item).__name__ if item else repr(item)}; it must hold paths or encoded pictures")


def inside(folder: Path, path: str) -> Path:
    """`path` below `folder`. Raises RowError where it would lead out of it, as a set from elsewhere must not."""
    written = Path(path)
    if written.is_absolute():
        if not written.is_relative_to(folder.absolute()):
            raise RowError(f"{path} is outside the media folder {folder}; give the folder that holds it")
        return written
    if ".." in PurePosixPath(path).parts:
        raise RowError(f"{path} leads out of the media folder {folder}; give the folder that holds it")
    return folder / written


def _times(values: Mapping[str, Any], num_media: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    times = _listed(values["times_s"]) if values.get("times_s") is not None else []
    shown = _listed(values["shown"]) if values.get("shown") is not None else []
    if not times:
        if shown:
            raise RowError("'shown' without 'times_s'; it names frames of a clip")
        return (), ()
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        raise RowError("times_s must be numbers, the seconds of the frames")
    if len(times) != num_media or any(later <= time for time, later in pairwise(times)):
        raise RowError(f"times_s must be {num_media} rising seconds, one a frame; got {len(times)}")
    if not all(isinstance(at, int) and 0 <= at < num_media for at in shown):
        raise RowError(f"shown must be indices of frames, from 0 to {num_media - 1}")
    return tuple(float(time) for time in times), tuple(shown)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if isinstance(value, int) and key == "id":
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"{key!r} is {type(value).__name__}; it must be a text")
    return value.strip()


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key)
    items = [] if value is None else _listed(value)
    if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in items):
        raise RowError(f"{key!r} must be a list of texts")
    return tuple(str(item).strip() for item in items)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
