"""What a log holds, for readers in any thread while one writes and another rewrites.

A file and what is known of it (its size, where its footer is) are changed and taken together, under one lock that is
never held while bytes are read or written: a reader goes on with the map that it took, whatever becomes of the file.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import LogDamaged
from replay.disk import Disk, write_aside
from replay.footer import offset_at
from replay.frames import STAND_INS, TOMBSTONE, body_of, unpack_frame
from replay.maps import map_file
from replay.segments import Frame, Segment, frames_at, frames_of, offsets_of
from replay.tombstones import rewritten

NUM_MAPS = 16
"""Files whose maps are kept, by first record: with the segment that was mapped, or of the open one the number of
entries whose records lie in the map.
"""


class Held:
    """segments: those that nobody writes any more, oldest first. num_bytes: of them.

    The offsets of the open segment are in memory; a sealed one is asked through its footer; one without (its writer was
    killed) is walked, and the last walk is kept.
    """

    def __init__(self, folder: Path, segments: Iterable[Segment]) -> None:
        self.folder = folder
        self.segments = list(segments)
        self.num_bytes = sum(segment.num_bytes for segment in self.segments)
        self._lock = threading.Lock()
        self._open: tuple[int, Path, array[int]] = (0, folder, array("Q"))
        self._walked: tuple[Segment | None, Sequence[int]] = (None, ())
        self._maps = OrderedDict[int, tuple[Segment | int | None, memoryview]]()

    def opened(self, first_sequence: int, path: Path, entries: array[int]) -> None:
        """A new segment is written. entries: the writer adds (byte, chain) of every record that it has written."""
        with self._lock:
            self._open = (first_sequence, path, entries)

    def sealed(self, segment: Segment) -> None:
        """The open segment is ended."""
        with self._lock:
            self.segments.append(segment)
            self.num_bytes += segment.num_bytes
            self._open = (segment.stop_sequence, self.folder / segment.name, array("Q"))

    def mapped(self, sequences: Iterable[int]) -> list[Frame]:
        """See Log.mapped."""
        return [self._frame(sequence) for sequence in sequences]

    def frames(self, first_sequence: int, kinds: frozenset[int]) -> Iterator[Frame]:
        """See Log.frames."""
        with self._lock:
            num_sealed = len(self.segments)
            first, path, entries = self._open
            open_data, offsets = map_file(path), entries[::2]
        for number in range(num_sealed):
            with self._lock:
                segment = self.segments[number]
                data = map_file(self.folder / segment.name) if segment.stop_sequence > first_sequence else None
            if data is not None:
                yield from frames_of(self.folder, segment, first_sequence=first_sequence, kinds=kinds, data=data)
        places = enumerate(offsets, first)
        yield from frames_at(open_data, path.name, (place for place in places if place[0] >= first_sequence), kinds)

    def replace(self, segment: Segment, stand_ins: Mapping[int, tuple[int, bytes]], disk: Disk) -> int:
        """See Log.replace."""
        path = self.folder / segment.name
        found = rewritten(path, stand_ins)
        if not found.num_replaced:
            return 0
        aside = write_aside(disk, path, found.pieces)
        changed = replace(segment, num_bytes=found.num_bytes, last_frame=found.last_frame, footer=found.footer)
        with self._lock:
            number = self.segments.index(segment)
            disk.rename(aside, path)
            self.segments[number] = changed
            self.num_bytes += changed.num_bytes - segment.num_bytes
        disk.sync_folder(self.folder)
        return segment.num_bytes - changed.num_bytes

    def _frame(self, sequence: int) -> Frame:
        data, offset = self._place(sequence)
        if not offset:
            raise LogDamaged(f"{self.folder}: record {sequence} is lost")
        header = unpack_frame(data, offset)
        body = None if header is None else body_of(data, offset, header)
        if header is None or body is None or header.sequence != sequence:
            raise LogDamaged(f"{self.folder}: record {sequence} at byte {offset} does not match its hash")
        if header.kind in STAND_INS:
            how = "erased" if header.kind == TOMBSTONE else "pruned to its keys"
            raise LogDamaged(f"{self.folder}: record {sequence} was {how}")
        return Frame(kind=header.kind, sequence=sequence, body=body)

    def _place(self, sequence: int) -> tuple[memoryview, int]:
        """A map of the file, and the byte of a record; byte 0 when it is lost."""
        with self._lock:
            first, path, entries = self._open
            if sequence >= first:
                place = 2 * (sequence - first)
                if place >= len(entries):
                    return memoryview(b""), 0
                known, data = self._maps.get(first, (None, memoryview(b"")))
                if not isinstance(known, int) or place >= known:
                    data = self._mapped(first, len(entries), path)
                return data, entries[place]
            number = bisect_right(self.segments, sequence, key=lambda s: s.first_sequence) - 1
            segment = self.segments[max(number, 0)]
            if not segment.first_sequence <= sequence < segment.stop_sequence:
                return memoryview(b""), 0
            known, data = self._maps.get(segment.first_sequence, (None, memoryview(b"")))
            if known is not segment:
                data = self._mapped(segment.first_sequence, segment, self.folder / segment.name)
        place = sequence - segment.first_sequence
        if segment.footer:
            return data, offset_at(data, segment.footer, place)
        walked, offsets = self._walked
        if walked is not segment:
            offsets = offsets_of(data, segment)
            self._walked = (segment, offsets)
        return data, offsets[place]

    def _mapped(self, first_sequence: int, known: Segment | int, path: Path) -> memoryview:
        """A map to keep for the next reading: faults for its pages are then not taken again."""
        data = map_file(path)
        self._maps[first_sequence] = (known, data)
        self._maps.move_to_end(first_sequence)
        if len(self._maps) > NUM_MAPS:
            self._maps.popitem(last=False)
        return data
