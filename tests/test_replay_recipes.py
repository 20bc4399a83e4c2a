"""Pictures that are a part of another one are kept as recipes: they read back to the bit, whatever goes and whoever is
killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from fakes.disks import Killed, KillingDisk
from fakes.values import a_query, a_rollout, an_answer_turn
from fakes.zooms import a_zoom_that_saw, part
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.cuts import Cut, cut_out
from common.errors import MediaError
from common.media import FolderMediaStore, content_digest, put_image, put_view
from common.schema import encode_rollouts, rollout_columns
from common.types import Box, Turn
from replay.disk import Disk
from replay.frames import ALIGN
from replay.media import DurableMedia
from replay.orphans import remove_media
from replay.packs import PICTURE, RECIPE, Pack, PackedMedia, leave_out
from replay.recipes import RECIPE_BYTES, pack_recipe, unpack_recipe

BOX: Box = (3, 5, 19, 17)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def live(tmp_path: Path) -> FolderMediaStore:
    return FolderMediaStore(tmp_path / "live")


def a_cut(live: FolderMediaStore, *, source: str = "view", target: str = "view", box: Box = BOX) -> Cut:
    """A picture and a part of it, both in the store. source, target: how they are laid out."""
    pixels = noise(24, 20)
    put = {"view": put_view, "image": lambda store, held: put_image(store, held, compress=False)}
    whole = put[source](live, pixels)
    return Cut(target=put[target](live, part(pixels, box)), source=whole, box=box)


def forms(folder: Path) -> dict[str, int]:
    return {d: place.form for pack in PackedMedia(folder).packs for d, place in pack.entries().items()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_is_the_same_bytes_that_the_picture_was_put_as(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = FolderMediaStore(tmp_path_factory.mktemp("live"))
    width, height = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    pixels = noise(width, height)
    for source in (put_view(store, pixels), put_image(store, pixels, compress=False)):
        for target in (put_view(store, part(pixels, box)), put_image(store, part(pixels, box), compress=False)):
            cut = Cut(target=target, source=source, box=box)
            assert cut.fits or target.digest == source.digest
            assert cut_out(cut, store.mapped(source.digest)) == store.get(target.digest)
            assert unpack_recipe(target.digest, pack_recipe(cut)) == cut


@pytest.mark.parametrize(
    "change",
    [
        {"box": (3, 5, 19, 18)},
        {"box": (-1, 5, 15, 17)},
        {"box": (20, 5, 36, 17)},
        {"box": (19, 5, 3, 17)},
        {"num_bytes": 7},
    ],
)
def test_what_cannot_be_a_part_by_its_size_is_none(live: FolderMediaStore, change: dict[str, object]) -> None:
    cut = a_cut(live)
    assert cut.fits
    if "box" in change:
        cut = dataclasses.replace(cut, **change)
    else:
        cut = dataclasses.replace(cut, target=dataclasses.replace(cut.target, **change))
    assert not cut.fits


def test_pixels_that_must_be_decoded_are_no_source(live: FolderMediaStore) -> None:
    cut = a_cut(live)
    compressed = put_image(live, noise(24, 20), compress=True)
    assert cut_out(dataclasses.replace(cut, source=compressed), live.mapped(compressed.digest)) is None


@pytest.mark.parametrize("source", ["view", "image"])
@pytest.mark.parametrize("target", ["view", "image"])
def test_a_part_is_kept_as_a_recipe_and_reads_back_for_every_reader(
    tmp_path: Path, live: FolderMediaStore, source: str, target: str
) -> None:
    cut = a_cut(live, source=source, target=target)
    data = live.get(cut.target.digest)
    media = DurableMedia(tmp_path / "kept", live=live)
    assert media.keep([cut.target, cut.source], [cut]) == cut.source.num_bytes + RECIPE_BYTES
    live.trim(0)
    media.restore([cut.target])
    assert live.get(cut.target.digest) == data == media.get(cut.target.digest)
    media.close()
    assert forms(tmp_path / "kept") == {cut.source.digest: PICTURE, cut.target.digest: RECIPE}
    assert PackedMedia(tmp_path / "kept").get(cut.target.digest) == data


def test_a_picture_of_other_pixels_is_kept_as_it_is_whatever_a_call_says(
    tmp_path: Path, live: FolderMediaStore
) -> None:
    cut = a_cut(live)
    drawn_on = part(noise(24, 20), BOX).copy()
    drawn_on[0, 0] ^= 1
    cut = dataclasses.replace(cut, target=put_view(live, drawn_on))
    media = DurableMedia(tmp_path / "kept", live=live)
    assert media.keep([cut.source, cut.target], [cut]) == cut.source.num_bytes + cut.target.num_bytes
    media.close()
    assert set(forms(tmp_path / "kept").values()) == {PICTURE}


def test_nothing_is_cut_from_what_is_a_cut_itself(tmp_path: Path, live: FolderMediaStore) -> None:
    first = a_cut(live)
    inner = part(part(noise(24, 20), BOX), (1, 1, 5, 5))
    second = Cut(target=put_view(live, inner), source=first.target, box=(1, 1, 5, 5))
    media = DurableMedia(tmp_path / "kept", live=live)
    media.keep([second.target, first.target, first.source], [second, first])
    media.close()
    found = forms(tmp_path / "kept")
    assert (found[first.target.digest], found[second.target.digest]) == (RECIPE, PICTURE)


@pytest.mark.parametrize("same_pack", [True, False])
def test_a_part_outlives_what_it_was_cut_from(tmp_path: Path, live: FolderMediaStore, same_pack: bool) -> None:
    cut, folder = a_cut(live), tmp_path / "kept"
    media = DurableMedia(folder, live=live, pack_bytes=1 << 20 if same_pack else ALIGN)
    media.keep([cut.source, cut.target], [cut])
    going, _ = media.remove(lambda: {cut.source.digest})
    assert going == {cut.source.digest}
    assert media.get(cut.target.digest) == live.get(cut.target.digest)
    media.close()
    assert forms(folder) == {cut.target.digest: PICTURE}


@pytest.mark.parametrize("same_pack", [True, False])
def test_whoever_is_killed_while_a_source_goes_leaves_every_part_readable(
    tmp_path: Path, live: FolderMediaStore, same_pack: bool
) -> None:
    cut = a_cut(live)
    data, ended = live.get(cut.target.digest), False
    nth = 0
    while not ended:
        folder = tmp_path / str(nth)
        media = DurableMedia(folder, live=live, pack_bytes=1 << 20 if same_pack else ALIGN)
        media.keep([cut.source, cut.target], [cut])
        media.close()
        try:
            remove_media(folder, {cut.source.digest}, KillingDisk(nth))
            ended = True
        except Killed:
            pass
        assert PackedMedia(folder).get(cut.target.digest) == data, nth
        remove_media(folder, {cut.source.digest}, Disk())
        reader = PackedMedia(folder)
        assert reader.get(cut.target.digest) == data and cut.source.digest not in reader
        nth += 1
    assert nth > 4


@pytest.mark.parametrize("same_pack", [True, False])
def test_whoever_is_killed_while_both_go_leaves_no_part_without_its_source(
    tmp_path: Path, live: FolderMediaStore, same_pack: bool
) -> None:
    cut = a_cut(live)
    both, left, num_kills = {cut.source.digest, cut.target.digest}, {cut.target.digest}, 0
    while left:
        folder = tmp_path / str(num_kills)
        media = DurableMedia(folder, live=live, pack_bytes=1 << 20 if same_pack else ALIGN)
        media.keep([cut.source, cut.target], [cut])
        media.close()
        with contextlib.suppress(Killed):
            remove_media(folder, both, KillingDisk(num_kills))
        reader = PackedMedia(folder)
        left = {digest for digest in both if digest in reader}
        assert all(content_digest(reader.get(digest)) == digest for digest in left), num_kills
        num_kills += 1
    assert num_kills > 4


def test_a_recipe_whose_source_was_torn_away_is_forgotten_and_the_picture_kept_again(
    tmp_path: Path, live: FolderMediaStore
) -> None:
    cut, folder = a_cut(live), tmp_path / "kept"
    media = DurableMedia(folder, live=live)
    media.keep([cut.source, cut.target], [cut])
    os.close(media._file)
    media._file = -1
    pack = bytearray((folder / "00000000.pack").read_bytes())
    pack[2 * ALIGN + 5] ^= 1
    (folder / "00000000.pack").write_bytes(pack)
    again = DurableMedia(folder, live=live)
    assert cut.target.digest not in again.store
    assert again.keep([cut.source, cut.target], [cut]) == cut.source.num_bytes + RECIPE_BYTES
    assert again.get(cut.target.digest) == live.get(cut.target.digest)
    again.close()


def test_damage_to_a_source_is_seen_in_what_was_cut_from_it(tmp_path: Path, live: FolderMediaStore) -> None:
    cut, folder = a_cut(live), tmp_path / "kept"
    media = DurableMedia(folder, live=live)
    media.keep([cut.source, cut.target], [cut])
    media.close()
    leave_out(folder / "00000000.pack", {cut.source.digest}, Disk())
    with pytest.raises(MediaError, match="is not in"):
        PackedMedia(folder).get(cut.target.digest)


def test_a_rollout_says_which_of_its_pictures_may_be_parts(tmp_path: Path, live: FolderMediaStore) -> None:
    pixels = noise(24, 20)
    image, view = put_image(live, pixels, compress=False), put_view(live, pixels)
    crop, crop_view = put_image(live, part(pixels, BOX), compress=False), put_view(live, part(pixels, BOX))
    enlarged = np.asarray(Image.fromarray(part(pixels, BOX)).resize((32, 24)))
    large, large_view = put_image(live, enlarged, compress=False), put_view(live, enlarged)
    rollout = a_rollout(
        query=a_query(images=(image,)),
        turns=(Turn(role="user", token_ids=(1, 2), images=(view,)), an_answer_turn()),
        calls=(a_zoom_that_saw(crop, crop_view, image, BOX), a_zoom_that_saw(large, large_view, image, BOX)),
    )
    [columns] = rollout_columns(encode_rollouts([rollout]))
    found = {(cut.target, cut.source, cut.box) for cut in columns.cuts(0)}
    whole = (0, 0, 24, 20)
    assert {(view, image, whole), (crop, image, BOX), (crop_view, image, BOX)} <= found
    assert (large_view, large, (0, 0, 32, 24)) in found
    assert not any(target == large for target, _, _ in found)
    media = DurableMedia(tmp_path / "kept", live=live)
    size = image.num_bytes + large.num_bytes + 4 * RECIPE_BYTES
    assert media.keep(columns.media[0], columns.cuts(0)) == size
    for ref in columns.media[0]:
        assert content_digest(media.get(ref.digest)) == ref.digest
    media.close()


def test_an_older_pack_is_read_and_cut_from(
    tmp_path: Path, live: FolderMediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, folder = a_cut(live), tmp_path / "kept"
    with monkeypatch.context() as older:
        older.setattr("replay.packs.PACK_FORMAT", 1)
        media = DurableMedia(folder, live=live)
        media.keep([cut.source])
        media.close()
    assert (folder / "00000000.pack").read_bytes()[8] == 1 and Pack(folder / "00000000.pack").has_index
    media = DurableMedia(folder, live=live)
    assert media.keep([cut.source, cut.target], [cut]) == RECIPE_BYTES
    assert media.get(cut.target.digest) == live.get(cut.target.digest)
    media.close()
