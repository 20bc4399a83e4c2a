"""The log: cut anywhere it loses only its tail, flipped anywhere it says so, killed anywhere it keeps its word."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.errors import LogDamaged, LogLocked, ReplayError, RunFolderError
from replay.disk import Disk
from replay.frames import ALIGN, Bytes, SegmentHeader
from replay.log import Log
from replay.segments import read_frames, read_segments

BODIES = [b"first", b"", b"x" * 64, b"third" * 20, b"last"]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where fsync costs nothing, for tests that open a log thousands of times."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pixelis-test-", dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def _write(folder: Path, bodies: Sequence[bytes] = BODIES, *, seal: bool = True) -> Path:
    """A log with one committed record a body; returns its only segment. Unsealed as after a kill."""
    log = Log(folder)
    for body in bodies:
        log.append(1, body)
        log.commit()
    if seal:
        log.close()
    else:
        os.close(log._file)
        os.close(log._lock)
    [segment] = sorted(folder.glob("*.segment"))
    return segment


def _bodies(log: Log) -> list[bytes]:
    return [bytes(frame.body) for frame in log.frames()]


def test_what_was_written_reads_back_by_walk_and_by_number(tmp_path: Path) -> None:
    _write(tmp_path)
    log = Log(tmp_path)
    assert _bodies(log) == BODIES
    assert [bytes(log.read(i).body) for i in range(5)] == BODIES
    assert log.append(7, b"more") == 5
    assert (log.read(5).kind, log.read(5).body) == (7, b"more")
    log.close()
    assert [frame.sequence for frame in read_frames(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_log_rolls_by_size_and_numbers_run_on(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_bytes=4096)
    bodies = [bytes([i]) * 700 for i in range(20)]
    assert [log.append(1, body) for body in bodies] == list(range(20))
    log.close()
    assert len(list(tmp_path.glob("*.segment"))) > 3
    assert all(path.stat().st_size <= 4096 + ALIGN for path in tmp_path.glob("*.segment"))
    log = Log(tmp_path)
    assert (_bodies(log), log.recovery.losses, log.recovery.cut_bytes) == (bodies, (), 0)
    assert bytes(log.read(13).body) == bodies[13]


def test_cutting_a_log_at_any_byte_loses_only_its_tail(memory: Path) -> None:
    segment = _write(memory / "whole", seal=False)
    data, ends, end = segment.read_bytes(), [], ALIGN
    for body in BODIES:
        end += ALIGN + -(-len(body) // ALIGN) * ALIGN
        ends.append(end)
    assert ends[-1] == len(data)
    folder = memory / "cut"
    for size in range(ALIGN, len(data)):
        folder.mkdir()
        (folder / segment.name).write_bytes(data[:size])
        log = Log(folder)
        num_whole = sum(end <= size for end in ends)
        assert _bodies(log) == BODIES[:num_whole], size
        assert log.next_sequence == num_whole
        assert log.recovery.losses == ()
        assert log.recovery.cut_bytes == size - (ends[num_whole - 1] if num_whole else ALIGN)
        log.append(1, b"after")
        log.close()
        assert [bytes(frame.body) for frame in read_frames(folder)] == [*BODIES[:num_whole], b"after"]
        shutil.rmtree(folder)


def test_every_flipped_bit_of_a_sealed_segment_is_detected_and_costs_one_record_at_most(memory: Path) -> None:
    bodies = [b"one", b"two" * 30, b"three"]
    segment = _write(memory, bodies)
    data = segment.read_bytes()
    later = SegmentHeader(index=1, epoch=1, first_sequence=3, chain=_last_chain(data)).pack()
    (memory / "00000001.segment").write_bytes(later)
    assert read_segments(memory).losses == ()
    for bit in range(8 * len(data)):
        segment.write_bytes(_flipped(data, bit))
        contents = read_segments(memory)
        assert (len(contents.losses), contents.next_sequence) == (1, 3), bit
        [loss] = contents.losses
        lost = range(loss.first_sequence, loss.stop_sequence)
        assert len(lost) <= 1
        assert [bytes(frame.body) for frame in read_frames(memory)] == [
            b for i, b in enumerate(bodies) if i not in lost
        ]
        assert loss.segment == segment.name
        assert loss.start <= bit // 8 < loss.stop


def test_a_lost_record_cannot_be_read(tmp_path: Path) -> None:
    segment = _write(tmp_path, [b"one", b"two"])
    segment.write_bytes(_flipped(segment.read_bytes(), 8 * 2 * ALIGN))
    log = Log(tmp_path)
    with pytest.raises(LogDamaged, match="record 0 is lost"):
        log.read(0)
    assert bytes(log.read(1).body) == b"two"


def _flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def _last_chain(data: bytes) -> int:
    return int.from_bytes(data[-16:-8], "little")


def test_every_flipped_bit_of_the_last_segment_is_a_cut_or_a_named_loss_never_a_wrong_record(memory: Path) -> None:
    segment = _write(memory, [b"one", b"two"])
    data = segment.read_bytes()
    for bit in range(8 * len(data)):
        segment.write_bytes(_flipped(data, bit))
        contents = read_segments(memory)
        assert contents.losses or contents.cut_bytes, bit
        assert {bytes(frame.body) for frame in read_frames(memory)} <= {b"one", b"two"}


def test_damage_to_a_promised_record_is_named_and_not_cut(tmp_path: Path) -> None:
    """Record 0 was durable when record 1 was written, and record 1 says so: what does not match is no torn tail."""
    segment = _write(tmp_path, [b"promised", b"witness"], seal=False)
    data = bytearray(segment.read_bytes())
    data[ALIGN + ALIGN] ^= 1
    segment.write_bytes(data)
    log = Log(tmp_path)
    assert log.recovery.cut_bytes == 0
    [loss] = log.recovery.losses
    assert (loss.first_sequence, loss.stop_sequence, loss.kinds) == (0, 1, (1,))
    assert _bodies(log) == [b"witness"]


def test_an_unpromised_hole_is_cut_with_all_that_follows(tmp_path: Path) -> None:
    """The disk kept the second of two records of one group: nobody was told of either."""
    log = Log(tmp_path)
    log.append(1, b"hole")
    log.append(1, b"kept by chance")
    os.close(log._lock)
    [segment] = tmp_path.glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[ALIGN : 3 * ALIGN] = bytes(2 * ALIGN)
    segment.write_bytes(data)
    log = Log(tmp_path)
    assert (_bodies(log), log.next_sequence, log.recovery.losses) == ([], 0, ())
    assert log.recovery.cut_bytes == 4 * ALIGN


def test_a_missing_segment_is_named_by_its_records(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_bytes=4096)
    for i in range(20):
        log.append(1, bytes([i]) * 700)
    log.close()
    sorted(tmp_path.glob("*.segment"))[1].unlink()
    log = Log(tmp_path)
    [loss] = log.recovery.losses
    assert (loss.first_sequence, loss.stop_sequence) == (5, 10)
    assert [bytes(log.read(i).body)[0] for i in (4, 10)] == [4, 10]


def test_a_spliced_frame_breaks_the_chain(tmp_path: Path) -> None:
    mine = _write(tmp_path / "mine", [b"a", b"b"], seal=False)
    other = _write(tmp_path / "other", [b"x", b"y"], seal=False)
    data = bytearray(mine.read_bytes())
    data[3 * ALIGN :] = other.read_bytes()[3 * ALIGN :]
    mine.write_bytes(data)
    log = Log(tmp_path / "mine")
    assert _bodies(log) == [b"a"]


def test_one_writer_at_a_time_and_each_has_its_own_epoch(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with pytest.raises(LogLocked, match="another process is writing"):
        Log(tmp_path)
    log.close()
    again = Log(tmp_path)
    assert (log.epoch, again.epoch) == (0, 1)
    with pytest.raises(ReplayError, match="closed"):
        log.append(1, b"zombie")


def test_a_folder_of_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    import xxhash

    segment = _write(tmp_path)
    head = bytearray(segment.read_bytes()[: ALIGN - 8])
    head[8] = 3
    digest = xxhash.xxh3_64_intdigest(bytes(head)).to_bytes(8, "little")
    segment.write_bytes(bytes(head) + digest + segment.read_bytes()[ALIGN:])
    with pytest.raises(RunFolderError, match="log format 3, schema 3; this version reads formats 1 to 2"):
        Log(tmp_path)


class MiserlyDisk(Disk):
    """Writes at most seven bytes a call."""

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        return os.write(file, b"".join(buffers)[:7])


class FullDisk(Disk):
    """Takes `room` bytes in all, then has no space."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        data = b"".join(buffers)[: self.room]
        if not data:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return os.write(file, data)


class FailingDisk(Disk):
    failing = False

    def sync(self, file: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(file)


def test_short_writes_are_finished(tmp_path: Path) -> None:
    log = Log(tmp_path, disk=MiserlyDisk())
    for body in BODIES:
        log.append(1, body)
    log.close()
    assert [bytes(frame.body) for frame in read_frames(tmp_path)] == BODIES


def test_a_full_disk_leaves_whole_records_and_room_to_try_again(tmp_path: Path) -> None:
    disk = FullDisk(room=3 * ALIGN)
    log = Log(tmp_path, disk=disk)
    log.append(1, b"fits")
    with pytest.raises(ReplayError, match="No space left"):
        log.append(1, b"does not")
    disk.room = 10 * ALIGN
    assert log.append(1, b"again") == 1
    log.close()
    assert [bytes(frame.body) for frame in read_frames(tmp_path)] == [b"fits", b"again"]


def test_a_failed_fsync_is_fatal(tmp_path: Path) -> None:
    disk = FailingDisk()
    log = Log(tmp_path, disk=disk)
    log.append(1, b"unknown")
    disk.failing = True
    with pytest.raises(ReplayError, match="fdatasync failed"):
        log.commit()
    with pytest.raises(ReplayError, match="broken"):
        log.append(1, b"no more")
    with pytest.raises(ReplayError, match="broken"):
        log.commit()


def test_a_segment_that_cannot_be_synced_is_not_started(tmp_path: Path) -> None:
    disk = FailingDisk()
    disk.failing = True
    with pytest.raises(ReplayError, match="could not be started"):
        Log(tmp_path, disk=disk)
    disk.failing = False
    Log(tmp_path, disk=disk).close()


WRITER = """
import sys
from pathlib import Path
from replay.log import Log
log = Log(Path(sys.argv[1]), segment_bytes=4096)
while True:
    numbers = [log.append(1, b"%d;" % log.next_sequence * 50) for _ in range(3)]
    log.commit()
    print(numbers[-1], flush=True)
"""


def test_killing_the_writer_loses_no_acknowledged_record(tmp_path: Path) -> None:
    delays = random.Random(7)
    promised = -1
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            promised = int(writer.stdout.readline())
            time.sleep(delays.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            *_, promised = [promised, *(int(line) for line in writer.stdout if line.endswith("\n"))]
        log = Log(tmp_path, segment_bytes=4096)
        assert log.recovery.losses == ()
        assert log.next_sequence > promised
        assert [bytes(frame.body) for frame in log.frames()] == [b"%d;" % i * 50 for i in range(log.next_sequence)]
        log.close()
