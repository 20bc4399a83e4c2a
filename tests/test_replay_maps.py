"""A replay with more files than a process may have open, and maps that live as long as anybody looks at them."""

from __future__ import annotations

import gc
import itertools
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.media import FolderMediaStore, put_view
from replay.log import Log
from replay.maps import map_file
from replay.media import DurableMedia, Wanted
from replay.packs import PackedMedia
from replay.proving import Proofs

NUM_FILES = 60


@pytest.fixture
def few_files() -> Iterator[None]:
    """So few files may be opened besides those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(file.name) for file in Path("/proc/self/fd").iterdir()}
    free = (number for number in itertools.count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, NUM_FILES // 4, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def maps_of(path: Path) -> int:
    """Memory maps that this process has of a file, whatever became of its name."""
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize("sync", [True, False])
def test_there_may_be_more_packs_than_files_that_may_be_open(tmp_path: Path, sync: bool) -> None:
    live = FolderMediaStore(tmp_path / "live")
    refs = [put_view(live, np.random.default_rng(seed).integers(0, 256, (36, 36, 3), np.uint8)) for seed in range(60)]
    media = DurableMedia(tmp_path / "kept", live=live, pack_bytes=4096, sync=sync)
    for ref in refs:
        media.keep([ref])
    assert len(media.store.packs) == NUM_FILES - 1
    media.close()
    reader = PackedMedia(tmp_path / "kept")
    held = [reader.mapped(ref.digest) for ref in refs]
    assert [bytes(data) for data in held] == [live.get(ref.digest) for ref in refs]


@pytest.mark.usefixtures("few_files")
def test_there_may_be_more_segments_than_files_that_may_be_open(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", segment_bytes=4096)
    for number in range(NUM_FILES):
        log.append(1, number.to_bytes(4, "little") * 800)
    log.commit()
    assert len(log.segments) >= NUM_FILES - 1
    frames = log.mapped(range(NUM_FILES))
    assert [int.from_bytes(frame.body[:4], "little") for frame in frames] == list(range(NUM_FILES))
    log.close()


@pytest.mark.usefixtures("few_files")
def test_rollouts_may_show_more_pictures_together_than_files_that_may_be_open(tmp_path: Path) -> None:
    live = FolderMediaStore(tmp_path / "live")
    refs = [put_view(live, np.full((4, 4, 3), number, np.uint8)) for number in range(NUM_FILES)]
    halves = refs[: NUM_FILES // 2], refs[NUM_FILES // 2 :]
    found = Proofs(live).of_all([(half, ()) for half in halves])
    assert [one.whole for one in found] == [tuple(ref.digest for ref in half) for half in halves]
    media = DurableMedia(tmp_path / "kept", live=live)
    kept, digests = media.append_all([Wanted(tuple(half)) for half in halves])
    assert kept == [48 * len(half) for half in halves]
    assert len(digests) == NUM_FILES
    media.close()


def test_a_map_lives_as_long_as_any_view_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)) * 100)
    view = np.frombuffer(map_file(path)[100:110], np.uint8)
    path.unlink()
    gc.collect()
    assert maps_of(path) == 1
    assert view.tolist() == list(range(100, 110))
    del view
    gc.collect()
    assert maps_of(path) == 0


def test_a_map_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    data = map_file(path)
    assert data.readonly and data.format == "B" and bytes(data) == b"kept"
    with pytest.raises(TypeError):
        data[0] = 0


def test_an_empty_file_is_no_map(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert bytes(map_file(tmp_path / "empty")) == b""


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "nothing")
    with pytest.raises(OSError, match="Is a directory"):
        map_file(tmp_path)
