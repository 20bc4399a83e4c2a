"""Media in packs: what was kept reads back by content, after any kill; damage is detected and costs one picture."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ContractError, MediaError, ReplayError
from common.media import FolderMediaStore, content_digest
from common.types import MediaRef
from replay.disk import Disk
from replay.frames import ALIGN, Bytes
from replay.media import DurableMedia
from replay.packs import Pack, PackedMedia


def pictures(seed: int, *sizes: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(size) for size in sizes]


def a_store(folder: Path, contents: Sequence[bytes]) -> tuple[FolderMediaStore, list[MediaRef]]:
    live = FolderMediaStore(folder)
    return live, [live.put(data, kind="view", width=1, height=1) for data in contents]


def kill(media: DurableMedia) -> None:
    """What a killed process leaves: an open pack without an index."""
    if media._file >= 0:
        os.close(media._file)
        media._file = -1


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=30),
    stops=st.lists(st.sampled_from(["close", "kill", "go on"]), min_size=30, max_size=30),
    seed=st.integers(0, 1000),
)
def test_what_was_kept_is_read_back_by_every_reader(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], stops: list[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("media")
    contents = pictures(seed, *sizes)
    live, refs = a_store(folder / "live", contents)
    media = DurableMedia(folder / "kept", live=live, sync=False, pack_bytes=8192)
    for ref, stop in zip(refs, stops, strict=False):
        media.keep([ref])
        if stop != "go on":
            media.close() if stop == "close" else kill(media)
            media = DurableMedia(folder / "kept", live=live, sync=False, pack_bytes=8192)
    reader = PackedMedia(folder / "kept")
    for data, ref in zip(contents, refs, strict=True):
        assert reader.get(ref.digest) == media.get(ref.digest) == bytes(reader.mapped(ref.digest)) == data
    assert set(reader.digests()) == {content_digest(data) for data in contents}
    assert len(list(reader.digests())) == len(set(contents))
    media.close()


def test_the_same_content_is_kept_once_whoever_asks(tmp_path: Path) -> None:
    live, refs = a_store(tmp_path / "live", pictures(1, *range(100, 1000, 50)))
    media = DurableMedia(tmp_path / "kept", live=live)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(media.keep, [refs, refs[::-1], refs, refs])) == sum(range(100, 1000, 50))
    assert media.keep(refs) == 0
    media.close()
    again = DurableMedia(tmp_path / "kept", live=live)
    assert again.keep(refs) == 0
    assert not list((tmp_path / "kept").glob("00000001.*"))


def test_a_reader_sees_what_a_writer_adds(tmp_path: Path) -> None:
    live, refs = a_store(tmp_path / "live", pictures(2, 300, 400))
    media = DurableMedia(tmp_path / "kept", live=live)
    reader = PackedMedia(tmp_path / "kept")
    for ref in refs:
        assert ref.digest not in reader
        media.keep([ref])
        assert ref.digest in reader
    media.close()


def test_forgotten_pictures_are_put_back_from_the_open_pack_and_from_ended_ones(tmp_path: Path) -> None:
    contents = pictures(3, 3000, 3000, 3000)
    live, refs = a_store(tmp_path / "live", contents)
    media = DurableMedia(tmp_path / "kept", live=live, pack_bytes=4096)
    media.keep(refs)
    live.trim(0)
    media.restore(refs)
    assert [live.get(ref.digest) for ref in refs] == contents
    with pytest.raises(MediaError, match="is not in"):
        media.restore([MediaRef(digest="ab" * 32, kind="view", width=1, height=1, num_bytes=1)])


def test_a_folder_of_single_files_is_read_and_not_copied_again(tmp_path: Path) -> None:
    live, [ref] = a_store(tmp_path / "live", pictures(4, 500))
    FolderMediaStore(tmp_path / "kept").put(live.get(ref.digest), kind="view", width=1, height=1)
    media = DurableMedia(tmp_path / "kept", live=live)
    assert media.keep([ref]) == 0
    assert PackedMedia(tmp_path / "kept").get(ref.digest) == live.get(ref.digest)
    assert not list((tmp_path / "kept").glob("*.pack"))


def a_pack(folder: Path, contents: Sequence[bytes]) -> Path:
    live, refs = a_store(folder / "live", contents)
    media = DurableMedia(folder / "kept", live=live, sync=False)
    media.keep(refs)
    kill(media)
    return folder / "kept" / "00000000.pack"


def test_a_cut_anywhere_loses_only_the_pictures_that_it_hits(tmp_path: Path) -> None:
    contents = pictures(5, 10, 64, 100)
    pack = a_pack(tmp_path, contents)
    data, ends = pack.read_bytes(), [ALIGN + 128, ALIGN + 256, ALIGN + 448]
    assert len(data) == ends[-1]
    for size in range(ALIGN, len(data) + 1):
        pack.write_bytes(data[:size])
        whole = {content_digest(c) for c, end in zip(contents, ends, strict=True) if end <= size}
        assert set(Pack(pack).entries()) == whole, size


def test_every_flipped_bit_is_detected_with_an_index_and_without(tmp_path: Path) -> None:
    contents = pictures(6, 10, 70)
    pack = a_pack(tmp_path, contents)
    DurableMedia(tmp_path / "kept", live=FolderMediaStore(tmp_path / "live"), sync=False).close()
    index = pack.with_suffix(".index").read_bytes()
    data = pack.read_bytes()
    digests = [content_digest(content) for content in contents]
    for bit in range(8 * ALIGN, 8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        pack.write_bytes(broken)
        pack.with_suffix(".index").write_bytes(index)
        reader = PackedMedia(tmp_path / "kept")
        assert [_reads(reader, digest) for digest in digests].count(False) == 1, bit
        pack.with_suffix(".index").unlink()
        assert len(set(Pack(pack).entries()) & set(digests)) == 1, bit
    pack.write_bytes(data)
    for bit in range(8 * len(index)):
        broken = bytearray(index)
        broken[bit // 8] ^= 1 << bit % 8
        pack.with_suffix(".index").write_bytes(broken)
        assert not Pack(pack).has_index
        assert set(Pack(pack).entries()) == set(digests)


def _reads(reader: PackedMedia, digest: str) -> bool:
    try:
        return content_digest(reader.get(digest)) == digest
    except MediaError:
        return False


class FullDisk(Disk):
    """Takes `room` bytes in all, seven a call, then has no space."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, file: int, buffers: Sequence[Bytes]) -> int:
        data = b"".join(buffers)[: min(self.room, 7)]
        if not data:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return os.write(file, data)


def test_a_full_disk_leaves_whole_pictures_and_room_to_try_again(tmp_path: Path) -> None:
    contents = pictures(7, 100, 200)
    live, refs = a_store(tmp_path / "live", contents)
    disk = FullDisk(room=ALIGN + 3 * ALIGN + 20)
    media = DurableMedia(tmp_path / "kept", live=live, disk=disk)
    with pytest.raises(ReplayError, match="No space left"):
        media.keep(refs)
    disk.room = 10_000
    assert media.keep(refs) == 200
    media.close()
    reader = PackedMedia(tmp_path / "kept")
    assert [reader.get(ref.digest) for ref in refs] == contents


class FailingDisk(Disk):
    failing = False

    def sync(self, file: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(file)


def test_a_failed_sync_is_fatal_for_whoever_keeps(tmp_path: Path) -> None:
    live, refs = a_store(tmp_path / "live", pictures(8, 10, 20))
    disk = FailingDisk()
    media = DurableMedia(tmp_path / "kept", live=live, disk=disk)
    media.keep(refs[:1])
    disk.failing = True
    with pytest.raises(ReplayError, match="fdatasync failed"):
        media.keep(refs[1:])
    disk.failing = False
    with pytest.raises(ReplayError, match="cannot be kept since"):
        media.keep(refs[1:])


def test_other_bytes_under_a_name_are_refused(tmp_path: Path) -> None:
    live, [ref] = a_store(tmp_path / "live", pictures(9, 10))
    live.path(ref.digest).write_bytes(b"other")
    with pytest.raises(ContractError, match="other bytes"):
        DurableMedia(tmp_path / "kept", live=live).keep([ref])
