"""What a disk may hold after the power went, from a list of what was done to it.

The model is what POSIX promises and no more:

- After fdatasync of a file, what was written to it before and its size are durable, whatever its name.
- A file's un-synced writes survive as any subset of their 512-byte pieces, in any order, a piece now and then torn in
  itself. Its size is the durable one, one that it had since, or one between; what was never written reads as zeros or
  as whatever lay on the disk. A truncation survives or not, too.
- After fsync of a folder, what was done to its names before is durable. Un-synced creations, renames, removals and new
  folders survive or not, each by itself, in any order; a rename is whole or was not. What lies in a folder whose own
  name is lost is lost.
- What is durable stays as it is: no bits rot, and a torn sector does not take durable bytes beside it along (what
  SQLite calls powersafe overwrite).

A killed process is the simpler case: everything that was done is there, perhaps but a part of its last write.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from fakes.recording_disk import Create, MakeFolder, Op, Rename, Sync, SyncFolder, Truncate, Unlink, Write

SECTOR = 512
Change: TypeAlias = tuple[int, Write | Truncate]
NameChange: TypeAlias = tuple[int, Create | Rename | Unlink | MakeFolder]


@dataclass(slots=True)
class _File:
    durable: bytearray
    pending: list[Change] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    """names: entry → number of a file, or path of a folder."""

    names: dict[str, int | str] = field(default_factory=dict)
    pending: list[NameChange] = field(default_factory=list)


class Image:
    """The disk after `ops`, which ended there; `before` is what lay there durably (RecordingDisk.before)."""

    def __init__(self, before: Mapping[str, bytes | None], ops: Sequence[Op]) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {".": _Folder()}
        for number, (path, data) in enumerate(before.items()):
            folder, name = _split(path)
            if data is None:
                self._folders[path] = _Folder()
                self._folders[folder].names[name] = path
            else:
                self._files[number] = _File(bytearray(data))
                self._folders[folder].names[name] = number
        self._last = ops[-1] if ops else None
        for place, op in enumerate(ops):
            self._take(place, op)

    def _take(self, place: int, op: Op) -> None:
        match op:
            case Create():
                self._files[op.file] = _File(bytearray())
                self._folders[_split(op.path)[0]].pending.append((place, op))
            case MakeFolder():
                self._folders[op.path] = _Folder()
                self._folders[_split(op.path)[0]].pending.append((place, op))
            case Rename():
                self._folders[_split(op.new)[0]].pending.append((place, op))
            case Unlink():
                self._folders[_split(op.path)[0]].pending.append((place, op))
            case Write() | Truncate():
                self._files[op.file].pending.append((place, op))
            case Sync():
                file = self._files[op.file]
                for _, change in (c for c in file.pending if c[0] < op.began):
                    _apply(file.durable, change)
                file.pending = [c for c in file.pending if c[0] >= op.began]
            case SyncFolder():
                folder = self._folders[op.path]
                for _, named in (c for c in folder.pending if c[0] < op.began):
                    _name(folder.names, named)
                folder.pending = [c for c in folder.pending if c[0] >= op.began]

    def killed(self, root: Path, chance: random.Random) -> None:
        """Write to `root` what a killed process leaves."""
        contents = {}
        for number, file in self._files.items():
            contents[number] = bytearray(file.durable)
            for _, change in file.pending:
                cut = change is self._last and isinstance(change, Write)
                _apply(contents[number], _part(change, chance) if cut else change)
        names = {path: dict(folder.names) for path, folder in self._folders.items()}
        for path, folder in self._folders.items():
            for _, named in folder.pending:
                _name(names[path], named)
        _write(root, names, contents)

    def powerless(self, root: Path, chance: random.Random) -> None:
        """Write to `root` what a loss of power may leave."""
        data_kept, names_kept = (chance.choice((0.0, 0.2, 0.5, 0.8, 1.0)) for _ in range(2))
        contents = {number: _survivor(file, chance, data_kept) for number, file in self._files.items()}
        names = {}
        for path, folder in self._folders.items():
            names[path] = dict(folder.names)
            for _, named in folder.pending:
                if chance.random() < names_kept:
                    _name(names[path], named)
        _write(root, names, contents)


def _survivor(file: _File, chance: random.Random, kept: float) -> bytearray:
    if not file.pending:
        return file.durable
    sizes = [len(file.durable)]
    for _, change in file.pending:
        grown = change.offset + len(change.data) if isinstance(change, Write) else 0
        sizes.append(max(sizes[-1], grown) if isinstance(change, Write) else change.size)
    content = bytearray(file.durable) + bytearray(max(sizes) - len(file.durable))
    if chance.random() < 0.2:
        content[len(file.durable) :] = chance.randbytes(len(content) - len(file.durable))
    for _, change in file.pending:
        if isinstance(change, Truncate):
            if chance.random() < kept:
                content[change.size :] = bytes(len(content) - change.size)
            continue
        for start, stop in _pieces(change):
            if chance.random() < kept:
                end = chance.randint(start, stop) if chance.random() < 0.05 else stop
                content[start:end] = change.data[start - change.offset : end - change.offset]
    low, high = chance.choice((*pairwise(sizes), (sizes[-1], sizes[-1]), (sizes[0], sizes[0])))
    size = chance.choice((low, high, chance.randint(min(low, high), max(low, high))))
    return content[:size]


def _pieces(change: Write) -> list[tuple[int, int]]:
    """[start, stop) in the file of every sector's part of a write."""
    end = change.offset + len(change.data)
    edges = [change.offset, *range((change.offset // SECTOR + 1) * SECTOR, end, SECTOR), end]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


def _part(change: Write | Truncate, chance: random.Random) -> Write:
    assert isinstance(change, Write)
    return Write(change.file, change.offset, change.data[: chance.randint(0, len(change.data))])


def _apply(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.data)] = change.data


def _name(names: dict[str, int | str], op: Create | Rename | Unlink | MakeFolder) -> None:
    match op:
        case Create():
            names[_split(op.path)[1]] = op.file
        case MakeFolder():
            names[_split(op.path)[1]] = op.path
        case Unlink():
            names.pop(_split(op.path)[1], None)
        case Rename():
            names.pop(_split(op.old)[1], None)
            names[_split(op.new)[1]] = op.file


def _split(path: str) -> tuple[str, str]:
    parent = Path(path).parent
    return str(parent), Path(path).name


def _write(root: Path, names: Mapping[str, Mapping[str, int | str]], contents: Mapping[int, bytes | bytearray]) -> None:
    def fill(path: str) -> None:
        (root / path).mkdir(parents=True, exist_ok=True)
        for name, held in names[path].items():
            if isinstance(held, str):
                fill(held)
            else:
                (root / path / name).write_bytes(contents[held])

    fill(".")
