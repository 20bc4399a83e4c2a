"""The saved neighbour index against the log: the same entries, with the same vectors.

The index is derived and rebuilt on any mismatch, so a stale one after a kill is noted; after a clean stop it is a
breach, because stopping saves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from common.media import content_digest
from replay.audit.findings import Findings
from replay.index import Manifest
from replay.reading import Place
from replay.records import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedIndex:
    """What lies in the index's files. entries: (log sequence, hash of the vector), as often as they are there."""

    encoder: str
    sequence: int
    entries: tuple[tuple[int, int], ...]


class Experiences:
    """Collects the experiences of a log: their encoder and a hash of their vector."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[str, int, Place]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, record: Experience, place: Place) -> None:
        self._held[place.sequence] = (record.encoder, xxhash.xxh3_64_intdigest(record.vector), place)

    def check(self, saved: SavedIndex, found: Findings) -> None:
        """Compare: every entry is an experience of the log, and every experience that the index says it followed is
        an entry.
        """
        entries = dict(saved.entries)
        if len(entries) < len(saved.entries):
            found.add("index", f"{len(saved.entries) - len(entries)} entries of the index are there twice")
        for sequence, vector in saved.entries:
            encoder, logged, place = self._held.get(sequence, ("", 0, None))
            if place is None:
                found.add("index", f"the index holds record {sequence}, which is no experience of the log")
            elif encoder != saved.encoder:
                found.add("index", f"the index holds record {sequence}, whose vector another encoder made", place)
            elif vector != logged:
                found.add("index", f"the index holds another vector for record {sequence}", place)
        for sequence, (encoder, _, place) in self._held.items():
            if sequence <= saved.sequence and encoder == saved.encoder and sequence not in entries:
                found.add("index", f"the index went up to record {saved.sequence} and lacks record {sequence}", place)


def read_index(folder: Path) -> SavedIndex | str | None:
    """The index saved under the replay's `folder`; text when it cannot be used, with the reason; None without one."""
    index = folder / "index"
    if not (index / "manifest.json").exists() and not (index / "flat.faiss").exists():
        return None
    try:
        manifest = Manifest(**json.loads((index / "manifest.json").read_bytes()))
        data = (index / "flat.faiss").read_bytes()
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, TypeError):
        return "manifest.json cannot be read"
    if content_digest(data) != manifest.file_digest:
        return "flat.faiss does not match the digest in manifest.json"
    import faiss

    held: Any = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    if (held.d, held.ntotal) != (manifest.dimension, manifest.num_entries):
        return f"it holds {held.ntotal} vectors of {held.d}, manifest.json says otherwise"
    ids = faiss.vector_to_array(held.id_map)
    vectors = np.ascontiguousarray(faiss.downcast_index(held.index).reconstruct_n(0, held.ntotal), "<f4")
    hashes = [xxhash.xxh3_64_intdigest(vector.tobytes()) for vector in vectors]
    entries = tuple((int(sequence), hashed) for sequence, hashed in zip(ids, hashes, strict=True))
    return SavedIndex(encoder=manifest.encoder, sequence=manifest.sequence, entries=entries)
