"""Packs: many pictures in one append-only file, by content, and the index that finds them.

A pack is a 64-byte header and entries; an entry is a 64-byte header (form, length, blake3 of the picture, xxh3-64 of
the body), the body, and zeros to the next multiple of 64, so pixels can be used where they lie in a memory map. The
body is the picture's bytes, or a recipe (replay/recipes) where it is a cut of another one that is kept as it is. An
index beside a pack lists its entries by digest; it is derived: without it, or where it does not match, the pack is
walked.

    media/00000000.pack …     entries, in the order in which they came
    media/00000000.index …    written when a pack is ended, or found without one
"""

from __future__ import annotations

import contextlib
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.cuts import Cut
from common.errors import MediaError
from replay.catalog import Catalog
from replay.disk import Disk, write_aside, write_whole
from replay.frames import ALIGN, Bytes
from replay.maps import map_file
from replay.recipes import made, unpack_recipe

PACK_FORMAT = 2
"""Format 1 had no recipes; it is still read."""
PICTURE, RECIPE = 0, 1
"""What the body of an entry is."""

_PACK_MAGIC, _ENTRY_MAGIC, _INDEX_MAGIC = b"PXLSMED\n", b"PXME", b"PXLSMIX\n"
_PACK = struct.Struct("<8sI4xQQ24xQ")
_ENTRY = struct.Struct("<4sIQ32sQQ")
_INDEX = struct.Struct("<8sI4xQQQ16xQ")
assert _PACK.size == _ENTRY.size == _INDEX.size == ALIGN
_ROW = np.dtype([("digest", "S32"), ("offset", "<u8"), ("length", "<u8")])
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Of an entry's body in a pack. form: PICTURE or RECIPE."""

    offset: int
    length: int
    form: int = PICTURE

    @property
    def end(self) -> int:
        """Of the entry, padding included."""
        return self.offset + -(-self.length // ALIGN) * ALIGN


def pack_header(index: int, created_ns: int) -> bytes:
    return _hashed(_PACK.pack(_PACK_MAGIC, PACK_FORMAT, index, created_ns, 0))


def entry(digest: str, body: Bytes, form: int = PICTURE) -> list[Bytes]:
    """The pieces of an entry."""
    checksum = xxhash.xxh3_64_intdigest(body)
    header = _hashed(_ENTRY.pack(_ENTRY_MAGIC, form, len(body), bytes.fromhex(digest), checksum, 0))
    return [header, body, bytes(-len(body) % ALIGN)]


def _hashed(header: bytes) -> bytes:
    """A header whose last 8 bytes are the hash of those before."""
    return header[:-8] + xxhash.xxh3_64_intdigest(header[:-8]).to_bytes(8, "little")


def read_entry(data: Bytes, start: int) -> tuple[str, Place] | None:
    """Digest and place of the entry whose header is at `start`; None when it does not match its hashes."""
    raw = data[start : start + ALIGN]
    if len(raw) < ALIGN or raw[:4] != _ENTRY_MAGIC or _hashed(bytes(raw)) != raw:
        return None
    _, form, length, digest, checksum, _ = _ENTRY.unpack(raw)
    place = Place(start + ALIGN, length, form)
    whole = data[place.offset : place.end]
    if len(whole) < place.end - place.offset or any(whole[length:]):
        return None
    return (digest.hex(), place) if xxhash.xxh3_64_intdigest(whole[:length]) == checksum else None


def walk_pack(data: Bytes) -> Iterator[tuple[str, Place]]:
    """Every whole entry; what lies between (a torn tail, damage) is passed over."""
    start = ALIGN
    while start < len(data):
        found = read_entry(data, start)
        if found is not None:
            yield found
        start = start + ALIGN if found is None else found[1].end


def index_of(number: int, num_bytes: int, entries: Mapping[str, Place]) -> bytes:
    """The index of a pack of `num_bytes`: a header, a row an entry in the order of digests, xxh3-128 of both."""
    rows = np.array([(bytes.fromhex(d), entries[d].offset, entries[d].length) for d in sorted(entries)], _ROW)
    whole = _hashed(_INDEX.pack(_INDEX_MAGIC, PACK_FORMAT, number, num_bytes, len(rows), 0)) + rows.tobytes()
    return whole + xxhash.xxh3_128_digest(whole)


class Pack:
    """A pack that nobody writes any more, or what lies in one so far.

    has_index: whether the index beside it matches; without one the entries are found by a walk and held in memory.
    Raises MediaError for a file of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = map_file(path)
        self.created_ns = _created(self.data, path)
        self._rows: NDArray[np.void] | None = self._read_index()
        self._walked = {} if self._rows is not None else dict(walk_pack(self.data))

    @property
    def has_index(self) -> bool:
        return self._rows is not None

    @property
    def number(self) -> int:
        return int(self.path.stem)

    def entries(self) -> dict[str, Place]:
        if self._rows is None:
            return self._walked
        raw = self._rows["digest"].tobytes()
        return {raw[32 * i : 32 * i + 32].hex(): self._place(row) for i, row in enumerate(self._rows)}

    def recipes(self) -> Iterator[Cut]:
        """Of the pictures that lie here as cuts of others."""
        for digest, place in self.entries().items():
            if place.form == RECIPE:
                with contextlib.suppress(MediaError):  # what is damaged is no recipe any more
                    yield unpack_recipe(digest, self.read(digest, place))

    def find(self, digest: str) -> Place | None:
        if self._rows is None:
            return self._walked.get(digest)
        wanted = bytes.fromhex(digest)
        row = bisect_left(range(len(self._rows)), wanted, key=self._digest)
        if row == len(self._rows) or self._digest(row) != wanted:
            return None
        return self._place(self._rows[row])

    def prefixes(self) -> NDArray[np.uint64]:
        """The first 8 bytes of every digest in the index as a number, ascending."""
        assert self._rows is not None
        rows = np.frombuffer(self._raw, np.uint8).reshape(len(self._rows), _ROW.itemsize)
        return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)

    def read(self, digest: str, place: Place) -> memoryview:
        """The body where it lies, checked. Raises MediaError when it is damaged."""
        found = read_entry(self.data, place.offset - ALIGN)
        if found != (digest, place):
            raise MediaError(f"media {digest[:12]}… is damaged in {self.path}")
        return memoryview(self.data)[place.offset : place.offset + place.length]

    def _place(self, row: np.void) -> Place:
        offset = int(row["offset"])
        form = int.from_bytes(self.data[offset - ALIGN + 4 : offset - ALIGN + 8], "little")
        return Place(offset, int(row["length"]), form)

    def _digest(self, row: int) -> bytes:
        assert self._rows is not None
        start = row * _ROW.itemsize
        return self._raw[start : start + 32].tobytes()

    def _read_index(self) -> NDArray[np.void] | None:
        try:
            whole = map_file(self.path.with_suffix(".index"))
        except FileNotFoundError:
            return None
        body, digest = whole[:-_HASH_BYTES], whole[-_HASH_BYTES:]
        if len(body) < ALIGN or xxhash.xxh3_128_digest(body) != digest:
            return None
        magic, version, number, num_bytes, count, _ = _INDEX.unpack(body[:ALIGN])
        same = (magic, number, num_bytes) == (_INDEX_MAGIC, self.number, len(self.data)) and version <= PACK_FORMAT
        if not same or len(body) != ALIGN + count * _ROW.itemsize:
            return None
        self._raw = body[ALIGN:]
        return np.frombuffer(self._raw, _ROW)


def leave_out(path: Path, digests: Set[str], disk: Disk, instead: Mapping[str, bytes] | None = None) -> None:
    """Rewrite the pack at `path` without these pictures, nor anything damaged; those in `instead` as what is given. A
    process that is killed leaves the old pack or the new one. Raises OSError as the disk does.
    """
    pack, instead = Pack(path), instead or {}
    pieces: list[Bytes] = [pack_header(pack.number, pack.created_ns)]
    size, entries = ALIGN, dict[str, Place]()
    for digest, place in sorted(pack.entries().items(), key=lambda item: item[1].offset):
        if digest in digests:
            continue
        if digest in instead:
            pieces += entry(digest, instead[digest])
            entries[digest] = Place(size + ALIGN, len(instead[digest]))
        else:
            pieces.append(pack.data[place.offset - ALIGN : place.end])
            entries[digest] = Place(size + ALIGN, place.length, place.form)
        size = entries[digest].end
    index = path.with_suffix(".index")
    disk.unlink(index)
    disk.sync_folder(path.parent)
    disk.rename(write_aside(disk, path, pieces), path)
    disk.sync_folder(path.parent)
    write_whole(disk, index, index_of(pack.number, size, entries))


def leave_out_of(store: PackedMedia, digests: Set[str], disk: Disk) -> None:
    """Rewrite the packs of `store` so that none holds one of these pictures. What stays and was cut from them is
    written as it is first, and what goes too is left out before them (it came with them or later): a kill in between
    leaves a picture more, never one that cannot be made.
    """
    packs = store.packs  # a picture that is looked for in vain makes the store take notice of new ones
    for pack in packs:
        left = [cut.target.digest for cut in pack.recipes() if cut.source.digest in digests]
        instead = dict(_readable(store, set(left) - digests))
        if instead:
            leave_out(pack.path, frozenset(), disk, instead)
    for pack in reversed(packs):
        if not digests.isdisjoint(pack.entries()):
            leave_out(pack.path, digests, disk)


def _readable(store: PackedMedia, digests: Set[str]) -> Iterator[tuple[str, bytes]]:
    for digest in sorted(digests):
        with contextlib.suppress(MediaError):  # it was lost before, with what it was cut from
            yield digest, store.get(digest)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The packs at one moment, by number, ascending. files: size and inode of each. walked: those without an index."""

    packs: dict[int, Pack]
    files: dict[int, tuple[int, int]]
    walked: frozenset[int]
    catalog: Catalog

    def find(self, digest: str) -> tuple[Pack, Place] | None:
        """The newest pack that holds it, and where."""
        for number in sorted(self.catalog.find(digest) | self.walked, reverse=True):
            place = self.packs[number].find(digest)
            if place is not None:
                return self.packs[number], place
        return None


class PackedMedia:
    """Reads the pictures that a run's replay keeps, by digest; changes nothing. One may look while another writes.

    Also reads folders of single files, `ab/abcdef…`, as earlier versions left them.
    """

    def __init__(self, folder: Path) -> None:
        self.root = Path(folder)
        self._noticing = threading.Lock()
        self._seen = _Seen({}, {}, frozenset(), Catalog())
        self.refresh()

    @property
    def packs(self) -> tuple[Pack, ...]:
        """In the order in which they were begun."""
        return tuple(self._seen.packs.values())

    def as_it_is(self) -> PackedMedia:
        """What was noticed so far, whatever this one takes notice of later."""
        other = PackedMedia.__new__(PackedMedia)
        other.root, other._seen, other._noticing = self.root, self._seen, threading.Lock()
        return other

    def __contains__(self, digest: str) -> bool:
        return self._find(digest) is not None or self._single(digest).is_file()

    def get(self, digest: str) -> bytes:
        """The bytes, checked. Raises MediaError when they are not here or damaged."""
        return bytes(self.mapped(digest))

    def mapped(self, digest: str) -> memoryview:
        """The bytes where they lie in a memory map, checked. Raises MediaError as `get` does."""
        found = self._find(digest)
        if found is not None:
            pack, place = found
            body = pack.read(digest, place)
            return body if place.form == PICTURE else memoryview(made(unpack_recipe(digest, body), self.mapped))
        try:
            return map_file(self._single(digest))
        except FileNotFoundError:
            raise MediaError(f"media {digest[:12]}… is not in {self.root}") from None

    def find(self, digest: str) -> tuple[Pack, Place] | None:
        """The newest of the packs noticed so far that holds it, and where."""
        return self._seen.find(digest)

    def holds_pixels(self, digest: str) -> bool:
        """Whether the picture is here as it is, in what was noticed so far, so that others may be cut from it."""
        found = self.find(digest)
        return self._single(digest).is_file() if found is None else found[1].form == PICTURE

    def digests(self) -> Iterator[str]:
        """Of everything that is here; a picture that lies in two places comes twice."""
        yield from (digest for digest, _ in self.sizes())

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Digest and bytes of everything that is here, as `digests`."""
        self.refresh()
        for pack in self.packs:
            yield from ((digest, place.length) for digest, place in pack.entries().items())
        yield from ((file.name, file.stat().st_size) for file in self.root.glob("??/[!.]*"))

    def oldest_ns(self, digest: str) -> int:
        """When the oldest pack that holds it was begun, nanoseconds since 1970; 0 for a file of its own, or nothing."""
        held = [pack.created_ns for pack in self.packs if pack.find(digest) is not None]
        return 0 if self._single(digest).is_file() else min(held, default=0)

    def num_bytes(self) -> int:
        """Of the files that hold them."""
        files = (*self.root.glob("[0-9]*.pack"), *self.root.glob("??/[!.]*"))
        return sum(file.stat().st_size for file in files)

    def _find(self, digest: str) -> tuple[Pack, Place] | None:
        found = self.find(digest)
        return self.find(digest) if found is None and self.refresh() else found

    def _single(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    def refresh(self) -> bool:
        """Take notice of packs that came, grew, got an index, were rewritten or went since. Returns whether any did. Of
        two threads, the one that looks last has the last word.
        """
        with self._noticing:
            return self._notice()

    def _notice(self) -> bool:
        seen, files, packs = self._seen, dict[int, tuple[int, int]](), dict[int, Pack]()
        for path in sorted(self.root.glob("[0-9]*.pack")):
            number, status = int(path.stem), path.stat()
            files[number] = status.st_size, status.st_ino
            same = files[number] == seen.files.get(number)
            if same and (number not in seen.walked or not path.with_suffix(".index").exists()):
                packs[number] = seen.packs[number]
            else:
                packs[number] = Pack(path)
        if packs == seen.packs:
            return False
        indexed = {number: pack for number, pack in packs.items() if pack.has_index}
        known = {number for number in seen.packs if number not in seen.walked}
        kept = all(seen.packs[number] is indexed.get(number) for number in known)
        new = {number: pack.prefixes() for number, pack in indexed.items() if not kept or number not in known}
        catalog = (seen.catalog if kept else Catalog()).with_packs(new)
        self._seen = _Seen(packs, files, frozenset(packs.keys() - indexed.keys()), catalog)
        return True


def _created(data: Bytes, path: Path) -> int:
    """Nanoseconds of the wall clock. Damage to a pack's header costs nothing but this: it is 0 then."""
    raw = bytes(data[:ALIGN])
    if len(raw) < ALIGN or _hashed(raw) != raw or raw[:8] != _PACK_MAGIC:
        return 0
    _, version, _, created_ns, _ = _PACK.unpack(raw)
    if version > PACK_FORMAT:
        raise MediaError(f"{path}: written in pack format {version}; this version reads formats 1 to {PACK_FORMAT}")
    return int(created_ns)
