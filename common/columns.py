"""A rollout as it lies in Arrow: what a replay must know of it, and the laws that it keeps, without a Python value of a
token.

Both sides of the schema check the laws here, so nothing that breaks one is written, and nothing that does is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from common.cuts import Cut
from common.errors import ContractError
from common.types import Consent, MediaRef
from common.wholeness import first_missing

_COLUMNS_OF_2 = 21
"""Columns of a rollout of schema 2."""
_KEYS = ("rollout_id", "producer", "epoch", "sequence", "group_id", "group_size", "phase", "oldest_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutKeys:
    """What a replay must know of a rollout without decoding it.

    oldest_version: None when nothing was sampled. quarantined: it is kept and never learned from, because its actor
    said so or its source does not allow it. source: whom its query came from. media: every view and image it refers to,
    each once.
    """

    rollout_id: str
    producer: str
    epoch: int
    sequence: int
    group_id: str
    group_size: int
    phase: str
    oldest_version: int | None
    score: float | None
    quarantined: bool
    media: tuple[MediaRef, ...]
    source: str = ""


class Columns:
    """One rollout over its columns (`common.schema.ROLLOUTS`).

    batch: a record batch, row: which of its rows. Nothing is copied.
    """

    def __init__(self, batch: Any, row: int) -> None:
        self._batch = batch
        self._row = row

    def __str__(self) -> str:
        return f"rollout {self._value('rollout_id')}"

    def keys(self) -> RolloutKeys:
        """Raises ContractError where nothing was sampled, unless it is quarantined."""
        values = {name: self._value(name) for name in _KEYS}
        spoiled, (source, consent) = self._value("stop_reason") == "quarantined", self._provenance()
        if values["oldest_version"] is None and not spoiled:
            raise ContractError(f"{self} has no sampled token")
        score = self._batch.column("facts").field("score")[self._row].as_py()
        quarantined = spoiled or consent != "learn"
        return RolloutKeys(**values, score=score, quarantined=quarantined, media=self.media, source=source)

    @property
    def query_id(self) -> str:
        return str(self._batch.column("query").field("query_id")[self._row].as_py())

    @cached_property
    def media(self) -> tuple[MediaRef, ...]:
        """Every reference, each once, in order of first mention."""
        query = self._batch.column("query")
        clip = query.field("clip")
        found = [query.field("images")[self._row].values]
        if clip[self._row].is_valid:
            found.append(clip.field("frames")[self._row].values)
        found.append(_items(self._turns.field("images")))
        if len(self._calls):
            seen = self._calls.field("observation")
            found += [seen.field(side) for side in ("image", "view")]
        return tuple({ref.digest: ref for array in found for ref in _refs(array)}.values())

    def cuts(self) -> list[Cut]:
        """Which of the pictures may be a part of another one, by what the calls say that they looked at and by the
        sizes. A picture may come several times; who compares the pixels knows.
        """
        return [cut for cut in self._guesses() if cut.fits]

    def check(self) -> None:
        """Raise ContractError unless there is a finite log-prob for every token of an assistant's turn and for no
        other, version spans tile such a turn and give the row's oldest and newest, ranges of shaped tokens lie inside
        it, something was sampled (or the rollout is quarantined), the consent is one that there is, and the arguments
        of calls are JSON.
        """
        turns = self._read_turns()
        for i, turn in enumerate(turns):
            if broken := turn.broken():
                raise ContractError(f"{self}, turn {i}{broken}")
        versions = [version for turn in turns for version in turn.versions]
        if not versions and self._value("stop_reason") != "quarantined":
            raise ContractError(f"{self} has no sampled token")
        oldest, newest = self._value("oldest_version"), self._value("newest_version")
        if (oldest, newest) != ((min(versions), max(versions)) if versions else (None, None)):
            raise ContractError(f"{self} says versions {oldest} to {newest}, which are not those of its tokens")
        temperature = self._value("temperature")
        if temperature is None or not math.isfinite(temperature):
            raise ContractError(f"{self}: temperature {temperature} is not finite")
        consent = self._provenance()[1]
        if consent not in get_args(Consent):
            raise ContractError(f"{self}: consent {consent!r} is none of {', '.join(get_args(Consent))}")
        if len(self._calls):
            for text in self._calls.field("arguments").to_pylist():
                self._check_arguments(text)

    @cached_property
    def _turns(self) -> Any:
        return self._batch.column("turns")[self._row].values

    @cached_property
    def _calls(self) -> Any:
        return self._batch.column("calls")[self._row].values

    def _provenance(self) -> tuple[str, str]:
        """Source and consent; schema 2 knew neither."""
        if self._batch.num_columns == _COLUMNS_OF_2:
            return "", "learn"
        held = self._batch.column("provenance")
        return held.field("source")[self._row].as_py(), held.field("consent")[self._row].as_py()

    def _value(self, name: str) -> Any:
        return self._batch.column(name)[self._row].as_py()

    def _guesses(self) -> Iterator[Cut]:
        known = {ref.digest: ref for ref in self.media}
        asked, opening = self._batch.column("query").field("images")[self._row].values, self._turns.field("images")
        shown = _refs(opening[0].values) if len(opening) else []
        yield from (_whole(view, image) for image, view in zip(_refs(asked), shown, strict=False))
        if not len(self._calls):
            return
        seen = self._calls.field("observation")
        sides = (seen.field(side).field("digest").to_pylist() for side in ("image", "view"))
        looked_at = (self._calls.field(name).to_pylist() for name in ("source", "footprint"))
        for source, box, *digests in zip(*looked_at, *sides, strict=True):
            image, view = (known.get(digest) for digest in digests)
            if source in known and box is not None:
                found = (ref for ref in (image, view) if ref is not None)
                yield from (Cut(target=ref, source=known[source], box=tuple(box)) for ref in found)
            if image is not None and view is not None:
                yield _whole(view, image)

    def _read_turns(self) -> list[_Turn]:
        turns = self._turns
        ids, logprobs = turns.field("token_ids"), turns.field("logprobs")
        spans, shaped = turns.field("versions"), turns.field("shaped")
        ids_at, logprobs_at, spans_at, shaped_at = map(_offsets, (ids, logprobs, spans, shaped))
        values, edges, ranges = logprobs.values.to_numpy(), _ranges(spans.values), _ranges(shaped.values)
        versions = spans.values.field("version").to_pylist()
        return [
            _Turn(
                role=role,
                num_tokens=ids_at[i + 1] - ids_at[i],
                logprobs=values[logprobs_at[i] : logprobs_at[i + 1]],
                spans=edges[spans_at[i] : spans_at[i + 1]],
                versions=versions[spans_at[i] : spans_at[i + 1]],
                shaped=ranges[shaped_at[i] : shaped_at[i + 1]],
            )
            for i, role in enumerate(turns.field("role").to_pylist())
        ]

    def _check_arguments(self, text: str | None) -> None:
        try:
            arguments = json.loads(text or "")
        except ValueError as error:
            raise ContractError(f"{self}: a call's arguments are not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise ContractError(f"{self}: a call's arguments are not an object of JSON")


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    num_tokens: int
    logprobs: Any
    spans: list[tuple[int, int]]
    versions: list[int]
    shaped: list[tuple[int, int]]

    def broken(self) -> str:
        """Which law it breaks, "" when none."""
        num_expected = self.num_tokens if self.role == "assistant" else 0
        if len(self.logprobs) != num_expected:
            return f" ({self.role}): {len(self.logprobs)} log-probs, expected {num_expected}"
        if num_expected and not np.isfinite(self.logprobs).all():
            return ": a log-prob is not finite in float32"
        cuts = [0, *(stop for _, stop in self.spans)]
        tiled = cuts[-1] == num_expected and all(a < b for a, b in pairwise(cuts))
        if not tiled or cuts[:-1] != [start for start, _ in self.spans]:
            return f": version spans do not tile its {num_expected} tokens"
        edges = [edge for span in self.shaped for edge in span]
        if edges and (edges != sorted(set(edges)) or not 0 <= edges[0] < edges[-1] <= num_expected):
            return f": shaped ranges {tuple(self.shaped)} do not fit its {num_expected} tokens"
        return ""


def columns_of(batch: Any) -> Iterator[Columns]:
    """Every row of a record batch."""
    return (Columns(batch, row) for row in range(batch.num_rows))


def check_rows(batch: Any) -> None:
    """Raise ContractError unless the record batch is sound (offsets, lengths, UTF-8) and every row is whole and keeps
    the laws.
    """
    try:
        batch.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ContractError(f"not rows of rollouts: {error}") from error
    if missing := first_missing(batch):
        raise ContractError(f"a rollout has no {missing}")
    for columns in columns_of(batch):
        columns.check()


def _offsets(lists: Any) -> list[int]:
    offsets: list[int] = lists.offsets.to_numpy().tolist()
    return offsets


def _ranges(spans: Any) -> list[tuple[int, int]]:
    if not len(spans):
        return []
    return list(zip(*(spans.field(name).to_numpy().tolist() for name in ("start", "stop")), strict=True))


def _items(lists: Any) -> Any:
    """What all lists of an array hold, one after another; `flatten` takes ten times as long."""
    offsets = lists.offsets
    start = offsets[0].as_py()
    return lists.values.slice(start, offsets[len(lists)].as_py() - start)


def _refs(array: Any) -> list[MediaRef]:
    """Of a struct array; where it is null there is none."""
    if not len(array):
        return []
    parts = array.flatten() if array.null_count else map(array.field, range(array.type.num_fields))
    rows = zip(*(part.to_pylist() for part in parts), strict=True)
    return [
        MediaRef(digest=digest, kind=kind, width=width, height=height, num_bytes=num_bytes)
        for digest, kind, width, height, num_bytes in rows
        if digest is not None
    ]


def _whole(target: MediaRef, source: MediaRef) -> Cut:
    return Cut(target=target, source=source, box=(0, 0, source.width, source.height))
