"""What is known of each entry besides its vector, column by column.

`Growing` takes entries one by one in memory. `Saved` reads them from an Arrow file through a memory map: strings that
repeat are coded, and nothing is a Python object until it is asked for. Rows are in the order of their sequence numbers.

    sequence, version (−1 for none)  int64       confidence  float64       trusted  uint8
    query_id  large_string           family, chain, answer, source  dictionary; chain and answer as JSON text
    hash, row                        the rows by xxh3-64 of their query_id: a sorted column and the row of each
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from common.types import Neighbour
from replay.records import Experience

NO_VERSION = -1
_CODED = ("family", "chain", "answer", "source")
_JSON = ("chain", "answer")
_MAX_READ = 4096
"""Coded values of a file that are held ready."""
_PACKED = struct.Struct("<qqdB4i")
"""A row of the columns in memory; NumPy's name for it is _ROW."""
_ROW = np.dtype(
    [("sequence", "<i8"), ("version", "<i8"), ("confidence", "<f8"), ("trusted", "u1")] + [(n, "<i4") for n in _CODED]
)


class Growing:
    """Entries in memory, in the order in which they came. `rows_at_first`: room that is there from the start."""

    def __init__(self, rows_at_first: int) -> None:
        self._rows = np.empty(rows_at_first, _ROW)
        self._bytes = self._rows.view(np.uint8).data
        self._ids: list[str] = []
        self._latest: dict[str, int] = {}
        self._codes = _Codes()

    @classmethod
    def read(cls, saved: Saved, rows_at_first: int) -> Growing:
        """Those of a file, to go on from."""
        new = cls(max(rows_at_first, len(saved)))
        held = new._rows[: len(saved)]
        for name, column in saved.numbers().items():
            held[name] = column
        for name in _CODED:
            codes, values = saved.coded(name)
            held[name] = np.array([new._codes[value] for value in values], np.int32)[codes]
        new._ids = saved.query_ids()
        new._latest = {query_id: row for row, query_id in enumerate(new._ids)}
        return new

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def full(self) -> bool:
        return len(self) == len(self._rows)

    @property
    def sequences(self) -> NDArray[np.int64]:
        return self._column("sequence")

    @property
    def trusted(self) -> NDArray[np.uint8]:
        return self._column("trusted")

    @property
    def versions(self) -> NDArray[np.int64]:
        return self._column("version")

    def from_source(self, source: str, first: int) -> NDArray[np.bool_]:
        return np.asarray(self._column("source")[first:] == self._codes.get(source, -1))

    def row_of(self, query_id: str) -> int | None:
        """The latest one."""
        return self._latest.get(query_id)

    def append(self, experience: Experience, sequence: int) -> None:
        row, codes = len(self._ids), self._codes
        _PACKED.pack_into(
            self._bytes,
            row * _PACKED.size,
            sequence,
            NO_VERSION if experience.version is None else experience.version,
            experience.confidence,
            experience.trusted,
            codes[experience.family],
            codes[experience.chain],
            codes[experience.answer],
            codes[experience.source],
        )
        self._latest[experience.query_id] = row
        self._ids.append(experience.query_id)

    def neighbour(self, row: int, similarity: float) -> Neighbour:
        sequence, version, confidence, trusted, family, chain, answer, source = _PACKED.unpack_from(
            self._bytes, row * _PACKED.size
        )
        values = self._codes.values_of
        return Neighbour(
            query_id=self._ids[row],
            similarity=similarity,
            family=values[family],
            chain=values[chain],
            answer=values[answer],
            confidence=confidence,
            sequence=sequence,
            source=values[source],
            trusted=trusted == 1,
            version=None if version == NO_VERSION else version,
        )

    def taken(self, rows: NDArray[np.int64], rows_at_first: int) -> Growing:
        """A new one with these rows, in this order; strings that they do not use are left behind."""
        new = Growing(max(rows_at_first, len(rows)))
        held = self._rows[rows]
        for name in _CODED:
            codes, places = np.unique(held[name], return_inverse=True)
            held[name] = np.array([new._codes[self._codes.values_of[code]] for code in codes], np.int32)[places]
        new._rows[: len(rows)] = held
        new._ids = [self._ids[row] for row in rows.tolist()]
        new._latest = {query_id: row for row, query_id in enumerate(new._ids)}
        return new

    def plain(self, rows: NDArray[np.int64]) -> Any:
        """These rows as an Arrow table without codes. Rows that are there do not change: any thread may ask."""
        held = self._rows[rows]
        values = {name: [self._codes.values_of[code] for code in held[name].tolist()] for name in _CODED}
        columns = {name: pa.array(held[name]) for name in ("sequence", "version", "confidence", "trusted")}
        for name in _CODED:
            columns[name] = pa.array([_text(name, value) for value in values[name]], pa.large_string())
        return pa.table(columns | {"query_id": pa.array([self._ids[row] for row in rows.tolist()], pa.large_string())})

    def _column(self, name: str) -> NDArray[Any]:
        return self._rows[name][: len(self._ids)]


class _Codes(dict[Any, int]):
    """Numbers values from 0, as they are asked for. values_of: in the order of their numbers."""

    def __init__(self) -> None:
        self.values_of: list[Any] = []

    def __missing__(self, value: Any) -> int:
        self[value] = len(self.values_of)
        self.values_of.append(value)
        return self[value]


class Saved:
    """Entries of an Arrow file, which is memory-mapped."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            self._table = pa.ipc.open_file(source).read_all()
        self.sequences = self._numbers("sequence")
        self.trusted = self._numbers("trusted")
        self.versions = self._numbers("version")
        self._confidences = self._numbers("confidence")
        self._ids = _Strings(self._array("query_id"))
        self._codes = {name: self._array(name).indices.to_numpy(zero_copy_only=True) for name in _CODED}
        self._values = {name: _Strings(self._array(name).dictionary) for name in _CODED}
        self._hashes, self._rows = self._numbers("hash"), self._numbers("row")
        self._read: dict[tuple[str, int], Any] = {}

    def __len__(self) -> int:
        return len(self.sequences)

    def from_source(self, source: str, first: int) -> NDArray[np.bool_]:
        code = pc.index(self._array("source").dictionary, pa.scalar(source, pa.large_string())).as_py()
        return np.asarray(self._codes["source"][first:] == code)

    def row_of(self, query_id: str) -> int | None:
        """The last row of this query; None when there is none."""
        wanted = _hash(query_id)
        found = None
        for place in range(int(self._hashes.searchsorted(np.uint64(wanted))), len(self)):
            if self._hashes.item(place) != wanted:
                break
            row = self._rows.item(place)
            if self._ids[row] == query_id:
                found = row
        return found

    def neighbour(self, row: int, similarity: float) -> Neighbour:
        version = self.versions.item(row)
        return Neighbour(
            query_id=self._ids[row],
            similarity=similarity,
            family=self._value("family", row),
            chain=self._value("chain", row),
            answer=self._value("answer", row),
            confidence=self._confidences.item(row),
            sequence=self.sequences.item(row),
            source=self._value("source", row),
            trusted=self.trusted.item(row) == 1,
            version=None if version == NO_VERSION else version,
        )

    def numbers(self) -> dict[str, NDArray[Any]]:
        return {name: self._numbers(name) for name in ("sequence", "version", "confidence", "trusted")}

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[Any]]:
        """(codes, what they stand for) of a column."""
        texts = self._array(name).dictionary.to_pylist()
        return self._codes[name], [_plain(name, text) for text in texts]

    def query_ids(self) -> list[str]:
        return [self._ids[row] for row in range(len(self))]

    def plain(self, rows: NDArray[np.int64]) -> Any:
        """These rows as an Arrow table without codes."""
        columns = {name: self._array(name).take(pa.array(rows)) for name in self._table.column_names}
        for name in _CODED:
            columns[name] = columns[name].dictionary_decode()
        return pa.table({name: column for name, column in columns.items() if name not in ("hash", "row")})

    def _array(self, name: str) -> Any:
        return self._table[name].chunk(0)

    def _numbers(self, name: str) -> NDArray[Any]:
        return np.asarray(self._array(name).to_numpy(zero_copy_only=True))

    def _value(self, name: str, row: int) -> Any:
        key = name, self._codes[name].item(row)
        if key not in self._read:
            if len(self._read) >= _MAX_READ:
                self._read.clear()
            self._read[key] = _plain(name, self._values[name][key[1]])
        return self._read[key]


class _Strings:
    """The strings of a large_string array, read where they lie."""

    def __init__(self, array: Any) -> None:
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        self._data = memoryview(b"" if data is None else data)

    def __getitem__(self, place: int) -> str:
        return str(self._data[self._offsets.item(place) : self._offsets.item(place + 1)], "utf-8")


def coded(tables: Sequence[Any]) -> bytes:
    """The Arrow file that `Saved` reads: the rows of `plain` tables, one table after another; at least one row."""
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    hashes = np.array([_hash(query_id) for query_id in table["query_id"].to_pylist()], np.uint64)
    order = np.lexsort((np.arange(len(hashes)), hashes)).astype(np.uint32)
    columns = {name: table[name].chunk(0) for name in table.column_names}
    columns |= {name: columns[name].dictionary_encode() for name in _CODED}
    columns |= {"hash": pa.array(hashes[order]), "row": pa.array(order)}
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _hash(query_id: str) -> int:
    return xxhash.xxh3_64_intdigest(query_id.encode())


def _text(name: str, value: Any) -> str:
    """How the column keeps a value: a chain and an answer, which may be None, as JSON text."""
    return msgspec.json.encode(value).decode() if name in _JSON else str(value)


def _plain(name: str, text: str) -> Any:
    if name not in _JSON:
        return text
    value = msgspec.json.decode(text)
    return tuple(value) if name == "chain" else value
