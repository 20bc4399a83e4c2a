"""Looking for a picture among many packs: what is found is what lies there, and their number does not matter."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.media import FolderMediaStore, content_digest
from common.types import MediaRef
from replay.catalog import Catalog
from replay.media import DurableMedia
from replay.packs import Pack, PackedMedia, pack_header

PREFIXES = st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


def digest_of(prefix: int) -> str:
    return f"{prefix:016x}" + 48 * "a"


@given(st.lists(st.lists(st.dictionaries(st.integers(0, 40), st.lists(PREFIXES), max_size=4), max_size=1), max_size=5))
def test_a_catalog_names_the_packs_that_hold_a_prefix_and_no_others(steps: list[list[dict[int, list[int]]]]) -> None:
    catalog, held = Catalog(), dict[int, list[int]]()
    for step in steps:
        for packs in step:
            new = {number: sorted(prefixes) for number, prefixes in packs.items() if number not in held}
            held |= new
            catalog = catalog.with_packs({n: np.array(prefixes, np.uint64) for n, prefixes in new.items()})
    for prefix in {0, 5, 2**64 - 1, *(prefix for prefixes in held.values() for prefix in prefixes)}:
        assert catalog.find(digest_of(prefix)) == {n for n, prefixes in held.items() if prefix in prefixes}
    assert (np.diff(catalog.prefixes.astype(object)) >= 0).all()


def kept(folder: Path, num_packs: int) -> tuple[DurableMedia, list[MediaRef]]:
    """A writer that has ended so many packs, of eight pictures each."""
    live, refs = FolderMediaStore(folder / "live"), list[MediaRef]()
    media = DurableMedia(folder / "media", live=live, sync=False, pack_bytes=64 + 8 * (64 + 128))
    while len(media.store.packs) < num_packs:
        refs.append(live.put(os.urandom(128), kind="view", width=1, height=1))
        media.keep(refs[-1:])
    return media, refs


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The packs that are looked into."""
    found, find = list[Path](), Pack.find

    def noted(pack: Pack, digest: str) -> object:
        found.append(pack.path)
        return find(pack, digest)

    monkeypatch.setattr(Pack, "find", noted)
    return found


@pytest.mark.parametrize("num_packs", [1, 30])
def test_one_pack_is_looked_into_for_what_is_here_and_none_for_what_is_not(
    tmp_path: Path, looks: list[Path], num_packs: int
) -> None:
    media, refs = kept(tmp_path, num_packs)
    assert len({pack.number for pack in media.store.packs}) == num_packs and len(refs) == 8 * num_packs + 1
    looks.clear()
    assert media.keep([*refs[:3], refs[-2]]) == 0
    assert not looks, "they are known"
    media.close()
    again = DurableMedia(tmp_path / "media", live=FolderMediaStore(tmp_path / "live"), sync=False)
    looks.clear()
    assert again.keep([refs[0]]) == 0
    assert len(looks) == 1
    looks.clear()
    assert again.keep([FolderMediaStore(tmp_path / "live").put(b"new", kind="view", width=1, height=1)]) == 3
    assert not looks
    again.close()


def test_digests_of_the_same_prefix_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.proving.content_digest", one_prefix)
    monkeypatch.setattr("common.media.content_digest", one_prefix)
    media, refs = kept(tmp_path, 4)
    media.close()
    reader = PackedMedia(tmp_path / "media")
    assert {ref.digest[:16] for ref in refs} == {16 * "0"}
    for number, ref in enumerate(refs):
        found = reader.find(ref.digest)
        assert found is not None and found[0].number == number // 8
    assert reader.find(16 * "0" + 48 * "f") is None


def one_prefix(data: bytes | memoryview) -> str:
    return 16 * "0" + content_digest(data)[16:]


@pytest.mark.parametrize("sleepy", [False, True])
def test_a_reader_notices_packs_that_were_rewritten_to_the_same_size(
    tmp_path: Path, sleepy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sleepy: it looks while a pack that was rewritten has no index yet."""
    media, refs = kept(tmp_path, 3)
    media.close()
    reader = PackedMedia(tmp_path / "media")
    path = tmp_path / "media" / "00000001.pack"
    other = tmp_path / "other"
    stranger, others = kept(other, 2)
    stranger.close()
    index, pack = (other / "media" / f"00000001.{kind}" for kind in ("index", "pack"))
    path.with_suffix(".index").unlink()
    pack.rename(path)
    if sleepy:
        assert reader.refresh() and reader.find(refs[8].digest) is None and reader.find(others[8].digest) is not None
    index.rename(path.with_suffix(".index"))
    assert reader.refresh() and not reader.refresh()
    assert reader.find(refs[8].digest) is None
    assert [pack.has_index for pack in reader.packs] == [True] * len(reader.packs)
    for ref in (refs[0], refs[16], others[8], others[15]):
        assert content_digest(reader.get(ref.digest)) == ref.digest


def test_whoever_looks_last_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media, refs = kept(tmp_path, 2)
    media.close()
    reader, begun, go = PackedMedia(tmp_path / "media"), threading.Event(), threading.Event()
    gone, new = (tmp_path / "media" / f"0000000{number}.pack" for number in (0, 7))
    new.write_bytes(pack_header(7, 0))

    class Slow(Pack):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            begun.set()
            go.wait()

    monkeypatch.setattr("replay.packs.Pack", Slow)
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(reader.refresh)
        begun.wait()
        gone.unlink()
        new.unlink()
        late = pool.submit(reader.refresh)
        wait([late], timeout=0.05)
        go.set()
        assert early.result() and late.result()
    assert reader.find(refs[0].digest) is None and reader.find(refs[-1].digest) is not None
