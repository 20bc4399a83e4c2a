"""The files of a saved index, and the manifest that vouches for them.

    manifest.json                     what is held; replaced at once
    main-00000003.faiss, .entries     the main part: a FAISS index (flat or IVF), and its columns (replay/index/columns)
    delta-00000007.faiss, .entries    what came since: a flat FAISS index, and its columns
    retired-00000007                  sequence numbers of the rows of the main part that are not found any more, int64
    merged.json                       what a merge has just made (replay/index/merging)

A name is never given to two contents that a manifest vouched for. Everything is derived and may be deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ReplayError
from common.media import content_digest
from replay.disk import Disk, write_all, write_whole
from replay.index.columns import Saved
from replay.index.library import faiss
from replay.maps import map_file

MANIFEST, MERGED = "manifest.json", "merged.json"
FORMAT = 1


class IndexFileError(ReplayError):
    """A file of the saved index is missing, damaged, or of another index: the index is to be rebuilt."""


class OtherLayout(IndexFileError):
    """Another version of this program saved the index."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What every manifest says; the first ones said nothing."""

    format: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPart:
    """A FAISS file and the columns beside it, by the digests of both. num_lists: of an IVF; num_since: entries added
    since these lists were trained.
    """

    name: str
    kind: Literal["flat", "ivf"]
    num_entries: int
    vectors_digest: str
    entries_digest: str
    num_lists: int = 0
    num_since: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a saved index is. sequence: the last log record that it followed. number: of this save; retired-<number>
    and delta-<number> are its files. retired_digest: blake3 of retired-<number>, "" where nothing is retired.

    encoder, dimension, max_entries, ivf_entries: of the configuration that it was made under.
    """

    encoder: str
    dimension: int
    max_entries: int
    ivf_entries: int
    sequence: int
    number: int
    main: SavedPart | None
    delta: SavedPart | None
    retired_digest: str
    format: int = FORMAT

    @property
    def num_entries(self) -> int:
        """Rows, retired ones included."""
        return sum(part.num_entries for part in (self.main, self.delta) if part is not None)

    def names(self) -> set[str]:
        """Of the files that it vouches for, its own included."""
        names = {MANIFEST} | ({f"retired-{self.number:08d}"} if self.retired_digest else set())
        for part in (self.main, self.delta):
            names |= set() if part is None else {f"{part.name}.faiss", f"{part.name}.entries"}
        return names


def read_manifest(folder: Path) -> Manifest:
    """Raises IndexFileError, OtherLayout where it is of another format."""
    layout: _Layout = _read_json(folder / MANIFEST, _Layout)
    if layout.format != FORMAT:
        age = "an earlier" if layout.format < FORMAT else "a later"
        raise OtherLayout(f"{MANIFEST} is of {age} layout (format {layout.format}; this program reads {FORMAT})")
    manifest: Manifest = _read_json(folder / MANIFEST, Manifest)
    return manifest


def read_merged(folder: Path) -> SavedPart:
    """Raises IndexFileError."""
    part: SavedPart = _read_json(folder / MERGED, SavedPart)
    return part


def _read_json(path: Path, wanted: Any) -> Any:
    try:
        held = msgspec.json.decode(path.read_bytes(), type=wanted)
    except FileNotFoundError as error:
        raise IndexFileError(f"{path.name} is missing") from error
    except msgspec.MsgspecError as error:
        raise IndexFileError(f"{path.name} cannot be read") from error
    return held


def write_json(disk: Disk, path: Path, value: Any) -> None:
    write_whole(disk, path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def open_part(folder: Path, part: SavedPart, dimension: int) -> tuple[Any, Saved]:
    """(FAISS index, columns), both memory-mapped, after their digests were compared. Raises IndexFileError."""
    files = {f"{part.name}.faiss": part.vectors_digest, f"{part.name}.entries": part.entries_digest}
    for name, digest in files.items():
        _check(folder / name, digest)
    index = faiss.read_index(str(folder / f"{part.name}.faiss"), faiss.IO_FLAG_MMAP_IFC)
    columns = Saved(folder / f"{part.name}.entries")
    num_lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    held = (index.d, index.ntotal, len(columns), num_lists)
    if held != (dimension, part.num_entries, part.num_entries, part.num_lists):
        raise IndexFileError(
            f"{part.name} holds {index.ntotal} vectors of {index.d} and {len(columns)} entries, {MANIFEST} says "
            "otherwise"
        )
    return index, columns


def read_retired(folder: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Sequence numbers. Raises IndexFileError."""
    if not manifest.retired_digest:
        return np.empty(0, np.int64)
    path = folder / f"retired-{manifest.number:08d}"
    _check(path, manifest.retired_digest)
    return np.frombuffer(path.read_bytes(), "<i8").astype(np.int64)


def _check(path: Path, digest: str) -> None:
    try:
        held = content_digest(map_file(path))
    except FileNotFoundError as error:
        raise IndexFileError(f"{path.name} is missing") from error
    if held != digest:
        raise IndexFileError(f"{path.name} does not match the digest in {MANIFEST}")


def write_part(disk: Disk, folder: Path, name: str, index: Any, entries: bytes, *, num_since: int = 0) -> SavedPart:
    """Write both files; each appears whole."""
    num_lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    write_whole(disk, folder / f"{name}.entries", entries)
    _write_faiss(disk, folder / f"{name}.faiss", index)
    return SavedPart(
        name=name,
        kind="ivf" if num_lists else "flat",
        num_entries=index.ntotal,
        vectors_digest=content_digest(map_file(folder / f"{name}.faiss")),
        entries_digest=content_digest(entries),
        num_lists=num_lists,
        num_since=num_since,
    )


def _write_faiss(disk: Disk, path: Path, index: Any) -> None:
    """Piece by piece, so that the file is never held in memory as a whole."""
    aside = path.with_name(f".aside-{path.name}")
    file = disk.create(aside)
    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(lambda piece: write_all(disk, file, [piece])))
        disk.sync(file)
    finally:
        disk.close(file)
    disk.rename(aside, path)
    disk.sync_folder(path.parent)


def remove_others(disk: Disk, folder: Path, keep: set[str]) -> None:
    """Remove the files of the index that are not named in `keep`."""
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.name not in keep:
            disk.unlink(path)
