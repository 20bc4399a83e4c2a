"""The neighbour index: which past experiences look like this query.

Inner product of unit vectors. What it holds is a fold of the log: of the experiences of one encoder the latest of each
query, and of these the `max_entries` latest. They lie in a main part, which nothing changes between merges, and in a
delta of what came since (replay/index/parts). The saved index (replay/index/files) carries the last record that it
followed, the encoder's digest and the hash of every file; on any mismatch it is rebuilt from the log.

    follow ─► … ─► merge_due ─► freeze ─► keep ─► a process merges (replay/index/merging) ─► merged ─► adopt ─► save
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import ReplayError
from common.media import content_digest
from common.types import Neighbour
from replay.config import IndexConfig
from replay.disk import Disk, write_whole
from replay.index.columns import coded
from replay.index.files import (
    MANIFEST,
    IndexFileError,
    Manifest,
    SavedPart,
    open_part,
    read_manifest,
    read_merged,
    read_retired,
    remove_others,
    write_json,
    write_part,
)
from replay.index.library import faiss
from replay.index.merging import Merge, Merging, main_name, vectors_of
from replay.index.parts import Delta, Main, Part
from replay.index.vectors import unit_vector
from replay.index.wanted import ANYTHING, Wanted
from replay.records import Experience

_VECTOR = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the index held after record `sequence`. rows: of the delta, those alive; retired: sequence numbers of the
    main part's others.
    """

    sequence: int
    main: SavedPart | None
    delta: Delta
    rows: NDArray[np.int64]
    retired: NDArray[np.int64]


class NeighbourIndex:
    """Entries by log sequence number. `follow` every experience after record `sequence`, in order, before `nearest`.

    One thread at a time, except that `keep` and `merged` may run beside `follow` and `nearest`. sequence: the last
    record followed (−1 for none); loaded: entries that were read from disk, not rebuilt. merge_error: why the last
    merge failed, "" when it did not; without it searches take longer, and it is due again after as many entries.

    merging: starts a merge in the folder that it is given.
    """

    def __init__(
        self,
        folder: Path,
        config: IndexConfig,
        *,
        disk: Disk | None = None,
        merging: Callable[[Path], Merge] = Merging,
    ) -> None:
        self._disk = disk or Disk()
        self._merging = merging
        self.folder = Path(folder)
        self._config = config
        self.merge_error = ""
        self._number = 0
        self._retired: set[int] = set()
        self._main: Main | None
        self._saved_main: SavedPart | None
        self._delta: Delta
        self.sequence: int
        self._clear()
        try:
            self._load()
        except IndexFileError:
            self._clear()
        self.loaded = len(self)

    @property
    def encoder(self) -> str:
        return self._config.encoder

    @property
    def dimension(self) -> int:
        return self._config.dimension

    def __len__(self) -> int:
        """Entries that `nearest` may find: one a query."""
        return self._delta.num_alive + (0 if self._main is None else self._main.num_alive)

    def follow(self, experience: Experience, sequence: int) -> None:
        """Take record `sequence` of the log; one that was followed already changes nothing. Vectors of another encoder
        are left out. Raises ContractError for a vector that is no unit vector.
        """
        if sequence <= self.sequence:
            return
        if experience.encoder == self.encoder:
            vector = unit_vector(np.frombuffer(experience.vector, _VECTOR), self.dimension)
            self._retire_query(experience.query_id)
            if self._delta.full:
                self._delta = self._delta.after(-1)
            self._delta.append(vector, experience, sequence)
            if len(self) > self._config.max_entries:
                oldest = next(part for part in self._parts() if part.num_alive)
                self._retire(oldest, oldest.first_alive())
        self.sequence = sequence

    def search(
        self, vector: NDArray[np.float32], k: int, *, exclude_query: str = "", wanted: Wanted = ANYTHING
    ) -> list[tuple[int, float]]:
        """As `nearest`: (sequence, similarity) of each."""
        found = self._best(vector, k, exclude_query, wanted)
        return [(part.columns.sequences.item(row), value) for value, part, row in found]

    def nearest(
        self, vector: NDArray[np.float32], k: int, *, exclude_query: str = "", wanted: Wanted = ANYTHING
    ) -> list[Neighbour]:
        """At most k neighbours that are `wanted`, most similar first, equally similar ones by sequence number; none of
        them of `exclude_query`. A query that was remembered more than once counts once, by its latest entry. Where k
        are wanted and there, k are found.

        Exact while the main part is flat; in an IVF, over the lists that are looked into. Raises ContractError for a
        vector that is no unit vector.
        """
        found = self._best(vector, k, exclude_query, wanted)
        return [part.columns.neighbour(row, value) for value, part, row in found]

    def _best(
        self, vector: NDArray[np.float32], k: int, exclude_query: str, wanted: Wanted
    ) -> list[tuple[float, Part, int]]:
        """(similarity, part, row) of what `nearest` gives."""
        query = unit_vector(vector, self.dimension)
        if k < 1:
            return []
        parts = [part for part in self._parts() if part.num_alive]
        found: list[tuple[float, Part, int]] = []
        for part in parts:
            hidden = part.alive_row_of(exclude_query) if exclude_query else None
            top = part.top(query, k + (hidden is not None), wanted)
            found += [(value, part, row) for value, row in top if row != hidden]
        if len(parts) > 1:
            found.sort(key=lambda entry: -entry[0])  # equal ones stay as they are, so older parts come first
        return found[:k]

    # ── Saving and merging ───────────────────────────────────────────────────────────────────────────────────────────

    def merge_due(self, *, rebuilding: bool = False) -> bool:
        """Whether the delta is large enough for a merge. rebuilding: only then if it is also a quarter of the index,
        so that the number of merges is that of its doublings.
        """
        size = len(self._delta)
        return size >= self._merge_at and (not rebuilding or 4 * size >= len(self))

    def freeze(self) -> Frozen:
        """What is held now, for `keep`; from here on what is retired is noted for `adopt`, so one at a time."""
        main = self._main
        retired = np.empty(0, np.int64)
        if main is not None:
            retired = main.columns.sequences[main.rows_retired()]
        self._retired.clear()
        self._merge_at = len(self._delta) + self._config.merge_entries
        return Frozen(self.sequence, self._saved_main, self._delta, self._delta.rows_alive(), retired)

    def keep(self, frozen: Frozen) -> None:
        """Write `frozen`, then the manifest that vouches for it; files of earlier ones go. Raises OSError."""
        self._disk.make_folder(self.folder)
        self._number += 1
        delta = None
        if len(frozen.rows):
            index = faiss.IndexFlatIP(self.dimension)
            index.add(frozen.delta.vectors(frozen.rows))
            entries = coded([frozen.delta.columns.plain(frozen.rows)])
            delta = write_part(self._disk, self.folder, f"delta-{self._number:08d}", index, entries)
        digest = ""
        if len(frozen.retired):
            data = frozen.retired.astype("<i8").tobytes()
            write_whole(self._disk, self.folder / f"retired-{self._number:08d}", data)
            digest = content_digest(data)
        manifest = Manifest(
            encoder=self.encoder,
            dimension=self.dimension,
            max_entries=self._config.max_entries,
            ivf_entries=self._config.ivf_entries,
            sequence=frozen.sequence,
            number=self._number,
            main=frozen.main,
            delta=delta,
            retired_digest=digest,
        )
        write_json(self._disk, self.folder / MANIFEST, manifest)
        remove_others(self._disk, self.folder, manifest.names())

    def start_merge(self) -> Merge:
        """Of what was kept last. Raises OSError."""
        return self._merging(self.folder)

    def merged(self) -> tuple[SavedPart, Main]:
        """The part that a merge has made of what was kept last. Raises IndexFileError when it is not whole."""
        part = read_merged(self.folder)
        if part.name != main_name(self._number):
            raise IndexFileError(f"{part.name} is of a merge that somebody else began")
        return part, self._opened(part)

    def adopt(self, frozen: Frozen, part: SavedPart, main: Main) -> None:
        """Put the part that was made of `frozen` in the place of the old one; the delta keeps what came since."""
        for row in np.flatnonzero(np.isin(main.columns.sequences, list(self._retired))):
            main.retire(int(row))
        self._main, self._saved_main = main, part
        self._delta = self._delta.after(frozen.sequence)
        self._retired.clear()
        self._merge_at = self._config.merge_entries

    def merge(self) -> None:
        """Merge now, and wait for it. If it fails, `merge_error` says why, and the index is as it was."""
        try:
            frozen = self.freeze()
            self.keep(frozen)
            self.start_merge().wait()
            self.adopt(frozen, *self.merged())
            self.save()
            self.merge_error = ""
        except (ReplayError, OSError) as error:
            self.merge_error = str(error)

    def save(self) -> None:
        self.keep(self.freeze())

    def reset(self) -> None:
        """Forget everything, also on disk, to be rebuilt from the log (a saved index that is ahead of the log, say)."""
        self._clear()
        self.loaded = 0
        if self.folder.is_dir():
            remove_others(self._disk, self.folder, set())
            self._disk.sync_folder(self.folder)

    def _clear(self) -> None:
        self._main, self._saved_main = None, None
        self._delta = Delta(self.dimension, self._config.merge_entries)
        self._retired.clear()
        self._merge_at = self._config.merge_entries
        self.sequence = -1

    def _load(self) -> None:
        """Take the saved index if every part of the manifest agrees. Raises IndexFileError."""
        manifest = read_manifest(self.folder)
        self._number = manifest.number
        config = self._config
        ours = (config.encoder, config.dimension, config.max_entries, config.ivf_entries)
        if ours != (manifest.encoder, manifest.dimension, manifest.max_entries, manifest.ivf_entries):
            raise IndexFileError("the saved index is of another encoder or of other settings")
        if manifest.main is not None:
            self._main, self._saved_main = self._opened(manifest.main), manifest.main
            for row in np.flatnonzero(np.isin(self._main.columns.sequences, read_retired(self.folder, manifest))):
                self._main.retire(int(row))
        if manifest.delta is not None:
            index, columns = open_part(self.folder, manifest.delta, self.dimension)
            vectors = np.concatenate([vectors for _, vectors in vectors_of(index)])
            self._delta = Delta.read(vectors, columns, self._config.merge_entries)
        self.sequence = manifest.sequence

    def _opened(self, part: SavedPart) -> Main:
        return Main(*open_part(self.folder, part, self.dimension), num_probes=self._config.num_probes)

    def _parts(self) -> tuple[Part, ...]:
        """Older entries first."""
        return (self._delta,) if self._main is None else (self._main, self._delta)

    def _retire_query(self, query_id: str) -> None:
        for part in self._parts():
            row = part.alive_row_of(query_id)
            if row is not None:
                self._retire(part, row)

    def _retire(self, part: Part, row: int) -> None:
        part.retire(row)
        self._retired.add(int(part.columns.sequences[row]))
