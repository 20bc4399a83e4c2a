"""Traces kept in a folder, to be imitated by any run whose model reads the same tokens.

    DIR/set.json              what the tokens were made with (`form_of`), how many traces there are, a hash of each part
        traces-00000.arrow    traces in order, one Arrow IPC stream a part (common/schema)
        media/ab/abcdef…      the pictures and views that they show, by content

A set appears whole or not at all. Its traces are handed out in an order that a seed fixes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actors.config import ViewConfig
from common.chat import Chat
from common.errors import ContractError, DataError
from common.geometry import GRID
from common.media import FolderMediaStore, content_digest
from common.schema import decode_traces, encode_traces
from common.seeds import stream
from common.types import Trace

FORMAT = 1
"""Raised whenever a set that older code wrote can no longer be read."""
ABOUT = "set.json"
PART = 64
"""Traces of a part: a part is read whole when one of its traces is wanted."""
_FORM_KEYS = ("tokenizer", "system prompt", "vision", "view", "grid")


def form_of(chat: Chat, view: ViewConfig) -> dict[str, Any]:
    """All that decides which tokens a trace has: JSON values by the names that people are told."""
    values = (chat.digest, chat.system, asdict(chat.vision), asdict(view), GRID)
    form: dict[str, Any] = json.loads(json.dumps(dict(zip(_FORM_KEYS, values, strict=True))))
    return form


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSet:
    """A set that was found. parts: (traces, blake3) of each. digest: of all traces."""

    folder: Path
    form: Mapping[str, Any]
    parts: tuple[tuple[int, str], ...]

    @property
    def num_traces(self) -> int:
        return sum(count for count, _ in self.parts)

    @property
    def digest(self) -> str:
        return content_digest("".join(digest for _, digest in self.parts).encode())

    @property
    def media(self) -> Path:
        return self.folder / "media"

    def check(self, form: Mapping[str, Any]) -> None:
        """Raises DataError, one line, where a model of this form would read other tokens."""
        others = [key for key in _FORM_KEYS if self.form.get(key) != form[key]]
        if others:
            raise DataError(
                f"{self.folder}: its traces were made with another {' and '.join(others)} than this model has; "
                "import them again with this model.path and view (pixelis data import)"
            )

    def read(self, part: int) -> bytes:
        """A part's Arrow stream. Raises DataError, one line, where it is not what was written."""
        path = _part(self.folder, part)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if content_digest(data) != self.parts[part][1]:
            raise DataError(f"{path}: damaged; import the set again")
        return data

    def traces(self) -> Iterator[Trace]:
        """All of them, in the order of their records."""
        for part in range(len(self.parts)):
            yield from decode_traces(self.read(part))


def open_set(folder: Path) -> TraceSet:
    """The set in `folder`; of its traces nothing is read. Raises DataError, one line."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise DataError(f"{folder}: a set of format {about['format']}, this is {FORMAT}; import it again")
        parts = tuple((int(part["traces"]), str(part["digest"])) for part in about["parts"])
        return TraceSet(folder=folder, form=dict(about["form"]), parts=parts)
    except OSError:
        raise DataError(f"{folder} holds no traces (no {ABOUT}); pixelis data import makes such a folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / ABOUT} cannot be read ({error}); import the set again") from error


def open_sets(folders: Sequence[Path]) -> tuple[TraceSet, ...]:
    """The sets in `folders`. Raises DataError, one line, also where two are the same."""
    sets = tuple(open_set(folder) for folder in folders)
    for at, found in enumerate(sets):
        for other in sets[:at]:
            if other.digest == found.digest:
                raise DataError(f"{found.folder} holds the same traces as {other.folder}; name one of them")
    return sets


class Shelf:
    """The traces of several sets in one order, drawn by the seed."""

    def __init__(self, sets: Sequence[TraceSet], seed: int) -> None:
        self._sets = tuple(sets)
        places = [
            (number, part, row)
            for number, found in enumerate(sets)
            for part, (count, _) in enumerate(found.parts)
            for row in range(count)
        ]
        self._order = [places[at] for at in stream(seed, "kept traces").permutation(len(places)).tolist()]

    def __len__(self) -> int:
        return len(self._order)

    def traces(self, start: int, count: int, *, level: int) -> list[Trace]:
        """Traces [start, start + count) of the order, as of curriculum level `level`, their names unique among all."""
        wanted: dict[tuple[int, int], list[int]] = {}
        for number, part, row in self._order[start : start + count]:
            wanted.setdefault((number, part), []).append(row)
        found: list[Trace] = []
        for (number, part), rows in sorted(wanted.items()):
            home = self._sets[number]
            for row, trace in zip(rows, decode_traces(home.read(part), rows), strict=True):
                name = f"{home.digest[:12]}/{PART * part + row}/{trace.trace_id}"
                found.append(replace(trace, trace_id=name, level=level))
        return found


class SetWriter:
    """Writes a set's parts as its traces come. store: where their media go first; made by `writing`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store = FolderMediaStore(folder / "media")
        self._waiting: list[Trace] = []
        self._parts: list[dict[str, Any]] = []
        self._shown: set[str] = set()

    def take(self, traces: Sequence[Trace]) -> None:
        self._waiting += traces
        while len(self._waiting) >= PART:
            self._write(self._waiting[:PART])
            del self._waiting[:PART]

    def close(self, form: Mapping[str, Any], about: Mapping[str, Any]) -> int:
        """Write what is left, and what the set says of itself; forget media that no trace shows. Returns the number of
        its traces."""
        if self._waiting:
            self._write(self._waiting)
        self.store.trim(0, keep=frozenset(self._shown))
        values = {"format": FORMAT, "about": dict(about), "form": dict(form), "parts": self._parts}
        _written(self._folder / ABOUT, json.dumps(values, indent=2, ensure_ascii=False).encode())
        return sum(part["traces"] for part in self._parts)

    def _write(self, traces: Sequence[Trace]) -> None:
        for trace in traces:
            frames = trace.query.clip.frames if trace.query.clip is not None else ()
            views = (view for turn in trace.turns for view in turn.images)
            refs = (*trace.query.images, *frames, *views)
            for ref in refs:
                if ref.digest not in self.store:
                    raise ContractError(f"trace {trace.trace_id} shows media {ref.digest[:12]}… that its set lacks")
            self._shown.update(ref.digest for ref in refs)
        data = encode_traces(traces)
        _written(_part(self._folder, len(self._parts)), data)
        self._parts.append({"traces": len(traces), "digest": content_digest(data)})


@contextmanager
def writing(folder: Path, *, force: bool = False) -> Iterator[SetWriter]:
    """Write a set that takes its place in `folder` when the block ends well, and leaves nothing when it does not.

    force: replace the set that is there. Raises DataError, one line, where something else is, or cannot be written.
    """
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / ABOUT).is_file()):
            raise DataError(f"{folder} is there and holds no set of traces; choose another --out")
        if not force and (folder / ABOUT).is_file():
            raise DataError(f"{folder} is there already; add --force to replace it, or choose another --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        yield SetWriter(aside / "new")
        _exchange(folder, aside / "new", aside / "old")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`, which goes to `old`; where that fails `folder` is as it was."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _part(folder: Path, number: int) -> Path:
    return folder / f"traces-{number:05d}.arrow"


def _written(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
