"""Rows from JSONL and Parquet files, a few at a time; those of VeRL's form come out in ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.tasks.datasets import verl
from common.errors import DataError

ENDINGS = (".jsonl", ".parquet")
REQUIRED = ("media", "question", "answer")
COLUMNS = (*REQUIRED, "kind", "options", "id", "family", "split", "chain", "times_s", "shown")
"""What a row may hold; other columns are not read."""
MAX_LINE_BYTES = 16 * 2**20
_ROWS_AT_ONCE = 64
"""Rows of a Parquet file may carry their pictures."""


def read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Each line that is not blank: its number and its values, or why it has none."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    _skip_line(file)
                    yield number, f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                elif line.strip():
                    yield number, _values(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _skip_line(file: Any) -> None:
    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _values(line: bytes) -> Mapping[str, Any] | str:
    try:
        values = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError):
        return "not JSON (too deep, or a number of too many digits)"
    if not isinstance(values, dict):
        return f"a row must be a JSON object, got {type(values).__name__}"
    return verl.row_from(values) if is_foreign(values) else values


def is_foreign(names: Collection[str]) -> bool:
    """Whether rows with these keys are of VeRL's form, and not of ours."""
    return verl.is_verl(names) and not set(REQUIRED) <= set(names)


def read_parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Each row, numbered from 1. Raises DataError where the file is none or lacks a column."""

    def wanted(names: list[str]) -> list[str]:
        if is_foreign(names):
            return [name for name in verl.COLUMNS if name in names]
        for column in REQUIRED:
            if column not in names:
                raise DataError(f"{path}: no column {column!r}; it has {', '.join(names)}: rename one")
        return [name for name in COLUMNS if name in names]

    for number, values in enumerate(parquet_rows(path, wanted), 1):
        yield number, verl.row_from(values) if is_foreign(values) else values


def parquet_rows(path: Path, wanted: Callable[[list[str]], list[str]]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, of its columns those that are `wanted`. Raises DataError where the file is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = wanted(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield values
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: not a whole Parquet file ({reason}); {number} rows were read") from error
