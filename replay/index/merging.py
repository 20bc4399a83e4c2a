"""A merge: the rows of main and delta that are alive become a new main part, in a process of its own.

It reads what the manifest vouches for, writes main-<number>.faiss and .entries beside it and, when both are whole,
merged.json, which says what they are. It replaces nothing: whoever started it swaps the new part in. Killed anywhere,
it leaves files that the next save removes. It ends as soon as its standard input does, so it does not outlive the
process that started it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ReplayError
from replay.disk import Disk
from replay.index.columns import Saved, coded
from replay.index.files import MERGED, SavedPart, open_part, read_manifest, read_retired, write_json, write_part
from replay.index.library import faiss
from replay.programs import start_program

_ROWS_AT_ONCE = 16_384
_SAMPLES_PER_LIST = 64
_TRAINING_ROUNDS = 10

Source = tuple[Any, Saved, NDArray[np.int64]]
"""A FAISS index, its columns, and the rows of it that are alive."""


class Merge(Protocol):
    """One that is under way."""

    def wait(self) -> None:
        """Until it has ended. Raises ReplayError when it failed or was stopped."""

    def stop(self) -> None: ...


class Merging:
    """The process, for whoever waits for it. Raises OSError when it cannot be started."""

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        self._process = start_program(__name__, str(folder), stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)

    def wait(self) -> None:
        process = self._process
        assert process.stdin is not None and process.stderr is not None
        said = process.stderr.read().decode(errors="replace").strip()
        process.wait()
        process.stdin.close()
        process.stderr.close()
        if process.returncode:
            reason = said.splitlines()[-1] if said else f"exit status {process.returncode}"
            raise ReplayError(f"the index was not merged: {reason}")

    def stop(self) -> None:
        self._process.kill()


def merge(folder: Path, disk: Disk) -> SavedPart:
    """See above. Raises IndexFileError when what the manifest vouches for does not lie there, ReplayError when nothing
    is left to merge.
    """
    manifest = read_manifest(folder)
    disk.unlink(folder / MERGED)
    retired = read_retired(folder, manifest)
    sources: list[Source] = []
    for part in (manifest.main, manifest.delta):
        if part is not None:
            index, columns = open_part(folder, part, manifest.dimension)
            sources.append((index, columns, np.flatnonzero(~np.isin(columns.sequences, retired))))
    count = sum(len(rows) for _, _, rows in sources)
    if not count:
        raise ReplayError("nothing to merge")
    num_since = 0
    if count < manifest.ivf_entries:
        index = faiss.IndexFlatIP(manifest.dimension)
        for _, vectors in _pieces(sources):
            index.add(vectors)
    else:
        index, num_since = _empty_ivf(sources, manifest.main, count, manifest.dimension)
        for rows, vectors in _pieces(sources):
            index.add_with_ids(vectors, rows)
    entries = coded([columns.plain(rows) for _, columns, rows in sources])
    merged = write_part(disk, folder, main_name(manifest.number), index, entries, num_since=num_since)
    write_json(disk, folder / MERGED, merged)
    return merged


def main_name(number: int) -> str:
    """Of the part that a merge makes of save `number`."""
    return f"main-{number:08d}"


def vectors_of(index: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(rows, their vectors) of a flat index in the order of the rows, of an IVF list by list."""
    dimension = index.d
    if not isinstance(index, faiss.IndexIVF):
        for start in range(0, index.ntotal, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, index.ntotal))
            yield rows, index.reconstruct_n(start, len(rows))
        return
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size).copy()
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
            yield ids, codes.view(np.float32).reshape(size, dimension).copy()


def num_lists_for(count: int) -> int:
    """The usual rule for `count` vectors, 4 √count; fewer where a list would hold less than 39, FAISS's least."""
    return max(1, min(int(4 * count**0.5), count // 39))


def _pieces(sources: list[Source]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(new rows, vectors) of what is alive: rows are numbered anew in the order of the old ones, parts one by one."""
    first = 0
    for index, _, alive in sources:
        for rows, vectors in vectors_of(index):
            places = np.searchsorted(alive, rows)
            held = alive[np.minimum(places, len(alive) - 1)] == rows if len(alive) else np.zeros(len(rows), np.bool_)
            if held.any():
                yield first + places[held], np.ascontiguousarray(vectors[held])
        first += len(alive)


def _empty_ivf(sources: list[Source], old: SavedPart | None, count: int, dimension: int) -> tuple[Any, int]:
    """A trained IVF without entries, and how many of the `count` to come were not there when it was trained.

    The lists of the old main part are taken on until half of the entries came after their training.
    """
    num_since = count
    if old is not None and old.num_lists:
        num_since = old.num_since + (len(sources[1][2]) if len(sources) > 1 else 0)
    if old is not None and 2 * num_since < count:
        num_lists = old.num_lists
        centroids = sources[0][0].quantizer.reconstruct_n(0, num_lists)
    else:
        num_lists, num_since = num_lists_for(count), 0
        centroids = _trained(sources, num_lists, count, dimension)
    quantizer = faiss.IndexFlatIP(dimension)
    quantizer.add(centroids)
    return faiss.IndexIVFFlat(quantizer, dimension, num_lists, faiss.METRIC_INNER_PRODUCT), num_since


def _trained(sources: list[Source], num_lists: int, count: int, dimension: int) -> NDArray[np.float32]:
    """Unit centroids of a sample of the vectors, (num_lists, dimension)."""
    size = min(count, num_lists * _SAMPLES_PER_LIST)
    chosen = np.sort(np.random.default_rng(0).choice(count, size, replace=False))
    sample = np.concatenate([vectors[np.isin(rows, chosen)] for rows, vectors in _pieces(sources)])
    kmeans = faiss.Kmeans(
        dimension, num_lists, niter=_TRAINING_ROUNDS, spherical=True, seed=1, min_points_per_centroid=1
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids)


def main(folder: str) -> int:
    """The exit status: 0 when merged.json was written."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.nice(10)
    try:
        merge(Path(folder), Disk())
    except (ReplayError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
