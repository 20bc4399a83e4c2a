"""The saved neighbour index against the log: the same entries, with the same vectors, and the right ones to be found.

The index is derived and rebuilt on any mismatch, so a stale one after a kill is noted, and so is one of another version
of this program; after a clean stop it is a breach, because stopping saves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from replay.audit.findings import Findings
from replay.reading import Place
from replay.records import Experience

if TYPE_CHECKING:
    from replay.index.files import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedIndex:
    """What lies in the index's files. entries: (log sequence, hash of the vector), as often as they are there, those of
    the main part and those of the delta. retired: entries of the main part that are not found any more.
    """

    encoder: str
    sequence: int
    max_entries: int
    entries: tuple[tuple[int, int], ...]
    retired: frozenset[int]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A saved index that the next opening builds anew. other_layout: because it keeps things elsewhere."""

    reason: str
    other_layout: bool


@dataclass(frozen=True, slots=True)
class _Held:
    """An experience of the log: encoder, and hashes of its query's id and of its vector."""

    encoder: str
    query: int
    vector: int
    place: Place


class Experiences:
    """Collects the experiences of a log."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, record: Experience, place: Place) -> None:
        query, vector = xxhash.xxh3_64_intdigest(record.query_id.encode()), xxhash.xxh3_64_intdigest(record.vector)
        self._held[place.sequence] = _Held(record.encoder, query, vector, place)

    def check(self, saved: SavedIndex, found: Findings) -> None:
        """Compare: every entry is an experience of the log, and those to be found are the latest of every query, as
        many as the index may hold.
        """
        entries = dict(saved.entries)
        if len(entries) < len(saved.entries):
            found.add("index", f"{len(saved.entries) - len(entries)} entries of the index are there twice")
        for sequence, vector in saved.entries:
            held = self._held.get(sequence)
            if held is None:
                found.add("index", f"the index holds record {sequence}, which is no experience of the log")
            elif held.encoder != saved.encoder:
                found.add("index", f"the index holds record {sequence}, whose vector another encoder made", held.place)
            elif vector != held.vector:
                found.add("index", f"the index holds another vector for record {sequence}", held.place)
        for sequence in sorted(saved.retired - entries.keys()):
            found.add("index", f"the index has retired record {sequence}, which it does not hold")
        self._check_alive(saved, entries.keys() - saved.retired, found)

    def _check_alive(self, saved: SavedIndex, alive: set[int], found: Findings) -> None:
        latest = {
            held.query: sequence
            for sequence, held in self._held.items()
            if sequence <= saved.sequence and held.encoder == saved.encoder
        }
        expected = set(sorted(latest.values())[-saved.max_entries :])
        for sequence in sorted(expected - alive):
            found.add(
                "index",
                f"the index went up to record {saved.sequence} and lacks record {sequence}",
                self._held[sequence].place,
            )
        for sequence in sorted((alive - expected) & self._held.keys()):
            held = self._held[sequence]
            if held.encoder == saved.encoder:
                found.add("index", f"the index finds record {sequence}, which later ones took the place of", held.place)


def read_index(folder: Path) -> SavedIndex | Unusable | None:
    """The index saved under the replay's `folder`; None without one."""
    index = folder / "index"
    if not index.is_dir() or not any(index.iterdir()):
        return None
    from replay.index.files import IndexFileError, OtherLayout, read_manifest, read_retired

    try:
        manifest = read_manifest(index)
        return SavedIndex(
            encoder=manifest.encoder,
            sequence=manifest.sequence,
            max_entries=manifest.max_entries,
            entries=tuple(_entries(index, manifest)),
            retired=frozenset(read_retired(index, manifest).tolist()),
        )
    except IndexFileError as error:
        return Unusable(str(error), isinstance(error, OtherLayout))


def _entries(index: Path, manifest: Manifest) -> Iterator[tuple[int, int]]:
    from replay.index.files import open_part
    from replay.index.merging import vectors_of

    for part in (manifest.main, manifest.delta):
        if part is not None:
            held, columns = open_part(index, part, manifest.dimension)
            for rows, vectors in vectors_of(held):
                for sequence, vector in zip(columns.sequences[rows].tolist(), vectors, strict=True):
                    yield sequence, xxhash.xxh3_64_intdigest(vector.astype("<f4").tobytes())
