"""The log: append-only segments in a folder, one writer, and everything else a fold of it.

`append` writes a frame; `commit` makes all of them durable; only then may anybody be told. Opening walks every byte:
the torn tail of the last segment is cut (nobody was promised it), damage anywhere else is left as it lies and named,
and the writer continues in a segment of its own under a new epoch, so an older segment is never written again.

    folder/lock                     held with flock by the one writer
    folder/00000000.segment …       replay/frames.py describes their bytes
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import LogDamaged, LogLocked, ReplayError
from replay.disk import Disk, write_all
from replay.frames import ALIGN, SEAL, Bytes, Hole, Scan, SegmentHeader, body_of, pack_frame, scan, unpack_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One record. sequence: its number, from 0, without gaps unless the log is damaged."""

    kind: int
    sequence: int
    body: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Damage outside the torn tail: bytes [start, stop) of `segment`, records [first_sequence, stop_sequence).

    An empty range of records means that no record was lost (a damaged header or seal). kinds: of the lost records whose
    headers could still be read.
    """

    segment: str
    start: int
    stop: int
    first_sequence: int
    stop_sequence: int
    kinds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What opening found. cut_bytes: of the last segment's torn tail. losses: everything else that does not match."""

    cut_bytes: int = 0
    losses: tuple[Loss, ...] = ()


@dataclass(slots=True)
class _Segment:
    """offsets[i] is the byte of record first_sequence + i; 0 when it is lost."""

    path: Path
    first_sequence: int
    offsets: array[int]


class Log:
    """The one writer of a log, and a reader of it. `append` and `commit` belong to one thread; `read` to any.

    recovery: what opening found. epoch: number of this writer. Raises LogLocked when another writer is alive,
    RunFolderError when the folder is of another format.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = 64 << 20, disk: Disk | None = None) -> None:
        self.folder = Path(folder)
        self._segment_bytes = segment_bytes
        self._disk = disk or Disk()
        self._broken = ""
        self._disk.make_folder(self.folder)
        self._lock = _lock(self.folder / "lock")
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, self._lock)
            self._open()
            stack.pop_all()

    def _open(self) -> None:
        contents = read_segments(self.folder)
        for aside in self.folder.glob(".aside-*"):
            self._disk.unlink(aside)
        if contents.cut is not None:
            self._cut(*contents.cut)
        self.recovery = Recovery(cut_bytes=contents.cut_bytes, losses=contents.losses)
        self.epoch = contents.next_epoch
        self.next_sequence = contents.next_sequence
        self._num_durable = self.next_sequence
        self._chain = contents.chain
        self._segments = contents.segments
        self._index = contents.next_index
        self._old_bytes = sum(segment.path.stat().st_size for segment in self._segments)
        self._start_segment()

    def _cut(self, path: Path, size: int) -> None:
        file = os.open(path, os.O_RDWR)
        try:
            self._disk.truncate(file, size)
            self._disk.sync(file)
        finally:
            self._disk.close(file)

    @property
    def num_bytes(self) -> int:
        return self._old_bytes + self._size

    def append(self, kind: int, body: Bytes) -> int:
        """Write one record and return its sequence number. It is durable after the next `commit`.

        When the disk refuses the write, the log is cut back to the record before and ReplayError says why; the caller
        may try again.
        """
        assert SEAL < kind < 1 << 16, kind
        self._check()
        if self._size > ALIGN and self._size + ALIGN + len(body) > self._segment_bytes:
            self._roll()
        offset = self._size
        self._write(kind, body)
        self._segments[-1].offsets.append(offset)
        self.next_sequence += 1
        return self.next_sequence - 1

    def commit(self) -> None:
        """Make everything appended durable. A failure is fatal: what the disk holds is then unknown (the kernel may
        have dropped the pages), so nothing more is written or acknowledged.
        """
        self._check()
        if self._num_durable < self.next_sequence:
            self._sync()

    def read(self, sequence: int) -> Frame:
        """The record with this number, checked. Raises LogDamaged when it is lost or no longer matches its hash."""
        segment = self._segments[bisect_right(self._segments, sequence, key=lambda s: s.first_sequence) - 1]
        place = sequence - segment.first_sequence
        offset = segment.offsets[place] if 0 <= place < len(segment.offsets) else 0
        if not offset:
            raise LogDamaged(f"{self.folder}: record {sequence} is lost")
        with segment.path.open("rb") as file:
            header = unpack_frame(os.pread(file.fileno(), ALIGN, offset), 0)
            if header is not None and header.sequence == sequence:
                whole = bytes(ALIGN) + os.pread(file.fileno(), header.size - ALIGN, offset + ALIGN)
                body = body_of(memoryview(whole), 0, header)
                if body is not None:
                    return Frame(kind=header.kind, sequence=sequence, body=bytes(body))
        raise LogDamaged(f"{segment.path}: record {sequence} at byte {offset} does not match its hash")

    def frames(self) -> Iterator[Frame]:
        """Every record that is not lost, oldest first. Bodies are views of the memory map, nothing copied."""
        for segment in self._segments:
            yield from _frames(segment)

    def close(self) -> None:
        """Seal the segment, make everything durable and let the next writer in."""
        if self._lock < 0:
            return
        try:
            if not self._broken:
                self._seal()
        finally:
            self._disk.close(self._file)
            os.close(self._lock)
            self._lock = -1

    def _check(self) -> None:
        if self._lock < 0:
            raise ReplayError(f"{self.folder}: the log is closed")
        if self._broken:
            raise ReplayError(f"{self.folder}: the log is broken since {self._broken}")

    def _write(self, kind: int, body: Bytes) -> None:
        header, padding, chain = pack_frame(kind, self.next_sequence, self._num_durable, body, self._chain)
        buffers: list[Bytes] = [header, body, padding]
        try:
            write_all(self._disk, self._file, buffers)
        except OSError as error:
            self._cut_back(error)
            raise ReplayError(f"{self.folder}: a write failed ({error.strerror}); nothing of it is kept") from error
        self._chain = chain
        self._size += sum(map(len, buffers))

    def _cut_back(self, error: OSError) -> None:
        try:
            self._disk.truncate(self._file, self._size)
        except OSError:
            self._broken = f"a write and the cut after it failed: {error.strerror}"

    def _sync(self) -> None:
        try:
            self._disk.sync(self._file)
        except OSError as error:
            self._broken = f"fdatasync failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error
        self._num_durable = self.next_sequence

    def _seal(self) -> None:
        """A seal is written when all before it is durable, so nothing in a sealed segment can be a torn tail."""
        self.commit()
        self._write(SEAL, b"")
        self._sync()

    def _roll(self) -> None:
        self._seal()
        self._disk.close(self._file)
        self._old_bytes += self._size
        self._start_segment()

    def _start_segment(self) -> None:
        """A new segment appears whole: its header is durable before its name is."""
        path = self.folder / f"{self._index:08d}.segment"
        header = SegmentHeader(
            index=self._index, epoch=self.epoch, first_sequence=self.next_sequence, chain=self._chain
        )
        aside = self.folder / f".aside-{self._index:08d}"
        try:
            self._file = self._disk.create(aside)
            write_all(self._disk, self._file, [header.pack()])
            self._disk.sync(self._file)
            self._disk.rename(aside, path)
            self._disk.sync_folder(self.folder)
        except OSError as error:
            self._broken = f"a segment could not be started: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}") from error
        self._size = ALIGN
        self._index += 1
        self._segments.append(_Segment(path=path, first_sequence=self.next_sequence, offsets=array("Q")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a folder holds. cut: the last segment and the size it must be cut to, when its tail is torn."""

    segments: list[_Segment]
    losses: tuple[Loss, ...]
    cut: tuple[Path, int] | None
    cut_bytes: int
    next_sequence: int
    next_epoch: int
    next_index: int
    chain: int


def read_segments(folder: Path) -> Contents:
    """Walk every byte of every segment. Changes nothing, needs no lock. Raises RunFolderError for another format."""
    paths = sorted(folder.glob("*.segment"))
    segments: list[_Segment] = []
    losses: list[Loss] = []
    sequence, chain, epoch, damaged_headers = 0, 0, -1, 0
    cut: tuple[Path, int] | None = None
    cut_bytes = 0
    for path in paths:
        data = _map(path)
        header = None
        try:
            header = SegmentHeader.unpack(data, name=str(path))
            epoch = max(epoch, header.epoch)
        except LogDamaged:
            damaged_headers += 1
            losses.append(_loss(path, Hole(start=0, stop=ALIGN, first_sequence=sequence, stop_sequence=sequence)))
        if header is not None and (header.first_sequence, header.chain) != (sequence, chain):
            _gap(losses, path, sequence, max(header.first_sequence, sequence))
            sequence = max(header.first_sequence, sequence)
        found = scan(data, first_sequence=sequence, chain=None if header is None else header.chain)
        if path == paths[-1] and found.cut(len(data)) < len(data):
            cut = (path, found.cut(len(data)))
            cut_bytes = len(data) - cut[1]
            found = scan(data[: cut[1]], first_sequence=sequence, chain=None if header is None else header.chain)
        losses += [_loss(path, hole) for hole in found.holes]
        segments.append(_segment(path, sequence, found))
        sequence, chain = found.next_sequence, found.chain
    return Contents(
        segments=segments,
        losses=tuple(losses),
        cut=cut,
        cut_bytes=cut_bytes,
        next_sequence=sequence,
        next_epoch=epoch + 1 + damaged_headers,
        next_index=int(paths[-1].stem) + 1 if paths else 0,
        chain=chain,
    )


def read_frames(folder: Path) -> Iterator[Frame]:
    """Every whole record of a log that somebody else may be writing, oldest first."""
    for segment in read_segments(folder).segments:
        yield from _frames(segment)


def _frames(segment: _Segment) -> Iterator[Frame]:
    data = _map(segment.path)
    for place, offset in enumerate(segment.offsets):
        if not offset:
            continue
        header = unpack_frame(data, offset)
        body = None if header is None else body_of(data, offset, header)
        if header is None or body is None:
            raise LogDamaged(f"{segment.path}: record {segment.first_sequence + place} changed under our eyes")
        yield Frame(kind=header.kind, sequence=header.sequence, body=body)


def _segment(path: Path, first_sequence: int, found: Scan) -> _Segment:
    offsets = array("Q", bytes(8 * (found.next_sequence - first_sequence)))
    for offset, header in found.frames:
        offsets[header.sequence - first_sequence] = offset
    return _Segment(path=path, first_sequence=first_sequence, offsets=offsets)


def _loss(path: Path, hole: Hole) -> Loss:
    return Loss(
        segment=path.name,
        start=hole.start,
        stop=hole.stop,
        first_sequence=hole.first_sequence,
        stop_sequence=hole.stop_sequence,
        kinds=hole.kinds,
    )


def _gap(losses: list[Loss], path: Path, first: int, stop: int) -> None:
    """Records [first, stop) are missing before `path`: a hole at the end of the segment before is widened to them."""
    last = losses[-1] if losses and losses[-1].stop_sequence == first and losses[-1].segment != path.name else None
    if last is not None:
        losses[-1] = Loss(
            segment=last.segment,
            start=last.start,
            stop=last.stop,
            first_sequence=last.first_sequence,
            stop_sequence=stop,
            kinds=last.kinds,
        )
    else:
        losses.append(Loss(segment=path.name, start=0, stop=0, first_sequence=first, stop_sequence=stop))


def _map(path: Path) -> memoryview:
    """The file's bytes as a memory map that lives as long as any view of it."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _lock(path: Path) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogLocked(f"{path.parent}: another process is writing this log") from None
        stack.pop_all()
    return file
