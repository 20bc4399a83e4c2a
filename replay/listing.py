"""A log's records as JSON values, one each, to be read or searched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from common.errors import ContractError
from common.schema import rollout_table
from replay.frames import TOMBSTONE
from replay.reading import KIND_NAMES, Entry, kind_name, read_log
from replay.records import Kind, decode

LONG_LIST, LONG_TEXT = 8, 200
"""Longer ones are shortened: a list to its first LONG_LIST values, a text to LONG_TEXT characters."""


def listing(
    folder: Path,
    *,
    kinds: Collection[int] = (),
    first: int = 0,
    stop: int | None = None,
    limit: int | None = None,
    whole: bool = False,
) -> Iterator[dict[str, Any]]:
    """The records of the replay in `folder` with numbers in [first, stop), of `kinds` (all when empty), at most
    `limit` of them: sequence, kind, segment, byte and record. whole: nothing is shortened.

    A body that is not what its kind says gives an "error" instead of a "record". Raises RunFolderError where there is
    no log.
    """
    entries = read_log(folder / "log").entries(first=first, stop=stop)
    if kinds:
        entries = (entry for entry in entries if entry.kind in kinds)
    for entry in islice(entries, limit):
        yield _line(entry, whole=whole)


def kind_of(name: str) -> int:
    """The number of a kind by its name. Raises KeyError."""
    return {known: kind for kind, known in KIND_NAMES.items()}[name]


def _line(entry: Entry, *, whole: bool) -> dict[str, Any]:
    place = {
        "sequence": entry.place.sequence,
        "kind": kind_name(entry.kind),
        "segment": entry.place.segment,
        "byte": entry.place.byte,
    }
    try:
        record = _values(entry)
    except ContractError as error:
        return place | {"error": str(error)}
    return place | {"record": record if whole else shortened(record)}


def _values(entry: Entry) -> Any:
    body = bytes(entry.body)
    if entry.kind == Kind.ROLLOUT:
        rows = rollout_table(body).to_pylist()
        return rows[0] if len(rows) == 1 else rows
    if entry.kind == TOMBSTONE:
        return {"was": kind_name(entry.was)}
    return msgspec.to_builtins(decode(entry.kind, body))


def shortened(value: Any) -> Any:
    """`value` with long lists of numbers and texts, and long texts, cut; what is cut says how much there was."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"{value[:LONG_TEXT]}… ({len(value)} characters)"
    if not isinstance(value, list | tuple):
        return value
    if len(value) <= LONG_LIST or isinstance(value[0], dict):
        return [shortened(item) for item in value]
    return [*(shortened(item) for item in value[:LONG_LIST]), f"… {len(value)} in all"]
