"""The log: append-only segments in a folder, one writer, and everything else a fold of it.

`append` writes a frame; `commit` makes all of them durable; only then may anybody be told. Opening walks every byte
that no snapshot vouches for: the torn tail of the last segment is cut (nobody was promised it), damage anywhere else is
left as it lies and named, and the writer continues in a segment of its own under a new epoch, so an older segment is
never written again.

    folder/lock                     held with flock by the one writer
    folder/00000000.segment …       replay/frames.py describes their bytes
    folder/00000007.snapshot …      replay/snapshot.py; derived, may be deleted
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import LogLocked, ReplayError
from replay.disk import PIECES_AT_ONCE, Disk, SyncFailed, begin_file, refusal, write_all
from replay.footer import pack_footer
from replay.frames import (
    ALIGN,
    FIRST_RESERVED,
    FOOTER,
    SEAL,
    Bytes,
    SegmentHeader,
    frame_size,
    pack_frame,
)
from replay.held import Held
from replay.segments import Contents, Frame, Loss, Segment, read_segments
from replay.snapshot import Position, Snapshot, Trust, find_snapshot, write_snapshot

RECORDS_AT_ONCE = PIECES_AT_ONCE // 3
"""That one system call writes: a record is a header, a body and padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What opening found. cut_bytes: of the last segment's torn tail. losses: everything else that does not match.

    refused: why a snapshot was not used, one line each. num_trusted: segments that were not walked.
    """

    cut_bytes: int = 0
    losses: tuple[Loss, ...] = ()
    refused: tuple[str, ...] = ()
    num_trusted: int = 0


class Log:
    """The one writer of a log, and a reader of it. `append` and `commit` belong to one thread; `read` to any.

    fold: version of the fold whose snapshots are of use; None walks every byte and uses none. A segment is ended at
    `segment_bytes`, or at the first record after `segment_age_s` seconds (0: at no age).

    recovery: what opening found. snapshot: the one that was trusted; num_bytes_trusted: of the log
    before it. epoch: number of this writer. Raises LogLocked when another writer is alive, RunFolderError when the
    folder is of another format, ReplayError when the disk refuses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 64 << 20,
        segment_age_s: float = 0.0,
        fold: int | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._disk = disk or Disk()
        self._broken = ""
        self.snapshot_error = ""
        self._file, self._size = -1, 0
        self._entries = array("Q")
        try:
            self._disk.make_folder(self.folder)
            self._lock = _lock(self.folder / "lock")
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, self._lock)
                self._open(fold)
                stack.pop_all()
        except OSError as error:
            raise refusal(self.folder, "the log cannot be opened", error) from error

    def _open(self, fold: int | None) -> None:
        trust = Trust() if fold is None else find_snapshot(self.folder, fold=fold)
        self.snapshot = trust.snapshot
        if trust.snapshot is None:
            contents = read_segments(self.folder)
        else:
            held = trust.snapshot.position
            contents = read_segments(
                self.folder, trusted=held.segments, known_losses=held.losses, next_epoch=held.next_epoch
            )
        for aside in self.folder.glob(".aside-*"):
            self._disk.unlink(aside)
        self._settle(contents)
        self.recovery = Recovery(
            cut_bytes=contents.cut_bytes,
            losses=contents.losses,
            refused=trust.refused,
            num_trusted=contents.num_trusted,
        )
        self.epoch = contents.next_epoch
        self.next_sequence = contents.next_sequence
        self._num_durable = self.next_sequence
        self._chain = contents.chain
        self._held = Held(self.folder, contents.segments)
        self._index = contents.next_index
        self.num_bytes_trusted = sum(segment.num_bytes for segment in contents.segments[: contents.num_trusted])
        self._start_segment()

    def _settle(self, contents: Contents) -> None:
        """Cut the torn tail, and make durable what a killed writer left in the last segment, and its name: from here on
        records say of it that it is.
        """
        if not contents.segments:
            return
        file = self._disk.open(self.folder / contents.segments[-1].name)
        try:
            if contents.cut is not None:
                self._disk.truncate(file, contents.cut[1])
            self._disk.sync(file)
        finally:
            self._disk.close(file)
        self._disk.sync_folder(self.folder)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those that nobody writes any more, oldest first."""
        return tuple(self._held.segments)

    @property
    def num_sealed(self) -> int:
        return len(self._held.segments)

    @property
    def num_bytes(self) -> int:
        return self._held.num_bytes + self._size

    def append(self, kind: int, body: Bytes) -> int:
        """Write one record and return its sequence number. It is durable after the next `commit`.

        When the disk refuses the write, the log is cut back to the record before and ReplayError says why, DiskFull
        where room is all that it lacks; the caller may try again.
        """
        self.append_some([(kind, body)])
        return self.next_sequence - 1

    def append_some(self, records: Sequence[tuple[int, Bytes]]) -> int:
        """Write the first of `records`, (kind, body), and as many that follow as lie in the same segment and fit into
        one system call; returns how many. All of them or none: the disk refuses as in `append`.
        """
        self._check()
        size = frame_size(records[0][1])
        if self._size > ALIGN and (self._size + size > self._segment_bytes or self._is_old()):
            self._seal()
        if self._file < 0:
            self._start_segment()
        buffers: list[Bytes] = []
        entries: list[int] = []
        end, chain, sequence = self._size, self._chain, self.next_sequence
        for kind, body in records[:RECORDS_AT_ONCE]:
            assert SEAL < kind < FIRST_RESERVED, kind
            size = frame_size(body)
            if entries and end + size > self._segment_bytes:
                break
            header, padding, chain = pack_frame(kind, sequence, self._num_durable, body, chain)
            buffers += (header, body, padding)
            entries += (end, chain)
            end += size
            sequence += 1
        self._write(buffers)
        self._size, self._chain = end, chain
        self._entries.extend(entries)
        count, self.next_sequence = sequence - self.next_sequence, sequence
        return count

    def commit(self) -> None:
        """Make everything appended durable. A failure is fatal: what the disk holds is then unknown (the kernel may
        have dropped the pages), so nothing more is written or acknowledged.
        """
        self._check()
        if self._num_durable < self.next_sequence:
            self._sync()

    def checkpoint(self, state: bytes, *, fold: int) -> None:
        """End the segment and keep `state`, the fold of everything appended, as a snapshot. Raises ReplayError when
        the log fails. When only the snapshot does, the log is whole and `snapshot_error` says why.
        """
        self.keep(self.mark(), state, fold=fold)

    def mark(self) -> Position:
        """End the segment, and say where the log is: after everything appended. Raises ReplayError as `append`."""
        self._check()
        if self._size > ALIGN:
            self._seal()
        if self._file < 0:
            self._start_segment()
        return self._position()

    def keep(self, position: Position, state: bytes, *, fold: int) -> None:
        """Keep `state`, the fold of everything before `position`, as a snapshot; any thread may, but not during
        `replace`. A failure is told by `snapshot_error` alone.
        """
        position = replace(position, segments=self.segments[: len(position.segments)])
        try:
            write_snapshot(self.folder, Snapshot(position=position, fold=fold, state=state), self._disk)
            self.snapshot_error = ""
        except OSError as error:
            self.snapshot_error = f"{error.strerror}"

    def read(self, sequence: int) -> Frame:
        """The record with this number, checked. Raises LogDamaged when it is lost, pruned or erased, or no longer
        matches its hash.
        """
        [frame] = self.mapped([sequence])
        return replace(frame, body=bytes(frame.body))

    def mapped(self, sequences: Iterable[int]) -> list[Frame]:
        """The records with these numbers, as `read`; their bodies are views of memory maps, nothing copied. A map
        outlives the file when its segment is rewritten.
        """
        return self._held.mapped(sequences)

    def frames(self, first_sequence: int = 0, *, kinds: frozenset[int] = frozenset()) -> Iterator[Frame]:
        """Every record from `first_sequence` on that is not lost, oldest first; only those of `kinds` if any are given.
        Any thread may ask; what is appended meanwhile does not come.

        Bodies are views of the memory map, nothing copied. Raises LogDamaged for one that no longer matches.
        """
        return self._held.frames(first_sequence, kinds)

    def replace(self, segment: Segment, stand_ins: Mapping[int, tuple[int, bytes]]) -> int:
        """Put stand-ins in the place of records of a segment that nobody writes (replay/tombstones); any thread may,
        one at a time. Returns the bytes gained. Raises OSError as the disk does; nothing changed then.
        """
        return self._held.replace(segment, stand_ins, self._disk)

    def close(self, state: bytes = b"", *, fold: int = 0) -> None:
        """Seal the segment, make everything durable and let the next writer in, whatever the disk says. state: the
        fold of everything appended, kept as a snapshot if there is one. Raises ReplayError as `append` does.
        """
        if self._lock < 0:
            return
        try:
            if not self._broken:
                if self._file >= 0:
                    self._seal()
                if state:
                    self.keep(self._position(), state, fold=fold)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the next writer in and write nothing more, as if this one had been killed."""
        if self._lock < 0:
            return
        if self._file >= 0:
            self._disk.close(self._file)
        os.close(self._lock)
        self._file = self._lock = -1

    def _position(self) -> Position:
        """Called where no record lies in the open segment, if there is one."""
        return Position(
            next_index=self._index - (self._file >= 0),
            next_sequence=self.next_sequence,
            next_epoch=self.epoch + 1,
            chain=self._chain,
            segments=self.segments,
            losses=self.recovery.losses,
        )

    def _check(self) -> None:
        if self._lock < 0:
            raise ReplayError(f"{self.folder}: the log is closed")
        if self._broken:
            raise ReplayError(f"{self.folder}: the log is broken since {self._broken}")

    def _write(self, buffers: Sequence[Bytes]) -> None:
        """All of them or none."""
        try:
            write_all(self._disk, self._file, buffers)
        except OSError as error:
            self._cut_back(error)
            raise refusal(self.folder, "a write failed; nothing of it is kept", error) from error

    def _cut_back(self, error: OSError) -> None:
        try:
            self._disk.truncate(self._file, self._size)
        except OSError:
            self._broken = f"a write and the cut after it failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}") from error

    def _sync(self) -> None:
        try:
            self._disk.sync(self._file)
        except OSError as error:
            self._broken = f"fdatasync failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error
        self._num_durable = self.next_sequence

    def _is_old(self) -> bool:
        return 0 < self._segment_age_s < time.monotonic() - self._began_s

    def _seal(self) -> None:
        """Footer and seal are written when all before them is durable, so nothing in a sealed segment can be a torn
        tail.
        """
        self.commit()
        footer = self._size
        body = pack_footer(self._entries)
        head, padding, chain = pack_frame(FOOTER, self.next_sequence, self._num_durable, body, self._chain)
        seal, _, chain = pack_frame(SEAL, self.next_sequence, self._num_durable, b"", chain)
        self._write([head, body, padding, seal])
        self._size, self._chain = footer + frame_size(body) + ALIGN, chain
        self._sync()
        sealed = Segment(
            name=self._path.name,
            first_sequence=self._first,
            stop_sequence=self.next_sequence,
            num_bytes=self._size,
            last_frame=self._size - ALIGN,
            chain=self._chain,
            footer=footer,
            created_ns=self._created_ns,
        )
        self._disk.close(self._file)
        self._file, self._size = -1, 0
        self._held.sealed(sealed)

    def _start_segment(self) -> None:
        """A new segment appears whole: its header is durable before its name is."""
        path, created_ns = self.folder / f"{self._index:08d}.segment", time.time_ns()
        header = SegmentHeader(
            index=self._index,
            epoch=self.epoch,
            first_sequence=self.next_sequence,
            chain=self._chain,
            created_ns=created_ns,
        )
        try:
            self._file = begin_file(self._disk, path, header.pack())
        except SyncFailed as error:
            self._broken = f"a segment could not be started, a sync failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error
        except OSError as error:
            raise refusal(self.folder, "a segment could not be started", error) from error
        self._path, self._created_ns, self._began_s = path, created_ns, time.monotonic()
        self._size = ALIGN
        self._index += 1
        self._entries = array("Q")
        self._first = self.next_sequence
        self._held.opened(self._first, self._path, self._entries)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody writes the log in `folder` during this. Raises LogLocked when somebody does."""
    file = _lock(folder / "lock")
    try:
        yield
    finally:
        os.close(file)


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
