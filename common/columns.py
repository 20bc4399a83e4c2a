"""Rollouts as they lie in Arrow: what a replay must know of them, and the laws that they keep, without a Python value
of a token. A batch of many rows takes little more time than one of one.

Both sides of the schema check the laws here, so nothing that breaks one is written, and nothing that does is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
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

SCHEMA_VERSION = 3
"""Raised with every change to the columns of a rollout. Schema 2 had no provenance and no parents; it is still read."""
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
    """The rollouts of a record batch (`common.schema.ROLLOUTS`), nothing copied."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """The rows of all of them, which are of one schema; copied, where there are several."""
        return parts[0] if len(parts) == 1 else cls(pa.concat_batches([part._batch for part in parts]))

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @property
    def schema_version(self) -> int:
        return 2 if self._batch.num_columns == _COLUMNS_OF_2 else SCHEMA_VERSION

    def rows(self) -> list[dict[str, Any]]:
        """All of every row, as Python values."""
        return list(self._batch.to_pylist())

    def read_keys(self) -> list[RolloutKeys]:
        """Of every row. Raises ContractError where nothing was sampled in one that is not quarantined."""
        columns = [self._values(name) for name in _KEYS]
        scores = self._batch.column("facts").field("score").to_pylist()
        spoiled = [reason == "quarantined" for reason in self._values("stop_reason")]
        sources, consents = self._provenance
        found = []
        for row, values in enumerate(zip(*columns, strict=True)):
            named = dict(zip(_KEYS, values, strict=True))
            if named["oldest_version"] is None and not spoiled[row]:
                raise ContractError(f"rollout {named['rollout_id']} has no sampled token")
            quarantined = spoiled[row] or consents[row] != "learn"
            media, source = self.media[row], sources[row]
            found.append(RolloutKeys(**named, score=scores[row], quarantined=quarantined, media=media, source=source))
        return found

    def query_ids(self) -> list[str]:
        """Of every row."""
        return list(self._batch.column("query").field("query_id").to_pylist())

    @cached_property
    def media(self) -> list[tuple[MediaRef, ...]]:
        """Every reference of each row, each once, in order of first mention."""
        query, found = self._batch.column("query"), [dict[str, MediaRef]() for _ in range(len(self))]
        clip, turns, at = query.field("clip"), self._turns, self._turns_at
        images = turns.field("images")
        _gather(found, query.field("images").values, _offsets(query.field("images")))
        if clip.null_count < len(clip):
            valid = clip.is_valid().to_pylist()
            _gather(found, clip.field("frames").values, _offsets(clip.field("frames")), valid)
        shown = _offsets(images)
        _gather(found, images.values, [shown[turn] for turn in at])
        if len(self._calls):
            seen = self._calls.field("observation")
            for side in ("image", "view"):
                _gather(found, seen.field(side), self._calls_at)
        return [tuple(refs.values()) for refs in found]

    def cuts(self, row: int) -> list[Cut]:
        """Which of a row's pictures may be a part of another one, by what the calls say that they looked at and by the
        sizes. A picture may come several times; who compares the pixels knows.
        """
        return [cut for cut in self._guesses(row) if cut.fits]

    def check(self) -> None:
        """Raise ContractError unless the batch is sound (offsets, lengths, UTF-8), no row lacks anything, and of each
        row: there is a finite log-prob for every token of an assistant's turn and for no other, version spans tile such
        a turn and give the row's oldest and newest, ranges of shaped tokens lie inside it, something was sampled (or
        the rollout is quarantined), the consent is one that there is, and the arguments of calls are JSON.
        """
        try:
            self._batch.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ContractError(f"not rows of rollouts: {error}") from error
        if not len(self):
            return
        if missing := first_missing(self._batch):
            raise ContractError(f"a rollout has no {missing}")
        self._check_sampled(self._check_turns())
        for row, temperature in enumerate(self._values("temperature")):
            if not math.isfinite(temperature):
                raise ContractError(f"{self._name(row)}: temperature {temperature} is not finite")
        for row, consent in enumerate(self._provenance[1]):
            if consent not in get_args(Consent):
                raise ContractError(f"{self._name(row)}: consent {consent!r} is none of {', '.join(get_args(Consent))}")
        if len(self._calls):
            self._check_arguments()

    @cached_property
    def _turns(self) -> Any:
        return self._batch.column("turns").values

    @cached_property
    def _turns_at(self) -> list[int]:
        return _offsets(self._batch.column("turns"))

    @cached_property
    def _calls(self) -> Any:
        return self._batch.column("calls").values

    @cached_property
    def _calls_at(self) -> list[int]:
        return _offsets(self._batch.column("calls"))

    @cached_property
    def _provenance(self) -> tuple[list[str], list[str]]:
        """Source and consent of every row; schema 2 knew neither."""
        if self.schema_version == 2:
            return [""] * len(self), ["learn"] * len(self)
        held = self._batch.column("provenance")
        return held.field("source").to_pylist(), held.field("consent").to_pylist()

    def _values(self, name: str) -> list[Any]:
        return list(self._batch.column(name).to_pylist())

    def _name(self, row: int) -> str:
        return f"rollout {self._batch.column('rollout_id')[row]}"

    def _row_of(self, item: int, at: list[int]) -> int:
        """The row whose list holds an item; the nearest where none does."""
        return min(max(int(np.searchsorted(at, item, "right")) - 1, 0), len(self) - 1)

    def _where(self, turn: int) -> str:
        """A turn of the batch, as its row counts."""
        row = self._row_of(turn, self._turns_at)
        return f"{self._name(row)}, turn {turn - self._turns_at[row]}"

    def _check_turns(self) -> list[tuple[int, int] | None]:
        """Returns the oldest and the newest version of every turn; None where nothing was sampled."""
        turns = self._turns
        ids, logprobs, spans, shaped = (turns.field(name) for name in ("token_ids", "logprobs", "versions", "shaped"))
        roles, sizes = turns.field("role").to_pylist(), np.diff(ids.offsets.to_numpy()).tolist()
        logprobs_at = logprobs.offsets.to_numpy()
        expected = [size if role == "assistant" else 0 for role, size in zip(roles, sizes, strict=True)]
        for turn, (size, wanted) in enumerate(zip(np.diff(logprobs_at).tolist(), expected, strict=True)):
            if size != wanted:
                raise ContractError(f"{self._where(turn)} ({roles[turn]}): {size} log-probs, expected {wanted}")
        finite = np.isfinite(logprobs.values.to_numpy())
        if not finite.all():
            turn = int(np.searchsorted(logprobs_at, int(np.argmin(finite)), "right")) - 1
            raise ContractError(f"{self._where(turn)}: a log-prob is not finite in float32")
        self._check_shaped(shaped, expected)
        return self._check_spans(spans, expected)

    def _check_shaped(self, shaped: Any, expected: list[int]) -> None:
        ranges, at = _ranges(shaped.values), _offsets(shaped)
        for turn, size in enumerate(expected) if ranges else ():
            edges = [edge for span in ranges[at[turn] : at[turn + 1]] for edge in span]
            if edges and (edges != sorted(set(edges)) or not 0 <= edges[0] < edges[-1] <= size):
                found = tuple(ranges[at[turn] : at[turn + 1]])
                raise ContractError(f"{self._where(turn)}: shaped ranges {found} do not fit its {size} tokens")

    def _check_spans(self, spans: Any, expected: list[int]) -> list[tuple[int, int] | None]:
        ranges, at = _ranges(spans.values), _offsets(spans)
        versions = spans.values.field("version").to_pylist()
        found = list[tuple[int, int] | None]()
        for turn, size in enumerate(expected):
            start, stop = at[turn], at[turn + 1]
            edges = [0, *(end for _, end in ranges[start:stop])]
            tiled = edges[-1] == size and all(a < b for a, b in pairwise(edges))
            if not tiled or edges[:-1] != [begin for begin, _ in ranges[start:stop]]:
                raise ContractError(f"{self._where(turn)}: version spans do not tile its {size} tokens")
            found.append((min(versions[start:stop]), max(versions[start:stop])) if stop > start else None)
        return found

    def _check_sampled(self, sampled: list[tuple[int, int] | None]) -> None:
        """sampled: oldest and newest version of every turn."""
        at, oldest, newest = self._turns_at, self._values("oldest_version"), self._values("newest_version")
        for row, reason in enumerate(self._values("stop_reason")):
            found = [versions for versions in sampled[at[row] : at[row + 1]] if versions is not None]
            if not found and reason != "quarantined":
                raise ContractError(f"{self._name(row)} has no sampled token")
            ends = (min(old for old, _ in found), max(new for _, new in found)) if found else (None, None)
            if (oldest[row], newest[row]) != ends:
                what = f"says versions {oldest[row]} to {newest[row]}, which are not those of its tokens"
                raise ContractError(f"{self._name(row)} {what}")

    def _check_arguments(self) -> None:
        for call, text in enumerate(self._calls.field("arguments").to_pylist()):
            try:
                arguments, why = json.loads(text), ""
            except ValueError as error:
                arguments, why = None, f": {error}"
            if not isinstance(arguments, dict):
                row = self._row_of(call, self._calls_at)
                raise ContractError(f"{self._name(row)}: a call's arguments are no object of JSON{why}")

    @cached_property
    def _asked_about(self) -> list[list[MediaRef | None]]:
        """The images of every row's query."""
        images = self._batch.column("query").field("images")
        held = _refs(images.values)
        return [held[start:stop] for start, stop in pairwise(_offsets(images))]

    @cached_property
    def _shown_first(self) -> list[list[MediaRef | None]]:
        """What the first turn of every row shows."""
        images = self._turns.field("images")
        held, at = _refs(images.values), _offsets(images)
        return [held[at[first] : at[first + 1]] if stop > first else [] for first, stop in pairwise(self._turns_at)]

    @cached_property
    def _looks(self) -> list[tuple[Any, ...]]:
        """Of every call: the source, the box in it, and the digests of the image and the view that came of it."""
        seen = self._calls.field("observation")
        sides = (seen.field(side).field("digest").to_pylist() for side in ("image", "view"))
        looked_at = (self._calls.field(name).to_pylist() for name in ("source", "footprint"))
        return list(zip(*looked_at, *sides, strict=True))

    def _guesses(self, row: int) -> Iterator[Cut]:
        known = {ref.digest: ref for ref in self.media[row]}
        pairs = zip(self._asked_about[row], self._shown_first[row], strict=False)
        yield from (_whole(view, image) for image, view in pairs if image and view)
        start, stop = self._calls_at[row : row + 2]
        for source, box, *digests in self._looks[start:stop] if stop > start else ():
            image, view = (None if digest is None else known.get(digest) for digest in digests)
            if source in known and box is not None:
                found = (ref for ref in (image, view) if ref is not None)
                yield from (Cut(target=ref, source=known[source], box=tuple(box)) for ref in found)
            if image is not None and view is not None:
                yield _whole(view, image)


def _gather(found: list[dict[str, MediaRef]], refs: Any, at: list[int], valid: list[bool] | None = None) -> None:
    """Add to each row the references refs[at[row]] to refs[at[row + 1]]. refs: a struct array."""
    held = _refs(refs)
    if not held:
        return
    for row, (start, stop) in enumerate(pairwise(at)):
        if valid is None or valid[row]:
            for ref in held[start:stop]:
                if ref is not None:
                    found[row][ref.digest] = ref


def _offsets(lists: Any) -> list[int]:
    offsets: list[int] = lists.offsets.to_numpy().tolist()
    return offsets


def _ranges(spans: Any) -> list[tuple[int, int]]:
    if not len(spans):
        return []
    return list(zip(*(spans.field(name).to_numpy().tolist() for name in ("start", "stop")), strict=True))


def _refs(array: Any) -> list[MediaRef | None]:
    """Of a struct array; None where it is null."""
    if not len(array):
        return []
    parts = array.flatten() if array.null_count else map(array.field, range(array.type.num_fields))
    rows = zip(*(part.to_pylist() for part in parts), strict=True)
    return [
        None if digest is None else MediaRef(digest=digest, kind=kind, width=width, height=height, num_bytes=num_bytes)
        for digest, kind, width, height, num_bytes in rows
    ]


def _whole(target: MediaRef, source: MediaRef) -> Cut:
    return Cut(target=target, source=source, box=(0, 0, source.width, source.height))
