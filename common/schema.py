"""Rollouts and traces as Arrow: how they cross processes and how they are kept.

One value is one row; one call to `encode_*` makes one IPC stream in one buffer, and streams may lie one after another
in one. Token ids are large_list<int32>, log-probs large_list<float32>, no column is dictionary-encoded. A tool call's
arguments are canonical JSON text, because their shape differs from tool to tool. Decoding gives back equal values,
except that log-probs and weights come back rounded to float32 (a value that float32 can hold comes back exactly). The
stream's metadata says what it holds and the schema's version, so a trace can never be read as a rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa

from common.columns import SCHEMA_VERSION, Columns, RolloutKeys
from common.errors import ContractError
from common.rows import rollout_of, rollout_row, trace_of, trace_row
from common.types import Rollout, Trace

Bytes: TypeAlias = bytes | memoryview

READABLE_SCHEMAS = (2, 3)
"""Of rollouts."""

TRACE_VERSION = 3
"""Raised with every change to the columns of a trace. Schema 2 had boxes only; it is still read."""


_REF = pa.struct(
    [
        ("digest", pa.string()),
        ("kind", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_bytes", pa.int64()),
    ]
)
_CLIP = pa.struct(
    [("frames", pa.list_(_REF)), ("times_s", pa.list_(pa.float64())), ("shown", pa.list_(pa.int32()))],
)
_QUERY = pa.struct(
    [("query_id", pa.string()), ("question", pa.string()), ("images", pa.list_(_REF)), ("clip", _CLIP)],
)
_SPAN_2 = [("start", pa.int32()), ("stop", pa.int32()), ("version", pa.int64())]
_SPAN = [*_SPAN_2, ("parent", pa.int64())]
_RANGE = pa.struct([("start", pa.int32()), ("stop", pa.int32())])


def _turn(span: list[tuple[str, Any]]) -> Any:
    return pa.struct(
        [
            ("role", pa.string()),
            ("token_ids", pa.large_list(pa.int32())),
            ("images", pa.list_(_REF)),
            ("logprobs", pa.large_list(pa.float32())),
            ("versions", pa.list_(pa.struct(span))),
            ("shaped", pa.list_(_RANGE)),
        ]
    )


_OBSERVATION = pa.struct(
    [
        ("text", pa.string()),
        ("image", _REF),
        ("view", _REF),
        ("error", pa.string()),
        ("digest", pa.string()),
        ("cpu_s", pa.float64()),
        ("wall_s", pa.float64()),
        ("cached", pa.bool_()),
    ]
)
_CALL = pa.struct(
    [
        ("name", pa.string()),
        ("arguments", pa.string()),
        ("observation", _OBSERVATION),
        ("source", pa.string()),
        ("footprint", pa.list_(pa.int32())),
    ]
)
_FACTS = pa.struct(
    [
        ("score", pa.float64()),
        ("parsed", pa.bool_()),
        ("valid", pa.bool_()),
        ("num_calls", pa.int32()),
        ("num_errors", pa.int32()),
        ("num_repeats", pa.int32()),
    ]
)
_PROVENANCE = pa.struct([("source", pa.string()), ("consent", pa.string()), ("split", pa.string())])
_BOX = pa.struct([("position", pa.int32()), ("box", pa.list_(pa.float64()))])
_POINT = pa.struct([("position", pa.int32()), ("point", pa.list_(pa.float64()))])
_TIMES = pa.struct([("position", pa.int32()), ("span", pa.list_(pa.float64()))])


def _schema(kind: str, version: int, fields: list[tuple[str, Any]]) -> Any:
    return pa.schema(fields, metadata={"pixelis.kind": kind, "pixelis.schema": str(version)})


def _rollouts(version: int, span: list[tuple[str, Any]], *more: tuple[str, Any]) -> Any:
    columns = [
        ("rollout_id", pa.string()),
        ("producer", pa.string()),
        ("epoch", pa.int64()),
        ("sequence", pa.int64()),
        ("group_id", pa.string()),
        ("group_size", pa.int32()),
        ("phase", pa.string()),
        ("family", pa.string()),
        ("oldest_version", pa.int64()),
        ("newest_version", pa.int64()),
        ("query", _QUERY),
        ("turns", pa.list_(_turn(span))),
        ("calls", pa.list_(_CALL)),
        ("answer", pa.string()),
        ("stop_reason", pa.string()),
        ("facts", _FACTS),
        ("temperature", pa.float64()),
        ("chain", pa.list_(pa.string())),
        ("generate_s", pa.float64()),
        ("tools_s", pa.float64()),
        ("views", pa.string()),
    ]
    return _schema("rollouts", version, [*columns, *more])


_ROLLOUTS_2 = _rollouts(2, _SPAN_2)
ROLLOUTS = _rollouts(SCHEMA_VERSION, _SPAN, ("provenance", _PROVENANCE))
"""The columns of a rollout. oldest_version, newest_version: derived from the spans, null when nothing was sampled."""

TRACES = _schema(
    "traces",
    TRACE_VERSION,
    [
        ("trace_id", pa.string()),
        ("family", pa.string()),
        ("level", pa.int32()),
        ("kind", pa.string()),
        ("query", _QUERY),
        ("turns", pa.list_(_turn(_SPAN_2))),
        ("weights", pa.large_list(pa.float32())),
        ("boxes", pa.list_(_BOX)),
        ("points", pa.list_(_POINT)),
        ("spans", pa.list_(_TIMES)),
    ],
)
"""The columns of a trace; its turns have no log-probs."""

_SCHEMAS = {"rollouts": ROLLOUTS, "traces": TRACES}
_READABLE = {
    "rollouts": {"2": _ROLLOUTS_2, str(SCHEMA_VERSION): ROLLOUTS},
    "traces": {"2": None, str(TRACE_VERSION): TRACES},
}
"""The columns that a stream of each version has; None where they are not compared."""
_BEGINNINGS = {kind: schema.serialize().to_pybytes() for kind, schema in _SCHEMAS.items()}
"""With these bytes a stream of the present schema begins; it is then not parsed again."""


def encode_rollouts(rollouts: Sequence[Rollout]) -> bytes:
    """One Arrow IPC stream, a row a rollout. Raises ContractError for one that breaks a law (common/columns)."""
    table = _rows([rollout_row(rollout) for rollout in rollouts], ROLLOUTS)
    for batch in table.to_batches():
        Columns(batch).check()
    return _write(table, ROLLOUTS)


def decode_rollouts(data: Bytes) -> list[Rollout]:
    """The rollouts of `encode_rollouts`, checked again. Raises ContractError when `data` holds something else."""
    parts = rollout_columns(data)
    if len({part.schema_version for part in parts}) == 1:
        parts = [Columns.joined(parts)]
    for part in parts:
        part.check()
    return [rollout_of(row) for part in parts for row in part.rows()]


def encode_traces(traces: Sequence[Trace]) -> bytes:
    """One Arrow IPC stream, a row a trace. Raises ContractError when weights or targets do not match the tokens."""
    for trace in traces:
        _check_trace(trace)
    return _write(_rows([trace_row(trace) for trace in traces], TRACES), TRACES)


def decode_traces(data: bytes, rows: Sequence[int] | None = None) -> list[Trace]:
    """The traces of `encode_traces`, or those at `rows`, in that order."""
    table = _table(data, "traces")
    return [trace_of(row) for row in (table if rows is None else table.take(rows)).to_pylist()]


def rollout_table(data: Bytes) -> pa.Table:
    """The rows as an Arrow table over `data`, nothing copied. Columns: `ROLLOUTS`. Raises ContractError."""
    return _table(data, "rollouts")


def merge_rollouts(buffers: Sequence[Bytes]) -> bytes:
    """One buffer with the streams of all `buffers` one after another, nothing decoded. Whoever reads a stream of
    rollouts reads any number of them, as the rows of all in order.
    """
    return b"".join(buffers) if buffers else _write(ROLLOUTS.empty_table(), ROLLOUTS)


def rollout_keys(data: Bytes) -> list[RolloutKeys]:
    """The keys of every row, without making a value of a token. Raises ContractError as `Columns.read_keys`."""
    return [keys for columns in rollout_columns(data) for keys in columns.read_keys()]


def rollout_columns(data: Bytes) -> list[Columns]:
    """The record batches of one or more streams of rollouts, nothing copied and no law checked. Raises ContractError
    when `data` holds something else.
    """
    return [Columns(batch) for batch in _streams(data, "rollouts")[1]]


def _check_trace(trace: Trace) -> None:
    num_tokens = sum(len(turn.token_ids) for turn in trace.turns)
    if len(trace.weights) != num_tokens:
        raise ContractError(f"trace {trace.trace_id}: {len(trace.weights)} weights for {num_tokens} tokens")
    if not np.isfinite(np.asarray(trace.weights, np.float32)).all():
        raise ContractError(f"trace {trace.trace_id}: a weight is not finite")
    if any(turn.logprobs or turn.versions or turn.shaped for turn in trace.turns):
        raise ContractError(f"trace {trace.trace_id} carries log-probs: what was sampled is a rollout")
    targets: list[tuple[int, tuple[float, ...]]] = [(box.position, box.box) for box in trace.boxes]
    targets += [(point.position, point.point) for point in trace.points]
    targets += [(span.position, span.span) for span in trace.spans]
    for position, values in targets:
        if not 0 <= position < num_tokens - 1 or not all(0 <= value <= 1 for value in values):
            raise ContractError(
                f"trace {trace.trace_id}: a target of {values} at token {position} of {num_tokens} is not in [0, 1] "
                "before a token"
            )


# ── IPC ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(rows: list[dict[str, Any]], schema: Any) -> Any:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ContractError(f"a value does not fit its column: {error}") from error


def _write(table: Any, schema: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    return cast(bytes, sink.getvalue().to_pybytes())


def _table(data: Bytes, kind: str) -> Any:
    schema, batches = _streams(data, kind)
    return pa.Table.from_batches(batches, schema)


def _streams(data: Bytes, kind: str) -> tuple[Any, list[Any]]:
    """The schema of the streams that lie one after another in `data`, and their record batches, views of it."""
    source = pa.BufferReader(data)
    known = _BEGINNINGS[kind]
    schema, batches = None, list[Any]()
    try:
        while schema is None or source.tell() < len(data):
            start = source.tell()
            if bytes(data[start : start + len(known)]) == known:
                source.seek(start + len(known))
                schema = _SCHEMAS[kind]
                batches += _batches(source, schema)
                continue
            with pa.ipc.open_stream(source) as reader:
                _check_schema(reader.schema, kind)
                schema = reader.schema
                batches += reader
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ContractError(f"not an Arrow stream of {kind}: {error}") from error
    return schema, batches


def _batches(source: Any, schema: Any) -> Iterator[Any]:
    """Up to the end of the stream."""
    while True:
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            return
        yield pa.ipc.read_record_batch(message, schema)


def _check_schema(schema: Any, kind: str) -> None:
    metadata = schema.metadata or {}
    held = metadata.get(b"pixelis.kind", b"nothing known").decode(errors="replace")
    version = metadata.get(b"pixelis.schema", b"0").decode(errors="replace")
    if held != kind:
        raise ContractError(f"expected a stream of {kind}, got one of {held}")
    if version not in _READABLE[kind]:
        known = " and ".join(_READABLE[kind])
        raise ContractError(f"a stream of schema {version}; this program reads schema {known}")
    expected = _READABLE[kind][version]
    if expected is not None and not schema.equals(expected):
        raise ContractError(f"a stream that says it is of schema {version}, and has other columns")
