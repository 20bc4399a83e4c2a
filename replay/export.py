"""A log as Parquet, for DuckDB, Polars or anything else: no structs, one row a record, the log's order.

    DIR/rollouts.parquet    rollouts: columns `ROLLOUT_COLUMNS`
    DIR/records.parquet     all other records: columns `RECORD_COLUMNS`

Rows are written a group at a time, so memory does not grow with the log. The folder appears whole or not at all.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import ContractError, DataError
from common.schema import decode_rollouts
from common.types import Rollout
from replay.disk import Disk, write_all
from replay.frames import TOMBSTONE, Bytes
from replay.reading import Entry, Place, Reading, kind_name, read_log
from replay.records import Kind, decode

ROWS_AT_ONCE, BYTES_AT_ONCE = 1024, 16 << 20
"""A group of rows ends when it has so many, or when its records' bodies have so many bytes."""

_PLACE = {"sequence": pa.int64(), "segment": pa.string(), "byte": pa.int64()}
_TEXTS = pa.list_(pa.string())

ROLLOUT_COLUMNS: Mapping[str, Any] = _PLACE | {
    "rollout_id": pa.string(),
    "producer": pa.string(),
    "epoch": pa.int64(),
    "producer_sequence": pa.int64(),
    "group_id": pa.string(),
    "group_size": pa.int32(),
    "phase": pa.string(),
    "family": pa.string(),
    "oldest_version": pa.int64(),
    "newest_version": pa.int64(),
    "query_id": pa.string(),
    "question": pa.string(),
    "answer": pa.string(),
    "stop_reason": pa.string(),
    "score": pa.float64(),
    "parsed": pa.bool_(),
    "valid": pa.bool_(),
    "num_calls": pa.int32(),
    "num_errors": pa.int32(),
    "num_repeats": pa.int32(),
    "temperature": pa.float64(),
    "chain": _TEXTS,
    "tools": _TEXTS,
    "errors": _TEXTS,
    "views": pa.string(),
    "source": pa.string(),
    "consent": pa.string(),
    "split": pa.string(),
    "generate_s": pa.float64(),
    "tools_s": pa.float64(),
    "tools_cpu_s": pa.float64(),
    "num_turns": pa.int32(),
    "num_tokens": pa.int64(),
    "num_sampled_tokens": pa.int64(),
    "token_ids": pa.large_list(pa.int32()),
    "logprobs": pa.large_list(pa.float32()),
    "media": _TEXTS,
}
"""sequence, segment, byte: the record's place in the log. producer_sequence: its number by its producer. tools, errors:
of the calls in order, an error null where a call succeeded. token_ids, logprobs: all turns one after another, a
log-prob null where nothing was sampled. media: digests of the query's images or frames. The rest as in common/types.
"""

RECORD_COLUMNS: Mapping[str, Any] = _PLACE | {
    "kind": pa.string(),
    "phase": pa.string(),
    "step": pa.int64(),
    "version": pa.int64(),
    "group_id": pa.string(),
    "number": pa.int64(),
    "reason": pa.string(),
    "lag": pa.int64(),
    "watermark": pa.int64(),
    "group_ids": _TEXTS,
    "rollout_ids": _TEXTS,
    "sequences": pa.list_(pa.int64()),
    "answer": pa.string(),
    "share": pa.float64(),
    "margin": pa.float64(),
    "query_id": pa.string(),
    "family": pa.string(),
    "chain": _TEXTS,
    "confidence": pa.float64(),
    "encoder": pa.string(),
    "body": pa.string(),
}
"""The fields of replay/records.py by name, null where a kind has none (a vote's are those of its consensus). body: the
record as JSON text, without the vector of an experience. A rollout that was pruned is a record with its keys, one that
was erased a tombstone, whose body says what it was.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, in rows and bytes."""

    folder: str
    num_rollouts: int
    num_records: int
    num_bytes: int


def export(folder: Path, out: Path, *, rows_at_once: int = ROWS_AT_ONCE, disk: Disk | None = None) -> Exported:
    """Write the log of the replay in `folder` as Parquet files in the new folder `out`.

    Raises RunFolderError where there is no log; DataError when `out` is there already or cannot be written, or when the
    log holds a record that cannot be read.
    """
    if out.exists():
        raise DataError(f"{out} is there already; choose another folder or remove it")
    log = read_log(folder / "log")
    disk = disk or Disk()
    aside = out.with_name(f".aside-{out.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        disk.make_folder(aside)
        num_rollouts, num_records = _write(log, aside, disk, rows_at_once)
        disk.sync_folder(aside)
        disk.rename(aside, out)
        disk.sync_folder(out.parent)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    num_bytes = sum(file.stat().st_size for file in out.iterdir())
    return Exported(folder=str(out), num_rollouts=num_rollouts, num_records=num_records, num_bytes=num_bytes)


def _write(log: Reading, folder: Path, disk: Disk, rows_at_once: int) -> tuple[int, int]:
    """Both tables in `folder`. Returns their rows."""
    with ExitStack() as stack:
        rollouts = stack.enter_context(
            closing(_Table(folder / "rollouts.parquet", ROLLOUT_COLUMNS, disk, rows_at_once))
        )
        records = stack.enter_context(closing(_Table(folder / "records.parquet", RECORD_COLUMNS, disk, rows_at_once)))
        for entry in log.entries():
            body = bytes(entry.body)
            try:
                if entry.kind == Kind.ROLLOUT:
                    for rollout in decode_rollouts(body):
                        rollouts.add(rollout_columns(rollout, entry.place), len(body))
                else:
                    records.add(record_columns(entry), len(body))
            except ContractError as error:
                raise DataError(f"record {entry.place.sequence} cannot be read: {error}") from error
    return rollouts.num_rows, records.num_rows


def rollout_columns(rollout: Rollout, place: Place) -> dict[str, Any]:
    """One row of `ROLLOUT_COLUMNS`."""
    facts, calls = rollout.facts, rollout.calls
    sampled = rollout.num_sampled_tokens > 0
    query = rollout.query
    same = ("rollout_id", "producer", "epoch", "group_id", "group_size", "phase", "family", "answer", "stop_reason")
    more = ("temperature", "chain", "views", "generate_s", "tools_s", "num_sampled_tokens")
    measured = ("score", "parsed", "valid", "num_calls", "num_errors", "num_repeats")
    return (
        _place(place)
        | {name: getattr(rollout, name) for name in same + more}
        | {name: getattr(facts, name) for name in measured}
        | {name: getattr(rollout.provenance, name) for name in ("source", "consent", "split")}
        | {
            "producer_sequence": rollout.sequence,
            "oldest_version": rollout.oldest_version if sampled else None,
            "newest_version": rollout.newest_version if sampled else None,
            "query_id": query.query_id,
            "question": query.question,
            "tools": [done.call.name for done in calls],
            "errors": [done.observation.error for done in calls],
            "tools_cpu_s": sum(done.observation.cpu_s for done in calls),
            "num_turns": len(rollout.turns),
            "num_tokens": sum(len(turn.token_ids) for turn in rollout.turns),
            "token_ids": [token for turn in rollout.turns for token in turn.token_ids],
            "logprobs": [value for turn in rollout.turns for value in (turn.logprobs or (None,) * len(turn.token_ids))],
            "media": [ref.digest for ref in (query.clip.frames if query.clip else query.images)],
        }
    )


def record_columns(entry: Entry) -> dict[str, Any]:
    """One row of `RECORD_COLUMNS`. Raises ContractError for a record that cannot be read."""
    values = _values(entry)
    flat = values["consensus"] if entry.kind == Kind.SETTLE else values
    named = {name: flat.get(name) for name in RECORD_COLUMNS}
    return named | _place(entry.place) | {"kind": kind_name(entry.kind), "body": json.dumps(values, ensure_ascii=False)}


def _values(entry: Entry) -> dict[str, Any]:
    if entry.kind == TOMBSTONE:
        return {"was": kind_name(entry.was)}
    values: dict[str, Any] = msgspec.to_builtins(decode(entry.kind, bytes(entry.body)))
    values.pop("vector", None)
    return values


def _place(place: Place) -> dict[str, Any]:
    return {"sequence": place.sequence, "segment": place.segment, "byte": place.byte}


class _Table:
    """One Parquet file, written a group of rows at a time; whole and durable after `close`."""

    def __init__(self, path: Path, columns: Mapping[str, Any], disk: Disk, rows_at_once: int) -> None:
        self._schema = pa.schema(list(columns.items()))
        self._file = _Sink(path, disk)
        self._writer = pq.ParquetWriter(pa.PythonFile(self._file, mode="w"), self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._rows_at_once = rows_at_once
        self._num_bytes = 0
        self.num_rows = 0

    def add(self, row: dict[str, Any], num_bytes: int) -> None:
        self._rows.append(row)
        self._num_bytes += num_bytes
        self.num_rows += 1
        if len(self._rows) == self._rows_at_once or self._num_bytes >= BYTES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
            self._writer.close()
        finally:
            self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._num_bytes = [], 0


class _Sink(io.RawIOBase):
    """A file that a library writes to; every byte goes through the disk, and closing makes it durable."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        self._file = disk.create(path)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view: Bytes = memoryview(data).cast("B")
        write_all(self._disk, self._file, [view])
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._disk.sync(self._file)
        finally:
            super().close()
            self._disk.close(self._file)
