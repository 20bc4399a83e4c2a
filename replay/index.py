"""The neighbour index: which past experiences look like this query.

Inner product of unit vectors, exact (FAISS flat). The log is the truth: every entry is a record of it, and the saved
index carries the last record it holds, the encoder's digest and the hash of its file; on any mismatch it is rebuilt
from the log. What FAISS does not check is checked here: NaN, wrong dimensions, vectors that are not of length 1,
flipped bits in the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError
from common.media import content_digest
from common.types import Neighbour
from replay.disk import Disk, write_whole
from replay.records import Experience

NORM_TOLERANCE = 1e-3
"""A float32 vector normalised in float32 or bfloat16-rounded stays well within."""


def unit_vector(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """`vector` as float32 of shape (dimension,). Raises ContractError when it is not finite or not of length 1."""
    values = np.ascontiguousarray(vector, dtype=np.float32)
    if values.shape != (dimension,):
        raise ContractError(f"a vector of shape {values.shape}; the index holds vectors of shape ({dimension},)")
    if not np.isfinite(values).all():
        raise ContractError("a vector with a component that is not finite")
    norm = float(np.linalg.norm(values))
    if abs(norm - 1) > NORM_TOLERANCE:
        raise ContractError(f"a vector of length {norm:.4f}; normalise it to 1")
    return values


def exact_nearest(
    vectors: NDArray[np.float32], sequences: NDArray[np.int64], query: NDArray[np.float32], k: int
) -> list[tuple[int, float]]:
    """The reference: (sequence, inner product) of the k most similar rows, best first, ties by sequence. float64."""
    similarity = vectors.astype(np.float64) @ query.astype(np.float64)
    order = np.lexsort((sequences, -similarity))[:k]
    return [(int(sequences[i]), float(similarity[i])) for i in order]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a saved index is. sequence: of the last log record it holds. file_digest, entries_digest: blake3 of the
    FAISS file and of the entries beside it.
    """

    encoder: str
    dimension: int
    sequence: int
    num_entries: int
    file_digest: str
    entries_digest: str


class NeighbourIndex:
    """Entries by log sequence number. `follow` every experience after record `sequence`, in order, before `nearest`.

    One thread at a time. sequence: the last record held (−1 for none); `loaded` was read from disk, not rebuilt.
    """

    def __init__(self, folder: Path, *, encoder: str, dimension: int, disk: Disk | None = None) -> None:
        import faiss

        self._disk = disk or Disk()

        self._faiss = faiss
        self._folder = Path(folder)
        self.encoder = encoder
        self.dimension = dimension
        self._entries: dict[int, Neighbour] = {}
        self._latest: dict[str, int] = {}
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self.sequence = -1
        self._load()
        self.loaded = len(self)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def follow(self, experience: Experience, sequence: int) -> None:
        """Take record `sequence` of the log. Vectors of another encoder are left out; one held already is not added."""
        if experience.encoder != self.encoder:
            return
        self._enter(
            Neighbour(
                query_id=experience.query_id,
                similarity=0.0,
                family=experience.family,
                chain=experience.chain,
                answer=experience.answer,
                confidence=experience.confidence,
                sequence=sequence,
            )
        )
        if sequence > self.sequence:
            vector = unit_vector(np.frombuffer(experience.vector, np.dtype("<f4")), self.dimension)
            self._index.add_with_ids(vector[None], np.array([sequence], np.int64))
            self.sequence = sequence

    def _enter(self, entry: Neighbour) -> None:
        self._entries[entry.sequence] = entry
        self._latest[entry.query_id] = entry.sequence

    def nearest(self, vector: NDArray[np.float32], k: int, *, exclude_query: str = "") -> list[Neighbour]:
        """At most k neighbours, most similar first, none of them of `exclude_query`. A query that was remembered more
        than once counts once, by its latest entry. Raises ContractError for a vector that is no unit vector.
        """
        query = unit_vector(vector, self.dimension)
        superseded = len(self._entries) - len(self._latest)
        wanted = min(k + superseded + (exclude_query in self._latest), len(self))
        if k < 1 or wanted < 1:
            return []
        similarity, sequences = self._index.search(query[None], wanted)
        found = []
        for value, sequence in zip(similarity[0], sequences[0], strict=True):
            entry = self._entries[int(sequence)]
            if self._latest[entry.query_id] == entry.sequence and entry.query_id != exclude_query:
                found.append(replace(entry, similarity=float(value)))
        return sorted(found, key=lambda n: (-n.similarity, n.sequence))[:k]

    def save(self) -> None:
        """Write the FAISS file and the entries, then the manifest that vouches for both; each appears whole."""
        self._disk.make_folder(self._folder)
        data = self._faiss.serialize_index(self._index).tobytes()
        entries = msgspec.json.encode(list(self._entries.values()))
        manifest = Manifest(
            encoder=self.encoder,
            dimension=self.dimension,
            sequence=self.sequence,
            num_entries=len(self),
            file_digest=content_digest(data),
            entries_digest=content_digest(entries),
        )
        fields = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
        write_whole(self._disk, self._folder / "flat.faiss", data)
        write_whole(self._disk, self._folder / "entries.json", entries)
        write_whole(self._disk, self._folder / "manifest.json", json.dumps(fields, indent=1).encode())

    def _load(self) -> None:
        """Take the saved index if every part of the manifest agrees; otherwise stay empty, to be rebuilt."""
        try:
            manifest = Manifest(**json.loads((self._folder / "manifest.json").read_bytes()))
            data = (self._folder / "flat.faiss").read_bytes()
            entries = (self._folder / "entries.json").read_bytes()
        except (FileNotFoundError, ValueError, TypeError):
            return
        same = (manifest.encoder, manifest.dimension) == (self.encoder, self.dimension)
        held = (content_digest(data), content_digest(entries))
        if not same or held != (manifest.file_digest, manifest.entries_digest):
            return
        index = self._faiss.deserialize_index(np.frombuffer(data, np.uint8))
        if (index.d, index.ntotal) == (self.dimension, manifest.num_entries):
            self._index, self.sequence = index, manifest.sequence
            for entry in msgspec.json.decode(entries, type=list[Neighbour]):
                self._enter(entry)

    def reset(self) -> None:
        """Forget everything, to be rebuilt from the log (a saved index that is ahead of the log, say)."""
        self._index = self._faiss.IndexIDMap2(self._faiss.IndexFlatIP(self.dimension))
        self._entries.clear()
        self._latest.clear()
        self.sequence, self.loaded = -1, 0

    @property
    def num_entries(self) -> int:
        """Entries known from the log; equal to len(self) once the log was followed to its end."""
        return len(self._entries)
